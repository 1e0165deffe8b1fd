//! The DaemonSet controller's part: the agent's pod, whose process is the real agent's. Who deletes the pod ends that
//! process, and there is another one.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::kubelet::Kubelet;
use crate::plane::NODE;

/// Where the agent's pod is.
pub const NAMESPACE: &str = "sriov-dra";

/// One look at the agent's pod.
pub async fn sync(client: &Client, kubelet: &Kubelet) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let pods = api.list(&ListParams::default()).await?.items;
    for pod in &pods {
        if pod.metadata.deletion_timestamp.is_some() {
            kubelet.replace_agent().await?;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            api.delete(name, &DeleteParams::default().grace_period(0)).await?;
        }
    }
    if !pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let pod = json!({
            "metadata": { "generateName": "sriov-dra-" },
            "spec": { "nodeName": NODE, "containers": [{ "name": "agent", "image": crate::node::AGENT }] },
        });
        let pod = api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let ready = json!({ "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        let name = pod.metadata.name.unwrap_or_default();
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    }
    Ok(())
}
