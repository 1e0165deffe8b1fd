//! VFs into pods and back, in the orders that go wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::containerd::{PodId, destroy_netns};
use crate::host::{facts, links_in, netdev, run, wait_as_before, wait_for};
use crate::inside::Ground;
use crate::node::Node;

/// VFs come back within the second; the emulated processor takes its own time.
const RETURN: Duration = Duration::from_secs(40);

pub async fn two_pods_with_vfs_of_one_pf_ping_each_other_and_give_them_back_as_they_were(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..2];
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let (a, b) = (PodId::new("a"), PodId::new("b"));
    let config = |address: &str| json!({ "name": "fast0", "mtu": 1400, "addresses": [address] });
    let claim_a = node.claim("claim-a", &a, &vfs[..1], config("10.9.0.1/24")).await?;
    let claim_b = node.claim("claim-b", &b, &vfs[1..], config("10.9.0.2/24")).await?;
    let in_a = node.start_pod(&a, &[&claim_a]).await?;
    let in_b = node.start_pod(&b, &[&claim_b]).await?;

    for (running, vf, address) in [(&in_a, vfs[0], "10.9.0.1/24"), (&in_b, vfs[1], "10.9.0.2/24")] {
        let links = links_in(&running.sandbox.netns_name())?;
        let link = links.iter().find(|l| l.pci == Some(vf.pci));
        let link = link.with_context(|| format!("VF {} is not among {links:?}", vf.pci))?;
        ensure!(link.name == "fast0" && link.mtu == 1400 && link.up, "the VF in the pod is {link:?}");
        ensure!(link.addresses == [address], "the VF in the pod is {link:?}");
        ensure!(netdev(vf.pci)?.is_none(), "VF {} is still on the host", vf.pci);
        let env = node.runtime.exec(&running.container, &["/bin/env"]).await?;
        ensure!(
            env.contains(&vf.pci.to_string()),
            "the container's environment names its VF {}: {env}",
            vf.pci
        );
    }
    let said = node.runtime.exec(&in_a.container, &["/bin/ping", "-c", "3", "-W", "5", "10.9.0.2"]).await?;
    ensure!(said.contains(" 0% packet loss"), "ping said {said}");

    let mut claim = Value::Null;
    let end = std::time::Instant::now() + Duration::from_secs(40);
    while std::time::Instant::now() < end && claim["status"]["devices"].is_null() {
        claim = node.read_claim(&claim_a).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let device = &claim["status"]["devices"][0];
    ensure!(
        device["device"] == vfs[0].pci.device_name().as_str(),
        "the claim's status is {}",
        claim["status"]
    );
    ensure!(device["networkData"]["interfaceName"] == "fast0", "the claim's status is {}", claim["status"]);
    let ready = device["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
    ensure!(ready.is_some_and(|c| c["status"] == "True"), "the claim's status is {}", claim["status"]);

    for (running, claim) in [(&in_a, &claim_a), (&in_b, &claim_b)] {
        node.runtime.stop_pod(&running.sandbox.id).await?;
        node.unprepare(claim).await?;
    }
    wait_as_before(&before, RETURN)?;
    for claim in [&claim_a, &claim_b] {
        let traces = node.traces_of(claim);
        ensure!(traces.is_empty(), "of claim {} there is still {traces:?}", claim.name);
    }
    ensure!(node.slice_writes() == 0, "two claims caused {} writes of slices", node.slice_writes());
    Ok(())
}

pub async fn a_late_second_stop_of_an_old_sandbox_takes_nothing_from_the_new_one(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("again");
    let claim = node.claim("claim-again", &pod, vfs, json!({ "name": "fast0" })).await?;
    let old = node.start_pod(&pod, &[&claim]).await?;
    node.runtime.stop_pod(&old.sandbox.id).await?;
    wait_as_before(&before, RETURN)?;
    // The kubelet makes a new sandbox of the same pod without another Prepare.
    let new = node.runtime.run_pod(&pod, 1).await?;
    let container = node.runtime.start_container(&new, "main", &old.cdi_ids).await?;
    node.runtime.stop_pod(&old.sandbox.id).await?;
    node.runtime.remove_pod(&old.sandbox.id).await?;
    // Whatever a wrong detach would do, it would have done by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let links = links_in(&new.netns_name())?;
    ensure!(
        links.iter().any(|l| l.pci == Some(vfs[0].pci) && l.name == "fast0" && l.up),
        "the new sandbox has {links:?}"
    );
    node.runtime.exec(&container, &["/bin/ip", "link", "show", "fast0"]).await?;
    node.runtime.stop_pod(&new.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)
}

pub async fn a_namespace_that_dies_before_stop_still_gives_its_vf_back_as_it_was(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("dying");
    let claim = node.claim("claim-dying", &pod, vfs, json!({ "name": "fast0", "mtu": 1400 })).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    destroy_netns(&running.sandbox)?;
    wait_for(RETURN, "the kernel to give the VF back", || Ok(netdev(vfs[0].pci)?.is_some()))?;
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}

pub async fn a_vf_that_came_back_under_a_foreign_name_gets_its_own_again(ground: Ground) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("renamed");
    let claim = node.claim("claim-renamed", &pod, vfs, json!({ "name": "fast0" })).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    // The name the VF has in the pod is taken on the host: the kernel calls it devN, and somebody renames that.
    run("ip", &["link", "add", "fast0", "type", "dummy"])?;
    destroy_netns(&running.sandbox)?;
    wait_for(RETURN, "the kernel to give the VF back", || Ok(netdev(vfs[0].pci)?.is_some()))?;
    let name = netdev(vfs[0].pci)?.context("a netdev")?;
    ensure!(name.starts_with("dev"), "on a clash the kernel makes a name of its own, not {name}");
    run("ip", &["link", "set", &name, "name", "dev7"])?;
    let told = async {
        node.runtime.stop_pod(&running.sandbox.id).await?;
        node.unprepare(&claim).await?;
        wait_as_before(&before, RETURN)
    };
    let told = told.await;
    run("ip", &["link", "delete", "fast0"])?;
    told
}

pub async fn a_pod_with_two_claims_can_lose_one_before_the_other(ground: Ground) -> Result<()> {
    let vfs = &ground.of_one_pf()[..2];
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("twice");
    let first = node.claim("claim-first", &pod, &vfs[..1], json!({})).await?;
    let second = node.claim("claim-second", &pod, &vfs[1..], json!({})).await?;
    let running = node.start_pod(&pod, &[&first, &second]).await?;
    let links = links_in(&running.sandbox.netns_name())?;
    for vf in vfs {
        ensure!(
            links.iter().any(|l| l.pci == Some(vf.pci) && l.up),
            "VF {} is not up in the pod: {links:?}",
            vf.pci
        );
    }
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.unprepare(&first).await?;
    wait_as_before(&before, RETURN)?;
    ensure!(
        node.traces_of(&first).is_empty(),
        "of the first claim there is still {:?}",
        node.traces_of(&first)
    );
    ensure!(!node.traces_of(&second).is_empty(), "the second claim is still prepared");

    // The first VF is free for another pod while the second is still claimed.
    let other = PodId::new("other");
    let third = node.claim("claim-third", &other, &vfs[..1], json!({})).await?;
    let in_other = node.start_pod(&other, &[&third]).await?;
    node.unprepare(&second).await?;
    let links = links_in(&in_other.sandbox.netns_name())?;
    ensure!(links.iter().any(|l| l.pci == Some(vfs[0].pci)), "the other pod lost its VF: {links:?}");
    node.runtime.stop_pod(&in_other.sandbox.id).await?;
    node.unprepare(&third).await?;
    wait_as_before(&before, RETURN)
}
