//! What became of a claim's VFs, for the claim's status.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::AttachError;
use crate::claim::ClaimId;
use crate::device::HwAddr;
use crate::host::Link;
use crate::prepare::records::{Entry, VfEntry};

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
    /// What probes found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// What a probe found: a condition of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was asked.
    pub kind: CheckKind,
    /// Well or not; none where it can't be known.
    pub passed: Option<bool>,
    /// For people.
    pub message: String,
}

/// `type` of a condition besides `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// Nobody else has the interface's addresses.
    AddressUnique,
    /// The next hops answer.
    GatewayReachable,
}

impl CheckKind {
    /// `type`
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressUnique => "AddressUnique",
            Self::GatewayReachable => "GatewayReachable",
        }
    }
}

impl Check {
    /// CamelCase, as the API wants it.
    pub fn reason(&self) -> &'static str {
        match (self.kind, self.passed) {
            (_, None) => "NotAsked",
            (CheckKind::AddressUnique, Some(true)) | (CheckKind::GatewayReachable, Some(false)) => "NoAnswer",
            (CheckKind::AddressUnique, Some(false)) => "Duplicate",
            (CheckKind::GatewayReachable, Some(true)) => "Answered",
        }
    }

    /// Nothing could be asked.
    pub(super) fn not_asked(kind: CheckKind, why: &str) -> Self {
        Self { kind, passed: None, message: why.to_owned() }
    }

    /// Of answers to questions through a link.
    pub(super) fn of(
        kind: CheckKind,
        link: &Link,
        answers: &[(IpAddr, Option<HwAddr>)],
        within: Duration,
    ) -> Self {
        if !link.hw_addr.as_ref().is_some_and(HwAddr::is_ethernet) {
            return Self::not_asked(kind, "only Ethernet is asked");
        }
        if answers.is_empty() {
            let why = match kind {
                CheckKind::AddressUnique => "the addresses were there before",
                CheckKind::GatewayReachable => "no route has a next hop",
            };
            return Self::not_asked(kind, why);
        }
        let within = within.as_millis();
        let told: Vec<String> = answers
            .iter()
            .filter_map(|(address, by)| match (kind, by) {
                (CheckKind::AddressUnique, Some(by)) => Some(format!("{address} is used by {by}")),
                (CheckKind::AddressUnique, None) => None,
                (CheckKind::GatewayReachable, Some(by)) => Some(format!("{address} is at {by}")),
                (CheckKind::GatewayReachable, None) => {
                    Some(format!("next hop {address} did not answer within {within} ms"))
                }
            })
            .collect();
        let passed = match kind {
            CheckKind::AddressUnique => answers.iter().all(|(_, by)| by.is_none()),
            CheckKind::GatewayReachable => answers.iter().all(|(_, by)| by.is_some()),
        };
        let message = match told.is_empty() {
            true => format!("nobody answered for it within {within} ms"),
            false => told.join(", "),
        };
        Self { kind, passed: Some(passed), message }
    }
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
    /// As `Attached`, but containers may lock less memory than RDMA programs may need.
    MemlockLimited,
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
            Self::MemlockLimited => "MemlockLimited",
        }
    }
}

/// What becomes of a VF that is where it should be; `link` is its own in the pod.
pub(super) fn device(vf: &VfEntry, link: Option<&Link>) -> DeviceReport {
    DeviceReport {
        pool: vf.pool.clone(),
        device: vf.device.clone(),
        share_id: vf.share_id.clone(),
        reason: if vf.admin_access { Reason::AdminAccess } else { Reason::Attached },
        message: match link {
            _ if vf.admin_access => format!("VF {} is watched, not used", vf.pci),
            _ if vf.vfio => match &vf.vfio_group {
                Some(group) => format!("VF {} is on vfio-pci, in group {group}", vf.pci),
                None => format!("VF {} is on vfio-pci", vf.pci),
            },
            Some(_) => format!("VF {} is in the pod as {}", vf.pci, vf.name),
            None => format!("VF {} stays on the host", vf.pci),
        },
        interface: link.map(|_| vf.name.to_string()).filter(|_| !vf.admin_access),
        addresses: if vf.admin_access { Vec::new() } else { vf.addresses.clone() },
        hw_addr: match link {
            _ if vf.admin_access => None,
            Some(link) => vf.mac().cloned().or_else(|| link.hw_addr.clone()),
            None => vf.mac().cloned(),
        },
        checks: Vec::new(),
    }
}

/// The same sentence for every VF of a claim.
pub(super) fn failure(entry: &Entry, error: &AttachError) -> Report {
    let message = error.sentence();
    let devices = entry.vfs.iter().map(|vf| DeviceReport {
        reason: Reason::AttachFailed,
        message: message.clone(),
        interface: None,
        addresses: Vec::new(),
        hw_addr: None,
        ..device(vf, None)
    });
    Report { claim: entry.claim.clone(), devices: devices.collect() }
}
