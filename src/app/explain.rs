//! Where `sriov-dra explain` gets what there is: a cluster, or this machine.

use std::path::Path;

use anyhow::Context;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use kube::api::{Api, ListParams};

use super::client::client;
use super::inventory::{Looked, take_inventory};
use crate::allocate::{DeviceId, Node, Taken};
use crate::controller::Limits;
use crate::controller::slices::{PoolIdentity, devices, plan};
use crate::policy::{Rules, offered};

/// Slices and what goes with them.
#[derive(Debug, Default)]
pub struct Supply {
    /// All there are.
    pub slices: Vec<ResourceSlice>,
    /// Empty where there is no cluster to ask.
    pub classes: Vec<DeviceClass>,
    /// Empty where there is no cluster to ask.
    pub claims: Vec<ResourceClaim>,
    /// Empty where there is no cluster to ask.
    pub templates: Vec<ResourceClaimTemplate>,
    /// Empty where there is no cluster to ask, or it doesn't let us list nodes.
    pub nodes: Vec<Node>,
    /// Devices held by what is not in `claims`.
    pub taken: Taken,
    /// What could not be looked at, a sentence each.
    pub notes: Vec<String>,
}

/// Reads a cluster. Nodes are a help only: who may not list them gets pools with a node name.
///
/// # Errors
/// The server can't be reached or refuses; the sentence names what was asked for.
pub async fn read_cluster(kubeconfig: &Path) -> anyhow::Result<Supply> {
    let client = client(Some(kubeconfig)).await?;
    let all = ListParams::default();
    let slices = Api::<ResourceSlice>::all(client.clone()).list(&all).await;
    let classes = Api::<DeviceClass>::all(client.clone()).list(&all).await;
    let claims = Api::<ResourceClaim>::all(client.clone()).list(&all).await;
    let templates = Api::<ResourceClaimTemplate>::all(client.clone()).list(&all).await;
    let nodes = Api::<core::Node>::all(client).list(&all).await.map(|list| list.items).unwrap_or_default();
    Ok(Supply {
        slices: slices.context("the cluster's ResourceSlices can't be listed")?.items,
        classes: classes.context("the cluster's DeviceClasses can't be listed")?.items,
        claims: claims.context("the cluster's ResourceClaims can't be listed")?.items,
        templates: templates.map(|list| list.items).unwrap_or_default(),
        nodes: nodes
            .into_iter()
            .map(|node| Node {
                name: node.metadata.name.unwrap_or_default(),
                labels: node.metadata.labels.unwrap_or_default(),
            })
            .collect(),
        taken: Taken::default(),
        notes: Vec::new(),
    })
}

/// What the agent would publish of this machine, and what claims hold of it by the agent's ledger in `durable`.
///
/// # Errors
/// When sysfs, netlink or the ledger can't be read.
pub fn read_machine(sysfs: &Path, durable: &Path, rules: Rules, node: &str) -> anyhow::Result<Supply> {
    let driver = rules.driver_name.clone();
    let Looked { verdicts, holders, hidden, .. } = take_inventory(sysfs, durable, rules)?;
    let pool = PoolIdentity { driver: driver.clone(), node: node.to_owned(), node_uid: String::new() };
    let mut slices = plan(&[], &devices(&offered(&verdicts)), &pool, Limits::default()).create;
    for slice in &mut slices {
        slice.metadata.name = slice.metadata.generate_name.take();
    }
    let taken = holders.into_iter().map(|(vf, claim)| {
        let id = DeviceId { driver: driver.clone(), pool: node.to_owned(), device: vf.device_name() };
        (id, claim)
    });
    Ok(Supply { slices, taken: Taken(taken.collect()), notes: hidden, ..Supply::default() })
}
