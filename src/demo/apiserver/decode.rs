//! A request's body as an object of its kind.

use serde_json::{Value, json};

use super::object::{str_at, without_nulls};
use super::request::{Query, Target};
use super::resources::Resource;
use super::status::ApiError;
use super::validate;

/// The body as the resource's type, with the namespace of the path.
pub fn decoded(target: &Target, query: &Query, mut body: Value) -> Result<Value, ApiError> {
    let resource = target.resource;
    if !body.is_object() {
        return Err(ApiError::bad_request("the body of the request is not a JSON object"));
    }
    for (field, expected) in [("kind", resource.kind.to_owned()), ("apiVersion", resource.api_version())] {
        match body[field].as_str() {
            None => body[field] = json!(expected),
            Some(given) if given == expected => {}
            Some(given) => {
                let message = format!(
                    "the {field} of the object ({given}) does not match the one of the URL ({expected})"
                );
                return Err(ApiError::bad_request(message));
            }
        }
    }
    let given = str_at(&body, "/metadata/namespace");
    if resource.namespaced && !given.is_empty() && given != target.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    let sent = without_nulls(body);
    let mut object = typed(resource, sent.clone())?;
    if query.get("fieldValidation") == "Strict"
        && let Some(field) = unknown_field("", &sent, &object)
    {
        let message = format!(
            "{} in version \"v1\" cannot be handled as a {}: strict decoding error: unknown field {field:?}",
            resource.kind, resource.kind
        );
        return Err(ApiError::bad_request(message));
    }
    if resource.namespaced {
        object["metadata"]["namespace"] = json!(target.namespace);
    }
    Ok(object)
}

/// The object as a server keeps it: typed, defaulted, without `null`s.
pub fn typed(resource: &Resource, mut object: Value) -> Result<Value, ApiError> {
    // Go decodes a missing time to its zero, which validation then rejects with a better sentence than decoding.
    let devices = object.pointer_mut("/status/devices").and_then(Value::as_array_mut);
    for condition in devices
        .into_iter()
        .flatten()
        .filter_map(|device| device.get_mut("conditions")?.as_array_mut())
        .flatten()
    {
        if condition.is_object() && condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = json!(validate::NO_TIME);
        }
    }
    let kind = resource.kind;
    let typed = resource.typed(object);
    let defaulted = |mut object: Value| {
        validate::default(resource, &mut object);
        without_nulls(object)
    };
    typed.map(defaulted).map_err(|error| {
        ApiError::bad_request(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {error}"))
    })
}

/// `typed` without members that `sent` lacks.
pub fn only_sent(sent: &Value, typed: Value) -> Value {
    match (sent, typed) {
        (Value::Object(sent), Value::Object(typed)) => {
            let kept = typed.into_iter().filter_map(|(key, value)| Some((sent.get(&key)?, key, value)));
            Value::Object(kept.map(|(sent, key, value)| (key, only_sent(sent, value))).collect())
        }
        (Value::Array(sent), Value::Array(typed)) => {
            Value::Array(sent.iter().zip(typed).map(|(sent, typed)| only_sent(sent, typed)).collect())
        }
        (_, typed) => typed,
    }
}

/// The first member that decoding dropped.
fn unknown_field(path: &str, sent: &Value, kept: &Value) -> Option<String> {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => sent.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let empty = value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(|m| m.is_empty());
            match kept.get(key) {
                Some(kept) => unknown_field(&path, value, kept),
                None if empty => None,
                None => Some(path),
            }
        }),
        (Value::Array(sent), Value::Array(kept)) => sent
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (sent, kept))| unknown_field(&format!("{path}[{index}]"), sent, kept)),
        _ => None,
    }
}
