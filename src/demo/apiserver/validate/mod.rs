//! The API's validation, as far as a DRA driver can meet it.
//!
//! Numbers are those of the API types of `resource.k8s.io/v1` in 1.36; wording follows the real server closely enough
//! for a sentence to be recognised.

mod claims;
mod custom;
mod devices;
mod names;
mod slices;

use serde_json::Value;

use super::object::str_at;
use super::pods;
use super::resources::Resource;
use super::status::{ApiError, FieldError};

/// What stands for a time that was not sent.
pub const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// A new object.
pub fn create(resource: &Resource, object: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let name = str_at(object, "/metadata/name");
    if !names::is_subdomain(name) {
        errors.push(FieldError::invalid("metadata.name", &name.into(), names::SUBDOMAIN));
    }
    match resource.kind {
        "ResourceSlice" => slices::slice(&object["spec"], &mut errors),
        "ResourceClaim" => claims::spec("spec", &object["spec"], &mut errors),
        "DeviceClass" => devices::class(&object["spec"], &mut errors),
        "ResourceClaimTemplate" => claims::spec("spec.spec", &object["spec"]["spec"], &mut errors),
        _ => custom::check(resource, None, object, &mut errors),
    }
    answer(resource, object, &errors)
}

/// What may be asked for in a namespace with this label only: devices that others have.
pub fn admin_access(resource: &Resource, object: &Value, namespace: &Value) -> Result<(), ApiError> {
    const LABEL: &str = "resource.kubernetes.io/admin-access";
    let (path, spec) = match resource.kind {
        "ResourceClaim" => ("spec", &object["spec"]),
        "ResourceClaimTemplate" => ("spec.spec", &object["spec"]["spec"]),
        _ => return Ok(()),
    };
    if namespace["metadata"]["labels"][LABEL] == "true" {
        return Ok(());
    }
    let mut errors = Vec::new();
    for (index, request) in items(&spec["devices"], "requests").iter().enumerate() {
        if request["exactly"]["adminAccess"] == true {
            let field = format!("{path}.devices.requests[{index}].adminAccess");
            let message = format!(
                "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
            );
            errors.push(FieldError::forbidden(field, &message));
        }
    }
    answer(resource, object, &errors)
}

/// Fills in what the API fills in.
pub fn default(resource: &Resource, object: &mut Value) {
    let pointer = match resource.kind {
        "ResourceClaim" => "/spec/devices/requests",
        "ResourceClaimTemplate" => "/spec/spec/devices/requests",
        _ => return custom::prune(resource, object),
    };
    let requests = object.pointer_mut(pointer).and_then(Value::as_array_mut);
    for request in requests.into_iter().flatten() {
        if request["exactly"].is_object() {
            one_device(&mut request["exactly"]);
        }
        request["firstAvailable"].as_array_mut().into_iter().flatten().for_each(one_device);
    }
}

fn one_device(request: &mut Value) {
    if request["allocationMode"].is_null() {
        request["allocationMode"] = "ExactCount".into();
    }
    if request["allocationMode"] == "ExactCount" && request["count"].is_null() {
        request["count"] = 1.into();
    }
}

/// A changed object; `status`: through the status path.
pub fn update(resource: &Resource, before: &Value, after: &Value, status: bool) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    match (resource.kind, status) {
        ("ResourceSlice", _) => {
            slices::slice(&after["spec"], &mut errors);
            for pointer in ["/spec/driver", "/spec/pool/name", "/spec/nodeName"] {
                immutable(pointer, before, after, &mut errors);
            }
        }
        ("ResourceClaim", false) => immutable("/spec", before, after, &mut errors),
        ("ResourceClaim", true) => claims::status(before, after, &mut errors),
        ("DeviceClass", _) => devices::class(&after["spec"], &mut errors),
        ("ResourceClaimTemplate", _) => immutable("/spec", before, after, &mut errors),
        ("Pod", true) => pods::claims_are_its_own(after, &mut errors),
        ("Pod", false) => pods::spec_is_kept(before, after, &mut errors),
        _ => custom::check(resource, Some(before), after, &mut errors),
    }
    answer(resource, after, &errors)
}

fn immutable(pointer: &str, before: &Value, after: &Value, errors: &mut Vec<FieldError>) {
    let now = after.pointer(pointer);
    if before.pointer(pointer) != now {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        errors.push(FieldError::invalid(field, now.unwrap_or(&Value::Null), "field is immutable"));
    }
}

fn answer(resource: &Resource, object: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    let name = str_at(object, "/metadata/name");
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, errors)) }
}

/// The items of a list; none where there is no list.
fn items<'a>(object: &'a Value, member: &str) -> &'a [Value] {
    object[member].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
#[path = "../tests/validate.rs"]
mod tests;
