//! Every VF of the machine in use at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::containerd::PodId;
use crate::host::{facts, links_in, wait_as_before};
use crate::inside::Ground;
use crate::node::Node;

/// Pods the VFs are spread over.
const PODS: usize = 4;

pub async fn all_28_vfs_of_4_pfs_are_in_pods_at_once_and_all_come_back(ground: Ground) -> Result<()> {
    let mut vfs = ground.vfs.clone();
    // By index first, so that each pod gets VFs of every PF.
    vfs.sort_by_key(|vf| (vf.index, vf.pf));
    ensure!(vfs.len() == 28, "there are {} VFs", vfs.len());
    let before = facts(&vfs)?;
    let node = Node::start(&ground.runtime, vfs.len()).await?;
    let mut pods = Vec::new();
    for (i, chunk) in vfs.chunks(vfs.len() / PODS).enumerate() {
        let pod = PodId::new(&format!("pod{i}"));
        let claim = node.claim(&format!("claim{i}"), &pod, chunk, json!({})).await?;
        pods.push((pod, claim, chunk));
    }
    // The kubelet prepares claims side by side.
    let prepared = futures::future::join_all(pods.iter().map(|(_, claim, _)| node.prepare(claim))).await;
    let mut running = Vec::new();
    for ((pod, _, _), cdi_ids) in pods.iter().zip(prepared) {
        let sandbox = node.runtime.run_pod(pod, 0).await?;
        node.runtime.start_container(&sandbox, "main", &cdi_ids?).await?;
        running.push(sandbox);
    }
    for (sandbox, (pod, _, chunk)) in running.iter().zip(&pods) {
        let links = links_in(&sandbox.netns_name())?;
        let there: BTreeSet<_> = links.iter().filter_map(|l| l.pci).collect();
        let wanted: BTreeSet<_> = chunk.iter().map(|vf| vf.pci).collect();
        ensure!(there == wanted, "pod {} has {there:?} instead of {wanted:?}", pod.name);
        let names: BTreeSet<_> = links.iter().map(|l| &l.name).collect();
        ensure!(names.len() == links.len() && links.iter().all(|l| l.up), "pod {} has {links:?}", pod.name);
    }
    for (sandbox, (_, claim, _)) in running.iter().zip(&pods) {
        node.runtime.stop_pod(&sandbox.id).await?;
        node.unprepare(claim).await?;
    }
    wait_as_before(&before, Duration::from_secs(60))?;
    ensure!(node.slice_writes() == 0, "the claims caused {} writes of slices", node.slice_writes());
    Ok(())
}
