//! A pod's containers and sandboxes come and go; its VFs stay its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::apply;
use crate::lab::Lab;
use crate::pods::{claim_spec, pod};
use crate::process::{run, wait_for};
use crate::runtime::inode;
use crate::sim::links;

pub async fn a_container_that_ends_starts_again_with_the_same_vf(lab: &mut Lab) -> Result<()> {
    lab.template(&Value::Null).await?;
    lab.create(&pod("again", "vf")).await?;
    let given = lab.check_pod("default", "again").await?;
    lab.restart_container("again").await?;
    ensure!(lab.check_pod("default", "again").await? == given, "the VF is another one than before");
    Ok(())
}

pub async fn a_pod_whose_sandbox_dies_gets_its_vf_in_the_new_one(lab: &mut Lab) -> Result<()> {
    lab.template(&json!({ "interface": { "name": "data0", "addresses": ["172.16.11.10/24"] } })).await?;
    lab.create(&pod("moved", "vf")).await?;
    let given = lab.check_pod("default", "moved").await?;
    let first = lab.runtime.sandbox("default", "moved").await?;
    let namespace = first.netns.as_deref().map(inode).transpose()?;
    run("kill", &["-KILL", &first.pid.to_string()])?;
    let second = wait_for(Duration::from_secs(60), "a new sandbox", async || {
        let second = lab.runtime.sandbox("default", "moved").await?;
        ensure!(second.id != first.id, "the old one is still there");
        lab.runtime.container("default", "moved", "shell").await?;
        Ok(second)
    })
    .await?;
    ensure!(lab.check_pod("default", "moved").await? == given, "the VF is another one than before");
    ensure!(second.netns.as_deref().map(inode).transpose()? != namespace, "the namespace is the same");
    Ok(())
}

pub async fn an_admin_claim_shows_a_vf_that_another_pod_has_and_leaves_it_there(lab: &mut Lab) -> Result<()> {
    lab.template(&Value::Null).await?;
    lab.create(&pod("holder", "vf")).await?;
    let held = lab.check_pod("default", "holder").await?;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "slurm", "labels": { "resource.kubernetes.io/admin-access": "true" } },
    });
    apply::object(&lab.api, "", &namespace).await?;
    let admin = json!({ "adminAccess": true, "allocationMode": "All" });
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "all" },
        "spec": claim_spec(&admin, &Value::Null),
    });
    apply::object(&lab.api, "slurm", &claim).await?;
    let mut watcher = pod("watcher", "");
    watcher["spec"]["resourceClaims"] = json!([{ "name": "net", "resourceClaimName": "all" }]);
    apply::object(&lab.api, "slurm", &watcher).await?;
    lab.wait_ready("slurm", "watcher").await?;
    let container = lab.runtime.container("slurm", "watcher", "shell").await?;
    let told = lab.runtime.exec(&container, &["env"]).await?;
    for vf in lab.sim.clean.keys() {
        ensure!(told.contains(&vf.to_string()), "{vf} is not in {told}");
    }
    ensure!(!told.contains("_INTERFACES"), "{told}");
    let sandbox = lab.runtime.sandbox("slurm", "watcher").await?;
    let inside = links(sandbox.netns.as_deref())?;
    ensure!(inside.len() == 1, "it was given {inside:?}");
    ensure!(lab.check_pod("default", "holder").await? == held, "the holder's VF");
    lab.api.delete("/api/v1/namespaces/slurm/pods/watcher").await?;
    wait_for(Duration::from_secs(30), "the watcher to go", async || {
        let left = lab.api.list("/api/v1/namespaces/slurm/pods").await?;
        ensure!(left.is_empty(), "it is still there");
        Ok(())
    })
    .await?;
    ensure!(lab.check_pod("default", "holder").await? == held, "the holder's VF after the watcher's end");
    Ok(())
}

pub async fn a_claim_that_two_pods_name_is_the_first_ones_until_that_ends(lab: &mut Lab) -> Result<()> {
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "one" },
        "spec": claim_spec(&json!({}), &Value::Null),
    });
    lab.create(&claim).await?;
    for name in ["first", "second"] {
        let mut named = pod(name, "");
        named["spec"]["resourceClaims"] = json!([{ "name": "net", "resourceClaimName": "one" }]);
        lab.create(&named).await?;
        if name == "first" {
            lab.check_pod("default", "first").await?;
        }
    }
    let held = lab.check_pod("default", "first").await?;
    lab.wait_event("second", &["default/one", "first"]).await?;
    ensure!(lab.check_pod("default", "first").await? == held, "the first pod's VF");
    lab.delete_pod("first").await?;
    ensure!(lab.check_pod("default", "second").await? == held, "the second pod's VF");
    Ok(())
}
