//! What `kubectl` asks before anything else: versions, groups, resources, health.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::openapi;
use super::resources::RESOURCES;

/// The version this server claims to be; its rules are those of 1.36.
pub const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.0-embedded");

/// The answer to a discovery path; `None` for any other. Text stands for a plain-text answer.
pub fn answer(path: &str) -> Option<Value> {
    match path.trim_end_matches('/') {
        "/healthz" | "/readyz" | "/livez" => Some(json!("ok")),
        "/version" => Some(version()),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/api/v1" => Some(resource_list("", "v1")),
        "/openapi/v3" => Some(openapi::index()),
        "/apis" => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups()})),
        path if path.starts_with("/openapi/v3/") => openapi::document(path.strip_prefix("/openapi/v3")?),
        path => match path.strip_prefix("/apis/")?.split('/').collect::<Vec<_>>().as_slice() {
            [group] => groups().into_iter().find(|g| g["name"] == *group).map(|mut found| {
                found["kind"] = json!("APIGroup");
                found["apiVersion"] = json!("v1");
                found
            }),
            [group, version] if RESOURCES.iter().any(|r| r.group == *group && r.version == *version) => {
                Some(resource_list(group, version))
            }
            _ => None,
        },
    }
}

fn version() -> Value {
    let (major, minor, git) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": git, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux",
    })
}

fn groups() -> Vec<Value> {
    let names: BTreeSet<(&str, &str)> =
        RESOURCES.iter().filter(|r| !r.group.is_empty()).map(|r| (r.group, r.version)).collect();
    names
        .into_iter()
        .map(|(group, version)| {
            let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
            json!({"name": group, "versions": [version], "preferredVersion": version})
        })
        .collect()
}

fn resource_list(group: &str, version: &str) -> Value {
    const VERBS: [&str; 8] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut resources = Vec::new();
    for resource in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        resources.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS, "shortNames": short_names(resource.kind),
        }));
        if resource.has_status {
            resources.push(json!({
                "name": format!("{}/status", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": resource.kind, "verbs": ["get", "patch", "update"],
            }));
        }
    }
    if group.is_empty() {
        resources.push(json!({
            "name": "pods/binding", "singularName": "", "namespaced": true, "kind": "Binding", "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn short_names(kind: &str) -> &'static [&'static str] {
    match kind {
        "Namespace" => &["ns"],
        "Node" => &["no"],
        "Pod" => &["po"],
        "Event" => &["ev"],
        _ => &[],
    }
}
