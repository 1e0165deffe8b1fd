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
    /// An RDMA device can't be in a pod that has no network of its own.
    #[error(
        "pod {pod} uses the host's network (hostNetwork: true), and claim {claim} wants its RDMA device in a network namespace of \
         the pod's own; set rdma.mode to auto, or remove hostNetwork from the pod"
    )]
    HostNetworkRdma {
        /// `namespace/name`
        pod: String,
        /// `namespace/name`
        claim: String,
    },
    /// The kernel lets a device be opened in the namespace that has it only.
    #[error(
        "VF {vf}: rdma.mode is chardev, but on this node each RDMA device is in one network namespace, and the pod could not open \
         one that stays on the host; set rdma.mode to auto or namespace"
    )]
    RdmaNotOpenable {
        /// Which VF.
        vf: PciAddress,
    },
    /// Its driver can't let go of users.
    #[error(
        "VF {vf}: the driver of its RDMA device {device} can't move it to another network namespace; set rdma.mode to none, or boot \
         the node with RDMA devices shared by all namespaces (ib_core netns_mode=1) and set rdma.mode to chardev"
    )]
    RdmaImmovable {
        /// Which VF.
        vf: PciAddress,
        /// Name of the device.
        device: String,
    },
    /// Without NRI, what the runtime sets comes last.
    #[error(
        "rdma.memlock demands {wanted} bytes, and the container runtime's own configuration lets this container lock {set} only; raise \
         RLIMIT_MEMLOCK in its base runtime spec, attach over NRI, or set rdma.memlock to auto"
    )]
    MemlockSet {
        /// Bytes; `u64::MAX` is no limit.
        wanted: u64,
        /// Bytes.
        set: u64,
    },
    /// Nowhere to be seen.
    #[error("VF {vf}: its RDMA device {device} is not {place} after {waited_ms} ms")]
    RdmaLost {
        /// Which VF.
        vf: PciAddress,
        /// Name of the device.
        device: String,
        /// Where it should be.
        place: &'static str,
        /// Milliseconds.
        waited_ms: u128,
    },
    /// The hook moves none.
    #[error(
        "VF {vf}: its RDMA device {device} is not in the pod's network namespace, and can't be moved any more when a container's \
         device nodes are fixed: the agent was not there when the pod started; delete the pod and create it again"
    )]
    RdmaNotMoved {
        /// Which VF.
        vf: PciAddress,
        /// Name of the device.
        device: String,
    },
    /// Another device's number, or none.
    #[error(
        "VF {vf}: the container's configuration has {found} where the VF's RDMA device has {path} with number {major}:{minor}: the \
         agent was not there when the container was made, or the device was made anew after that"
    )]
    RdmaNode {
        /// Which VF.
        vf: PciAddress,
        /// Device node.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
        /// What is there.
        found: String,
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
