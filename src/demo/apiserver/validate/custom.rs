//! Objects of the kinds in manifests/crds.yaml, by what that file says: its schema, and its rules in CEL.

use std::sync::{Arc, LazyLock};

use ::cel::{Context, Env, extensions};
use serde_json::{Map, Value, json};

use super::items;
use crate::demo::apiserver::resources::Resource;
use crate::demo::apiserver::status::FieldError;

const CRDS: &str = include_str!("../../../../manifests/crds.yaml");

/// Kind and schema. The file is part of the program; that it can be read is a test.
static SCHEMAS: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
    let crds: Vec<Value> = serde_saphyr::from_multiple(CRDS).unwrap_or_default();
    let schema = |crd: &Value| {
        let kind = crd["spec"]["names"]["kind"].as_str()?.to_owned();
        Some((kind, crd.pointer("/spec/versions/0/schema/openAPIV3Schema")?.clone()))
    };
    crds.iter().filter_map(schema).collect()
});

fn schema(resource: &Resource) -> Option<&'static Value> {
    let found = SCHEMAS.iter().find(|(kind, _)| kind == resource.kind);
    found.map(|(_, schema)| schema).filter(|_| resource.group == crate::address::GROUP)
}

/// Drops what the schema doesn't know.
pub fn prune(resource: &Resource, object: &mut Value) {
    let Some(schema) = schema(resource) else { return };
    for part in ["spec", "status"] {
        if let Some(value) = object.get_mut(part) {
            prune_by(&schema["properties"][part], value);
        }
    }
}

fn prune_by(schema: &Value, value: &mut Value) {
    match (schema["properties"].as_object(), value) {
        (Some(properties), Value::Object(members)) => {
            members.retain(|name, _| properties.contains_key(name));
            for (name, member) in members {
                prune_by(&properties[name], member);
            }
        }
        (None, Value::Array(list)) => list.iter_mut().for_each(|item| prune_by(&schema["items"], item)),
        _ => {}
    }
}

/// What schema and rules say against an object.
pub fn check(resource: &Resource, before: Option<&Value>, after: &Value, errors: &mut Vec<FieldError>) {
    let Some(schema) = schema(resource) else { return };
    shape("", schema, after, errors);
    // As the API server has it: rules are asked only of what has the right shape.
    if errors.is_empty() {
        rules("", schema, before, after, errors);
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn shape(path: &str, schema: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => true,
    };
    if !fits {
        let expected = schema["type"].as_str().unwrap_or_default();
        errors.push(FieldError::invalid(path, value, &format!("must be of type {expected}")));
        return;
    }
    let known = items(schema, "enum");
    if !known.is_empty() && !known.contains(value) {
        let known: Vec<String> =
            known.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value, &known));
    }
    let number = |name: &str| schema[name].as_i64();
    if let Some(given) = value.as_i64() {
        if let Some(least) = number("minimum").filter(|least| given < *least) {
            let detail = format!("should be greater than or equal to {least}");
            errors.push(FieldError::invalid(path, value, &detail));
        }
        if let Some(most) = number("maximum").filter(|most| given > *most) {
            errors.push(FieldError::invalid(path, value, &format!("should be less than or equal to {most}")));
        }
    }
    let size = |name: &str| schema[name].as_u64().and_then(|size| usize::try_from(size).ok());
    if let (Some(text), Some(most)) = (value.as_str(), size("maxLength"))
        && text.len() > most
    {
        errors.push(FieldError::too_long(path, most));
    }
    if let Some(list) = value.as_array() {
        if let Some(most) = size("maxItems").filter(|most| list.len() > *most) {
            errors.push(FieldError::too_many(path, list.len(), most));
        }
        if let Some(least) = size("minItems").filter(|least| list.len() < *least) {
            errors.push(FieldError::invalid(path, value, &format!("should have at least {least} items")));
        }
        for (index, item) in list.iter().enumerate() {
            shape(&format!("{path}[{index}]"), &schema["items"], item, errors);
        }
    }
    for name in
        items(schema, "required").iter().filter_map(Value::as_str).filter(|name| value[*name].is_null())
    {
        errors.push(FieldError::required(below(path, name), ""));
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let schema = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
        // Metadata is the server's own business.
        if !(path.is_empty() && name == "metadata") {
            shape(&below(path, name), schema, member, errors);
        }
    }
}

fn rules(path: &str, schema: &Value, before: Option<&Value>, after: &Value, errors: &mut Vec<FieldError>) {
    for rule in items(schema, "x-kubernetes-validations") {
        let text = rule["rule"].as_str().unwrap_or_default();
        // A rule about a change is asked only where there is a before.
        if text.contains("oldSelf") && before.is_none() {
            continue;
        }
        match holds(text, before, after) {
            Ok(true) => {}
            Ok(false) => {
                let message = rule["message"].as_str().unwrap_or("failed rule");
                errors.push(FieldError::invalid(path, &summary(after), message));
            }
            Err(why) => {
                errors.push(FieldError::invalid(path, &summary(after), &format!("rule {text}: {why}")))
            }
        }
    }
    let nothing = Map::new();
    for (name, schema) in schema["properties"].as_object().unwrap_or(&nothing) {
        if let Some(member) = after.get(name) {
            rules(&below(path, name), schema, before.and_then(|before| before.get(name)), member, errors);
        }
    }
}

/// How the API server shows what is not one value.
fn summary(value: &Value) -> Value {
    if value.is_object() { json!("object") } else { value.clone() }
}

fn holds(rule: &str, before: Option<&Value>, after: &Value) -> Result<bool, String> {
    let mut environment = Env::stdlib();
    environment.add_extension(extensions::strings).map_err(|error| error.to_string())?;
    let program = environment.compile(rule).map_err(|error| error.to_string())?;
    let mut context = Context::with_env(Arc::new(environment));
    context.add_variable("self", after).map_err(|error| error.to_string())?;
    if let Some(before) = before {
        context.add_variable("oldSelf", before).map_err(|error| error.to_string())?;
    }
    match program.execute(&context) {
        Ok(::cel::Value::Bool(answer)) => Ok(answer),
        Ok(_) => Err("no yes or no".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
#[path = "../tests/custom.rs"]
mod tests;
