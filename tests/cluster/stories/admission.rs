//! What the API server refuses to store, by the policy of the manifests.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::MERGE;
use crate::cases::{By, Case, bad, good, object, resource};
use crate::lab::Lab;
use crate::process::wait_for;

const POLICY: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/sriov-dra-parameters";
const BINDING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/sriov-dra-parameters";

fn collection(by: By) -> String {
    let namespace = if by == By::Class { "" } else { "namespaces/default/" };
    format!("/apis/resource.k8s.io/v1/{namespace}{}", resource(by))
}

/// What the server would answer: nothing is stored.
async fn tried(lab: &Lab, case: &Case) -> Result<(u16, String)> {
    let path = format!("{}?dryRun=All", collection(case.by));
    let (code, body) = lab.api.ask("POST", &path, "application/json", &object(case, "tried")).await?;
    Ok((code, body["message"].as_str().unwrap_or_default().to_owned()))
}

pub async fn good_parameters_are_admitted_and_each_bad_one_is_denied_with_its_sentence(
    lab: &mut Lab,
) -> Result<()> {
    for case in good() {
        let (code, message) = tried(lab, &case).await?;
        ensure!(code == 201, "{case:?}: {code}: {message}");
    }
    for case in bad() {
        let (code, message) = tried(lab, &case).await?;
        let says = case.says.unwrap_or_default();
        let sentence = message.split_once("denied request: ").map_or("", |(_, sentence)| sentence);
        ensure!(code == 422 && sentence.contains(says), "{case:?}: {code}: {message}");
    }
    // The control plane has looked at the expressions with the schemas of the objects, and has nothing to say.
    let status = wait_for(Duration::from_secs(30), "the policy to be looked at", async || {
        let policy = lab.api.get(POLICY).await?;
        let seen = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
        ensure!(seen, "{}", policy["status"]);
        Ok(policy["status"].clone())
    })
    .await?;
    ensure!(status["typeChecking"]["expressionWarnings"].is_null(), "{status}");
    Ok(())
}

pub async fn what_was_stored_before_the_policy_can_be_relabelled(lab: &mut Lab) -> Result<()> {
    let mut faulty = bad().into_iter();
    let case = faulty
        .find(|case| case.by == By::Class && case.says.is_some_and(|says| says.starts_with("vf.vlan:")));
    let case = case.context("a class with a faulty VLAN among the cases")?;
    let class = object(&case, "old");
    let binding = lab.api.get(BINDING).await?;
    lab.api.delete(BINDING).await?;
    let stored = wait_for(Duration::from_secs(30), "the policy to be out of force", async || {
        lab.api.create(&collection(By::Class), &class).await
    });
    stored.await?;
    let back = json!({
        "apiVersion": binding["apiVersion"], "kind": binding["kind"], "spec": binding["spec"],
        "metadata": { "name": binding["metadata"]["name"] },
    });
    lab.api.create(BINDING.trim_end_matches("/sriov-dra-parameters"), &back).await?;
    let in_force = wait_for(Duration::from_secs(30), "the policy to be in force", async || {
        let (code, message) = tried(lab, &case).await?;
        if code == 201 {
            bail!("it is admitted");
        }
        ensure!(message.contains("vf.vlan: must be"), "{code}: {message}");
        Ok(())
    });
    in_force.await?;
    let old = format!("{}/old", collection(By::Class));
    let change = async |patch: &Value| lab.api.ask("PATCH", &old, MERGE, patch).await;
    let (labelled, body) = change(&json!({ "metadata": { "labels": { "a": "b" } } })).await?;
    let (altered, _) = change(&json!({ "spec": { "selectors": [] , "config": [] } })).await?;
    let (again, _) = change(&json!({ "spec": class["spec"] })).await?;
    lab.api.delete(&old).await?;
    ensure!(labelled == 200, "{body}");
    ensure!((altered, again) == (200, 422), "a good spec: {altered}; the bad one again: {again}");
    Ok(())
}

/// As docs/tenancy.md says.
pub async fn a_quota_of_0_closes_a_class_to_a_namespace(lab: &mut Lab) -> Result<()> {
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "closed" },
        "spec": { "hard": { "tenant-a.deviceclass.resource.k8s.io/devices": "0" } },
    });
    lab.api.create(quotas, &quota).await?;
    let claim = |class: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "tried" },
            "spec": { "devices": { "requests": [{ "name": "vf", "exactly": { "deviceClassName": class } }] } },
        })
    };
    let path = format!("{}?dryRun=All", collection(By::Claim));
    let closed = wait_for(Duration::from_secs(30), "the quota to be in force", async || {
        let (code, body) = lab.api.ask("POST", &path, "application/json", &claim("tenant-a")).await?;
        let message = body["message"].as_str().unwrap_or_default();
        ensure!(code == 403 && message.contains("exceeded quota: closed"), "{code}: {message}");
        Ok(())
    })
    .await;
    let (other, body) = lab.api.ask("POST", &path, "application/json", &claim("sriov-vf")).await?;
    lab.api.delete(&format!("{quotas}/closed")).await?;
    closed?;
    ensure!(other == 201, "another class: {other}: {body}");
    Ok(())
}

/// As much as the API server takes of configs (32, of 10 KiB each): what an expression may cost is bounded, too.
pub async fn the_largest_claims_and_classes_are_judged_within_the_cost_that_expressions_may_have(
    lab: &mut Lab,
) -> Result<()> {
    let vlans: Vec<String> = (1..=900).map(|id| format!("{id}-{}", id + 3000)).collect();
    let fields: Vec<Value> = vec![json!({ "field": "vf.vlan", "values": [1] }); 300];
    let keys: serde_json::Map<String, Value> = (0..700).map(|i| (format!("a{i:05}"), Value::Null)).collect();
    let macs = vec!["02:00:00:00:00:01-02:00:00:00:00:02"; 230];
    let typed = |kind: &str, mut parameters: Value| {
        parameters["apiVersion"] = json!("sriov-dra.io/v1alpha1");
        parameters["kind"] = json!(kind);
        parameters
    };
    let addresses = vec!["fd00:0000:0000:0000:0000:0000:0000:0010/64"; 200];
    for (by, parameters, says) in [
        (By::Class, typed("VfGrant", json!({ "allow": [{ "field": "vf.vlan", "values": vlans }] })), None),
        (By::Class, typed("VfGrant", json!({ "allow": [{ "field": "vf.mac", "values": macs }] })), None),
        (By::Class, typed("VfGrant", json!({ "allow": fields })), None),
        (By::Claim, typed("VfConfig", json!({ "vf": keys })), Some("vf: it has an unknown field")),
        (
            By::Claim,
            typed("VfConfig", json!({ "interface": { "addresses": addresses } })),
            Some("interface.addresses: must be a list of at most 16"),
        ),
        (
            By::Claim,
            typed("VfConfig", json!({ "interface": { "name": "n".repeat(9000) } })),
            Some("interface.name: must be a name"),
        ),
    ] {
        let size = parameters.to_string().len();
        ensure!((8000..=10_240).contains(&size), "one of {size} bytes is not what is meant");
        let case = Case { by, parameters, says };
        let mut large = object(&case, "tried");
        let path = if by == By::Class { "/spec/config" } else { "/spec/devices/config" };
        let config = large.pointer_mut(path).context("its config")?;
        *config = Value::Array(vec![config[1].clone(); 32]);
        let path = format!("{}?dryRun=All", collection(by));
        let (code, body) = lab.api.ask("POST", &path, "application/json", &large).await?;
        let message = body["message"].as_str().unwrap_or_default();
        match says {
            None => ensure!(code == 201, "{code}: {message:.600}"),
            Some(says) => ensure!(code == 422 && message.contains(says), "{code}: {message:.600}"),
        }
    }
    Ok(())
}
