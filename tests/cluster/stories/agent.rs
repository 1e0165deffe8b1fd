//! The agent goes and comes; nothing that depends on it notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::pods::pod;
use crate::process::wait_for;

/// The agents' DaemonSet.
pub(super) const DAEMONSET: &str = "/apis/apps/v1/namespaces/sriov-dra/daemonsets/sriov-dra";

/// Waits until exactly one agent is there and ready, none of the old ones.
pub(super) async fn wait_replaced(lab: &Lab, old: &[String]) -> Result<()> {
    wait_for(Duration::from_secs(90), "a new agent", async || {
        let pods = lab.api.list("/api/v1/namespaces/sriov-dra/pods").await?;
        let now = lab.agents().await?;
        ensure!(pods.len() == 1 && now.values().all(|ready| *ready), "{now:?}");
        ensure!(now.keys().all(|name| !old.contains(name)), "{now:?} are the old ones");
        Ok(())
    })
    .await
}

pub async fn a_deleted_agent_is_replaced_and_pods_keep_their_vfs(lab: &mut Lab) -> Result<()> {
    lab.template(&Value::Null).await?;
    lab.create(&pod("before", "vf")).await?;
    let given = lab.check_pod("default", "before").await?;
    let old: Vec<String> = lab.agents().await?.into_keys().collect();
    let name = old.first().context("an agent")?;
    lab.api.delete(&format!("/api/v1/namespaces/sriov-dra/pods/{name}")).await?;
    // While there is none: the pod waits for the next.
    lab.create(&pod("meanwhile", "vf")).await?;
    wait_replaced(lab, &old).await?;
    ensure!(lab.check_pod("default", "before").await? == given, "the pod has other VFs than before");
    lab.check_pod("default", "meanwhile").await?;
    lab.delete_pod("before").await?;
    lab.create(&pod("after", "vf")).await?;
    lab.check_pod("default", "after").await?;
    Ok(())
}

pub async fn an_agent_that_stays_away_loses_its_slices_and_regains_them_and_pods_keep_their_vfs(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&Value::Null).await?;
    lab.create(&pod("before", "vf")).await?;
    let given = lab.check_pod("default", "before").await?;
    let old: Vec<String> = lab.agents().await?.into_keys().collect();
    lab.want_agent(false).await?;
    // The kubelet waits half a minute for it.
    let gone = wait_for(Duration::from_secs(90), "the slices to go", async || {
        let slices = lab.slices().await?;
        ensure!(slices.is_empty(), "{} are left, and agents {:?}", slices.len(), lab.agents().await?);
        Ok(())
    });
    let gone = gone.await;
    // Also after a failure: the next story needs one.
    lab.want_agent(true).await?;
    wait_replaced(lab, &old).await?;
    gone?;
    lab.wait_published().await?;
    ensure!(lab.check_pod("default", "before").await? == given, "the pod has other VFs than before");
    lab.create(&pod("after", "vf")).await?;
    lab.check_pod("default", "after").await?;
    Ok(())
}

/// Sets a field of the agent's container, and waits for an agent that has it.
pub(super) async fn roll(lab: &Lab, field: &str, value: Value) -> Result<()> {
    let old: Vec<String> = lab.agents().await?.into_keys().collect();
    let mut container = lab.api.get(DAEMONSET).await?["spec"]["template"]["spec"]["containers"][0].clone();
    container[field] = value;
    let changed = json!({ "spec": { "template": { "spec": { "containers": [container] } } } });
    lab.api.merge(DAEMONSET, &changed).await?;
    wait_replaced(lab, &old).await
}

pub async fn a_node_without_nri_gives_its_vfs_by_the_hook_alone(lab: &mut Lab) -> Result<()> {
    let daemonset = lab.api.get(DAEMONSET).await?;
    let before = daemonset["spec"]["template"]["spec"]["containers"][0]["args"].clone();
    let mut hook = before.clone();
    hook.as_array_mut().context("arguments")?.push(json!("--attach=hook"));
    roll(lab, "args", hook).await?;
    wait_for(Duration::from_secs(30), "the attribute attach", async || {
        let slices = lab.slices().await?;
        let device = slices.first().map(|slice| slice["spec"]["devices"][0]["attributes"].clone());
        let attach = device.map(|attributes| attributes["sriov-dra.io/attach"]["string"].clone());
        ensure!(attach == Some(json!("hook")), "{attach:?}");
        Ok(())
    })
    .await?;
    lab.template(&json!({ "interface": { "addresses": ["10.77.0.1/24"] } })).await?;
    lab.create(&pod("hooked", "vf")).await?;
    let given = lab.check_pod("default", "hooked").await;
    let refused = what_the_hook_can_not_do_is_refused(lab).await;
    // The other stories want the agent as it was, whatever became of this one.
    roll(lab, "args", before).await?;
    refused?;
    let given = given?;
    ensure!(lab.check_pod("default", "hooked").await? == given, "the pod has other VFs than before");
    lab.delete_pod("hooked").await
}

/// Prepare says so in the pod's events, and the pods go away as they came.
async fn what_the_hook_can_not_do_is_refused(lab: &Lab) -> Result<()> {
    let mut unlisted = pod("unlisted", "vf");
    unlisted["spec"]["containers"][0]["resources"] = json!({});
    let mut on_host = pod("on-host", "vf");
    on_host["spec"]["hostNetwork"] = json!(true);
    for (name, pod, words) in [
        ("unlisted", unlisted, ["no container lists net under resources.claims", "--attach=hook"]),
        ("on-host", on_host, ["hostNetwork is true", "--attach=hook"]),
    ] {
        lab.create(&pod).await?;
        lab.wait_event(name, &words).await?;
        lab.delete_pod(name).await?;
    }
    Ok(())
}
