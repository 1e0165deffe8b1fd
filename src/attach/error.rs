//! What can go wrong between a prepared claim and a pod that has its VFs.

use std::path::PathBuf;

use crate::device::{IfName, PciAddress};
use crate::host::HostError;
use crate::prepare::PrepareError;

/// A failed attach or return. Printed as one sentence for the pod's events.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A container names a claim nobody prepared here.
    #[error("claim {uid} is not prepared on this node")]
    NotPrepared {
        /// Claim UID.
        uid: String,
    },
    /// The claim belongs to another pod whose sandbox lives.
    #[error("claim {claim} is in use by pod {holder}: its VF {vf} is in sandbox {sandbox}, {why}")]
    InUse {
        /// `namespace/name`
        claim: String,
        /// Pod that has it.
        holder: String,
        /// Which VF.
        vf: PciAddress,
        /// Its sandbox.
        sandbox: String,
        /// How one knows that the sandbox lives.
        why: String,
    },
    /// The claim belongs to another pod, and some process uses it.
    #[error("claim {claim} is in use by pod {holder}: a process has the vfio device of its VF {vf} open")]
    VfioOpen {
        /// `namespace/name`
        claim: String,
        /// Pod that has it.
        holder: String,
        /// Which VF.
        vf: PciAddress,
    },
    /// The VF is another one than the claim was prepared with.
    #[error(
        "VF {vf} was made anew after its claim was prepared, and has none of the settings that the claim wants; delete the \
         pod and create it again"
    )]
    MadeAnew {
        /// Which VF.
        vf: PciAddress,
    },
    /// The claim belongs to another pod.
    #[error("claim {claim} belongs to pod {holder}, and is not reserved for pod {pod}")]
    NotReserved {
        /// `namespace/name`
        claim: String,
        /// Pod that has it.
        holder: String,
        /// Pod that wants it.
        pod: String,
    },
    /// The pod runs in the host's network namespace.
    #[error(
        "pod {pod} uses the host's network (hostNetwork: true), where interface settings of claim {claim} can't be made; remove interface.* from the VfConfig, or hostNetwork from the pod"
    )]
    HostNetwork {
        /// `namespace/name`
        pod: String,
        /// `namespace/name`
        claim: String,
    },
    /// The sandbox has no network namespace that can be opened.
    #[error("sandbox {sandbox} of pod {pod} has no network namespace that can be opened{}", path.as_ref().map(|p| format!(" ({})", p.display())).unwrap_or_default())]
    NoNetns {
        /// Sandbox ID.
        sandbox: String,
        /// `namespace/name`
        pod: String,
        /// What the runtime said.
        path: Option<PathBuf>,
        /// Why it can't be opened.
        source: Option<HostError>,
    },
    /// A newer sandbox of the pod exists.
    #[error("sandbox {sandbox} of pod {pod} is no longer the pod's current one")]
    Superseded {
        /// Sandbox ID.
        sandbox: String,
        /// Pod UID.
        pod: String,
    },
    /// The VF is nowhere to be seen.
    #[error(
        "VF {vf} is neither on the host nor in a network namespace this driver knows, after {waited_ms} ms"
    )]
    Lost {
        /// Which VF.
        vf: PciAddress,
        /// Milliseconds.
        waited_ms: u128,
    },
    /// The pod has an interface of that name.
    #[error(
        "interface name {name} for VF {vf} is taken in the pod's network namespace; choose another interface.name"
    )]
    NameTaken {
        /// Which VF.
        vf: PciAddress,
        /// The explicit name.
        name: IfName,
    },
    /// The network's answer is not what the claim needs.
    #[error("VF {vf}: {name} can't be used: {found}; mend that, or set interface.probe to report")]
    Probe {
        /// Which VF.
        vf: PciAddress,
        /// Its name in the pod.
        name: IfName,
        /// Who has which address, or who did not answer.
        found: String,
    },
    /// The kernel refused.
    #[error("VF {vf}")]
    Vf {
        /// Which VF.
        vf: PciAddress,
        /// What it refused.
        source: HostError,
    },
    /// The VF came back, but not as it was.
    #[error(transparent)]
    Restore(#[from] crate::prepare::restore::RestoreError),
    /// A VF that is to be on vfio-pci is not.
    #[error(
        "VF {vf} is on {driver}, and its claim wants it on vfio-pci: somebody bound it anew; delete the pod and create it again"
    )]
    NotOnVfio {
        /// Which VF.
        vf: PciAddress,
        /// What is bound.
        driver: String,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] PrepareError),
    /// The CDI file.
    #[error(transparent)]
    Cdi(#[from] crate::prepare::cdi::CdiError),
    /// A lock.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Several VFs failed.
    #[error("{first}; and {others}")]
    Several {
        /// The first cause.
        first: Box<AttachError>,
        /// The rest, as sentences.
        others: String,
    },
}

impl AttachError {
    /// The whole chain in one line.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let more = error.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            source = error.source();
        }
        text
    }

    /// All failures as one; `None` when there are none.
    pub(super) fn all(errors: Vec<AttachError>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        let others: Vec<String> = errors.map(|error| error.sentence()).collect();
        if others.is_empty() {
            return Some(first);
        }
        Some(Self::Several { first: Box::new(first), others: others.join("; ") })
    }
}
