//! What can't be is said where its owner looks: in the pod's events.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::lab::Lab;
use crate::pods::pod;

/// A fault that only the driver can know: an admission policy sees no class beside the claim.
pub async fn a_claim_that_wants_what_its_class_does_not_grant_is_refused_with_a_sentence_that_names_the_field(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&json!({ "vf": { "vlan": 100 } })).await?;
    lab.create(&pod("faulty", "vf")).await?;
    let says = "vf.vlan: 100 needs a grant, and class sriov-vf has none for this field";
    let event = lab.wait_event("faulty", &["FailedPrepareDynamicResources", says]).await?;
    ensure!(event.contains("ResourceClaim default/faulty-net-"), "{event}");
    ensure!(lab.sim.on_host()? == lab.sim.clean, "a VF was touched");
    Ok(())
}

pub async fn a_pod_on_the_hosts_network_is_refused_what_needs_a_namespace_of_its_own(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&json!({ "interface": { "name": "data0" } })).await?;
    let mut on_host = pod("on-host", "vf");
    on_host["spec"]["hostNetwork"] = json!(true);
    lab.create(&on_host).await?;
    lab.wait_event(
        "on-host",
        &["pod default/on-host uses the host's network (hostNetwork: true)", "interface.*"],
    )
    .await?;
    ensure!(lab.sim.on_host()? == lab.sim.clean, "a VF was touched");
    Ok(())
}
