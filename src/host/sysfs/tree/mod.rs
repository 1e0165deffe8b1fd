//! Fake sysfs trees for tests and demonstrations: real folders and symbolic links in the kernel's layout.
//!
//! In: [`Card`]s (PFs with their VFs) and [`Nic`]s (functions without SR-IOV) as plain data. Out: a [`FakeSysfs`] in a
//! folder, and the changes a kernel would make to it: VFs that come and go, are lent and returned. Files that are
//! written stay as written; no driver reacts.

mod fake;
mod plan;
mod write;

use std::io;
use std::path::PathBuf;

pub use fake::FakeSysfs;
pub use plan::{Card, NetdevPlan, Nic, VfPlan};

/// A machine to be built.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub(super) cards: Vec<Card>,
    pub(super) nics: Vec<Nic>,
    pub(super) modules: Vec<String>,
}

impl Tree {
    /// A machine without network functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a PF and its VFs.
    #[must_use]
    pub fn card(mut self, card: Card) -> Self {
        self.cards.push(card);
        self
    }

    /// Adds a function without SR-IOV capability: an ordinary NIC, or a VF as a VM sees it.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a loaded kernel module.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    #[cfg(any(test, feature = "testing"))]
    /// Builds it in a temporary folder that lives as long as the result.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn build(self) -> io::Result<FakeSysfs> {
        FakeSysfs::temporary(self)
    }

    /// Builds it below an existing folder: `sys` and `proc`.
    ///
    /// # Errors
    /// The folder can't be written, or has such a tree already.
    pub fn build_in(self, folder: impl Into<PathBuf>) -> io::Result<FakeSysfs> {
        FakeSysfs::in_folder(self, folder.into())
    }
}
