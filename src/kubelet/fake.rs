//! A kubelet's side of the two sockets, over real gRPC: finds the driver in `plugins_registry`, registers it as the
//! plugin manager does, calls Prepare and Unprepare. For tests and for nodes without a kubelet.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::proto::registration::registration_client::RegistrationClient;
use super::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use super::proto::v1::dra_plugin_client::DraPluginClient as ClientV1;
use super::proto::v1beta1::dra_plugin_client::DraPluginClient as ClientV1beta1;
use super::proto::{v1, v1beta1};
use super::{ClaimRef, PreparedDevice};

/// What the kubelet gives a Prepare or an Unprepare.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(45);

/// The answer for each claim UID.
pub type Prepared = HashMap<String, Result<Vec<PreparedDevice>, String>>;
/// The answer for each claim UID.
pub type Unprepared = HashMap<String, Result<(), String>>;

/// Which DRA version to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1.DRAPlugin`
    V1,
    /// `v1beta1.DRAPlugin`
    V1beta1,
}

/// A kubelet with this root directory.
#[derive(Debug, Clone)]
pub struct FakeKubelet {
    dir: PathBuf,
    /// The versions this kubelet knows; the plugin's order decides between them.
    versions: Vec<Version>,
}

/// A registered driver.
#[derive(Debug, Clone)]
pub struct Driver {
    /// As it introduced itself.
    pub info: PluginInfo,
    /// What was agreed on.
    pub version: Version,
    channel: Channel,
}

impl FakeKubelet {
    /// A kubelet of 1.34 or newer.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), versions: vec![Version::V1, Version::V1beta1] }
    }

    /// One that knows only these versions (1.33: v1beta1).
    pub fn knowing(dir: impl Into<PathBuf>, versions: impl Into<Vec<Version>>) -> Self {
        Self { dir: dir.into(), versions: versions.into() }
    }

    /// Sockets in `plugins_registry`, as the plugin watcher counts them.
    pub fn registration_sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.dir.join("plugins_registry")) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_socket()))
            .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
            .map(|e| e.path())
            .collect();
        found.sort();
        found
    }

    /// Waits for a driver of this name, registers and connects it.
    ///
    /// # Errors
    /// It did not come within `patience`, or its answers are not what a kubelet accepts.
    pub async fn register(&self, driver: &str, patience: Duration) -> anyhow::Result<Driver> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut last = anyhow::anyhow!("no socket in {}/plugins_registry", self.dir.display());
        while tokio::time::Instant::now() < deadline {
            for socket in self.registration_sockets() {
                match self.register_socket(&socket).await {
                    Ok(found) if found.info.name == driver => return Ok(found),
                    Ok(other) => last = anyhow::anyhow!("found driver {} only", other.info.name),
                    Err(error) => last = error,
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(last.context(format!("driver {driver} did not register within {patience:?}")))
    }

    /// GetInfo, choice of the version, NotifyRegistrationStatus; with the kubelet's time limits.
    ///
    /// # Errors
    /// A call failed, or the answer is not what a kubelet accepts (the driver is then told so, as the kubelet does).
    pub async fn register_socket(&self, socket: &Path) -> anyhow::Result<Driver> {
        let mut client = RegistrationClient::new(dial_registration(socket)?);
        let mut request = Request::new(InfoRequest {});
        request.set_timeout(Duration::from_secs(1));
        let info = client.get_info(request).await.context("GetInfo")?.into_inner();
        let accepted = self.accept(&info);
        let status = RegistrationStatus {
            plugin_registered: accepted.is_ok(),
            error: accepted.as_ref().err().map(ToString::to_string).unwrap_or_default(),
        };
        client.notify_registration_status(status).await.context("NotifyRegistrationStatus")?;
        let version = accepted?;
        Ok(Driver { channel: dial(Path::new(&info.endpoint)), info, version })
    }

    /// Tells a driver that it was refused.
    ///
    /// # Errors
    /// The call failed.
    pub async fn refuse(&self, socket: &Path, reason: &str) -> anyhow::Result<()> {
        let mut client = RegistrationClient::new(dial_registration(socket)?);
        let status = RegistrationStatus { plugin_registered: false, error: reason.to_owned() };
        client.notify_registration_status(status).await.context("NotifyRegistrationStatus")?;
        Ok(())
    }

    fn accept(&self, info: &PluginInfo) -> anyhow::Result<Version> {
        ensure!(info.r#type == "DRAPlugin", "plugin type {:?} is not DRAPlugin", info.r#type);
        ensure!(!info.name.is_empty(), "plugin without a name");
        ensure!(Path::new(&info.endpoint).is_absolute(), "endpoint {:?} is not absolute", info.endpoint);
        let known = info.supported_versions.iter().find_map(|name| {
            let version = match name.as_str() {
                "v1.DRAPlugin" => Version::V1,
                "v1beta1.DRAPlugin" => Version::V1beta1,
                _ => return None,
            };
            self.versions.contains(&version).then_some(version)
        });
        let Some(version) = known else {
            bail!("no version this kubelet knows in {:?}", info.supported_versions)
        };
        Ok(version)
    }
}

macro_rules! claim {
    ($version:ident, $claim:expr) => {
        $version::Claim {
            namespace: $claim.namespace.clone(),
            uid: $claim.uid.clone(),
            name: $claim.name.clone(),
        }
    };
}
impl Driver {
    /// A driver at a known DRA socket, without a registration.
    pub fn at(endpoint: &Path, version: Version) -> Self {
        let info = PluginInfo { endpoint: endpoint.display().to_string(), ..PluginInfo::default() };
        Self { info, version, channel: dial(endpoint) }
    }

    /// NodePrepareResources with the kubelet's deadline.
    ///
    /// # Errors
    /// The call as a whole failed; what failed for one claim is in its entry.
    pub async fn prepare(&self, claims: &[ClaimRef]) -> Result<Prepared, tonic::Status> {
        self.prepare_within(claims, CALL_TIMEOUT).await
    }

    /// NodePrepareResources with a deadline of the caller's.
    ///
    /// # Errors
    /// The call as a whole failed.
    pub async fn prepare_within(
        &self,
        claims: &[ClaimRef],
        limit: Duration,
    ) -> Result<Prepared, tonic::Status> {
        macro_rules! call {
            ($client:ident, $version:ident, $share_id:expr) => {{
                let claims = claims.iter().map(|c| claim!($version, c)).collect();
                let mut request = Request::new($version::NodePrepareResourcesRequest { claims });
                request.set_timeout(limit);
                let reply = $client::new(self.channel.clone()).node_prepare_resources(request).await?;
                let entry = |e: $version::NodePrepareResourceResponse| match e.error.as_str() {
                    "" => Ok(Vec::from_iter(e.devices.into_iter().map(|d| PreparedDevice {
                        request: d.request_names.join(","),
                        pool: d.pool_name.clone(),
                        device: d.device_name.clone(),
                        cdi_ids: d.cdi_device_ids.clone(),
                        share_id: $share_id(d),
                    }))),
                    _ => Err(e.error),
                };
                Ok(reply.into_inner().claims.into_iter().map(|(uid, e)| (uid, entry(e))).collect())
            }};
        }
        match self.version {
            Version::V1 => call!(ClientV1, v1, |d: v1::Device| d.share_id),
            Version::V1beta1 => call!(ClientV1beta1, v1beta1, |_: v1beta1::Device| None),
        }
    }

    /// NodeUnprepareResources with the kubelet's deadline.
    ///
    /// # Errors
    /// The call as a whole failed; what failed for one claim is in its entry.
    pub async fn unprepare(&self, claims: &[ClaimRef]) -> Result<Unprepared, tonic::Status> {
        macro_rules! call {
            ($client:ident, $version:ident) => {{
                let claims = claims.iter().map(|c| claim!($version, c)).collect();
                let mut request = Request::new($version::NodeUnprepareResourcesRequest { claims });
                request.set_timeout(CALL_TIMEOUT);
                let reply = $client::new(self.channel.clone()).node_unprepare_resources(request).await?;
                let entry = |error: String| if error.is_empty() { Ok(()) } else { Err(error) };
                Ok(reply.into_inner().claims.into_iter().map(|(uid, e)| (uid, entry(e.error))).collect())
            }};
        }
        match self.version {
            Version::V1 => call!(ClientV1, v1),
            Version::V1beta1 => call!(ClientV1beta1, v1beta1),
        }
    }
}

/// As `grpc.NewClient("unix:" + path)` does: authority `localhost`.
fn dial(socket: &Path) -> Channel {
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector(socket))
}

/// As grpc-go dials a bare path: the percent-encoded path is the authority.
fn dial_registration(socket: &Path) -> anyhow::Result<Channel> {
    let authority = authority(socket);
    let origin: Uri =
        format!("http://{authority}").parse().with_context(|| format!("authority {authority} is refused"))?;
    Ok(Endpoint::from_static("http://localhost")
        .origin(origin)
        .connect_with_connector_lazy(connector(socket)))
}

/// `:authority` of a client that was given a bare path: `/` becomes `%2F`, letters, digits and `-._~@` stay.
pub fn authority(socket: &Path) -> String {
    let mut out = String::new();
    for byte in socket.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn connector(
    socket: &Path,
) -> impl tower::Service<Uri, Response = TokioIo<UnixStream>, Error = std::io::Error, Future: Send> + Send + 'static
{
    let socket = socket.to_owned();
    service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    })
}
