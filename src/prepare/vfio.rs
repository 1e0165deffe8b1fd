//! Whether a VF can be given to vfio-pci: its IOMMU group goes as a whole. Pure.

use std::collections::BTreeMap;

use crate::claim::{ClaimSpec, ResultSpec};
use crate::device::PciAddress;

/// What the kernel says about a VF that is to go to vfio-pci.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VfioFacts {
    /// Number of its IOMMU group; none without IOMMU.
    pub group: Option<u32>,
    /// Other devices of the group that are bound to drivers which vfio does not bear beside it, with these drivers.
    pub blockers: Vec<(PciAddress, String)>,
    /// The kernel gives devices away without an IOMMU (`enable_unsafe_noiommu_mode`).
    pub no_iommu: bool,
    /// The driver is there.
    pub driver: bool,
}

/// Why it can't. Printed after the request's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VfioProblem {
    /// No module.
    #[error(
        "bind.driver vfio-pci: the kernel has no driver vfio-pci and it could not be loaded; run \"modprobe vfio-pci\" on the node"
    )]
    NoDriver,
    /// The device could write anywhere.
    #[error(
        "bind.driver vfio-pci: VF {vf} has no IOMMU group; switch the IOMMU on in the firmware and on the kernel's command line \
         (intel_iommu=on, or AMD's, which is on by default)"
    )]
    NoIommu {
        /// Which VF.
        vf: PciAddress,
    },
    /// Allowed here, not by the kernel.
    #[error(
        "bind.driver vfio-pci: VF {vf} has no IOMMU group, and though the class allows that the kernel does not: module vfio needs \
         enable_unsafe_noiommu_mode=1"
    )]
    NoIommuOff {
        /// Which VF.
        vf: PciAddress,
    },
    /// Not alone.
    #[error(
        "bind.driver vfio-pci: VF {vf} shares IOMMU group {group} with {others}, and a group is given away as a whole; unbind \
         these, or use a slot with ACS"
    )]
    SharedGroup {
        /// Which VF.
        vf: PciAddress,
        /// Group.
        group: u32,
        /// `0000:81:00.3 (driver igb), …`
        others: String,
    },
}

/// Looks at one VF of a claim. Others of the same claim that go to vfio-pci too are not in its way.
pub(super) fn check_vfio(
    result: &ResultSpec,
    spec: &ClaimSpec,
    facts: &BTreeMap<PciAddress, VfioFacts>,
) -> Result<(), VfioProblem> {
    let vf = result.pci;
    let found = facts.get(&vf).cloned().unwrap_or_default();
    let Some(group) = found.group else {
        return match (result.bind.allow_no_iommu, found.no_iommu) {
            (true, true) if found.driver => Ok(()),
            (true, true) => Err(VfioProblem::NoDriver),
            (true, false) => Err(VfioProblem::NoIommuOff { vf }),
            (false, _) => Err(VfioProblem::NoIommu { vf }),
        };
    };
    let goes_too = |pci: &PciAddress| {
        spec.results.iter().any(|other| other.pci == *pci && other.bind.vfio && !other.admin_access)
    };
    let others: Vec<String> = found
        .blockers
        .iter()
        .filter(|(pci, _)| !goes_too(pci))
        .map(|(pci, driver)| format!("{pci} (driver {driver})"))
        .collect();
    if !others.is_empty() {
        return Err(VfioProblem::SharedGroup { vf, group, others: others.join(", ") });
    }
    if found.driver { Ok(()) } else { Err(VfioProblem::NoDriver) }
}
