//! VFs on vfio-pci, behind an IOMMU.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::containerd::{BUSYBOX, PodId, TOOLS};
use crate::host::{Vf, driver, facts, netdev, settings_of, wait_as_before, wait_for};
use crate::inside::Ground;
use crate::node::Node;

const RETURN: Duration = Duration::from_secs(40);
const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";

pub async fn a_container_reads_its_vfs_configuration_through_vfio_and_the_vf_returns_as_it_was(
    ground: Ground,
) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let others: Vec<Vf> = ground.vfs.iter().copied().filter(|other| other.pci != vf.pci).collect();
    let pf = netdev(vf.pf)?.context("the PF has a netdev")?;
    let (before, of_others, settings_before) = (facts(&[vf])?, facts(&others)?, settings_of(&pf)?);
    ensure!(!Path::new(DRIVER).exists(), "vfio-pci is there before anybody asked for it");
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("dpdk");
    let config =
        json!({ "vf": { "vlan": 100, "trust": true }, "bind": { "driver": "vfio-pci", "vhost": true } });
    let claim = node.claim_with("claim-dpdk", &pod, &[vf], config).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    ensure!(driver(vf.pci)?.as_deref() == Some("vfio-pci"), "the VF is bound to {:?}", driver(vf.pci)?);
    let set = &settings_of(&pf)?[vf.index as usize];
    ensure!(set["vlan_list"][0]["vlan"] == 100 && set["trust"] == true, "ip says {set}");

    let group = std::fs::read_link(format!("/sys/bus/pci/devices/{}/iommu_group", vf.pci))?;
    let group = group.file_name().context("a group")?.to_string_lossy().into_owned();
    let address = vf.pci.to_string();
    let listed = node.runtime.exec(&running.container, &["/bin/ls", "/dev/vfio"]).await?;
    let mut listed: Vec<&str> = listed.split_whitespace().collect();
    listed.sort_unstable();
    ensure!(listed == [group.as_str(), "vfio"], "the container has {listed:?} of vfio");
    let said = node.runtime.exec(&running.container, &[TOOLS, "--read-vfio", &group, &address]).await?;
    ensure!(said.starts_with("8086:10ca, "), "the configuration space begins with {said}");
    let open = ["/bin/sh", "-c", "exec 3<>/dev/vhost-net 4<>/dev/net/tun"];
    node.runtime.exec(&running.container, &open).await?;

    // A container of the pod that was not given the claim is kept out by the device cgroup, whatever nodes it makes.
    let beside =
        node.runtime.start_image(&running.sandbox, "beside", BUSYBOX, &["/bin/sleep", "100000"], &[]).await?;
    let refused = node.runtime.exec(&beside, &[TOOLS, "--open-made", "vhost-net"]).await;
    let sentence = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(sentence.contains("Operation not permitted"), "beside it a container is told {sentence:?}");

    ensure!(facts(&others)? == of_others, "the PF's other VFs are not what they were");
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)?;
    wait_as_before(&of_others, RETURN)?;
    let after = settings_of(&pf)?;
    ensure!(after == settings_before, "the VFs were {settings_before:?}\nand are {after:?}");
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    let group_is_gone = || Ok(!Path::new("/dev/vfio").join(&group).exists());
    wait_for(Duration::from_secs(5), "the group's node to go", group_is_gone)
}

pub async fn a_vf_whose_iommu_group_others_use_is_refused_with_their_names(ground: Ground) -> Result<()> {
    let vf = *ground.vfs.last().context("a VF of the last PF")?;
    let group = format!("/sys/bus/pci/devices/{}/iommu_group/devices", vf.pci);
    let sharing = std::fs::read_dir(group)?.count();
    ensure!(sharing > 3, "{sharing} devices are in the group: the guest has groups of their own for all VFs");
    let before = facts(&ground.vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let config = json!({ "bind": { "driver": "vfio-pci" } });
    let claim = node.claim_with("claim-shared", &PodId::new("shared"), &[vf], config).await?;
    let Err(error) = node.prepare(&claim).await else { bail!("a part of a group was given away") };
    let sentence = format!("{error:#}");
    let sibling =
        ground.vfs.iter().find(|other| other.pf == vf.pf && other.pci != vf.pci).context("a sibling")?;
    for part in
        ["shares IOMMU group", &format!("{} (driver igb)", vf.pf), &format!("{} (driver igbvf)", sibling.pci)]
    {
        ensure!(sentence.contains(part), "{part:?} is missing in: {sentence}");
    }
    ensure!(facts(&ground.vfs)? == before, "VFs are not what they were");
    node.unprepare(&claim).await?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}
