//! The nouns every room shares: PCI addresses, links, PFs, VFs, their settings; and what a name and a subnet must look like.
//!
//! In: nothing. Out: plain data with validated construction. Never here: I/O of any kind, Kubernetes types,
//! opinions about what is offered (that is `policy`).

mod address;
mod char_device;
mod function;
mod label;
mod limit;
mod link;
mod pci;
mod route;
mod settings;

pub use address::{parse_ip, parse_subnet};
pub use char_device::CharDevice;
pub use function::{
    CleanFacts, EswitchMode, Incarnation, LinkType, Netdev, Pf, Place, RdmaDevice, RdmaNetnsMode, Snapshot,
    Vf, is_userspace,
};
pub use label::{LABEL_PATTERN, LONGEST_LABEL, LONGEST_SUBDOMAIN, is_label, is_subdomain};
pub use limit::MemlockRoom;
pub use link::{HwAddr, IfName, IfNameError};
pub use pci::{PciAddress, PciAddressError};
pub use route::{InstalledRoute, MAIN_TABLE, Route, Rule, covers_half};
pub use settings::{LinkState, PfLink, Rate, Setting, VfSettings, Vlan, VlanProtocol, WantedSettings};
