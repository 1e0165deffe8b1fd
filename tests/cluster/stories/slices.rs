//! ResourceSlices: there, and there again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{Lab, SLICES};
use crate::plane::NODE;
use crate::process::wait_for;

pub async fn every_vf_of_the_node_is_published_with_the_node_as_its_owner(lab: &mut Lab) -> Result<()> {
    let slices = lab.wait_published().await?;
    let node = lab.api.get(&format!("/api/v1/nodes/{NODE}")).await?;
    for slice in &slices {
        ensure!(slice["spec"]["pool"]["name"] == NODE, "pool of {slice}");
        ensure!(
            slice["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"],
            "owner of {slice}"
        );
    }
    let devices: Vec<&Value> =
        slices.iter().filter_map(|slice| slice["spec"]["devices"].as_array()).flatten().collect();
    for vf in lab.sim.clean.keys() {
        let device = devices.iter().find(|device| device["name"] == vf.device_name());
        let attributes = &device.with_context(|| format!("{vf} is not published"))?["attributes"];
        let pf = if vf.bus == 0x81 { "ens1f0" } else { "ens1f1" };
        ensure!(attributes["sriov-dra.io/pfName"]["string"] == pf, "{attributes}");
        ensure!(attributes["sriov-dra.io/pciAddress"]["string"] == vf.to_string(), "{attributes}");
    }
    Ok(())
}

pub async fn the_daemonset_runs_one_agent_that_gets_ready(lab: &mut Lab) -> Result<()> {
    wait_for(Duration::from_secs(30), "the agent's pod", async || {
        let agents = lab.agents().await?;
        ensure!(agents.len() == 1 && agents.values().all(|ready| *ready), "{agents:?}");
        Ok(())
    })
    .await
}

/// Devices of all slices, in order.
async fn devices(lab: &Lab) -> Result<Vec<Value>> {
    let slices = lab.slices().await?;
    Ok(slices
        .iter()
        .flat_map(|slice| slice["spec"]["devices"].as_array().cloned().unwrap_or_default())
        .collect())
}

fn path(slice: &Value) -> String {
    format!("{SLICES}/{}", slice["metadata"]["name"].as_str().unwrap_or_default())
}

pub async fn a_slice_that_somebody_deletes_comes_back(lab: &mut Lab) -> Result<()> {
    let (before, slices) = (devices(lab).await?, lab.slices().await?);
    for slice in &slices {
        lab.api.delete(&path(slice)).await?;
    }
    lab.wait_published().await?;
    let after = lab.slices().await?;
    ensure!(
        after.iter().all(|new| slices.iter().all(|old| old["metadata"]["uid"] != new["metadata"]["uid"])),
        "{after:?}"
    );
    ensure!(devices(lab).await? == before, "other devices than before");
    Ok(())
}

pub async fn a_slice_that_somebody_edits_is_put_right(lab: &mut Lab) -> Result<()> {
    let before = devices(lab).await?;
    let slice = lab.slices().await?.into_iter().next().context("a slice")?;
    let mut edited = slice.clone();
    let first = edited["spec"]["devices"].get_mut(0).context("a device")?;
    first["attributes"]["sriov-dra.io/pfName"] = json!({ "string": "ens9f9" });
    edited["spec"]["devices"].as_array_mut().context("devices")?.pop();
    lab.api.put(&path(&slice), &edited).await?;
    wait_for(Duration::from_secs(30), "the slice to be as before", async || {
        ensure!(devices(lab).await? == before, "{:?}", devices(lab).await?);
        Ok(())
    })
    .await
}

/// A kubelet that starts removes the slices of its node, whose drivers it does not know yet.
pub(super) async fn wait_renewed(lab: &Lab, old: &[Value]) -> Result<()> {
    wait_for(Duration::from_secs(90), "new slices instead of the old ones", async || {
        let new = lab.slices().await?;
        let kept =
            new.iter().any(|new| old.iter().any(|old| old["metadata"]["uid"] == new["metadata"]["uid"]));
        ensure!(
            !kept && !new.is_empty(),
            "the kubelet has not removed the old slices, or nothing has come instead"
        );
        Ok(())
    })
    .await
}

pub async fn slices_go_and_come_with_the_kubelet_and_pods_keep_their_vfs(lab: &mut Lab) -> Result<()> {
    lab.template(&Value::Null).await?;
    lab.create(&crate::pods::pod("before", "vf")).await?;
    let given = lab.check_pod("default", "before").await?;
    let old = lab.slices().await?;
    lab.stop_kubelet().await?;
    lab.start_kubelet().await?;
    wait_renewed(lab, &old).await?;
    lab.wait_published().await?;
    ensure!(lab.check_pod("default", "before").await? == given, "the pod has other VFs than before");
    lab.create(&crate::pods::pod("after", "vf")).await?;
    lab.check_pod("default", "after").await?;
    Ok(())
}
