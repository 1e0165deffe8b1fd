//! Inputs made of good ones: bytes flipped, cut, repeated, put in from elsewhere; values of JSON put in each other's place.

use std::fmt;
use std::ops::Bound;

use bolero::{Driver, ValueGenerator};
use serde_json::Value;

/// An input. Shown so that it can be saved as a file of the corpus with `printf`.
#[derive(Clone)]
pub struct Mutant(pub Vec<u8>);

impl fmt::Debug for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes: {}", self.0.len(), self.0.escape_ascii())
    }
}

/// All that can be made of a corpus.
pub struct Mutants {
    seeds: Vec<Vec<u8>>,
    /// Every value in the seeds that are JSON.
    values: Vec<Value>,
}

/// What breaks decoders: ends of ranges, and what text formats give a meaning.
const PIECES: &[&[u8]] = &[
    &[0],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0, 0],
    &[0xff, 0xff],
    &[0, 0, 0, 0],
    &[0, 0, 0, 0x80],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff; 4],
    &[0xff; 8],
    &[4, 0],
    &[3, 0],
    &[0x10, 0, 0, 0],
    b"-1",
    b"0",
    b"4294967295",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"0x",
    b"..",
    b"/",
    b"\n",
    b"\"",
    b"{}",
    b"[]",
    b"null",
    b"::",
    b"::/0",
    b"0.0.0.0/0",
    b"255.255.255.255",
    b"-",
    b"*",
    b"{n}",
    "\u{feff}é\u{202e}".as_bytes(),
];

const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1e308",
    "-9223372036854775808",
    "18446744073709551615",
    "4294967296",
    "0.5",
    "\"\"",
    "\" \"",
    "\"..\"",
    "\"../../x\"",
    "\"/\"",
    "\"a/b\"",
    "\"\\u0000\"",
    "\"é\"",
    "\"::\"",
    "\"::/0\"",
    "\"0.0.0.0/0\"",
    "\"0000:ff:1f.7\"",
    "\"ffffffff:ff:1f.7\"",
    "\"18446744073709551615-0\"",
    "\"*\"",
    "\"{n}{n}\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "{\"\": 0}",
];

/// Largest input.
const MOST: usize = 16 << 10;

fn below<D: Driver>(driver: &mut D, end: usize) -> Option<usize> {
    driver.gen_usize(Bound::Included(&0), Bound::Excluded(&end.max(1)))
}

fn one<'a, T: ?Sized, D: Driver>(driver: &mut D, of: &'a [&'a T]) -> Option<&'a T> {
    of.get(below(driver, of.len())?).copied()
}

impl Mutants {
    pub fn of(seeds: Vec<Vec<u8>>) -> Self {
        let mut values = Vec::new();
        let parsed = seeds.iter().filter_map(|seed| serde_json::from_slice(seed).ok());
        parsed.for_each(|value: Value| gather(value, &mut values));
        Self { seeds, values }
    }

    fn bytes<D: Driver>(&self, driver: &mut D, bytes: &mut Vec<u8>) -> Option<()> {
        let at = below(driver, bytes.len() + 1)?;
        let size = below(driver, 8)?;
        let end = (at + 1 + below(driver, 1 << size)?).min(bytes.len());
        match below(driver, 8)? {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end.max(at))),
            3 => {
                let again = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let piece = one(driver, PIECES)?;
                bytes.splice(at..at, piece.iter().copied());
            }
            5 => {
                let piece = one(driver, PIECES)?;
                let over = bytes.len().min(at + piece.len());
                bytes.splice(at..over, piece.iter().copied());
            }
            6 => {
                let other = self.seeds.get(below(driver, self.seeds.len())?)?;
                let from = below(driver, other.len() + 1)?;
                let piece = other.get(from..).unwrap_or_default().to_vec();
                bytes.splice(at.., piece);
            }
            _ => {
                let byte = u8::try_from(below(driver, 256)?).ok()?;
                bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
            }
        }
        Some(())
    }

    fn json<D: Driver>(&self, driver: &mut D, root: &mut Value) -> Option<()> {
        let mut pointers = Vec::new();
        point(root, String::new(), &mut pointers);
        let at = pointers.get(below(driver, pointers.len())?)?.clone();
        let new = match below(driver, 2)? {
            0 => self.values.get(below(driver, self.values.len())?)?.clone(),
            _ => serde_json::from_str(one(driver, VALUES)?).unwrap(),
        };
        let action = below(driver, 5)?;
        let keys: Vec<String> =
            self.values.iter().filter_map(Value::as_object).flat_map(|o| o.keys().cloned()).collect();
        let key = keys.get(below(driver, keys.len())?).cloned().unwrap_or_default();
        match (root.pointer_mut(&at)?, action) {
            (Value::Object(object), 0) => drop(object.insert(key, new)),
            (Value::Object(object), 1) => {
                let name = object.keys().nth(below(driver, object.len())?).cloned().unwrap_or_default();
                object.remove(&name);
            }
            (Value::Array(list), 0) => list.push(new),
            (Value::Array(list), 1) => drop(list.pop()),
            (Value::Array(list), 2) => list.extend(list.clone()),
            (Value::String(text), 0..=2) => {
                let mut bytes = std::mem::take(text).into_bytes();
                self.bytes(driver, &mut bytes)?;
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            (value, _) => *value = new,
        }
        Some(())
    }
}

fn gather(value: Value, into: &mut Vec<Value>) {
    match &value {
        Value::Array(list) => list.iter().for_each(|item| gather(item.clone(), into)),
        Value::Object(object) => object.values().for_each(|item| gather(item.clone(), into)),
        _ => {}
    }
    into.push(value);
}

fn point(value: &Value, here: String, into: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, item)| point(item, format!("{here}/{index}"), into));
        }
        Value::Object(object) => {
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            object.iter().for_each(|(key, item)| point(item, format!("{here}/{}", escaped(key)), into));
        }
        _ => {}
    }
    into.push(here);
}

impl ValueGenerator for Mutants {
    type Output = Mutant;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Mutant> {
        let mut bytes = self.seeds.get(below(driver, self.seeds.len())?)?.clone();
        let changes = 1 + below(driver, 4)?;
        // Half of what is JSON stays JSON: else nothing behind the parser is reached.
        let parsed = serde_json::from_slice::<Value>(&bytes).ok();
        match parsed.filter(|_| !self.values.is_empty()) {
            Some(mut value) if driver.gen_bool(Some(0.7))? => {
                for _ in 0..changes {
                    self.json(driver, &mut value)?;
                }
                bytes = value.to_string().into_bytes();
            }
            _ => {
                for _ in 0..changes {
                    self.bytes(driver, &mut bytes)?;
                }
            }
        }
        bytes.truncate(MOST);
        Some(Mutant(bytes))
    }
}
