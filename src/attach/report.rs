//! What became of a claim's VFs, for the claim's status.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::claim::ClaimId;
use crate::device::HwAddr;

/// One claim's devices after an attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which claim.
    pub claim: ClaimId,
    /// All devices of this driver in the claim.
    pub devices: Vec<DeviceReport>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Pool of the result.
    pub pool: String,
    /// Device of the result.
    pub device: String,
    /// `shareID` of the result.
    pub share_id: Option<String>,
    /// Why it is ready or not.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// Name in the pod.
    pub interface: Option<String>,
    /// Addresses given.
    pub addresses: Vec<IpNet>,
    /// Effective link-layer address.
    pub hw_addr: Option<HwAddr>,
}

/// `reason` of the `Ready` condition; says its `status` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// In the pod, named, addressed and up.
    Attached,
    /// Attaching failed; the message says which step and why.
    AttachFailed,
    /// For looking only: there is nothing to attach.
    AdminAccess,
    /// The pod uses the host's network, where the VF is anyway.
    HostNetwork,
}

impl Reason {
    /// `status` of the condition.
    pub fn ready(self) -> bool {
        !matches!(self, Self::AttachFailed)
    }

    /// CamelCase, as the API wants it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "Attached",
            Self::AttachFailed => "AttachFailed",
            Self::AdminAccess => "AdminAccess",
            Self::HostNetwork => "HostNetwork",
        }
    }
}
