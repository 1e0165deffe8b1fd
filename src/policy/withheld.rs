//! Why a VF is not offered.

use std::fmt;

use ipnet::IpNet;

use super::{OfferedDevice, Rules};
use crate::device::{Place, Vf};

/// A reason to withhold a VF. `Display` is a sentence about the VF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithheldReason {
    /// The node's default route goes through it.
    Uplink {
        /// Its netdev.
        netdev: String,
    },
    /// It has IP addresses on the host.
    HostAddress {
        /// Its netdev.
        netdev: String,
        /// All but link-local ones.
        addresses: Vec<IpNet>,
    },
    /// It is a port of a bond, bridge or team.
    Master {
        /// Its netdev.
        netdev: String,
        /// The bond, bridge or team.
        master: String,
    },
    /// Links are stacked on it.
    Upper {
        /// Its netdev.
        netdev: String,
        /// Their names.
        uppers: Vec<String>,
    },
    /// It is in another network namespace, and no claim of this driver put it there.
    ForeignNamespace {
        /// The bound driver.
        driver: String,
    },
    /// Some process has its vfio group or device open.
    VfioOpen {
        /// Its IOMMU group.
        group: Option<u32>,
    },
    /// A former claim's settings could not be undone.
    Unclean {
        /// What could not be undone.
        reason: String,
    },
    /// Its claim's ledger entry wants a newer version of this driver.
    NewerVersion,
    /// `--devices` is false for it.
    Filtered,
    /// `--devices` has no answer for it.
    FilterFailed {
        /// What went wrong.
        error: String,
    },
}

impl WithheldReason {
    /// One word for tables, metrics and machine-readable output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Uplink { .. } => "uplink",
            Self::HostAddress { .. } => "hostAddress",
            Self::Master { .. } => "master",
            Self::Upper { .. } => "upper",
            Self::ForeignNamespace { .. } => "foreignNamespace",
            Self::VfioOpen { .. } => "vfioOpen",
            Self::Unclean { .. } => "unclean",
            Self::NewerVersion => "newerVersion",
            Self::Filtered => "filtered",
            Self::FilterFailed { .. } => "filterFailed",
        }
    }
}

impl fmt::Display for WithheldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uplink { netdev } => write!(f, "its netdev {netdev} carries the node's default route"),
            Self::HostAddress { netdev, addresses } => {
                write!(f, "its netdev {netdev} has {} on the host", list(addresses))
            }
            Self::Master { netdev, master } => write!(f, "its netdev {netdev} is a port of {master}"),
            Self::Upper { netdev, uppers } => {
                write!(f, "{} on the host uses its netdev {netdev}", list(uppers))
            }
            Self::ForeignNamespace { driver } => {
                write!(
                    f,
                    "driver {driver} is bound but the host has no netdev of it: it is in another network namespace"
                )
            }
            Self::VfioOpen { group: Some(group) } => write!(f, "a process has its vfio group {group} open"),
            Self::VfioOpen { group: None } => write!(f, "a process has its vfio device open"),
            Self::Unclean { reason } => {
                write!(
                    f,
                    "it could not be made what it was before its last claim: {reason}; make the VF anew (sriov_numvfs of its PF)"
                )
            }
            Self::NewerVersion => {
                write!(
                    f,
                    "a newer version of this driver gave it to a claim or could not make it what it was, and only that version can read how"
                )
            }
            Self::Filtered => write!(f, "the --devices expression is false for it"),
            Self::FilterFailed { error } => write!(f, "the --devices expression fails for it: {error}"),
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Everything that speaks against offering a VF that no claim owns.
pub(super) fn reasons(vf: &Vf, device: &OfferedDevice, rules: &Rules) -> Vec<WithheldReason> {
    let mut reasons = Vec::new();
    if let Some(found) = &vf.netdev {
        let netdev = found.name.clone();
        if found.uplink {
            reasons.push(WithheldReason::Uplink { netdev: netdev.clone() });
        }
        if !found.addresses.is_empty() {
            let addresses = found.addresses.clone();
            reasons.push(WithheldReason::HostAddress { netdev: netdev.clone(), addresses });
        }
        if let Some(master) = found.master.clone() {
            reasons.push(WithheldReason::Master { netdev: netdev.clone(), master });
        }
        if !found.uppers.is_empty() {
            reasons.push(WithheldReason::Upper { netdev, uppers: found.uppers.clone() });
        }
    }
    if vf.place == Place::Elsewhere {
        let driver = vf.driver.clone().unwrap_or_default();
        reasons.push(WithheldReason::ForeignNamespace { driver });
    }
    if vf.vfio_open {
        reasons.push(WithheldReason::VfioOpen { group: vf.iommu_group });
    }
    if let Some(selector) = &rules.devices {
        match selector.matches(&rules.driver_name, &device.attributes) {
            Ok(true) => {}
            Ok(false) => reasons.push(WithheldReason::Filtered),
            Err(error) => reasons.push(WithheldReason::FilterFailed { error: error.to_string() }),
        }
    }
    reasons
}
