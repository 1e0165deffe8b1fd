//! Moves VFs into a pod's network namespace and back; the NRI plugin; claim status.
//!
//! In: sandboxes and containers as the runtime reports them, ledger entries. Out: VFs in the pod, named, addressed and
//! up, or an error that stops the container; VFs back on the host as they were. Nothing is ever taken from a live
//! sandbox. Never here: slow settings (that is `prepare`), fsync, waiting for the API server.
//!
//! [`Attacher`] is a function of ledger entry and sandbox: every call looks where each VF is and does what is missing.

mod addressing;
mod attacher;
pub mod bundle;
mod detach;
mod error;
pub mod hook;
mod link_in;
mod link_out;
mod nccl;
pub mod nri;
mod outbox;
mod rdma;
mod report;
mod routing;
mod sandbox;
pub mod status;
pub mod status_body;
#[cfg(test)]
mod tests;
mod variables;

pub use attacher::{Attacher, ForeignClaim};
pub use error::AttachError;
pub use outbox::{Letter, Outbox};
pub use report::{DeviceReport, Reason, Report};
pub use sandbox::PodSandbox;
pub use variables::names_a_claim;
