//! What the agent's service account may do.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::api::Api;
use crate::lab::{Lab, SLICES};
use crate::plane::NODE;
use crate::process::wait_for;
use crate::sim::PFS;

const ACCOUNT: &str = "system:serviceaccount:sriov-dra:sriov-dra";

/// `group/resource[names] verb`, for all rules on resources that a user has in a namespace.
async fn rules(api: &Api, namespace: &str) -> Result<BTreeSet<String>> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": namespace },
    });
    let answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review).await?;
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut rules = BTreeSet::new();
    for rule in answer["status"]["resourceRules"].as_array().into_iter().flatten() {
        let names = list(&rule["resourceNames"]);
        let names = if names.is_empty() { String::new() } else { format!("[{}]", names.join(",")) };
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                rules.extend(
                    list(&rule["verbs"]).iter().map(|verb| format!("{group}/{resource}{names} {verb}")),
                );
            }
        }
    }
    Ok(rules)
}

pub async fn the_agents_account_may_do_what_it_needs_and_nothing_else(lab: &mut Lab) -> Result<()> {
    // Whatever every service account may do anyway is not the manifests' doing.
    let anybody = rules(&lab.api.as_user("system:serviceaccount:default:default"), "default").await?;
    let agent = rules(&lab.api.as_user(ACCOUNT), "default").await?;
    let own: BTreeSet<String> = agent.difference(&anybody).cloned().collect();
    let mut expected: BTreeSet<String> = [
        "resource.k8s.io/resourceclaims get",
        "resource.k8s.io/resourceclaims/status update",
        "resource.k8s.io/resourceclaims/status patch",
        "resource.k8s.io/resourceclaims/driver[sriov-dra.io] associated-node:update",
        "resource.k8s.io/resourceclaims/driver[sriov-dra.io] associated-node:patch",
        "/nodes get",
        "/pods get",
    ]
    .map(str::to_owned)
    .into();
    for (resource, verbs) in [
        ("sriov-dra.io/addresspools", &["get", "list", "watch"][..]),
        ("sriov-dra.io/addresspools/status", &["patch"]),
        ("sriov-dra.io/addressblocks", &["get", "list", "watch", "create", "delete"]),
        ("sriov-dra.io/addressblocks/status", &["patch"]),
        ("events.k8s.io/events", &["create", "patch"]),
    ] {
        expected.extend(verbs.iter().map(|verb| format!("{resource} {verb}")));
    }
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
    expected.extend(verbs.map(|verb| format!("resource.k8s.io/resourceslices {verb}")));
    ensure!(own == expected, "it may {own:?}");
    Ok(())
}

/// The API as the node's agent sees it, with a token of its pod.
async fn as_agent(lab: &Lab) -> Result<Api> {
    let pods = lab.api.list("/api/v1/namespaces/sriov-dra/pods").await?;
    let pod = &pods.first().context("the agent's pod")?["metadata"];
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod["name"], "uid": pod["uid"] } },
    });
    let accounts = "/api/v1/namespaces/sriov-dra/serviceaccounts/sriov-dra/token";
    let token = lab.api.create(accounts, &request).await?;
    lab.real()?.plane.api_with(token["status"]["token"].as_str().context("a token")?).await
}

/// Stored blocks of addresses.
const BLOCKS: &str = "/apis/sriov-dra.io/v1alpha1/addressblocks";

pub async fn an_agent_claims_its_blocks_of_a_pool_and_none_for_another_node(lab: &mut Lab) -> Result<()> {
    const POOLS: &str = "/apis/sriov-dra.io/v1alpha1/addresspools";
    let pool = |spec: Value| {
        json!({
            "apiVersion": "sriov-dra.io/v1alpha1", "kind": "AddressPool", "metadata": { "name": "rails" }, "spec": spec,
        })
    };
    let spec = json!({ "mode": "perNodePrefix", "ipv4": { "cidr": "172.16.0.0/16", "prefixLength": 27, "gatewayIndex": 1 } });
    let mut bad = spec.clone();
    bad["ipv4"]["blockSize"] = json!(16);
    let (code, body) = lab.api.ask("POST", POOLS, "application/json", &pool(bad)).await?;
    ensure!(
        code == 422 && body.to_string().contains("blockSize belongs to mode sharedSubnet"),
        "{code}: {body}"
    );
    lab.api.create(POOLS, &pool(spec)).await?;
    let blocks = wait_for(Duration::from_secs(30), "a block for each PF", async || {
        let blocks = lab.api.list(BLOCKS).await?;
        ensure!(blocks.len() == PFS.len(), "{} blocks", blocks.len());
        Ok(blocks)
    })
    .await?;
    ensure!(blocks.iter().all(|block| block["spec"]["nodeName"] == NODE), "{blocks:?}");
    wait_for(Duration::from_secs(30), "every VF to be published with its address", async || {
        let slices = lab.slices().await?;
        let devices =
            || slices.iter().flat_map(|slice| slice["spec"]["devices"].as_array().into_iter().flatten());
        let addresses: BTreeSet<&str> = devices()
            .filter_map(|device| device["attributes"]["sriov-dra.io/ipv4"]["string"].as_str())
            .collect();
        ensure!(devices().count() > 0 && addresses.len() == devices().count(), "{addresses:?}");
        Ok(())
    })
    .await?;
    let (code, body) = lab
        .api
        .ask(
            "PATCH",
            &format!("{POOLS}/rails"),
            crate::api::MERGE,
            &json!({ "spec": { "ipv4": { "prefixLength": 28 } } }),
        )
        .await?;
    ensure!(code == 422 && body.to_string().contains("prefixLength may not change"), "{code}: {body}");

    let agent = as_agent(lab).await?;
    let mut foreign = blocks[0].clone();
    foreign["metadata"] = json!({ "name": "rails.7777" });
    foreign["spec"]["index"] = json!(7777);
    foreign["spec"]["nodeName"] = json!("node-b");
    let (code, body) = agent.ask("POST", BLOCKS, "application/json", &foreign).await?;
    let message = body["message"].as_str().unwrap_or_default();
    ensure!(
        code == 403
            && message.contains("the agent of node node-a may not write a block of addresses of node node-b"),
        "{code}: {body}"
    );
    lab.api.create(BLOCKS, &foreign).await?;
    let path = format!("{BLOCKS}/rails.7777");
    let (deleted, body) = agent.ask("DELETE", &path, "application/json", &json!({})).await?;
    ensure!(deleted == 403, "{deleted}: {body}");
    lab.api.delete(&path).await?;
    lab.api.delete(&format!("{POOLS}/rails")).await?;
    wait_for(Duration::from_secs(30), "the blocks to be given back", async || {
        let blocks = lab.api.list(BLOCKS).await?;
        ensure!(blocks.is_empty(), "{blocks:?}");
        Ok(())
    })
    .await
}

pub async fn an_agent_can_not_write_slices_of_another_node(lab: &mut Lab) -> Result<()> {
    let agent = as_agent(lab).await?;
    let slice = |name: &str, node: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": { "name": name },
            "spec": {
                "driver": "other.example", "nodeName": node, "devices": [{ "name": "a" }],
                "pool": { "name": node, "generation": 1, "resourceSliceCount": 1 },
            },
        })
    };
    let post = async |object: &Value| agent.ask("POST", SLICES, "application/json", object).await;
    let (code, body) = post(&slice("foreign", "node-b")).await?;
    let message = body["message"].as_str().unwrap_or_default();
    ensure!(
        code == 403 && message.contains("the agent of node node-a may not write a slice of node node-b"),
        "{code}: {body}"
    );
    let (code, body) = post(&slice("own", NODE)).await?;
    ensure!(code == 201, "its own node's: {code}: {body}");
    // What somebody else made for another node, it can neither change nor delete.
    lab.api.create(SLICES, &slice("foreign", "node-b")).await?;
    let foreign = format!("{SLICES}/foreign");
    let patch = json!({ "metadata": { "labels": { "a": "b" } } });
    let (changed, _) = agent.ask("PATCH", &foreign, crate::api::MERGE, &patch).await?;
    let (deleted, _) = agent.ask("DELETE", &foreign, "application/json", &json!({})).await?;
    lab.api.delete(&foreign).await?;
    agent.delete(&format!("{SLICES}/own")).await?;
    ensure!((changed, deleted) == (403, 403), "change {changed}, delete {deleted}");
    // A token that is bound to no pod names no node.
    let unbound = lab.api.as_user(ACCOUNT);
    let (code, body) = unbound.ask("POST", SLICES, "application/json", &slice("unbound", NODE)).await?;
    let message = body["message"].as_str().unwrap_or_default();
    ensure!(code == 403 && message.contains("names no node"), "{code}: {body}");
    for path in ["/api/v1/secrets", "/api/v1/pods", "/api/v1/namespaces/sriov-dra/pods", "/api/v1/nodes"] {
        let (code, _) = agent.ask("GET", path, "application/json", &Value::Null).await?;
        ensure!(code == 403, "the agent may list {path}: {code}");
    }
    Ok(())
}
