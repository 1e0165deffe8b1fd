//! The ground itself: without the driver, does the emulated NIC switch frames between VFs in two namespaces?

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::containerd::PodId;
use crate::host::{facts, netdev, run, wait_as_before};
use crate::inside::Ground;

/// If this fails, the guest is wrong and not the driver.
pub async fn frames_between_two_vfs_of_one_pf_go_through_the_nic(ground: Ground) -> Result<()> {
    let vfs = &ground.of_one_pf()[..2];
    let before = facts(vfs)?;
    let mut pods = Vec::new();
    for (vf, (pod, address)) in vfs
        .iter()
        .zip([("left", "10.9.9.1/24"), ("right", "10.9.9.2/24")])
    {
        let sandbox = ground.runtime.run_pod(&PodId::new(pod), 0).await?;
        let name = netdev(vf.pci)?.context("a netdev")?;
        let netns = sandbox.netns_name();
        run("ip", &["link", "set", &name, "netns", &netns])?;
        run("ip", &["-netns", &netns, "address", "add", address, "dev", &name])?;
        run("ip", &["-netns", &netns, "link", "set", &name, "up"])?;
        let container = ground.runtime.start_container(&sandbox, "main", &[]).await?;
        pods.push((sandbox, container, name));
    }
    let said = ground
        .runtime
        .exec(&pods[0].1, &["/bin/ping", "-c", "3", "-W", "5", "10.9.9.2"])
        .await?;
    ensure!(
        said.contains("3 packets received") || said.contains("0% packet loss"),
        "ping said {said}"
    );
    for (sandbox, _, name) in &pods {
        let netns = sandbox.netns_name();
        let statistics = run("ip", &["-netns", &netns, "-statistics", "link", "show", name])?;
        ensure!(!statistics.is_empty(), "{name} is in the pod");
        run("ip", &["-netns", &netns, "link", "set", name, "netns", "1"])?;
        ground.runtime.stop_pod(&sandbox.id).await?;
    }
    wait_as_before(&before, Duration::from_secs(10))
}
