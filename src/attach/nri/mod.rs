//! The NRI plugin: mux, ttrpc, handshake, reconnect. Wire only.
//!
//! In: a runtime's NRI socket. Out: calls of [`PodEvents`], each answered within 60 % of the request timeout the
//! runtime gave in Configure: an error fails closed, a timeout fails open. Never here: what a pod's VFs are.
//!
//! From the socket up: `mux` cuts the stream into two connections, `ttrpc` those into messages, `link` matches answers
//! to questions in both directions, `session` is one registration with a runtime, `plugin` keeps one alive.

#[cfg(any(test, feature = "testing"))]
pub mod decoders;
mod error;
pub mod fake;
mod link;
mod mux;
mod plugin;
pub mod proto;
mod session;
mod ttrpc;

use std::future::Future;
use std::path::PathBuf;

use crate::device::CharDevice;

pub use error::NriError;
pub use plugin::{Config, Connection, Plugin, RunErrors, Runtime};

/// A pod sandbox as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Sandbox ID.
    pub id: String,
    /// Pod UID.
    pub pod_uid: String,
    /// Pod name.
    pub pod_name: String,
    /// Pod namespace.
    pub pod_namespace: String,
    /// Path of its network namespace; `None` on the host's network, and in Stop/Remove of older runtimes.
    pub netns: Option<PathBuf>,
    /// The runtime listed the sandbox's Linux namespaces at all: only then does a missing `netns` mean the host's
    /// network.
    pub lists_namespaces: bool,
    /// Pause process; 0 when it is not running.
    pub pid: u32,
}

/// A container that is about to be created, or exists (Synchronize).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Container ID.
    pub id: String,
    /// ID of its sandbox.
    pub sandbox_id: String,
    /// Name in the pod.
    pub name: String,
    /// `K=V`, CDI edits applied.
    pub env: Vec<String>,
    /// Created or running (NRI states 1 to 3), not stopped.
    pub live: bool,
    /// Its character devices, those that plugins before this one gave it included.
    pub devices: Vec<CharDevice>,
    /// Bytes that it can lock as it starts (the lower one of RLIMIT_MEMLOCK's two limits), if it has a limit.
    pub memlock: Option<u64>,
}

/// What a container gets beyond its CDI devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// Variables to set.
    pub env: Vec<(String, String)>,
    /// Device nodes to make, and to allow.
    pub devices: Vec<CharDevice>,
    /// RLIMIT_MEMLOCK, soft and hard: bytes, `u64::MAX` for no limit.
    pub memlock: Option<u64>,
    /// Files of the node that the container reads: path there, path in the container.
    pub files: Vec<(PathBuf, String)>,
}

/// What the runtime's calls come down to. Errors are sentences for the pod's events. Each call runs in its own task:
/// the wire answers "still attaching" by itself when the budget is over, and lets the task finish.
pub trait PodEvents: Send + Sync + 'static {
    /// A runtime was found behind the socket, by its PID where the kernel tells; before it says anything.
    fn connected(&self, _pid: Option<i32>) {}
    /// RunPodSandbox: attach.
    fn run(&self, sandbox: Sandbox) -> impl Future<Output = Result<(), String>> + Send;
    /// StopPodSandbox: return.
    fn stop(&self, sandbox: Sandbox) -> impl Future<Output = Result<(), String>> + Send;
    /// RemovePodSandbox: return what is left.
    fn remove(&self, sandbox: Sandbox) -> impl Future<Output = Result<(), String>> + Send;
    /// CreateContainer: refuse a container whose VFs are not there.
    fn create_container(
        &self,
        sandbox: Sandbox,
        container: Container,
    ) -> impl Future<Output = Result<Adjustment, String>> + Send;
    /// Synchronize: everything the runtime knows, stopped sandboxes included.
    fn synchronize(
        &self,
        sandboxes: Vec<Sandbox>,
        containers: Vec<Container>,
    ) -> impl Future<Output = ()> + Send;
}
