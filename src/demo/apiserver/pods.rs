//! What only pods have: an end with a time of grace, which their kubelet shortens, and a binding to a node.

use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{now_and, str_at};
use super::rest::{Answer, Call};
use super::status::{ApiError, FieldError};

/// `spec.terminationGracePeriodSeconds` where a pod does not say.
const GRACE: i64 = 30;

/// What a DELETE makes of a pod.
#[derive(Debug)]
pub enum End {
    /// It goes at once; its last state.
    Now(Value),
    /// It stays, marked like this.
    Marked(Value),
    /// It is on its way already, and not later than asked for.
    Pending,
}

/// Decides with the grace that the request asks for: an unscheduled pod and one that ran to its end need none, and a
/// second request may only shorten what a first one gave.
pub fn end(pod: &Value, asked: Option<i64>) -> End {
    let had = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let over = ["Succeeded", "Failed"].contains(&str_at(pod, "/status/phase"));
    let seconds = match (asked, had) {
        (Some(asked), Some(had)) if asked < had => asked,
        (_, Some(_)) => return End::Pending,
        (_, None) if str_at(pod, "/spec/nodeName").is_empty() || over => 0,
        (asked, None) => asked.or(own).unwrap_or(GRACE),
    };
    // A negative one is the shortest there is.
    let seconds = if seconds < 0 { 1 } else { seconds };
    let mut marked = pod.clone();
    marked["metadata"]["deletionTimestamp"] = json!(now_and(seconds));
    marked["metadata"]["deletionGracePeriodSeconds"] = json!(seconds);
    if let (Some(generation), None) = (pod["metadata"]["generation"].as_i64(), had) {
        marked["metadata"]["generation"] = json!(generation + 1);
    }
    if seconds == 0 { End::Now(marked) } else { End::Marked(marked) }
}

/// That each claim a status names is one that the pod asks for.
pub fn claims_are_its_own(pod: &Value, errors: &mut Vec<FieldError>) {
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let wanted = list("/spec/resourceClaims");
    for (index, named) in list("/status/resourceClaimStatuses").iter().enumerate() {
        if !wanted.iter().any(|wanted| wanted["name"] == named["name"]) {
            let field = format!("status.resourceClaimStatuses[{index}].name");
            let message = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(field, &named["name"], message));
        }
    }
}

/// That nothing of a pod's spec changes but what may (core/v1 ValidatePodUpdate, as far as anybody here meets it).
pub fn spec_is_kept(before: &Value, after: &Value, errors: &mut Vec<FieldError>) {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            spec[field] = Value::Null;
        }
        for list in ["containers", "initContainers"] {
            let containers = spec[list].as_array_mut().into_iter().flatten();
            containers.for_each(|container| container["image"] = Value::Null);
        }
        spec
    };
    if fixed(before) != fixed(after) {
        let message = "pod updates may not change fields other than `spec.containers[*].image`, \
                       `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions \
                       to existing tolerations)";
        errors.push(FieldError::forbidden("spec", message));
    }
}

impl Call<'_> {
    /// POST of a pod's binding: what a scheduler does with a pod.
    pub fn bind(&self, name: &str, binding: &Value) -> Answer {
        let resource = self.target.resource;
        let node = str_at(binding, "/target/name");
        if str_at(binding, "/metadata/name") != name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        // That these are the server's own faults is the real one's mistake.
        if !["", "Node"].contains(&str_at(binding, "/target/kind")) {
            return Err(ApiError::internal("invalid binding: target.kind: Unsupported value"));
        }
        if node.is_empty() {
            return Err(ApiError::internal("invalid binding: target.name: Required value"));
        }
        self.store.with(|objects| {
            let key = self.key(name);
            let pod = objects.get(&key).ok_or_else(|| ApiError::not_found(resource, name))?;
            let conflict = |why: &str| Err(ApiError::conflict(resource, name, why));
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let had = str_at(&pod, "/spec/nodeName");
            if !had.is_empty() {
                return conflict(&format!("pod {name} is already assigned to node {had:?}"));
            }
            let mut bound = (*pod).clone();
            bound["spec"]["nodeName"] = json!(node);
            let scheduled = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": now_and(0) });
            let mut conditions = bound["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
            bound["status"]["conditions"] = json!(conditions);
            if self.query.get("dryRun").is_empty() {
                objects.put(key, bound);
            }
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
            Ok((201, Arc::new(status)))
        })
    }
}

#[cfg(test)]
#[path = "tests/pods.rs"]
mod tests;
