//! CRI v1, generated from `proto/cri.proto`: what a stand-in for the kubelet tells a real container runtime.

use std::path::{Path, PathBuf};

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

/// A gRPC channel over a runtime's socket, e.g. `/run/containerd/containerd.sock`. Connects on the first call, again
/// after a restart of the runtime.
pub fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}
