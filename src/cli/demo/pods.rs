//! The objects of a file as the demonstration runs them: each in a namespace, and a pod for every claim that has none.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cli::documents::Documents;
use crate::cli::explain::pod_name;
use crate::device::LONGEST_SUBDOMAIN;

/// Characters kept free in the name of a pod that is made up, so that it can be told from another.
const ROOM_FOR_A_NUMBER: usize = 8;

/// Claims and templates that no pod of the file uses get a pod each.
pub fn with_pods(documents: &Documents) -> Documents {
    let mut documents = documents.clone();
    let Documents { claims, templates, pods, .. } = &mut documents;
    let placed = |metadata: &mut ObjectMeta| {
        metadata.namespace.get_or_insert_with(|| "default".to_owned());
    };
    for claim in claims.iter_mut() {
        placed(&mut claim.metadata);
        // Of the cluster it was copied from; here it is new.
        claim.status = None;
    }
    templates.iter_mut().for_each(|template| placed(&mut template.metadata));
    pods.iter_mut().for_each(|pod| placed(&mut pod.metadata));

    let mut of_claims = BTreeSet::new();
    let mut of_templates = BTreeSet::new();
    for pod in pods.iter() {
        let namespace = &pod.metadata.namespace;
        for reference in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
            of_claims.insert((namespace.clone(), reference.resource_claim_name.clone()));
            of_templates.insert((namespace.clone(), reference.resource_claim_template_name.clone()));
        }
    }
    let key = |metadata: &ObjectMeta| (metadata.namespace.clone(), metadata.name.clone());
    let mut missing = Vec::new();
    for metadata in claims.iter().map(|claim| &claim.metadata).filter(|m| !of_claims.contains(&key(m))) {
        let resource_claim_name = metadata.name.clone();
        missing.push((metadata, PodResourceClaim { resource_claim_name, ..PodResourceClaim::default() }));
    }
    for metadata in
        templates.iter().map(|template| &template.metadata).filter(|m| !of_templates.contains(&key(m)))
    {
        let resource_claim_template_name = metadata.name.clone();
        missing.push((
            metadata,
            PodResourceClaim { resource_claim_template_name, ..PodResourceClaim::default() },
        ));
    }
    for (metadata, reference) in missing {
        let name = free_name(pods, metadata);
        let metadata =
            ObjectMeta { name: Some(name), namespace: metadata.namespace.clone(), ..ObjectMeta::default() };
        let reference = PodResourceClaim { name: "claim".to_owned(), ..reference };
        let spec = PodSpec { resource_claims: Some(vec![reference]), ..PodSpec::default() };
        pods.push(Pod { metadata, spec: Some(spec), ..Pod::default() });
    }
    documents
}

/// `demo-mine`, or `demo-mine-2` where a pod has that already.
fn free_name(pods: &[Pod], metadata: &ObjectMeta) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let is_taken = |name: &str| pods.iter().any(|pod| pod_name(pod) == (namespace, name));
    let base = format!("demo-{}", metadata.name.as_deref().unwrap_or("claim"));
    let base: String = base.chars().take(LONGEST_SUBDOMAIN - ROOM_FOR_A_NUMBER).collect();
    let base = base.trim_end_matches(['-', '.']);
    let mut name = base.to_owned();
    let mut number = 2;
    while is_taken(&name) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}
