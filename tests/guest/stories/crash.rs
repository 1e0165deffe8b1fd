//! The agent dies, misses something, or finds its VF gone.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::containerd::PodId;
use crate::host::{facts, links_in, wait_as_before};
use crate::inside::Ground;
use crate::node::Node;

const RETURN: Duration = Duration::from_secs(40);

pub async fn an_agent_killed_between_prepare_and_sandbox_attaches_after_its_restart(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let before = facts(vfs)?;
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("crash");
    let claim = node
        .claim("claim-crash", &pod, vfs, json!({ "name": "fast0", "addresses": ["10.9.0.1/24"] }))
        .await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    node.start_agent().await?;
    let sandbox = node.runtime.run_pod(&pod, 0).await?;
    node.runtime.start_container(&sandbox, "main", &cdi_ids).await?;
    let links = links_in(&sandbox.netns_name())?;
    let there = |l: &crate::host::Link| {
        l.pci == Some(vfs[0].pci) && l.name == "fast0" && l.addresses == ["10.9.0.1/24"]
    };
    ensure!(links.iter().any(there), "the pod has {links:?}");
    // Once more while the pod runs, and orderly: the new agent knows what the old one attached.
    node.stop_agent()?;
    node.start_agent().await?;
    ensure!(links_in(&sandbox.netns_name())?.iter().any(there), "a restart takes nothing from a running pod");
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)
}

pub async fn no_container_starts_without_its_vf_when_the_agent_missed_the_sandbox(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let before = facts(vfs)?;
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("missed");
    let claim = node.claim("claim-missed", &pod, vfs, json!({ "name": "fast0" })).await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    // Without a plugin the runtime goes on: that is the hole.
    let sandbox = node.runtime.run_pod(&pod, 0).await?;
    ensure!(
        !links_in(&sandbox.netns_name())?.iter().any(|l| l.pci.is_some()),
        "nobody is there who could attach"
    );
    node.start_agent().await?;
    let container = node.start_container_in_the_end(&sandbox, &cdi_ids).await?;
    node.runtime.exec(&container, &["/bin/ip", "link", "show", "fast0"]).await?;
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)
}

pub async fn a_container_starts_with_its_vf_while_no_agent_runs(ground: Ground) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let before = facts(vfs)?;
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("alone");
    let config = json!({ "name": "fast0", "addresses": ["10.9.0.1/24"] });
    let claim = node.claim("claim-alone", &pod, vfs, config).await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    let sandbox = node.runtime.run_pod(&pod, 0).await?;
    let container = node.runtime.start_container(&sandbox, "main", &cdi_ids).await?;
    let shown = node.runtime.exec(&container, &["/bin/ip", "address", "show", "fast0"]).await?;
    ensure!(shown.contains("10.9.0.1/24"), "the hook brought {shown}");
    node.runtime.start_container(&sandbox, "second", &cdi_ids).await?;
    node.start_agent().await?;
    ensure!(
        links_in(&sandbox.netns_name())?.iter().any(|l| l.pci == Some(vfs[0].pci) && l.name == "fast0"),
        "the next agent takes nothing from the pod"
    );
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)
}

pub async fn no_container_starts_without_its_vf_while_no_agent_runs(ground: Ground) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("held");
    let claim = node.claim("claim-held", &pod, &[vf], json!({})).await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    std::fs::write(format!("/sys/bus/pci/devices/{}/sriov_numvfs", vf.pf), "0")?;
    let sandbox = node.runtime.run_pod(&pod, 0).await?;
    let refused = node.runtime.start_container(&sandbox, "main", &cdi_ids).await;
    let Err(error) = refused else { bail!("a container started without its VF {}", vf.pci) };
    let sentence = format!("{error:#}");
    ensure!(
        sentence.contains("must not start without its VFs") && sentence.contains(&vf.pci.to_string()),
        "the runtime passes the hook's sentence on: {sentence}"
    );
    node.start_agent().await?;
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}

pub async fn a_container_is_refused_when_its_vf_is_gone(ground: Ground) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("gone");
    let claim = node.claim("claim-gone", &pod, &[vf], json!({})).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    std::fs::write(format!("/sys/bus/pci/devices/{}/sriov_numvfs", vf.pf), "0")?;
    // The kubelet tries again and again; the reason shall be in the pod's events before long.
    let mut sentences = Vec::new();
    for attempt in 0..3 {
        let name = format!("late{attempt}");
        let refused = node.runtime.start_container(&running.sandbox, &name, &running.cdi_ids).await;
        let Err(error) = refused else { bail!("a container started without its VF {}", vf.pci) };
        sentences.push(format!("{error:#}"));
    }
    let named = sentences.iter().any(|sentence| sentence.contains(&vf.pci.to_string()));
    ensure!(named, "no refusal names VF {}: {sentences:?}", vf.pci);
    // What is gone can be given back all the same: nothing stays behind.
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.unprepare(&claim).await?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}
