//! More pods than VFs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::pods::pod;

pub async fn eight_pods_get_eight_vfs_and_the_ninth_waits_for_one_to_come_back(lab: &mut Lab) -> Result<()> {
    lab.template(&Value::Null).await?;
    for number in 1..=8 {
        lab.create(&pod(&format!("pod-{number}"), "vf")).await?;
    }
    let mut taken = BTreeSet::new();
    for number in 1..=8 {
        taken.extend(lab.check_pod("default", &format!("pod-{number}")).await?.iter().map(|given| given.pci));
    }
    ensure!(taken.len() == 8, "eight pods share {taken:?}");
    ensure!(lab.sim.on_host()?.is_empty(), "VFs are left on the host: {:?}", lab.sim.on_host()?);
    lab.create(&pod("pod-9", "vf")).await?;
    lab.wait_event("pod-9", &["FailedScheduling", "cannot allocate all claims"]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waiting = lab.api.get("/api/v1/namespaces/default/pods/pod-9").await?;
    ensure!(waiting["status"]["phase"] == "Pending" && waiting["spec"]["nodeName"].is_null(), "{waiting}");
    let freed = lab.check_pod("default", "pod-3").await?;
    lab.delete_pod("pod-3").await?;
    let got = lab.check_pod("default", "pod-9").await?;
    ensure!(got[0].pci == freed.first().context("a VF")?.pci, "{got:?} instead of {freed:?}");
    Ok(())
}
