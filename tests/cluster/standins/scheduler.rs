//! The scheduler's part on a cluster of one node: finds devices with the driver's own allocator, writes them down,
//! binds the pod.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use sriov_dra::allocate::{Cluster, Node, Refusal, Taken, Wanted, allocate, claim_name};
use sriov_dra::demo::claims::{names, reserved};

use super::claims::FINALIZER;
use super::{event, node_of};
use crate::plane::NODE;

/// One pod after the other, each with what the one before it left.
pub async fn sync(client: &Client) -> Result<()> {
    let all = ListParams::default();
    let pods = Api::<Pod>::all(client.clone()).list(&all).await?.items;
    let waiting =
        pods.iter().filter(|pod| node_of(pod).is_empty() && pod.metadata.deletion_timestamp.is_none());
    for pod in waiting {
        schedule(client, pod).await?;
    }
    Ok(())
}

async fn schedule(client: &Client, pod: &Pod) -> Result<()> {
    let all = ListParams::default();
    let slices = Api::<ResourceSlice>::all(client.clone()).list(&all).await?.items;
    let classes = Api::<DeviceClass>::all(client.clone()).list(&all).await?.items;
    let claims = Api::<ResourceClaim>::all(client.clone()).list(&all).await?.items;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let known: BTreeMap<String, &ResourceClaim> =
        claims.iter().map(|claim| (claim_name(claim), claim)).collect();
    let mut own = Vec::new();
    for (_, name) in names(pod) {
        let name = name.map(|name| format!("{namespace}/{name}")).unwrap_or_default();
        // Not made yet, or on its way out: there is nothing to be done about this pod now.
        match known.get(&name).filter(|claim| claim.metadata.deletion_timestamp.is_none()) {
            Some(claim) => own.push((name, (*claim).clone())),
            None => return Ok(()),
        }
    }
    let allocated = |claim: &ResourceClaim| claim.status.as_ref().is_some_and(|s| s.allocation.is_some());
    let open: Vec<&(String, ResourceClaim)> = own.iter().filter(|(_, claim)| !allocated(claim)).collect();
    let wanted: Vec<Wanted<'_>> =
        open.iter().filter_map(|(name, claim)| Some(Wanted { name, spec: claim.spec.as_ref()? })).collect();
    let cluster = Cluster { slices: &slices, classes: &classes, taken: &Taken::by(&claims) };
    let found = match allocate(&cluster, &wanted, &Node::named(NODE)) {
        Ok(found) => found,
        Err(refusal) => return refuse(client, pod, &refusal).await,
    };
    let mut allocations: BTreeMap<&str, _> =
        open.iter().zip(found).map(|((name, _), allocation)| (name.as_str(), allocation)).collect();
    for (name, claim) in &own {
        let api = Api::<ResourceClaim>::namespaced(client.clone(), &namespace);
        let short = claim.metadata.name.clone().unwrap_or_default();
        let mut claim = claim.clone();
        let allocation = allocations.remove(name.as_str());
        if allocation.is_some() {
            claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            claim = api.replace(&short, &PostParams::default(), &claim).await?;
        }
        let users = claim.status.as_ref().and_then(|status| status.reserved_for.as_ref());
        if !users.into_iter().flatten().any(|user| Some(&user.uid) == pod.metadata.uid.as_ref()) {
            let claim = reserved(&claim, allocation, pod);
            api.replace_status(&short, &PostParams::default(), &claim).await?;
        }
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
        "target": { "kind": "Node", "name": NODE },
    });
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let _: Status = pods.create_subresource("binding", name, &PostParams::default(), &binding).await?;
    Ok(())
}

/// In the scheduler's words, once.
async fn refuse(client: &Client, pod: &Pod, refusal: &Refusal) -> Result<()> {
    let why = match refusal {
        Refusal::NoDevices { .. } => {
            "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes \
             are available: 1 Preemption is not helpful for scheduling."
                .to_owned()
        }
        fault => format!("running \"DynamicResources\" filter plugin: {fault}"),
    };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let said = Api::<Event>::namespaced(client.clone(), &namespace).list(&ListParams::default()).await?;
    let said: BTreeSet<(Option<String>, Option<String>)> =
        said.items.into_iter().map(|event| (event.involved_object.uid, event.message)).collect();
    if said.contains(&(pod.metadata.uid.clone(), Some(why.clone()))) {
        return Ok(());
    }
    event(client, "default-scheduler", pod, "FailedScheduling", &why).await
}
