//! A request's path and query, taken apart.

use std::collections::BTreeMap;

use super::resources::{Resource, find};
use super::status::ApiError;

/// What a path below `/api` or `/apis` names.
#[derive(Debug, Clone)]
pub struct Target {
    /// The resource.
    pub resource: &'static Resource,
    /// Empty: all namespaces, or cluster-scoped.
    pub namespace: String,
    /// `None` is the collection.
    pub name: Option<String>,
    /// `status`, `binding`
    pub subresource: Option<String>,
}

impl Target {
    /// Reads a path; `None` for one that names no resource.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        // `/namespaces/x/pods` lies in a namespace, `/namespaces/x` and `/namespaces/x/status` are the namespace.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" || !rest.is_empty() => {
                (*namespace, [&[*plural], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let (plural, name, subresource) = match rest.as_slice() {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        let resource = find(group, version, plural)?;
        let fits = resource.namespaced || namespace.is_empty();
        let named_in_place = name.is_none() || !resource.namespaced || !namespace.is_empty();
        let known = subresource.is_none_or(|sub| match sub {
            "status" => resource.has_status,
            "binding" => resource.kind == "Pod",
            _ => false,
        });
        (fits && named_in_place && known).then(|| Self {
            resource,
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }

    /// The request is about `/status`.
    pub fn is_status(&self) -> bool {
        self.subresource.as_deref() == Some("status")
    }

    /// The request is about `/binding`.
    pub fn is_binding(&self) -> bool {
        self.subresource.as_deref() == Some("binding")
    }
}

/// A query's parameters; the first of a name counts.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let mut all = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(decode(name, true)).or_insert_with(|| decode(value, true));
        }
        Self(all)
    }

    /// The value, empty if unset.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// `true` or `1`
    pub fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }

    /// A number; malformed ones are the client's error.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid value {text:?} of the query parameter {name}: not a number"
                ))
            }),
        }
    }
}

fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) if plus_is_space => decoded.push(b' '),
            _ => decoded.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_collections_objects_and_status() {
        let claim = Target::parse("/apis/resource.k8s.io/v1/namespaces/a/resourceclaims/b/status").unwrap();
        assert_eq!(
            (claim.namespace.as_str(), claim.name.as_deref(), claim.is_status()),
            ("a", Some("b"), true)
        );
        let namespace = Target::parse("/api/v1/namespaces/a").unwrap();
        assert_eq!((namespace.resource.kind, namespace.name.as_deref()), ("Namespace", Some("a")));
        assert!(Target::parse("/api/v1/namespaces/a/status").unwrap().is_status());
        assert!(Target::parse("/api/v1/pods").unwrap().name.is_none());
    }

    #[test]
    fn what_is_not_served_is_no_target() {
        for path in [
            "/api/v1/services",
            "/api/v1/pods/a",
            "/api/v1/namespaces/a/nodes/b",
            "/apis/resource.k8s.io/v1/resourceslices/a/status",
            "/apis/resource.k8s.io/v1beta1/resourceslices",
        ] {
            assert!(Target::parse(path).is_none(), "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("fieldSelector=spec.driver%3Da%2Cspec.nodeName%3Db+c&watch=1&%zz=x");
        assert_eq!(query.get("fieldSelector"), "spec.driver=a,spec.nodeName=b c");
        assert!(query.is_set("watch"));
        assert!(query.number("fieldSelector").is_err());
    }
}
