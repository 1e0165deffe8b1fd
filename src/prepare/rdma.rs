//! What containers get of a VF's RDMA device, and what stands in the way. Pure.

use crate::claim::{Memlock, RdmaMode, ResultSpec};
use crate::device::{MemlockRoom, PciAddress, RdmaNetnsMode};

use super::records::{RdmaEntry, RdmaWay};
use super::runtime::Known;

/// What the kernel says of a VF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaFacts {
    /// Its RDMA devices.
    pub devices: Vec<String>,
    /// How the node's relate to namespaces.
    pub mode: Option<RdmaNetnsMode>,
}

/// Why it can't be had. Printed after the request's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RdmaProblem {
    /// None there.
    #[error(
        "rdma.mode {mode}: VF {vf} has no RDMA device; select VFs whose attribute rdma is true, or set rdma.mode to auto or none"
    )]
    NoDevice {
        /// Asked for.
        mode: &'static str,
        /// Which VF.
        vf: PciAddress,
    },
    /// Nothing to tell of.
    #[error(
        "rdma.nccl: VF {vf} has no RDMA device that NCCL could use; select VFs with device.attributes[\"…\"].rdma, or leave \
         rdma.nccl out"
    )]
    NcclWithoutDevice {
        /// Which VF.
        vf: PciAddress,
    },
    /// A CDI file is one claim's, and the list is of all claims of a container.
    #[error(
        "rdma.nccl: VF {vf}: this node's agent attaches by the hook alone, which can't tell containers of their RDMA devices; attach \
         over NRI, or leave rdma.nccl out"
    )]
    NcclByHook {
        /// Which VF.
        vf: PciAddress,
    },
    /// Devices are in all namespaces.
    #[error(
        "rdma.mode namespace: RDMA devices of this node are shared by all network namespaces, so that VF {vf}'s can't be moved; \
         boot the node with the module option ib_core netns_mode=0 (\"rdma system set netns exclusive\" does it only before the \
         first pod), or set rdma.mode to auto or chardev"
    )]
    SharedNode {
        /// Which VF.
        vf: PciAddress,
    },
    /// Nobody is called in time.
    #[error(
        "rdma.mode namespace: VF {vf}: this node's agent attaches by the hook alone, which can't move RDMA devices"
    )]
    ByHook {
        /// Which VF.
        vf: PciAddress,
    },
    /// The runtime can't give it.
    #[error(
        "rdma.memlock {asked}: the container runtime has no CAP_SYS_RESOURCE and a hard limit of {hard} bytes itself, which is the \
         most it can give; start it with LimitMEMLOCK=infinity (in its systemd unit), or set rdma.memlock to auto"
    )]
    Memlock {
        /// As it was written.
        asked: Memlock,
        /// Bytes.
        hard: u64,
    },
}

/// What a VF's containers get; `None` is nothing.
pub(super) fn settle(
    result: &ResultSpec,
    facts: &RdmaFacts,
    runtime: Known,
) -> Result<Option<RdmaEntry>, RdmaProblem> {
    let (vf, wanted) = (result.pci, result.rdma);
    if result.admin_access || result.bind.vfio || wanted.mode == RdmaMode::None {
        return Ok(None);
    }
    let Some(node) = facts.mode.filter(|_| !facts.devices.is_empty()) else {
        return match wanted.mode {
            RdmaMode::Auto if wanted.nccl.is_some() => Err(RdmaProblem::NcclWithoutDevice { vf }),
            RdmaMode::Auto | RdmaMode::None => Ok(None),
            mode => Err(RdmaProblem::NoDevice { mode: mode.as_str(), vf }),
        };
    };
    if wanted.nccl.is_some() && runtime.by_hook {
        return Err(RdmaProblem::NcclByHook { vf });
    }
    let way = match (wanted.mode, node) {
        (RdmaMode::None, _) => return Ok(None),
        (RdmaMode::Namespace, RdmaNetnsMode::Shared) => return Err(RdmaProblem::SharedNode { vf }),
        (RdmaMode::Namespace, _) if runtime.by_hook => return Err(RdmaProblem::ByHook { vf }),
        // Nobody could open what stays on the host.
        (RdmaMode::Auto, RdmaNetnsMode::Exclusive) if runtime.by_hook => return Ok(None),
        (RdmaMode::Namespace | RdmaMode::Auto, RdmaNetnsMode::Exclusive) => RdmaWay::Namespace,
        (RdmaMode::Auto, RdmaNetnsMode::Shared) | (RdmaMode::CharDevice, _) => RdmaWay::CharDevice,
    };
    if let Some(MemlockRoom::Bytes(hard)) = runtime.memlock {
        let too_much = match wanted.memlock {
            Memlock::Unlimited => true,
            Memlock::Bytes(bytes) => bytes > hard,
            Memlock::Auto | Memlock::None => false,
        };
        if too_much {
            return Err(RdmaProblem::Memlock { asked: wanted.memlock, hard });
        }
    }
    Ok(Some(RdmaEntry {
        devices: facts.devices.clone(),
        way,
        asked: wanted.mode != RdmaMode::Auto,
        umad: wanted.umad,
        memlock: wanted.memlock,
        nccl: wanted.nccl,
        nodes: Vec::new(),
    }))
}

/// A limit of locked memory to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit {
    /// Bytes; `u64::MAX` is none (`RLIM_INFINITY`).
    pub bytes: u64,
    /// It is less than an RDMA program may need: the runtime can give no more.
    pub short: bool,
    /// Less would do.
    pub auto: bool,
}

/// What the containers of a device may lock; `None` leaves the limit alone.
pub fn limit_of(memlock: Memlock, room: Option<MemlockRoom>) -> Option<Limit> {
    match (memlock, room) {
        (Memlock::None, _) => None,
        (Memlock::Bytes(bytes), _) => Some(Limit { bytes, short: false, auto: false }),
        (Memlock::Auto, Some(MemlockRoom::Bytes(bytes))) => Some(Limit { bytes, short: true, auto: true }),
        (Memlock::Auto, _) => Some(Limit { bytes: u64::MAX, short: false, auto: true }),
        (Memlock::Unlimited, _) => Some(Limit { bytes: u64::MAX, short: false, auto: false }),
    }
}
