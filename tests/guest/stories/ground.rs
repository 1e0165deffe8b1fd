//! The ground itself, without the driver: hardware, kernel and runtime behave as the driver's stories presume. If one
//! of these fails, the guest is wrong and not the driver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::containerd::{CDI_DIR, PodId, Sandbox, destroy_netns};
use crate::host::{Vf, facts, links_in, netdev, run, wait_as_before, wait_for};
use crate::inside::Ground;
use crate::node::Node;

/// Moves a VF into a sandbox by hand; returns the name it had.
fn lend(vf: Vf, sandbox: &Sandbox, name: &str, address: &str) -> Result<String> {
    let host_name = netdev(vf.pci)?.context("a netdev")?;
    let netns = sandbox.netns_name();
    run("ip", &["link", "set", &host_name, "netns", &netns, "name", name])?;
    run("ip", &["-netns", &netns, "address", "add", address, "dev", name])?;
    run("ip", &["-netns", &netns, "link", "set", name, "up"])?;
    Ok(host_name)
}

pub async fn frames_between_two_vfs_of_one_pf_go_through_the_nic(ground: Ground) -> Result<()> {
    let vfs = &ground.of_one_pf()[..2];
    let before = facts(vfs)?;
    let mut pods = Vec::new();
    for (vf, (pod, address)) in vfs.iter().zip([("left", "10.9.9.1/24"), ("right", "10.9.9.2/24")]) {
        let sandbox = ground.runtime.run_pod(&PodId::new(pod), 0).await?;
        let host_name = lend(*vf, &sandbox, "fast0", address)?;
        let container = ground.runtime.start_container(&sandbox, "main", &[]).await?;
        pods.push((sandbox, container, host_name));
    }
    let said = ground.runtime.exec(&pods[0].1, &["/bin/ping", "-c", "3", "-W", "5", "10.9.9.2"]).await?;
    ensure!(said.contains(" 0% packet loss"), "ping said {said}");
    for (sandbox, _, host_name) in &pods {
        let netns = sandbox.netns_name();
        let counters = run("ip", &["-netns", &netns, "-json", "-statistics", "link", "show", "fast0"])?;
        let counters: Value = serde_json::from_str(&counters)?;
        let received = counters[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or_default();
        ensure!(received >= 3, "the VF's own counter saw {received} frames");
        run("ip", &["-netns", &netns, "link", "set", "fast0", "down"])?;
        run("ip", &["-netns", &netns, "link", "set", "fast0", "netns", "1", "name", host_name])?;
        ground.runtime.stop_pod(&sandbox.id).await?;
    }
    wait_as_before(&before, Duration::from_secs(10))
}

pub async fn a_vf_whose_namespace_dies_comes_back_under_its_pod_name_or_as_dev_n_on_a_clash(
    ground: Ground,
) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let before = facts(&[vf])?;
    for (attempt, taken) in [(0, false), (1, true)] {
        let sandbox = ground.runtime.run_pod(&PodId::new("dying"), attempt).await?;
        ground.runtime.start_container(&sandbox, "main", &[]).await?;
        let host_name = lend(vf, &sandbox, "fast0", "10.9.9.1/24")?;
        if taken {
            run("ip", &["link", "add", "fast0", "type", "dummy"])?;
        }
        destroy_netns(&sandbox)?;
        wait_for(Duration::from_secs(20), "the VF to come back", || Ok(netdev(vf.pci)?.is_some()))?;
        let name = netdev(vf.pci)?.context("a netdev")?;
        if taken {
            run("ip", &["link", "delete", "fast0"])?;
            ensure!(name.starts_with("dev"), "on a clash the VF is {name}");
        } else {
            ensure!(name == "fast0", "the VF is {name}");
        }
        ensure!(facts(&[vf])? != before, "a name is all it takes to be different");
        run("ip", &["link", "set", &name, "down"])?;
        run("ip", &["link", "set", &name, "name", &host_name])?;
        // The runtime's own clean-up does not fall over a namespace that is gone.
        ground.runtime.stop_pod(&sandbox.id).await?;
    }
    wait_as_before(&before, Duration::from_secs(10))
}

pub async fn a_container_gets_what_a_cdi_file_says_and_is_refused_for_a_name_nobody_knows(
    ground: Ground,
) -> Result<()> {
    let spec = json!({ "cdiVersion": "0.5.0", "kind": "example.com/vf",
        "devices": [{ "name": "one", "containerEdits": { "env": ["FROM_CDI=yes"] } }] });
    let file = Path::new(CDI_DIR).join("example.json");
    fs::create_dir_all(CDI_DIR)?;
    fs::write(&file, spec.to_string())?;
    let sandbox = ground.runtime.run_pod(&PodId::new("cdi"), 0).await?;
    let container =
        ground.runtime.start_container(&sandbox, "known", &["example.com/vf=one".to_owned()]).await?;
    let env = ground.runtime.exec(&container, &["/bin/env"]).await?;
    ensure!(env.contains("FROM_CDI=yes"), "the container's environment is {env}");
    let unknown =
        ground.runtime.start_container(&sandbox, "unknown", &["example.com/vf=two".to_owned()]).await;
    fs::remove_file(file)?;
    let sentence = unknown.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(sentence.contains("example.com/vf=two"), "the refusal names the device: {sentence:?}");
    let links = links_in(&sandbox.netns_name())?;
    ensure!(
        links.iter().any(|l| l.name == "eth0" && l.up && l.addresses.len() == 1),
        "a pod has eth0, not {links:?}"
    );
    Ok(())
}

pub async fn the_api_server_takes_the_claims_of_these_stories_as_a_real_one_would(
    ground: Ground,
) -> Result<()> {
    let node = Node::without_agent(&ground.runtime).await?;
    let pod = PodId::new("claimant");
    let claim = node.claim("claim", &pod, &ground.of_one_pf(), json!({ "name": "fast0" })).await?;
    let read = node.read_claim(&claim).await?;
    ensure!(read["metadata"]["uid"] == claim.uid.as_str(), "the claim read back is {read}");
    let results = read["status"]["allocation"]["devices"]["results"].as_array().map_or(0, Vec::len);
    ensure!(results == ground.of_one_pf().len(), "the claim's allocation has {results} results");
    ensure!(read["status"]["reservedFor"][0]["uid"] == pod.uid.as_str(), "the claim read back is {read}");
    Ok(())
}

pub async fn four_pfs_with_seven_vfs_each_lie_on_two_numa_nodes(ground: Ground) -> Result<()> {
    let mut nodes: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for vf in &ground.vfs {
        let node = fs::read_to_string(format!("/sys/bus/pci/devices/{}/numa_node", vf.pci))?;
        nodes.entry(node.trim().to_owned()).or_default().insert(vf.pci);
    }
    let counts: Vec<(&str, usize)> = nodes.iter().map(|(node, vfs)| (node.as_str(), vfs.len())).collect();
    ensure!(counts == [("0", 14), ("1", 14)], "VFs by NUMA node: {counts:?}");
    ensure!(facts(&ground.vfs)?.len() == 28, "every VF has a netdev");
    Ok(())
}
