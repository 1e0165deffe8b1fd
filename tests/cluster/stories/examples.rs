//! Every example, applied as it is but for the image's host.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::apply;
use crate::lab::Lab;
use crate::node::BUSYBOX;
use crate::pods::Given;
use crate::sim::links;

/// Applies a file and checks the one pod in it.
async fn one_pod(lab: &Lab, file: &str, pod: &str) -> Result<Vec<Given>> {
    lab.example(file).await?;
    lab.check_pod("default", pod).await
}

fn names(given: &[Given]) -> Vec<&str> {
    let mut names: Vec<&str> = given.iter().map(|given| given.interface.as_str()).collect();
    names.sort_unstable();
    names
}

pub async fn the_pod_of_one_vf_gets_any_vf_and_no_slice_is_written(lab: &mut Lab) -> Result<()> {
    let before = lab.slice_versions().await?;
    let given = one_pod(lab, "one-vf.yaml", "one-vf").await?;
    ensure!(names(&given) == ["net1"], "{given:?}");
    let clean = &lab.sim.clean[&given[0].pci];
    let sandbox = lab.runtime.sandbox("default", "one-vf").await?;
    let link = links(sandbox.netns.as_deref())?.into_iter().find(|link| link.name == "net1");
    ensure!(link.as_ref().is_some_and(|link| link.mtu == clean.mtu && link.addresses.is_empty()), "{link:?}");
    lab.delete_pod("one-vf").await?;
    lab.clean_up().await?;
    // The agent looks at the node every ten seconds at the latest: what a claim changed would be published by then.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    let after = lab.slice_versions().await?;
    ensure!(before == after, "slices were {before:?} before the pod and are {after:?} after it");
    Ok(())
}

pub async fn the_pod_of_by_pf_gets_a_vf_of_the_port_it_names(lab: &mut Lab) -> Result<()> {
    let given = one_pod(lab, "by-pf.yaml", "by-pf").await?;
    ensure!(given[0].pci.bus == 0x81, "{given:?} is not a VF of ens1f0");
    Ok(())
}

pub async fn the_pod_of_by_link_type_gets_a_vf_of_a_fast_ethernet_port(lab: &mut Lab) -> Result<()> {
    let given = one_pod(lab, "by-link-type.yaml", "by-link-type").await?;
    ensure!(given.len() == 1, "{given:?}");
    Ok(())
}

pub async fn the_pod_of_by_numa_gets_one_vf_near_and_two_together(lab: &mut Lab) -> Result<()> {
    let given = one_pod(lab, "by-numa.yaml", "by-numa").await?;
    ensure!(names(&given) == ["net1", "net2", "net3"], "{given:?}");
    let buses = |claim: &str| -> Vec<u8> {
        given.iter().filter(|given| given.to.0 == claim).map(|given| given.pci.bus).collect()
    };
    ensure!(buses("near") == [0x81], "{given:?}: node 0 is that of ens1f0");
    let together = buses("together");
    ensure!(together.len() == 2 && together[0] == together[1], "{given:?} are on two nodes");
    Ok(())
}

pub async fn the_pod_of_two_vfs_distinct_pfs_gets_one_of_each_port_and_its_containers_what_they_ask_for(
    lab: &mut Lab,
) -> Result<()> {
    let given = one_pod(lab, "two-vfs-distinct-pfs.yaml", "two-rails").await?;
    let mut rails: Vec<(&str, u8)> =
        given.iter().map(|given| (given.interface.as_str(), given.pci.bus)).collect();
    rails.sort_unstable();
    ensure!(rails == [("rail-0", 0x81), ("rail-1", 0x82)], "{given:?}");
    Ok(())
}

pub async fn the_pods_of_static_address_reach_each_other_under_their_addresses(lab: &mut Lab) -> Result<()> {
    lab.example("static-address.yaml").await?;
    for (pod, address, other) in
        [("left", "172.16.11.10/24", "172.16.11.11"), ("right", "172.16.11.11/24", "172.16.11.10")]
    {
        let given = lab.check_pod("default", pod).await?;
        ensure!(names(&given) == ["data0"], "{given:?}");
        let sandbox = lab.runtime.sandbox("default", pod).await?;
        let link = links(sandbox.netns.as_deref())?.into_iter().find(|link| link.name == "data0");
        ensure!(link.as_ref().is_some_and(|link| link.addresses.iter().any(|a| a == address)), "{link:?}");
        lab.wait_ready("default", if pod == "left" { "right" } else { "left" }).await?;
        let container = lab.runtime.container("default", pod, "shell").await?;
        lab.runtime.exec(&container, &["ping", "-c", "1", "-W", "5", other]).await?;
    }
    Ok(())
}

/// The simulated PF takes any setting; what a real one does with a VLAN is the guest suite's story.
pub async fn the_pod_of_vlan_gets_a_vf_with_what_its_class_grants(lab: &mut Lab) -> Result<()> {
    let given = one_pod(lab, "vlan.yaml", "in-vlan-100").await?;
    ensure!(names(&given) == ["data0"], "{given:?}");
    Ok(())
}

/// The operator itself is not here: a pod with the two marked places of the example stands for its workers.
pub async fn a_pod_like_a_worker_of_slinky_nodeset_gets_its_vf_in_its_namespace(lab: &mut Lab) -> Result<()> {
    let documents = apply::documents("examples", "slinky-nodeset.yaml")?;
    let (template, set) = (&documents[0], &documents[1]["spec"]);
    apply::object(&lab.api, "slurm", template).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "worker", "namespace": "slurm" },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "resourceClaims": set["template"]["spec"]["resourceClaims"],
            "containers": [{ "name": "slurmd", "image": BUSYBOX, "resources": set["slurmd"]["resources"] }],
        },
    });
    apply::object(&lab.api, "slurm", &pod).await?;
    let given = lab.check_pod("slurm", "worker").await?;
    ensure!(names(&given) == ["hpc1"], "{given:?}");
    Ok(())
}
