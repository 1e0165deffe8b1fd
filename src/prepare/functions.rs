//! What the engine needs to know about PCI functions, and may do to them.

use std::collections::{BTreeMap, BTreeSet};

use crate::device::{Incarnation, PciAddress, Pf, Vf};
use crate::host::HostError;

/// One VF as it is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The VF.
    pub vf: Vf,
    /// Its PF; none inside a VM.
    pub pf: Option<Pf>,
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
}
