//! Compiles a claim to a plan, applies or reverts it, keeps the ledger and the CDI files.
//!
//! In: a `ClaimSpec` (prepare) or a claim UID (unprepare). Out: CDI names, a durable entry per claim, VFs ready to be
//! attached or returned exactly as they were. Every call is level-triggered: it trusts nothing it did before, re-reads
//! the kernel and repairs what differs. Never here: gRPC, the API server, network namespaces of pods.
//!
//! [`plan`] is pure, and so are [`addressing`], [`steps`], `settings`, [`vfio`] and [`rdma`]; [`engine`] executes it; [`ledger`] is the
//! only memory; [`locks`] keeps agent, second agent and hook apart.

pub mod addressing;
mod apply;
mod asked;
pub mod cdi;
pub mod cdi_file;
mod cdi_spec;
pub mod engine;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod functions;
mod give_back;
pub mod ledger;
pub mod locks;
#[cfg(any(test, feature = "testing"))]
pub mod netdevs;
#[cfg(any(test, feature = "testing"))]
pub mod next_version;
pub mod plan;
pub mod rdma;
mod rdma_nodes;
pub mod records;
pub mod restore;
pub mod runtime;
mod sealed;
mod settings;
pub mod site;
pub mod steps;
mod sweep;
#[cfg(test)]
mod tests;
pub mod vfio;
mod whereabouts;

pub use error::PrepareError;
pub use give_back::{HeldClaim, hold_claim};
#[cfg(any(test, feature = "testing"))]
pub use sealed::text_of;
