//! What can be wrong with a claim, as sentences for the pod's events.

use std::fmt;

/// Why a claim can't be served. Every sentence starts with the claim as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The object lacks what every stored object has.
    #[error("ResourceClaim {claim}: {field} is missing")]
    Incomplete {
        /// `namespace/name`, as far as known.
        claim: String,
        /// The field.
        field: &'static str,
    },
    /// Deleted and created again under the same name.
    #[error(
        "ResourceClaim {claim}: its UID is {held}, not {asked} as the kubelet says: it was deleted and created \
         again, and the pod that used it must be created again too"
    )]
    Recreated {
        /// `namespace/name`
        claim: String,
        /// UID at the API server.
        held: String,
        /// UID in the kubelet's request.
        asked: String,
    },
    /// `status.allocation` is unset.
    #[error(
        "ResourceClaim {claim}: it is not allocated; it has to be, by the scheduler, before a node can prepare it"
    )]
    NotAllocated {
        /// `namespace/name`
        claim: String,
    },
    /// Only devices of other drivers.
    #[error("ResourceClaim {claim}: no device of driver {driver} is allocated to it, only of: {others}")]
    NoResults {
        /// `namespace/name`
        claim: String,
        /// This driver.
        driver: String,
        /// The drivers that do have results, comma-separated, or `none`.
        others: String,
    },
    /// A result is from another node's pool.
    #[error(
        "ResourceClaim {claim}: request {request} got device {device} of node {pool}, but this is node {node}"
    )]
    OtherNode {
        /// `namespace/name`
        claim: String,
        /// The result's request.
        request: String,
        /// The result's device.
        device: String,
        /// The result's pool; pools are named after their node.
        pool: String,
        /// This node.
        node: String,
    },
    /// A device name this driver never publishes.
    #[error(
        "ResourceClaim {claim}: request {request} got device {device:?}, which is no name of a VF such as 0000-81-00-2"
    )]
    NotAVf {
        /// `namespace/name`
        claim: String,
        /// The result's request.
        request: String,
        /// The result's device.
        device: String,
    },
    /// One VF for two results.
    #[error(
        "ResourceClaim {claim}: VF {device} is allocated twice, to request {first} and to request {second}"
    )]
    AllocatedTwice {
        /// `namespace/name`
        claim: String,
        /// The device.
        device: String,
        /// Request of the first result.
        first: String,
        /// Request of the second one.
        second: String,
    },
    /// `status.reservedFor` is empty.
    #[error("ResourceClaim {claim}: it is not reserved for any pod")]
    Unreserved {
        /// `namespace/name`
        claim: String,
    },
    /// A VF can be in one pod only.
    #[error(
        "ResourceClaim {claim}: it is reserved for {count} pods ({pods}), but a VF can be in one pod only; give each \
         pod its own claim, for example by a ResourceClaimTemplate"
    )]
    SeveralPods {
        /// `namespace/name`
        claim: String,
        /// How many.
        count: usize,
        /// Names of the first few.
        pods: String,
    },
    /// A consumer that is no pod.
    #[error("ResourceClaim {claim}: it is reserved for {resource} {name}; only pods can use a VF")]
    NotAPod {
        /// `namespace/name`
        claim: String,
        /// Resource with API group, `jobs.batch`.
        resource: String,
        /// Object name.
        name: String,
    },
    /// Opaque parameters that can't be honoured.
    #[error("ResourceClaim {claim}: {faults}")]
    Config {
        /// `namespace/name`
        claim: String,
        /// Everything that is wrong with them.
        faults: Faults,
    },
}

/// One thing that is wrong: where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The config entry, where it is the fault of one.
    pub entry: Option<EntryPlace>,
    /// `interface.mtu`, `interface.addresses[1]`; `parameters` for all of them.
    pub path: String,
    /// What is wrong and what would be right, without a full stop.
    pub problem: String,
}

/// A config entry of an allocation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPlace {
    /// In the list of entries.
    pub index: usize,
    /// `class sriov-vf` or `claim`
    pub source: String,
}

impl fmt::Display for EntryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "config[{}] (from {})", self.index, self.source)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(entry) = &self.entry {
            write!(f, "{entry}: ")?;
        }
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// All faults of one object, each once; the text names the first three, since a pod event holds 1024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    const SHOWN: usize = 3;

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// Notes one more. What several VFs share is said of each, but told once.
    pub(super) fn add(&mut self, fault: Fault) {
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    /// Notes those of one entry.
    pub(super) fn add_within(&mut self, entry: &EntryPlace, found: Self) {
        for fault in found.0 {
            self.add(Fault { entry: Some(entry.clone()), ..fault });
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().take(Self::SHOWN).enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "; " })?;
        }
        match self.0.len().checked_sub(Self::SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Faults {}

/// The first few, and how many more.
pub fn some(list: &[String], most: usize) -> String {
    let shown = list.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    match list.len().checked_sub(most) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
