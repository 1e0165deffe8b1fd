//! Field and label selectors.

use serde_json::Value;

use super::object::str_at;
use super::request::Query;
use super::resources::Resource;
use super::status::ApiError;

/// What `kubectl describe` and stories look events up by.
const OF_EVENTS: [&str; 7] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "reason",
    "type",
];

/// The conditions of a list or watch; all must hold.
#[derive(Debug, Clone, Default)]
pub struct Selector(Vec<Condition>);

#[derive(Debug, Clone)]
struct Condition {
    pointer: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads `fieldSelector` and `labelSelector`; only `=`, `==` and `!=` are known.
    pub fn parse(resource: &Resource, query: &Query) -> Result<Self, ApiError> {
        let mut all = Vec::new();
        for (field, value, equal) in parts(query.get("fieldSelector"))? {
            let known = ["metadata.name", "metadata.namespace"].contains(&field)
                || matches!((resource.kind, field), ("ResourceSlice", "spec.driver" | "spec.nodeName"))
                || matches!((resource.kind, field), ("AddressBlock", "spec.nodeName" | "spec.pool"))
                || matches!((resource.kind, field), ("Pod", "spec.nodeName" | "status.phase"))
                || (resource.qualified() == "events" && OF_EVENTS.contains(&field));
            if !known {
                return Err(ApiError::bad_request(format!(
                    "field label not supported for {}, Kind={}: {field}",
                    resource.api_version(),
                    resource.kind
                )));
            }
            all.push(Condition {
                pointer: format!("/{}", field.replace('.', "/")),
                value: value.to_owned(),
                equal,
            });
        }
        for (label, value, equal) in parts(query.get("labelSelector"))? {
            let label = label.replace('~', "~0").replace('/', "~1");
            all.push(Condition {
                pointer: format!("/metadata/labels/{label}"),
                value: value.to_owned(),
                equal,
            });
        }
        Ok(Self(all))
    }

    /// And the object has this name, if any is given.
    pub fn and_name(mut self, name: Option<String>) -> Self {
        let pointer = "/metadata/name".to_owned();
        self.0.extend(name.map(|value| Condition { pointer, value, equal: true }));
        self
    }

    /// All conditions hold for the object.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|condition| {
            let there =
                object.pointer(&condition.pointer).is_some() || condition.pointer.starts_with("/spec");
            let same = there && str_at(object, &condition.pointer) == condition.value;
            same == condition.equal
        })
    }
}

fn parts(text: &str) -> Result<Vec<(&str, &str, bool)>, ApiError> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let split = part.split_once("!=").map(|(name, value)| (name, value, false));
            let split = split.or_else(|| part.split_once("==").map(|(name, value)| (name, value, true)));
            let split = split.or_else(|| part.split_once('=').map(|(name, value)| (name, value, true)));
            let split = split.filter(|(_, value, _)| !value.contains(['=', '!']));
            split.map(|(name, value, equal)| (name.trim(), value.trim(), equal)).ok_or_else(|| {
                ApiError::bad_request(format!("invalid selector: {part:?}; can't understand it"))
            })
        })
        .collect()
}
