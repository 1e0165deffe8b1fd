//! The kubelet's side of the plugin socket: finds the registration socket, asks, confirms, prepares, unprepares.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sriov_dra::kubelet::proto::{registration, v1};
use sriov_dra::runtime::channel;
use tonic::transport::Channel;

/// A claim as the kubelet names it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.name`; its namespace is `default`
    pub name: String,
}

/// A registered plugin.
#[derive(Debug, Clone)]
pub struct Kubelet {
    plugin: v1::dra_plugin_client::DraPluginClient<Channel>,
}

impl Kubelet {
    /// Waits for a registration socket and registers, as the kubelet's plugin watcher does.
    ///
    /// # Errors
    /// When none appears within `limit`, the plugin is no DRA plugin of this driver, or it is not `alive` any more.
    pub async fn register(
        kubelet_dir: &Path,
        driver: &str,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let folder = kubelet_dir.join("plugins_registry");
        let end = std::time::Instant::now() + limit;
        let mut last = format!("no socket in {}", folder.display());
        while std::time::Instant::now() < end {
            alive()?;
            if let Some(socket) = socket_in(&folder) {
                match Self::try_register(&socket, driver).await {
                    Ok(kubelet) => return Ok(kubelet),
                    Err(error) => last = format!("{}: {error:#}", socket.display()),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the agent did not register within {} s: {last}", limit.as_secs())
    }

    async fn try_register(socket: &Path, driver: &str) -> Result<Self> {
        let mut client = registration::registration_client::RegistrationClient::new(channel(socket));
        let info = client.get_info(registration::InfoRequest {}).await.map_err(sentence)?.into_inner();
        ensure!(info.r#type == "DRAPlugin", "a plugin of type {:?}", info.r#type);
        ensure!(info.name == driver, "a plugin named {:?}", info.name);
        ensure!(
            info.supported_versions.iter().any(|v| v == "v1.DRAPlugin"),
            "versions {:?}",
            info.supported_versions
        );
        let status = registration::RegistrationStatus { plugin_registered: true, error: String::new() };
        client.notify_registration_status(status).await.map_err(sentence)?;
        Ok(Self { plugin: v1::dra_plugin_client::DraPluginClient::new(channel(Path::new(&info.endpoint))) })
    }

    /// NodePrepareResources for one claim; the CDI names of all its devices.
    ///
    /// # Errors
    /// The plugin's sentence.
    pub async fn prepare(&self, claim: &Claim) -> Result<Vec<String>> {
        let request = v1::NodePrepareResourcesRequest { claims: vec![wire(claim)] };
        let mut reply =
            self.plugin.clone().node_prepare_resources(request).await.map_err(sentence)?.into_inner();
        let entry = reply.claims.remove(&claim.uid).context("the reply has no entry for the claim's UID")?;
        ensure!(entry.error.is_empty(), "{}", entry.error);
        Ok(entry.devices.into_iter().flat_map(|device| device.cdi_device_ids).collect())
    }

    /// NodeUnprepareResources for one claim.
    ///
    /// # Errors
    /// The plugin's sentence.
    pub async fn unprepare(&self, claim: &Claim) -> Result<()> {
        let request = v1::NodeUnprepareResourcesRequest { claims: vec![wire(claim)] };
        let mut reply =
            self.plugin.clone().node_unprepare_resources(request).await.map_err(sentence)?.into_inner();
        let entry = reply.claims.remove(&claim.uid).context("the reply has no entry for the claim's UID")?;
        ensure!(entry.error.is_empty(), "{}", entry.error);
        Ok(())
    }
}

fn wire(claim: &Claim) -> v1::Claim {
    v1::Claim { namespace: "default".to_owned(), uid: claim.uid.clone(), name: claim.name.clone() }
}

fn sentence(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", status.code(), status.message())
}

fn socket_in(folder: &Path) -> Option<PathBuf> {
    let mut sockets: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    sockets.retain(|path| path.extension().is_some_and(|e| e == "sock"));
    sockets.sort();
    sockets.into_iter().next()
}
