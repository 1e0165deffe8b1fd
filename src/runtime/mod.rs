//! The container runtime asked over CRI v1, generated from `proto/cri.proto`. Wire only.
//!
//! In: the runtime's socket. Out: what it says of itself ([`About`]), and for stand-ins of the kubelet the whole protocol.
//! Never here: what the answers mean (`doctor`), NRI (`attach::nri`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// `runtime.v1`: messages, `runtime_service_client::RuntimeServiceClient`, `image_service_client::ImageServiceClient`.
// Generated code follows its generator's style.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

use v1::runtime_service_client::RuntimeServiceClient;

/// A runtime that has not answered by then is not asked further.
const LIMIT: Duration = Duration::from_secs(10);

/// What a runtime says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// `containerd`, `cri-o`.
    pub name: String,
    /// As it writes it: `v2.1.4`, `1.34.1`.
    pub version: String,
    /// Its configuration as JSON, where it tells it (containerd does).
    pub config: Option<String>,
}

/// A runtime that can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No connection, or a refusal.
    #[error("the container runtime at {} can't be asked over CRI: {reason}", socket.display())]
    Refused {
        /// Its socket.
        socket: PathBuf,
        /// The innermost cause.
        reason: String,
    },
    /// Silence.
    #[error("the container runtime at {} has not answered within {} s", socket.display(), LIMIT.as_secs())]
    Silent {
        /// Its socket.
        socket: PathBuf,
    },
}

/// A gRPC channel over a runtime's socket, e.g. `/run/containerd/containerd.sock`. Connects on the first call, again
/// after a restart of the runtime.
pub fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

/// Asks a runtime for its name, version and configuration. Nothing is changed by that.
///
/// # Errors
/// [`RuntimeError`], which names the socket.
pub async fn about(socket: &Path) -> Result<About, RuntimeError> {
    let asked = async {
        let mut client = RuntimeServiceClient::new(channel(socket));
        let said = client.version(v1::VersionRequest::default()).await?.into_inner();
        let status = client.status(v1::StatusRequest { verbose: true }).await?.into_inner();
        let config = status.info.get("config").cloned();
        Ok(About { name: said.runtime_name, version: said.runtime_version, config })
    };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(about)) => Ok(about),
        Ok(Err(status)) => {
            Err(RuntimeError::Refused { socket: socket.to_owned(), reason: innermost(&status) })
        }
        Err(_) => Err(RuntimeError::Silent { socket: socket.to_owned() }),
    }
}

/// gRPC wraps "Permission denied" into "transport error" and more.
fn innermost(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<tonic::Status>() {
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}
