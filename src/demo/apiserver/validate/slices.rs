//! ResourceSlices.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::devices::driver;
use super::items;
use super::names::{self, attribute_key, is_label, is_semver, is_subdomain};
use crate::demo::apiserver::status::FieldError;

const MAX_DEVICES: usize = 128;
const MAX_RICH_DEVICES: usize = 64;
const MAX_ATTRIBUTES: usize = 32;
const MAX_ATTRIBUTE_VALUES: usize = 48;
const MAX_VALUE_BYTES: usize = 64;
const MAX_TAINTS: usize = 16;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// `spec` of a slice.
pub fn slice(spec: &Value, errors: &mut Vec<FieldError>) {
    driver("spec.driver", &spec["driver"], errors);
    pool(&spec["pool"], errors);
    placement(spec, errors);
    let devices = items(spec, "devices");
    let rich = devices.iter().any(is_rich);
    let most = if rich { MAX_RICH_DEVICES } else { MAX_DEVICES };
    if devices.len() > most {
        errors.push(FieldError::too_many("spec.devices", devices.len(), most));
    }
    if !devices.is_empty() && !items(spec, "sharedCounters").is_empty() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid("spec", &Value::from("object"), detail));
    }
    let mut seen = BTreeSet::new();
    for (index, each) in devices.iter().enumerate() {
        let path = format!("spec.devices[{index}]");
        if !seen.insert(each["name"].as_str()) {
            errors.push(FieldError::duplicate(&path, &each["name"]));
        }
        device(&path, each, errors);
    }
}

fn pool(pool: &Value, errors: &mut Vec<FieldError>) {
    let name = pool["name"].as_str().unwrap_or_default();
    match name {
        "" => errors.push(FieldError::required("spec.pool.name", "")),
        long if long.len() > 253 => errors.push(FieldError::too_long("spec.pool.name", 253)),
        name if !name.split('/').all(is_subdomain) => {
            errors.push(FieldError::invalid("spec.pool.name", &pool["name"], names::SUBDOMAIN));
        }
        _ => {}
    }
    if pool["generation"].as_i64().unwrap_or(0) < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid("spec.pool.generation", &pool["generation"], detail));
    }
    if pool["resourceSliceCount"].as_i64().unwrap_or(0) <= 0 {
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid("spec.pool.resourceSliceCount", &pool["resourceSliceCount"], detail));
    }
}

fn placement(spec: &Value, errors: &mut Vec<FieldError>) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let set: Vec<&str> = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"]
        .into_iter()
        .filter(|field| !matches!(&spec[*field], Value::Null | Value::Bool(false)))
        .collect();
    match set.as_slice() {
        [] => errors.push(FieldError::required("spec", ONE)),
        ["nodeName"] if !is_subdomain(spec["nodeName"].as_str().unwrap_or_default()) => {
            errors.push(FieldError::invalid("spec.nodeName", &spec["nodeName"], names::SUBDOMAIN));
        }
        [_] => {}
        several => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid("spec", &several.join(", ").into(), &detail));
        }
    }
}

fn is_rich(device: &Value) -> bool {
    let lists = device["attributes"].as_object().into_iter().flat_map(Map::values);
    !items(device, "taints").is_empty()
        || !items(device, "consumesCounters").is_empty()
        || lists.into_iter().any(|attribute| LISTS.iter().any(|list| !attribute[*list].is_null()))
}

fn device(path: &str, device: &Value, errors: &mut Vec<FieldError>) {
    match device["name"].as_str().unwrap_or_default() {
        "" => errors.push(FieldError::required(format!("{path}.name"), "")),
        name if !is_label(name) => {
            errors.push(FieldError::invalid(format!("{path}.name"), &device["name"], names::LABEL));
        }
        _ => {}
    }
    let empty = Map::new();
    let attributes = device["attributes"].as_object().unwrap_or(&empty);
    let capacity = device["capacity"].as_object().unwrap_or(&empty);
    if attributes.len() + capacity.len() > MAX_ATTRIBUTES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        let have = Value::from(attributes.len() + capacity.len());
        errors.push(FieldError::invalid(path, &have, &detail));
    }
    let mut values = 0;
    for (key, value) in attributes {
        if let Err(detail) = attribute_key(key) {
            errors.push(FieldError::invalid(
                format!("{path}.attributes"),
                &Value::from(key.as_str()),
                detail,
            ));
        }
        let path = format!("{path}.attributes[{key}]");
        values += attribute(&path, value, errors);
    }
    if values > MAX_ATTRIBUTE_VALUES {
        errors.push(FieldError::too_many(format!("{path}.attributes"), values, MAX_ATTRIBUTE_VALUES));
    }
    for key in capacity.keys() {
        if let Err(detail) = attribute_key(key) {
            errors.push(FieldError::invalid(format!("{path}.capacity"), &Value::from(key.as_str()), detail));
        }
    }
    let taints = items(device, "taints");
    if taints.len() > MAX_TAINTS {
        errors.push(FieldError::too_many(format!("{path}.taints"), taints.len(), MAX_TAINTS));
    }
    for (index, taint) in taints.iter().enumerate() {
        const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
        if !EFFECTS.contains(&taint["effect"].as_str().unwrap_or_default()) {
            let field = format!("{path}.taints[{index}].effect");
            errors.push(FieldError::not_supported(field, &taint["effect"], &EFFECTS));
        }
    }
}

/// Checks an attribute; how many values it holds.
fn attribute(path: &str, value: &Value, errors: &mut Vec<FieldError>) -> usize {
    let set = value.as_object().map_or(0, Map::len);
    match set {
        0 => errors.push(FieldError::invalid(path, &"".into(), "exactly one value must be specified")),
        1 => {}
        _ => errors.push(FieldError::invalid(path, value, "exactly one value must be specified")),
    }
    let texts = |single: &str, list: &str| {
        let single = value[single].as_str().into_iter();
        single
            .chain(items(value, list).iter().filter_map(Value::as_str))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for text in texts("string", "strings") {
        if text.len() > MAX_VALUE_BYTES {
            errors.push(FieldError::too_long(format!("{path}.string"), MAX_VALUE_BYTES));
        }
    }
    for text in texts("version", "versions") {
        if text.len() > MAX_VALUE_BYTES {
            errors.push(FieldError::too_long(format!("{path}.version"), MAX_VALUE_BYTES));
        } else if !is_semver(&text) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid(format!("{path}.version"), &text.into(), detail));
        }
    }
    LISTS.iter().map(|list| items(value, list).len()).sum::<usize>().max(1)
}
