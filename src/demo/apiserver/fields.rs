//! Sets of fields and `managedFields`: who set what (`FieldsV1` of structured-merge-diff).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::object::{now, str_at};

/// One step of a path into an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A member, `f:` in FieldsV1.
    Field(String),
    /// An item of a list-map by the JSON of its keys, `k:`.
    Key(String),
    /// An item of a set by its JSON, `v:`.
    Item(String),
}

/// A path into an object.
pub type Path = Vec<Step>;
/// Leaves and list items that somebody set.
pub type FieldSet = BTreeSet<Path>;

/// How items of a list are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// As a whole.
    Atomic,
    /// Each value by itself.
    Set,
    /// By these members.
    Map(&'static [&'static str]),
}

/// The list at `path`, as the API's types mark it (`listType`, `listMapKey`).
pub fn list_at(path: &[Step]) -> List {
    let fields: Vec<&str> = path
        .iter()
        .filter_map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    match fields.as_slice() {
        ["status", "devices"] => List::Map(&["driver", "pool", "device", "shareID"]),
        [.., "conditions"] => List::Map(&["type"]),
        ["status", "reservedFor"] | ["metadata", "ownerReferences"] => List::Map(&["uid"]),
        ["status", "resourceClaimStatuses"] => List::Map(&["name"]),
        ["metadata", "finalizers"] => List::Set,
        ["spec", "containers" | "initContainers" | "volumes" | "resourceClaims"] => List::Map(&["name"]),
        _ => List::Atomic,
    }
}

/// The map at `path` is one value.
pub fn is_atomic_map(path: &[Step]) -> bool {
    // runtime.RawExtension and NodeSelector are replaced as a whole.
    matches!(path.last(), Some(Step::Field(name)) if path.len() > 2 && ["data", "parameters", "nodeSelector"].contains(&name.as_str()))
}

/// The step to `item` of a list.
pub fn step_to(list: List, item: &Value) -> Option<Step> {
    match list {
        List::Atomic => None,
        List::Set => Some(Step::Item(item.to_string())),
        List::Map(keys) => {
            let map: Map<String, Value> = keys
                .iter()
                .filter_map(|key| item.get(key).map(|value| ((*key).to_owned(), value.clone())))
                .collect();
            Some(Step::Key(Value::Object(map).to_string()))
        }
    }
}

/// What a manager can set in `object`; the system's fields are nobody's.
pub fn leaves(object: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    if let Value::Object(map) = object {
        for (key, value) in map.iter().filter(|(key, _)| !["apiVersion", "kind"].contains(&key.as_str())) {
            collect(&mut vec![Step::Field(key.clone())], value, &mut set);
        }
    }
    const SYSTEM: [&str; 10] = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ];
    set.retain(|path| match path.as_slice() {
        [Step::Field(metadata), Step::Field(name), ..] if metadata == "metadata" => {
            !SYSTEM.contains(&name.as_str())
        }
        [Step::Field(metadata)] => metadata != "metadata",
        _ => true,
    });
    set
}

fn collect(path: &mut Path, value: &Value, set: &mut FieldSet) {
    match value {
        Value::Object(map) if !map.is_empty() && !is_atomic_map(path) => {
            for (key, value) in map {
                path.push(Step::Field(key.clone()));
                collect(path, value, set);
                path.pop();
            }
        }
        Value::Array(items) if list_at(path) != List::Atomic => {
            let list = list_at(path);
            for item in items {
                path.extend(step_to(list, item));
                set.insert(path.clone());
                if let Value::Object(map) = item {
                    for (key, value) in map {
                        path.push(Step::Field(key.clone()));
                        collect(path, value, set);
                        path.pop();
                    }
                }
                path.pop();
            }
        }
        _ => {
            set.insert(path.clone());
        }
    }
}

/// The value at `path`.
pub fn get<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let mut at = object;
    for (depth, step) in path.iter().enumerate() {
        at = match step {
            Step::Field(name) => at.get(name)?,
            step => {
                let list = list_at(&path[..depth]);
                at.as_array()?.iter().find(|item| step_to(list, item).as_ref() == Some(step))?
            }
        };
    }
    Some(at)
}

/// Removes the value at `path`, and maps and lists that are empty without it.
pub fn remove(object: &mut Value, path: &[Step]) {
    remove_below(object, path, 0);
}

fn remove_below(at: &mut Value, path: &[Step], depth: usize) {
    let Some(step) = path.get(depth) else { return };
    let last = depth + 1 == path.len();
    match (step, at) {
        (Step::Field(name), Value::Object(map)) => {
            let empty = map.get_mut(name).is_some_and(|child| {
                remove_below(child, path, depth + 1);
                !last
                    && (child.as_object().is_some_and(Map::is_empty)
                        || child.as_array().is_some_and(Vec::is_empty))
            });
            if last || empty {
                map.remove(name);
            }
        }
        (step, Value::Array(items)) => {
            let list = list_at(&path[..depth]);
            let index = items.iter().position(|item| step_to(list, item).as_ref() == Some(step));
            match index {
                Some(index) if last => {
                    items.remove(index);
                }
                Some(index) => remove_below(&mut items[index], path, depth + 1),
                None => {}
            }
        }
        _ => {}
    }
}

/// Managers of an object: (name, operation, subresource) with their fields and times.
#[derive(Debug, Clone, Default)]
pub struct Managers(pub BTreeMap<Manager, (FieldSet, String)>);

/// Who sets fields, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    /// `fieldManager` of the request, else the first part of its user agent.
    pub name: String,
    /// `Apply` or `Update`
    pub operation: &'static str,
    /// `status`, or empty.
    pub subresource: String,
}

impl Managers {
    /// Reads `metadata.managedFields`.
    pub fn of(object: &Value) -> Self {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        let read = entries.into_iter().flatten().map(|entry| {
            let operation = if str_at(entry, "/operation") == "Apply" { "Apply" } else { "Update" };
            let manager = Manager {
                name: str_at(entry, "/manager").to_owned(),
                operation,
                subresource: str_at(entry, "/subresource").to_owned(),
            };
            let mut set = FieldSet::new();
            decode(&mut Vec::new(), &entry["fieldsV1"], &mut set);
            (manager, (set, str_at(entry, "/time").to_owned()))
        });
        Self(read.collect())
    }

    /// Writes `metadata.managedFields`.
    pub fn write_to(&self, object: &mut Value) {
        let api_version = object["apiVersion"].clone();
        let entries = self.0.iter().filter(|(_, (set, _))| !set.is_empty()).map(|(manager, (set, time))| {
            let mut entry = json!({
                "manager": manager.name, "operation": manager.operation, "apiVersion": api_version,
                "time": time, "fieldsType": "FieldsV1", "fieldsV1": encode(set),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = json!(manager.subresource);
            }
            entry
        });
        let entries: Vec<Value> = entries.collect();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            if !entries.is_empty() {
                metadata.insert("managedFields".to_owned(), Value::Array(entries));
            }
        }
    }

    /// Records a create, update or patch: what it changed is now `manager`'s, what is gone is nobody's.
    pub fn record_update(&mut self, manager: Manager, before: &Value, after: &Value) {
        let there = leaves(after);
        let changed: FieldSet = there
            .iter()
            .filter(|path| get(before, path) != get(after, path) && is_leaf(path))
            .cloned()
            .collect();
        for (other, (set, _)) in &mut self.0 {
            set.retain(|path| there.contains(path) && (*other == manager || !changed.contains(path)));
        }
        if !changed.is_empty() {
            let entry = self.0.entry(manager).or_default();
            entry.0.extend(changed);
            entry.1 = now();
        }
    }
}

fn is_leaf(path: &Path) -> bool {
    !matches!(path.last(), Some(Step::Key(_)))
}

fn encode(set: &FieldSet) -> Value {
    let mut root = json!({});
    for path in set {
        let mut at = &mut root;
        for step in path {
            let name = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Key(key) => format!("k:{key}"),
                Step::Item(item) => format!("v:{item}"),
            };
            at = &mut at[name];
            if at.is_null() {
                *at = json!({});
            }
        }
        if matches!(path.last(), Some(Step::Key(_))) {
            at["."] = json!({});
        }
    }
    root
}

fn decode(path: &mut Path, encoded: &Value, set: &mut FieldSet) {
    let Value::Object(map) = encoded else { return };
    if map.is_empty() && !path.is_empty() {
        set.insert(path.clone());
    }
    for (name, below) in map {
        let step = match name.split_once(':') {
            Some(("f", name)) => Step::Field(name.to_owned()),
            Some(("k", key)) => Step::Key(key.to_owned()),
            Some(("v", item)) => Step::Item(item.to_owned()),
            _ => {
                set.insert(path.clone());
                continue;
            }
        };
        path.push(step);
        decode(path, below, set);
        path.pop();
    }
}

/// `.status.devices[driver="a"].data`: how messages name a field.
pub fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) => text.push_str(&format!(".{name}")),
            // `{"a":"b"}` is shown as `[a="b"]`.
            Step::Key(key) => {
                let map: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let keys: Vec<String> = map.iter().map(|(name, value)| format!("{name}={value}")).collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
            Step::Item(item) => text.push_str(&format!("[={item}]")),
        }
    }
    text
}
