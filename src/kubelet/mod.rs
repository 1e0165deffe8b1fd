//! Registration with the kubelet and the DRA gRPC services. Wire only.
//!
//! In: gRPC calls on two unix sockets. Out: calls of [`ClaimService`], one task per claim that a retry joins; answers
//! with an entry for every UID; the state of the registration on a watch channel. Never here: what a claim means, the
//! API server, the kernel.
//!
//! [`Plugin::start`] serves both sockets and puts them back when somebody deletes them; [`Plugin::shutdown`] takes them
//! away in the order the kubelet needs. `flight` holds the running work, `service` translates, `paths` names sockets.

mod error;
pub mod fake;
mod flight;
mod paths;
mod plugin;
pub mod proto;
mod service;
mod socket;
mod sweep;

use std::future::Future;

pub use error::KubeletError;
pub use paths::SocketPaths;
pub use plugin::{Config, Plugin, Registration};
pub use sweep::remove_dead_sockets;

/// A claim as the kubelet names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimRef {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

/// One allocated device of a prepared claim, as the kubelet wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedDevice {
    /// Top-level request name (`main`, never `main/sub`).
    pub request: String,
    /// Pool of the result.
    pub pool: String,
    /// Device of the result.
    pub device: String,
    /// Fully qualified CDI names for the containers that refer to the request; may be empty.
    pub cdi_ids: Vec<String>,
    /// `shareID` of the result.
    pub share_id: Option<String>,
}

/// What the kubelet's calls come down to. Errors are sentences for the pod's events.
///
/// Each call runs in its own task: it is not dropped when the kubelet's deadline (45 s) passes, and never runs beside
/// another call for the same claim UID.
pub trait ClaimService: Send + Sync + 'static {
    /// Makes the claim ready; idempotent, level-triggered.
    fn prepare(&self, claim: ClaimRef) -> impl Future<Output = Result<Vec<PreparedDevice>, String>> + Send;
    /// Undoes it; a claim nobody knows is a success.
    fn unprepare(&self, claim: ClaimRef) -> impl Future<Output = Result<(), String>> + Send;
}
