//! What containerd says of a pod, by CRI.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sriov_dra::runtime::{channel, v1 as cri};
use tonic::transport::Channel;

use crate::runtime::Sandbox;

/// containerd's socket.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// containerd keeps a folder for each container that runs.
pub const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// A CRI client.
#[derive(Debug, Clone)]
pub struct Containerd {
    channel: Channel,
}

impl Containerd {
    /// Connects with the first call.
    pub fn connect() -> Self {
        Self { channel: channel(Path::new(SOCKET)) }
    }

    fn client(&self) -> cri::runtime_service_client::RuntimeServiceClient<Channel> {
        cri::runtime_service_client::RuntimeServiceClient::new(self.channel.clone())
    }

    /// That it serves CRI.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn check(&self) -> Result<()> {
        let status = self.client().status(cri::StatusRequest { verbose: false }).await.map_err(sentence)?;
        let conditions = status.into_inner().status.unwrap_or_default().conditions;
        ensure!(conditions.iter().any(|c| c.r#type == "RuntimeReady" && c.status), "{conditions:?}");
        Ok(())
    }

    /// The pod's one ready sandbox.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub async fn sandbox(&self, namespace: &str, pod: &str) -> Result<Sandbox> {
        let all = self.client().list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await;
        let all = all.map_err(sentence)?.into_inner().items;
        let is_it = |sandbox: &&cri::PodSandbox| {
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            sandbox.state() == cri::PodSandboxState::SandboxReady
                && (metadata.namespace.as_str(), metadata.name.as_str()) == (namespace, pod)
        };
        let ready: Vec<&cri::PodSandbox> = all.iter().filter(is_it).collect();
        ensure!(ready.len() == 1, "pod {namespace}/{pod} has {} ready sandboxes", ready.len());
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: ready[0].id.clone(), verbose: true };
        let status = self.client().pod_sandbox_status(request).await.map_err(sentence)?.into_inner();
        let info: Value = serde_json::from_str(status.info.get("info").context("info of a sandbox")?)?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
        let netns = namespaces.iter().find(|n| n["type"] == "network").and_then(|n| n["path"].as_str());
        Ok(Sandbox {
            id: ready[0].id.clone(),
            pid: info["pid"].as_u64().context("pid of a sandbox")?,
            netns: netns.map(PathBuf::from),
        })
    }

    /// ID of a pod's running container.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn container(&self, namespace: &str, pod: &str, name: &str) -> Result<String> {
        let all = self.client().list_containers(cri::ListContainersRequest { filter: None }).await;
        let label = |container: &cri::Container, key: &str, value: &str| {
            container.labels.get(key).is_some_and(|found| found == value)
        };
        let found = all.map_err(sentence)?.into_inner().containers.into_iter().find(|container| {
            container.state() == cri::ContainerState::ContainerRunning
                && label(container, "io.kubernetes.pod.namespace", namespace)
                && label(container, "io.kubernetes.pod.name", pod)
                && label(container, "io.kubernetes.container.name", name)
        });
        Ok(found.with_context(|| format!("container {name} of pod {namespace}/{pod} does not run"))?.id)
    }

    /// Runs a command in a container, returns its output.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let reply = self.client().exec_sync(request).await.map_err(sentence)?.into_inner();
        let (out, err) = (String::from_utf8_lossy(&reply.stdout), String::from_utf8_lossy(&reply.stderr));
        ensure!(reply.exit_code == 0, "`{}`: exit code {}: {out}{err}", command.join(" "), reply.exit_code);
        Ok(out.into_owned())
    }

    /// Ends a container's process as a crash would.
    ///
    /// # Errors
    /// The runtime's sentence.
    pub async fn stop_container(&self, container: &str) -> Result<()> {
        let request = cri::StopContainerRequest { container_id: container.to_owned(), timeout: 0 };
        self.client().stop_container(request).await.map_err(sentence)?;
        Ok(())
    }
}

/// IDs of all that containerd has not removed.
pub fn left() -> Vec<String> {
    let entries = fs::read_dir(TASKS).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn sentence(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
