//! On which line of a file a field stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document, as far as lines go.
#[derive(Debug)]
pub struct Lines {
    line: u64,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Leaf,
    /// Keys with their lines.
    Map(Vec<(String, u64, Lines)>),
    List(Vec<Lines>),
}

impl Lines {
    /// Of every document in a text that is not empty.
    pub fn of_documents(text: &str) -> Vec<Self> {
        serde_saphyr::from_multiple(text).unwrap_or_default()
    }

    /// The line of a field, `spec.devices.requests[0].name`; of the deepest that is there, where it is missing.
    pub fn line(&self, path: &str) -> u64 {
        let path = path.trim_start_matches('.');
        match &self.inner {
            Inner::Map(entries) => {
                // Keys may have dots themselves: the longest that fits is meant.
                let fits = entries.iter().filter_map(|(key, line, inner)| {
                    let rest = path.strip_prefix(key.as_str())?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some((
                        key.len(),
                        *line,
                        inner,
                        rest,
                    ))
                });
                match fits.max_by_key(|(length, ..)| *length) {
                    Some((_, line, _, "")) => line,
                    Some((_, line, inner, rest)) => inner.line(rest).max(line),
                    None => self.line,
                }
            }
            Inner::List(items) => {
                let item = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                let item =
                    item.and_then(|(index, rest)| Some((items.get(index.parse::<usize>().ok()?)?, rest)));
                item.map_or(self.line, |(item, rest)| item.line(rest))
            }
            Inner::Leaf => self.line,
        }
    }
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Inner>::deserialize(deserializer)?;
        Ok(Self { line: referenced.line(), inner: value })
    }
}

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InnerVisitor)
    }
}

struct InnerVisitor;

impl<'de> Visitor<'de> for InnerVisitor {
    type Value = Inner;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Inner, A::Error> {
        let mut entries = Vec::new();
        while let Some(Spanned { value, referenced, .. }) = map.next_key::<Spanned<String>>()? {
            entries.push((value, referenced.line(), map.next_value()?));
        }
        Ok(Inner::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inner, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Inner::List(items))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Inner, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Inner::Leaf)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }

    fn visit_none<E>(self) -> Result<Inner, E> {
        Ok(Inner::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment
apiVersion: v1
metadata: {name: x, labels: {
  a.b/c: d}}

spec:
  list:
  - one: 1
    two: [a,
      b]
  - three: \"3\"
---
---
kind: Other
empty:
";

    #[test]
    fn a_field_is_found_on_its_line_and_a_missing_one_where_it_would_stand() {
        let documents = Lines::of_documents(TEXT);
        let [first, second] = &documents[..] else { panic!("{documents:?}") };
        for (path, line) in [
            ("apiVersion", 2),
            ("metadata.name", 3),
            ("metadata.labels.a.b/c", 4),
            ("spec.list", 7),
            ("spec.list[0].one", 8),
            ("spec.list[0].two", 9),
            ("spec.list[0].two[1]", 10),
            ("spec.list[1].three", 11),
            ("spec.list[1].four", 11),
            ("spec.list[7].four", 8),
            ("spec.devices.requests", 7),
            ("nothing", 2),
            ("", 2),
        ] {
            assert_eq!(first.line(path), line, "{path}");
        }
        assert_eq!((second.line("kind"), second.line("empty.a")), (14, 15));
    }

    #[test]
    fn json_has_lines_too_and_what_is_no_yaml_has_none() {
        let documents = Lines::of_documents("{\n \"spec\": {\n  \"a\": [1,\n 2]\n }\n}\n");
        assert_eq!((documents[0].line("spec.a"), documents[0].line("spec.a[1]")), (3, 4));
        assert!(Lines::of_documents("a: [").is_empty());
    }
}
