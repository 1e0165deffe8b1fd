//! Which VFs are offered, with which attributes, and which are withheld and why. Pure.
//!
//! In: a snapshot, the clean facts of VFs that claims own, the `--devices` expression. Out: one verdict for each VF, in
//! publishing order. A VF that a claim owns is offered with the attributes it had when it was clean, so a Prepare never
//! changes a slice. Never here: I/O, Kubernetes objects.

mod attributes;
pub mod cel;
mod rails;
mod withheld;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::{CleanFacts, PciAddress, Snapshot};
pub use attributes::add_addresses;
pub use cel::Selector;
pub use rails::{Rails, RailsError};
pub use withheld::WithheldReason;

/// A value of a device attribute (ResourceSlice `DeviceAttribute`: exactly one of the fields).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttributeValue {
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `string`, at most 64 bytes
    String(String),
    /// `version`, full semver 2.0.0
    Version(String),
}

/// A VF as it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferedDevice {
    /// DRA device name, [`PciAddress::device_name`].
    pub name: String,
    /// Identity.
    pub pci: PciAddress,
    /// Keys are `domain/name`; at most 32 with capacities.
    pub attributes: BTreeMap<String, AttributeValue>,
}

/// What holds for the whole node.
#[derive(Debug)]
pub struct Rules {
    /// Driver name, the domain of the driver's own attributes.
    pub driver_name: String,
    /// `--devices`: what it is not true for is withheld.
    pub devices: Option<Selector>,
    /// How VFs get into pods on this node, the attribute `attach`; left out while it is not known.
    pub attach: Option<String>,
    /// `--rails`: on which rail a PF is, the attribute `rail`.
    pub rails: Rails,
}

/// What was decided about one VF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The VF as it is, or would be, published.
    pub device: OfferedDevice,
    /// Why it is not; empty for an offered VF.
    pub withheld: Vec<WithheldReason>,
    /// A claim owns this life of the VF.
    pub owned: bool,
    /// Attributes that don't fit and were left out.
    pub dropped: Vec<String>,
}

impl Verdict {
    /// Whether the VF is published.
    pub fn is_offered(&self) -> bool {
        self.withheld.is_empty()
    }
}

/// Decides about every VF of a snapshot. Order: VF index, then PF, so that pods spread over PFs when the scheduler
/// takes the first that fits; VFs without PF last.
///
/// `owned` holds what VFs owned by claims were like when they were clean. Facts of another incarnation count for
/// nothing: the VF was made anew since and belongs to nobody.
pub fn judge(snapshot: &Snapshot, owned: &BTreeMap<PciAddress, CleanFacts>, rules: &Rules) -> Vec<Verdict> {
    let mut vfs: Vec<_> = snapshot.vfs.iter().collect();
    vfs.sort_by_key(|vf| (vf.pf.is_none(), vf.index, vf.pf, vf.pci));
    let judged = vfs.into_iter().map(|vf| {
        let facts = owned.get(&vf.pci).filter(|facts| facts.incarnation == vf.incarnation);
        let (attributes, dropped) = attributes::of(snapshot, vf, facts, rules);
        let device = OfferedDevice { name: vf.pci.device_name(), pci: vf.pci, attributes };
        let withheld = match facts {
            // Wherever it is and whatever is on it belongs to the claim. The filter does not apply either: an
            // allocated device must not leave its slice.
            Some(_) => Vec::new(),
            None => withheld::reasons(vf, &device, rules),
        };
        Verdict { device, withheld, owned: facts.is_some(), dropped }
    });
    judged.collect()
}

/// The devices to publish, in order.
pub fn offered(verdicts: &[Verdict]) -> Vec<OfferedDevice> {
    verdicts.iter().filter(|verdict| verdict.is_offered()).map(|verdict| verdict.device.clone()).collect()
}
