//! What all work on this node's claims stands on.

use std::path::PathBuf;
use std::sync::Arc;

use super::cdi::{self, CdiError, HookCommand};
use super::functions::Functions;
use super::ledger::Ledger;
use super::locks::Locks;
use super::records::Entry;
use super::runtime::RuntimeFacts;
use crate::host::Kernel;

/// The node as the engine, the attacher and the hook share it; clones are the same node.
#[derive(Debug, Clone)]
pub struct Site {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// PCI functions.
    pub functions: Arc<dyn Functions>,
    /// The memory.
    pub ledger: Ledger,
    /// The locks.
    pub locks: Locks,
    /// Driver name, the vendor of CDI names.
    pub driver: String,
    /// Where CDI files go.
    pub cdi_dir: PathBuf,
    /// What is known of the runtime.
    pub runtime: RuntimeFacts,
    /// What the runtime runs before a container of a claim starts.
    pub hook: HookCommand,
    /// The boot this process lives in.
    pub boot_id: String,
}

impl Site {
    /// Whether the claim's CDI file is there, as [`Site::write_cdi`] would write it.
    pub fn has_cdi(&self, entry: &Entry) -> bool {
        let spec = cdi::spec_of(&self.driver, entry, &self.hook);
        super::cdi_file::is_written(&self.cdi_dir, &self.driver, &entry.claim.uid, &spec)
    }

    /// Writes the claim's CDI file as its ledger entry says.
    ///
    /// # Errors
    /// A spec that no runtime would take, or the disk's.
    pub fn write_cdi(&self, entry: &Entry) -> Result<(), CdiError> {
        let spec = cdi::spec_of(&self.driver, entry, &self.hook);
        super::cdi_file::write(&self.cdi_dir, &self.driver, &entry.claim.uid, &spec).map(drop)
    }
}
