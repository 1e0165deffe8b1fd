//! The claim controller's part, and the garbage collector's: claims of templates come and go with their pods, and a
//! claim that nobody uses is given free.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use sriov_dra::demo::claims::of_template;

use super::{event, is_over, node_of};

/// Keeps a claim from vanishing while it is allocated; the scheduler sets it.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// One look at all pods and claims.
pub async fn sync(client: &Client) -> Result<()> {
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?.items;
    let claims = Api::<ResourceClaim>::all(client.clone()).list(&ListParams::default()).await?.items;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_over(pod)) {
        make(client, pod, &claims).await?;
    }
    let done =
        |pod: &Pod| is_over(pod) || (pod.metadata.deletion_timestamp.is_some() && node_of(pod).is_empty());
    let users: BTreeMap<&str, &Pod> = pods
        .iter()
        .filter(|pod| !done(pod))
        .filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod)))
        .collect();
    for claim in claims {
        release(client, claim, &users).await?;
    }
    Ok(())
}

/// The claims of a pod's templates, and their names in its status.
async fn make(client: &Client, pod: &Pod, claims: &[ResourceClaim]) -> Result<()> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let api = Api::<ResourceClaim>::namespaced(client.clone(), &namespace);
    let known = sriov_dra::demo::claims::names(pod);
    let mut names = Vec::new();
    let mut news = false;
    for wanted in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
        let Some(template) = &wanted.resource_claim_template_name else { continue };
        let known = known.iter().find(|(called, _)| *called == wanted.name);
        let name = match known.and_then(|(_, name)| name.clone()) {
            Some(name) => name,
            None => {
                news = true;
                let templates = Api::<ResourceClaimTemplate>::namespaced(client.clone(), &namespace);
                let Some(found) = templates.get_opt(template).await? else {
                    let why = format!("resource claim template {template:?} not found");
                    return event(client, "resource_claim", pod, "FailedResourceClaimCreation", &why).await;
                };
                let wanted = of_template(pod, &wanted.name, &found);
                // Made by the last look, which was cut short before it could say so.
                let is_it = |claim: &&ResourceClaim| {
                    claim.metadata.owner_references == wanted.metadata.owner_references
                        && claim.metadata.annotations == wanted.metadata.annotations
                };
                let made = match claims.iter().find(is_it) {
                    Some(made) => made.clone(),
                    None => api.create(&PostParams::default(), &wanted).await?,
                };
                made.metadata.name.context("a claim without a name")?
            }
        };
        names.push(json!({ "name": wanted.name, "resourceClaimName": name }));
    }
    if news {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let status = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "uid": pod.metadata.uid },
            "status": { "resourceClaimStatuses": names },
        });
        let by = PatchParams::apply("ResourceClaimController").force();
        Api::<Pod>::namespaced(client.clone(), &namespace)
            .patch_status(name, &by, &Patch::Apply(status))
            .await?;
    }
    Ok(())
}

/// Takes pods that are gone off the claim; without any left it is deallocated, and goes if its pod was its owner.
async fn release(client: &Client, claim: ResourceClaim, users: &BTreeMap<&str, &Pod>) -> Result<()> {
    let namespace = claim.metadata.namespace.clone().unwrap_or_default();
    let name = claim.metadata.name.clone().unwrap_or_default();
    let api = Api::<ResourceClaim>::namespaced(client.clone(), &namespace);
    let owner = claim.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "Pod").cloned();
    if owner.is_some_and(|owner| !users.contains_key(owner.uid.as_str()))
        && claim.metadata.deletion_timestamp.is_none()
    {
        let this = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
        api.delete(&name, &DeleteParams::default().preconditions(this)).await?;
        return Ok(());
    }
    let status = claim.status.clone().unwrap_or_default();
    let reserved = status.reserved_for.clone().unwrap_or_default();
    let (valid, gone): (Vec<_>, Vec<_>) =
        reserved.into_iter().partition(|user| users.contains_key(user.uid.as_str()));
    let mut claim = claim;
    if !gone.is_empty() || (valid.is_empty() && status.allocation.is_some()) {
        let mut status = status;
        if valid.is_empty() {
            status.allocation = None;
        }
        status.reserved_for = (!valid.is_empty()).then_some(valid);
        claim.status = Some(status);
        claim = api.replace_status(&name, &PostParams::default(), &claim).await?;
    }
    let free = claim.status.as_ref().is_none_or(|status| status.allocation.is_none());
    let finalizers = claim.metadata.finalizers.get_or_insert_default();
    if free && finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        api.replace(&name, &PostParams::default(), &claim).await?;
    }
    Ok(())
}
