//! Errors as Kubernetes words and codes them (`metav1.Status`).

use serde_json::{Map, Value, json};

use super::resources::Resource;

/// A failed request.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details` of the Status.
    pub details: Value,
}

/// Why a field is wrong.
#[derive(Debug, Clone)]
pub struct FieldError {
    reason: &'static str,
    field: String,
    message: String,
}

impl FieldError {
    /// It must be there.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// Its value is malformed.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {value}: {detail}");
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// It is none of a few values.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// It may not be there.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {detail}") }
    }

    /// It is a second one.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        }
    }

    /// A list is too long.
    pub fn too_many(field: impl Into<String>, have: usize, most: usize) -> Self {
        let message = format!("Too many: {have}: must have at most {most} items");
        Self { reason: "FieldValueTooMany", field: field.into(), message }
    }

    /// A text is too long.
    pub fn too_long(field: impl Into<String>, most: usize) -> Self {
        let message = format!("Too long: may not be more than {most} bytes");
        Self { reason: "FieldValueTooLong", field: field.into(), message }
    }
}

impl ApiError {
    fn of(resource: &Resource, name: &str, code: u16, reason: &'static str, message: String) -> Self {
        let details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        Self { code, reason, message, details }
    }

    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: json!({}) }
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::of(resource, name, 404, "NotFound", format!("{} {name:?} not found", resource.qualified()))
    }

    /// 404 for a path.
    pub fn no_such_path() -> Self {
        Self::plain(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 at create.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::of(
            resource,
            name,
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", resource.qualified()),
        )
    }

    /// 409 at update or delete.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        Self::of(resource, name, 409, "Conflict", message)
    }

    /// 409 of an apply: each field with the manager that has it.
    pub fn apply_conflict(fields: &[(String, String)]) -> Self {
        let causes: Vec<Value> = fields
            .iter()
            .map(|(manager, field)| {
                let message = format!("conflict with {manager}");
                json!({"reason": "FieldManagerConflict", "message": message, "field": field})
            })
            .collect();
        let list: Vec<String> = fields.iter().map(|(m, f)| format!("conflict with {m}: {f}")).collect();
        let word = if fields.len() == 1 { "conflict" } else { "conflicts" };
        let message = format!("Apply failed with {} {word}: {}", fields.len(), list.join(", "));
        Self { code: 409, reason: "Conflict", message, details: json!({"causes": causes}) }
    }

    /// 422 of an apply that names no manager.
    pub fn no_field_manager() -> Self {
        let message = "Required value: is required for apply patch";
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: {message}"),
            details: json!({
                "group": "meta.k8s.io", "kind": "PatchOptions",
                "causes": [{"reason": "FieldValueRequired", "message": message, "field": "fieldManager"}],
            }),
        }
    }

    /// 500 of an apply whose list has one key twice; that it is not the client's fault is the real server's mistake.
    pub fn duplicate_entries(list: &str) -> Self {
        Self::internal(format!("failed to create typed patch object: .{list}: duplicate entries for key"))
    }

    /// 500
    pub fn internal(message: impl Into<String>) -> Self {
        Self::plain(500, "", message)
    }

    /// 422 with the fields.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let list: Vec<String> =
            errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
        let list = match list.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.reason, "message": error.message, "field": error.field}))
            .collect();
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{kind} {name:?} is invalid: {list}"),
            details: json!({"name": name, "group": resource.group, "kind": resource.kind, "causes": causes}),
        }
    }

    /// 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 422 for a request that is wrong in itself.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::plain(422, "Invalid", message)
    }

    /// 405
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::plain(405, "MethodNotAllowed", message)
    }

    /// 410: the watch asks for changes that are forgotten.
    pub fn expired(version: u64, oldest: u64) -> Self {
        Self::plain(410, "Expired", format!("too old resource version: {version} ({oldest})"))
    }

    /// 413
    pub fn too_large(limit: usize) -> Self {
        Self::plain(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 415
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// A status that a test asked for.
    pub fn injected(code: u16) -> Self {
        let reason = match code {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            422 => "Invalid",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "",
        };
        Self::plain(code, reason, format!("injected fault {code}"))
    }

    /// The Status object.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = self.details.as_object().filter(|details| !details.is_empty()) {
            // An object without a name has none in the details either.
            let kept = details.iter().filter(|(_, value)| value.as_str() != Some(""));
            body["details"] =
                kept.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into();
        }
        body
    }
}
