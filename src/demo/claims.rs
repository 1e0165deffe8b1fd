//! Claims as a control plane writes them: made of a pod's template, reserved for a pod, given free again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    AllocationResult, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// KEP-5304: how a claim made of a template says what its pod calls it.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";

/// The claim that the claim controller makes for what `pod` calls `called`, of this template.
pub fn of_template(pod: &Pod, called: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let spec = template.spec.clone().unwrap_or_default();
    let given = spec.metadata.unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), called.to_owned());
    let owner = pod.metadata.uid.clone().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod_name.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: Some(true),
    });
    let metadata = ObjectMeta {
        generate_name: Some(format!("{pod_name}-{called}-")),
        namespace: pod.metadata.namespace.clone(),
        labels: given.labels,
        annotations: Some(annotations),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    ResourceClaim { metadata, spec: Some(spec.spec.unwrap_or_default()), status: None }
}

/// The claim reserved for one more pod, as the scheduler writes it; with its allocation if it has none yet.
pub fn reserved(claim: &ResourceClaim, allocation: Option<AllocationResult>, pod: &Pod) -> ResourceClaim {
    let mut claim = claim.clone();
    let status = claim.status.get_or_insert_default();
    status.allocation = allocation.or(status.allocation.take());
    let consumer = ResourceClaimConsumerReference {
        resource: "pods".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ..Default::default()
    };
    status.reserved_for.get_or_insert_default().push(consumer);
    claim
}

/// The claims of a pod in its order: what it calls each, and the object's name where that is known. A claim of a template has none
/// until the claim controller has made it and said so in the pod's status.
pub fn names(pod: &Pod) -> Vec<(String, Option<String>)> {
    let made = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let made: BTreeMap<&str, Option<String>> =
        made.map(|made| (made.name.as_str(), made.resource_claim_name.clone())).collect();
    let wanted = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    wanted
        .map(|wanted| {
            let name = wanted.resource_claim_name.clone();
            (wanted.name.clone(), name.or_else(|| made.get(wanted.name.as_str()).cloned().flatten()))
        })
        .collect()
}
