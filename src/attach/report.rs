//! What became of a claim's VFs, for the claim's status.

use ipnet::IpNet;

use super::status_body::Reason;
use crate::claim::ClaimId;
use crate::device::HwAddr;

/// One claim's devices after an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which claim.
    pub claim: ClaimId,
    /// All devices of this driver in the claim.
    pub devices: Vec<DeviceReport>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
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
