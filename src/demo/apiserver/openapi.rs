//! Just enough OpenAPI for `kubectl` to leave the validation of fields to the server.
//!
//! It looks for the query parameter `fieldValidation` of a kind's PATCH; there are no schemas, so `kubectl explain` has
//! nothing to say.

use serde_json::{Map, Value, json};

use super::resources::{RESOURCES, Resource};

/// `/openapi/v3`: where each group's document is.
pub fn index() -> Value {
    let paths: Map<String, Value> = RESOURCES
        .iter()
        .map(|resource| {
            let root = root(resource);
            (root[1..].to_owned(), json!({"serverRelativeURL": format!("/openapi/v3{root}")}))
        })
        .collect();
    json!({ "paths": paths })
}

/// The document of the group at `/api/v1` or `/apis/group/version`.
pub fn document(group: &str) -> Option<Value> {
    let paths: Map<String, Value> =
        RESOURCES.iter().filter(|resource| root(resource) == group).map(object_path).collect();
    (!paths.is_empty()).then(|| {
        json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": paths})
    })
}

fn root(resource: &Resource) -> String {
    let prefix = if resource.group.is_empty() { "/api" } else { "/apis" };
    format!("{prefix}/{}", resource.api_version())
}

fn object_path(resource: &Resource) -> (String, Value) {
    let namespace = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let patch = json!({
        "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {
            "group": resource.group, "version": resource.version, "kind": resource.kind,
        },
    });
    (format!("{}{namespace}/{}/{{name}}", root(resource), resource.plural), json!({ "patch": patch }))
}
