//! Moves VFs into a pod's network namespace and back; the NRI plugin; claim status.
//!
//! In: sandboxes and containers as the runtime reports them, ledger entries. Out: VFs in the pod, named, addressed and
//! up, or an error that stops the container; VFs back on the host as they were. Nothing is ever taken from a live
//! sandbox. Never here: slow settings (that is `prepare`), fsync, waiting for the API server.

pub mod nri;
pub mod status_body;
