//! More pods than VFs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::plane::NODE;
use crate::pods::{claim_spec, pod};

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

/// `explain` against this cluster: its exit status and what it says.
fn explain(lab: &Lab, file: &Path) -> Result<(Option<i32>, Value)> {
    let output = Command::new(env!("CARGO_BIN_EXE_sriov-dra"))
        .args(["explain", "-o", "json", "--node", NODE, "--kubeconfig"])
        .args([&lab.kubeconfig, Path::new("-f"), file])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = serde_json::from_slice(&output.stdout).with_context(|| format!("explain says {said}"))?;
    Ok((output.status.code(), told))
}

pub async fn explain_names_the_vf_that_a_claim_then_gets_and_who_holds_the_others(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&Value::Null).await?;
    lab.create(&pod("first", "vf")).await?;
    let held = lab.check_pod("default", "first").await?[0].pci;
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "mine" },
        "spec": claim_spec(&json!({}), &Value::Null),
    });
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("claim.json");
    std::fs::write(&file, claim.to_string())?;
    let (status, told) = explain(lab, &file)?;
    ensure!(status == Some(0), "{told:#}");
    let allocation = &told["subjects"][0]["nodes"][0]["claims"][0]["allocation"];
    let named = allocation["devices"]["results"][0]["device"].as_str().unwrap_or_default().to_owned();
    ensure!(!named.is_empty() && named != held.device_name(), "{told:#}");

    lab.create(&claim).await?;
    let mut second = pod("second", "vf");
    second["spec"]["resourceClaims"] = json!([{ "name": "net", "resourceClaimName": "mine" }]);
    lab.create(&second).await?;
    let got = lab.check_pod("default", "second").await?[0].pci;
    ensure!(got.device_name() == named, "explain said {named}, the scheduler gave {got}");

    // One more than there are: told as such, with who holds them.
    let more = json!({ "allocationMode": "ExactCount", "count": 8 });
    let mut wish = claim;
    wish["metadata"]["name"] = json!("more");
    wish["spec"] = claim_spec(&more, &Value::Null);
    std::fs::write(&file, wish.to_string())?;
    let (status, told) = explain(lab, &file)?;
    ensure!(status == Some(1), "{told:#}");
    let text = told.to_string();
    ensure!(text.contains("default/mine") && text.contains(&held.device_name()), "{told:#}");
    Ok(())
}
