//! What can go wrong between an allocated claim and a prepared one.

use std::io;
use std::path::PathBuf;

use super::plan::PlanError;
use crate::claim::ClaimId;
use crate::device::PciAddress;
use crate::host::HostError;

/// A failed prepare or unprepare. Printed as a chain.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The claim can't be met on this node.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another claim has the VF and did not give it back in time.
    #[error(
        "VF {vf} is still held by claim {}/{} (uid {}), which has not been unprepared after {waited_s} s",
        .holder.namespace, .holder.name, .holder.uid
    )]
    Held {
        /// Which VF.
        vf: PciAddress,
        /// The holder.
        holder: ClaimId,
        /// Seconds spent waiting.
        waited_s: u64,
    },
    /// The VF's netdev does not show up.
    #[error("VF {vf} has no network interface on the host after {waited_s} s: {why}")]
    NoNetdev {
        /// Which VF.
        vf: PciAddress,
        /// What is known.
        why: String,
        /// Seconds spent waiting.
        waited_s: u64,
    },
    /// Whoever opens an IOMMU group has every device in it.
    #[error(
        "VF {vf} is in one IOMMU group with VF {other}, which claim {}/{} has, and a group is given away as a whole; use a \
         slot with ACS, or ask for both VFs in one claim", .holder.namespace, .holder.name
    )]
    GroupShared {
        /// Which VF.
        vf: PciAddress,
        /// The other VF.
        other: PciAddress,
        /// Who has that.
        holder: ClaimId,
    },
    /// The kernel takes a device from vfio-pci only when nobody has it open, and waits for that without end.
    #[error(
        "VF {vf} can't be taken from driver vfio-pci: a process has its vfio device open; end it, and the VF is given back"
    )]
    VfioOpen {
        /// Which VF.
        vf: PciAddress,
    },
    /// An RDMA device is in one namespace, whichever of its VFs was given away.
    #[error(
        "VF {vf}: its RDMA device {device} is that of VF {other}, too, which claim {}/{} has; ask for both VFs in one claim, or set \
         rdma.mode to none", .holder.namespace, .holder.name
    )]
    RdmaShared {
        /// Which VF.
        vf: PciAddress,
        /// Name of the device.
        device: String,
        /// The other VF.
        other: PciAddress,
        /// Who has that.
        holder: ClaimId,
    },
    /// Its VFs have to be returned first.
    #[error("the VFs of claim {claim} are still in its pod's network namespace")]
    StillAttached {
        /// `namespace/name`
        claim: String,
    },
    /// The kernel refused.
    #[error("VF {vf}")]
    Vf {
        /// Which VF.
        vf: PciAddress,
        /// What it refused.
        source: HostError,
    },
    /// A setting that the kernel or the PF's driver refuses.
    #[error("VF {vf}: {field}")]
    Setting {
        /// Which VF.
        vf: PciAddress,
        /// Field of the `VfConfig`.
        field: &'static str,
        /// What was refused.
        source: HostError,
    },
    /// A setting that was accepted and not made.
    #[error("VF {vf}: {field}: PF {pf} accepted {wanted}, but has {is}")]
    NotTaken {
        /// Which VF.
        vf: PciAddress,
        /// Field of the `VfConfig`.
        field: &'static str,
        /// What was asked for.
        wanted: String,
        /// What it has.
        is: String,
        /// The PF's name.
        pf: String,
    },
    /// A VF that is not what it was.
    #[error(transparent)]
    Restore(#[from] super::restore::RestoreError),
    /// A lock or a namespace.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The ledger can't be read or written.
    #[error("{what} {}", path.display())]
    Ledger {
        /// `read`, `write`, …
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CDI file.
    #[error(transparent)]
    Cdi(#[from] super::cdi::CdiError),
    /// A newer agent wrote the entry.
    #[error(
        "the ledger entry {} was written by a newer version of this driver (it wants reader {min_reader}, this is \
         {}); it is left alone until that version runs again", path.display(), super::sealed::reader()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Reader version it asks for.
        min_reader: u32,
    },
    /// A failure, and failures while undoing what had been done before it.
    #[error("{first}; besides, undoing failed: {}", .others.join("; "))]
    UndoFailed {
        /// The first cause.
        first: Box<PrepareError>,
        /// Every undo that failed.
        others: Vec<String>,
    },
}

impl PrepareError {
    /// The ledger is there and not for this process to read.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Ledger { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// The whole chain in one line, for the pod's events.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            source = error.source();
        }
        text
    }
}
