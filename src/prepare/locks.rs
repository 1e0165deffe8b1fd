//! Locks between agent, second agent and hook: `flock`s below `/run/<driver>/lock`, always taken in the order
//! pod → claim → PF (ascending address) → RDMA.

use std::path::PathBuf;
use std::time::Instant;

use crate::device::PciAddress;
use crate::host::HostError;
use crate::host::flock::{HeldLock, lock};

/// The folder of the lock files.
#[derive(Debug, Clone)]
pub struct Locks {
    folder: PathBuf,
}

impl Locks {
    /// Uses a folder that exists.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// First: everything of one pod. Attach and detach hold it throughout.
    ///
    /// # Errors
    /// When it is not free by the deadline.
    pub fn pod(&self, uid: &str, deadline: Instant) -> Result<HeldLock, HostError> {
        lock(&self.folder.join(format!("pod-{uid}")), deadline)
    }

    /// Second: everything of one claim.
    ///
    /// # Errors
    /// When it is not free by the deadline.
    pub fn claim(&self, uid: &str, deadline: Instant) -> Result<HeldLock, HostError> {
        lock(&self.folder.join(format!("claim-{uid}")), deadline)
    }

    /// Third: settings of VFs below one PF, or of one VF that has no PF here.
    ///
    /// # Errors
    /// When it is not free by the deadline.
    pub fn pf(&self, address: PciAddress, deadline: Instant) -> Result<HeldLock, HostError> {
        lock(&self.folder.join(format!("pf-{address}")), deadline)
    }

    /// Fourth: RDMA devices of the node change their namespace one at a time. Each move gives away the lowest numbers that
    /// are free; two at once would be told each other's.
    ///
    /// # Errors
    /// When it is not free by the deadline.
    pub fn rdma(&self, deadline: Instant) -> Result<HeldLock, HostError> {
        lock(&self.folder.join("rdma"), deadline)
    }

    /// Held for microseconds around the record of a pod's current sandbox, inside or outside the others.
    ///
    /// # Errors
    /// When it is not free by the deadline.
    pub fn sandbox_record(&self, pod_uid: &str, deadline: Instant) -> Result<HeldLock, HostError> {
        lock(&self.folder.join(format!("sandbox-{pod_uid}")), deadline)
    }
    /// By itself: held by the one agent that writes claim status, from its look at what waits until that is written.
    ///
    /// # Errors
    /// When it is not free by the deadline.
    pub fn status(&self, deadline: Instant) -> Result<HeldLock, HostError> {
        lock(&self.folder.join("status"), deadline)
    }

    /// UIDs of the pods and claims whose lock files are there, in the folder's order.
    pub fn subjects(&self) -> Vec<Subject> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let subject = |name: String| {
            let (kind, uid) = name.split_once('-')?;
            match kind {
                "pod" | "sandbox" => Some(Subject::Pod(uid.to_owned())),
                "claim" => Some(Subject::Claim(uid.to_owned())),
                _ => None,
            }
        };
        names.filter_map(subject).collect()
    }
}

/// What a lock file is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A pod, by UID.
    Pod(String),
    /// A claim, by UID.
    Claim(String),
}
