//! What the engine needs to know about PCI functions, and may do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::vfio::VfioFacts;
use crate::address::{Assigned, NoAddress};
use crate::device::{Incarnation, PciAddress, Pf, PfLink, Setting, Vf, VfSettings};
use crate::host::HostError;
use crate::host::topology::Topology;

/// One VF as it is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The VF.
    pub vf: Vf,
    /// Its PF; none inside a VM.
    pub pf: Option<Pf>,
    /// Which rail its PF is on.
    pub rail: Option<u32>,
    /// Why the VF must not be given to anybody, were it free (it carries the node's uplink, …).
    pub withheld: Option<String>,
}

/// Just enough of a VF to know whether it is still the one that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Which life it is.
    pub incarnation: Incarnation,
    /// Bound driver.
    pub driver: Option<String>,
    /// Driver that is forced for it.
    pub forced: Option<String>,
}

/// Reading and binding of PCI functions.
pub trait Functions: std::fmt::Debug + Send + Sync + 'static {
    /// Reads VFs anew, together: what holds for the whole host is read once. An address without VF is left out.
    ///
    /// # Errors
    /// When sysfs or netlink refuses.
    fn facts(&self, vfs: &BTreeSet<PciAddress>) -> Result<BTreeMap<PciAddress, Facts>, HostError>;
    /// A cheap look at a VF, for loops; `None` when there is none at that address.
    fn life(&self, vf: PciAddress) -> Option<Life>;
    /// Binds a driver: `None` lets the kernel choose its network driver.
    ///
    /// # Errors
    /// When sysfs refuses, or the driver is not bound afterwards.
    fn bind(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError>;
    /// Unbinds whatever driver is bound.
    ///
    /// # Errors
    /// When sysfs refuses.
    fn unbind(&self, vf: PciAddress) -> Result<(), HostError>;
    /// Forces a driver for the next time that one is looked for, or none. What is bound stays.
    ///
    /// # Errors
    /// When sysfs refuses.
    fn force(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError>;
    /// What a VF's PF says of it.
    ///
    /// # Errors
    /// When the kernel or the PF's driver does not say.
    fn settings(&self, vf: PciAddress, pf: &PfLink, index: u32) -> Result<VfSettings, HostError>;
    /// Whether the address of a VF's interface is of its driver's or its user's choice, and not its PF's.
    fn chose_its_address(&self, vf: PciAddress) -> bool;
    /// Has a VF's PF set something of it.
    ///
    /// # Errors
    /// The kernel's or the driver's.
    fn set(&self, vf: PciAddress, pf: &PfLink, index: u32, setting: &Setting) -> Result<(), HostError>;
    /// What stands between a VF and vfio-pci. The module is loaded if it is not.
    ///
    /// # Errors
    /// When sysfs can't be read.
    fn vfio(&self, vf: PciAddress) -> Result<VfioFacts, HostError>;
    /// The other functions of a VF's IOMMU group; none without IOMMU.
    ///
    /// # Errors
    /// When sysfs can't be read.
    fn group_others(&self, vf: PciAddress) -> Result<Vec<PciAddress>, HostError>;
    /// The device nodes of a VF that is bound to vfio-pci.
    ///
    /// # Errors
    /// When it has none, or sysfs can't be read.
    fn vfio_nodes(&self, vf: PciAddress) -> Result<VfioNodes, HostError>;
    /// The device nodes of vhost-net; its modules are loaded if they are not.
    ///
    /// # Errors
    /// When the kernel has no such module.
    fn vhost_nodes(&self) -> Result<Vec<PathBuf>, HostError>;
    /// How these functions and the node's GPUs hang below its processors.
    fn topology(&self, functions: &[PciAddress]) -> Topology;
    /// What a VF of a PF gets of a pool of addresses; nobody is asked for it.
    ///
    /// # Errors
    /// Why it gets nothing.
    fn address(&self, pool: &str, pf: &Pf, vf_index: u32) -> Result<Assigned, NoAddress>;
}

/// How a process gets at a VF on vfio-pci.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VfioNodes {
    /// Name below `/dev/vfio`; none where the kernel has device nodes only.
    pub group: Option<String>,
    /// Paths below `/dev`.
    pub paths: Vec<PathBuf>,
}
