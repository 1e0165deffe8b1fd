//! What claims, templates and classes share: selectors, configs, names of drivers.

use std::collections::BTreeMap;

use serde_json::Value;

use super::items;
use super::names::{self, is_driver};
use crate::demo::apiserver::object::str_at;
use crate::demo::apiserver::status::FieldError;
use crate::policy::cel::{CelError, Selector};

const MAX_RAW_BYTES: usize = 10 * 1024;

/// `spec` of a DeviceClass.
pub fn class(spec: &Value, errors: &mut Vec<FieldError>) {
    selectors("spec", spec, errors);
    for (index, config) in items(spec, "config").iter().enumerate() {
        opaque(&format!("spec.config[{index}].opaque"), &config["opaque"], errors);
    }
}

/// `selectors` of what stands at `path`.
pub fn selectors(path: &str, of: &Value, errors: &mut Vec<FieldError>) {
    for (index, selector) in items(of, "selectors").iter().enumerate() {
        let path = format!("{path}.selectors[{index}].cel");
        if selector["cel"].is_null() {
            errors.push(FieldError::required(path, ""));
        } else if let Some(problem) = problem(str_at(selector, "/cel/expression")) {
            let field = format!("{path}.expression");
            errors.push(FieldError::invalid(field, &selector["cel"]["expression"], &problem));
        }
    }
}

/// What is wrong with an expression. The real server knows types; here a device without anything shows that a result is
/// no condition.
fn problem(expression: &str) -> Option<String> {
    match Selector::compile(expression) {
        Ok(compiled) => match compiled.matches("", &BTreeMap::new()) {
            Err(CelError::NotBool(what)) => Some(format!("must evaluate to bool, not {what}")),
            _ => None,
        },
        // The real server has more room.
        Err(CelError::TooComplex { .. }) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// `opaque` of a config.
pub fn opaque(path: &str, opaque: &Value, errors: &mut Vec<FieldError>) {
    if opaque.is_null() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    driver(&format!("{path}.driver"), &opaque["driver"], errors);
    raw(&format!("{path}.parameters"), &opaque["parameters"], errors);
}

/// A driver's name.
pub fn driver(field: &str, name: &Value, errors: &mut Vec<FieldError>) {
    match name.as_str().unwrap_or_default() {
        "" => errors.push(FieldError::required(field, "")),
        long if long.len() > 63 => errors.push(FieldError::too_long(field, 63)),
        text if !is_driver(text) => errors.push(FieldError::invalid(field, name, names::SUBDOMAIN)),
        _ => {}
    }
}

/// A RawExtension.
pub fn raw(path: &str, raw: &Value, errors: &mut Vec<FieldError>) {
    if raw.is_null() {
        errors.push(FieldError::required(path, ""));
    } else if !raw.is_object() {
        errors.push(FieldError::invalid(path, raw, "must be a valid JSON object"));
    } else if raw.to_string().len() > MAX_RAW_BYTES {
        errors.push(FieldError::too_long(path, MAX_RAW_BYTES));
    }
}
