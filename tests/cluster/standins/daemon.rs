//! The DaemonSet controller's part: the agent's pod, whose process is the real agent's. Who deletes the pod ends that
//! process, and there is another one, unless the set is for no node.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::kubelet::Kubelet;
use crate::plane::NODE;

/// Where the agent's pod is.
pub const NAMESPACE: &str = "sriov-dra";

/// The set; an agent runs before it is there.
pub struct Daemon {
    client: Client,
    wanted: AtomicBool,
    runs: AtomicBool,
}

impl Daemon {
    pub fn new(client: Client) -> Self {
        Self { client, wanted: AtomicBool::new(true), runs: AtomicBool::new(true) }
    }

    /// Whether there shall be an agent on the node.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::SeqCst);
    }

    /// One look at the agent's pod.
    pub async fn sync(&self, kubelet: &Kubelet) -> Result<()> {
        let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let pods = api.list(&ListParams::default()).await?.items;
        let wanted = self.wanted.load(Ordering::SeqCst);
        for pod in &pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() {
                if self.runs.swap(false, Ordering::SeqCst) {
                    kubelet.end_agent().await?;
                }
                api.delete(name, &DeleteParams::default().grace_period(0)).await?;
            } else if !wanted {
                api.delete(name, &DeleteParams::default()).await?;
            }
        }
        if !wanted || pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_none()) {
            return Ok(());
        }
        if !self.runs.load(Ordering::SeqCst) {
            kubelet.start_agent().await?;
            self.runs.store(true, Ordering::SeqCst);
        }
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
        Ok(())
    }
}
