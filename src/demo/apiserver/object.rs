//! What every object has: names, identity, times.

use std::hash::{BuildHasher, RandomState};

use serde_json::{Map, Value, json};

use super::resources::Resource;

/// The text at a JSON pointer; empty if there is none.
pub fn str_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Now, with the seconds that Kubernetes keeps.
pub fn now() -> String {
    now_and(0)
}

/// The time in so many seconds.
pub fn now_and(seconds: i64) -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(now).to_string()
}

/// Fills in what an object has that wasn't born through the API.
pub fn born(resource: &Resource, mut object: Value) -> Value {
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(resource.kind);
    let metadata = &mut object["metadata"];
    for (field, value) in
        [("uid", json!(uid())), ("creationTimestamp", json!(now())), ("generation", json!(1))]
    {
        // The strategies of these kinds count changes of the spec; others, claims among them, have no generation.
        let counts =
            ["ResourceSlice", "DeviceClass", "Pod", "AddressPool", "AddressBlock"].contains(&resource.kind);
        if metadata[field].is_null() && (field != "generation" || counts) {
            metadata[field] = value;
        }
    }
    object
}

/// Drops `null` members: to Kubernetes they are unset.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// JSON merge patch, RFC 7396.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A random UUID, version 4.
pub fn uid() -> String {
    let (a, b) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:x}{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        8 + (b >> 60) % 4,
        (b >> 48) & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

/// The name that `generateName` becomes: at most 63 characters, the last 5 random.
pub fn generated_name(prefix: &str) -> String {
    // No vowels, no digits that look like letters: what the API server draws from.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = random();
    let mut name: String = prefix.chars().take(58).collect();
    for _ in 0..5 {
        name.push(char::from(LETTERS[(random % LETTERS.len() as u64) as usize]));
        random /= LETTERS.len() as u64;
    }
    name
}

// The hasher's keys come from the system's random numbers: enough for names, and no further dependency.
fn random() -> u64 {
    RandomState::new().hash_one(jiff::Timestamp::now().as_nanosecond())
}
