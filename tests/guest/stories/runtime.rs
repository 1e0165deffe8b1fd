//! Other runtimes than the usual one, and one that starts again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::lifecycle;
use crate::containerd::{CRUN, Containerd, PodId, Sandbox};
use crate::host::{Vf, facts, links_in, wait_as_before};
use crate::inside::Ground;
use crate::node::Node;
use crate::release::OLD;

const RETURN: Duration = Duration::from_secs(40);

pub async fn a_restart_of_containerd_takes_no_vf_and_prepared_pods_start_after_it(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..3];
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let runtime = &node.runtime;
    let pods = ["runs", "waits", "begun"].map(PodId::new);
    let mut claims = Vec::new();
    for (pod, vf) in pods.iter().zip(vfs) {
        claims.push(node.claim(&pod.name, pod, &[*vf], json!({ "name": "fast0" })).await?);
    }
    let running = node.start_pod(&pods[0], &[&claims[0]]).await?;
    let waiting = node.prepare(&claims[1]).await?;
    let begun_ids = node.prepare(&claims[2]).await?;
    let begun = runtime.run_pod(&pods[2], 0).await?;

    let connections = runtime.nri_connections()?;
    runtime.restart().await?;
    ensure!(has(&running.sandbox, vfs[0])?, "the running pod lost its VF with the runtime");
    node.wait_connected(connections)?;
    ensure!(has(&running.sandbox, vfs[0])?, "the running pod lost its VF when NRI came back");
    runtime.exec(&running.container, &["/bin/ip", "link", "show", "fast0"]).await?;
    runtime.start_container(&running.sandbox, "second", &running.cdi_ids).await?;
    runtime.start_container(&begun, "main", &begun_ids).await?;
    ensure!(has(&begun, vfs[2])?, "the pod whose sandbox was there has no VF");
    let late = runtime.run_pod(&pods[1], 0).await?;
    ensure!(has(&late, vfs[1])?, "the runtime did not tell the agent of a sandbox after its restart");
    runtime.start_container(&late, "main", &waiting).await?;

    for (sandbox, claim) in [&running.sandbox, &late, &begun].into_iter().zip([0, 1, 2]) {
        runtime.stop_pod(&sandbox.id).await?;
        node.unprepare(&claims[claim]).await?;
    }
    wait_as_before(&before, RETURN)?;
    for claim in &claims {
        let traces = node.traces_of(claim);
        ensure!(traces.is_empty(), "of claim {} there is still {traces:?}", claim.name);
    }
    Ok(())
}

pub async fn crun_starts_a_container_with_its_vf_or_not_at_all_while_no_agent_runs(
    ground: Ground,
) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let before = facts(&[vf])?;
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("crun");
    let config = json!({ "name": "fast0", "addresses": ["10.9.0.1/24"] });
    let claim = node.claim("crun", &pod, &[vf], config).await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    let sandbox = node.runtime.run_pod_with(CRUN, &pod, 0).await?;
    ensure!(!has(&sandbox, vf)?, "nobody is there who could attach");
    let container = node.runtime.start_container(&sandbox, "main", &cdi_ids).await?;
    ensure!(has(&sandbox, vf)?, "the hook did not bring the VF");
    let shown = node.runtime.exec(&container, &["/bin/ip", "address", "show", "fast0"]).await?;
    ensure!(shown.contains("10.9.0.1/24"), "the hook brought {shown}");

    node.start_agent().await?;
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)?;

    let pod = PodId::new("gone");
    let claim = node.claim("gone", &pod, &[vf], json!({})).await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    std::fs::write(format!("/sys/bus/pci/devices/{}/sriov_numvfs", vf.pf), "0")?;
    let sandbox = node.runtime.run_pod_with(CRUN, &pod, 0).await?;
    let refused = node.runtime.start_container(&sandbox, "main", &cdi_ids).await;
    let Err(error) = refused else { bail!("crun started a container without its VF {}", vf.pci) };
    let sentence = format!("{error:#}");
    ensure!(sentence.contains("hook"), "crun says that it was a hook: {sentence}");
    println!("crun: {sentence}");
    node.start_agent().await?;
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}

pub async fn on_containerd_1_7_two_pods_ping_each_other_and_give_their_vfs_back_as_they_were(
    ground: Ground,
) -> Result<()> {
    let runtime = Arc::new(Containerd::start(&OLD).await?);
    let old = Ground { runtime: Arc::clone(&runtime), ..ground };
    lifecycle::two_pods_with_vfs_of_one_pf_ping_each_other_and_give_them_back_as_they_were(old).await?;
    runtime.remove_all().await
}

fn has(sandbox: &Sandbox, vf: Vf) -> Result<bool> {
    let links = links_in(&sandbox.netns_name())?;
    Ok(links.iter().any(|link| link.pci == Some(vf.pci) && link.name == "fast0" && link.up))
}
