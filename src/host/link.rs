//! A network link as netlink describes it.

use crate::device::{CleanFacts, HwAddr, IfName, PciAddress};

/// One link of one namespace, as of the moment it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alternative names.
    pub alt_names: Vec<String>,
    /// Effective link-layer address.
    pub hw_addr: Option<HwAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Largest MTU that the driver takes, bytes; 0 where the kernel knows no limit.
    pub max_mtu: u32,
    /// IFF_UP.
    pub up: bool,
    /// IFF_LOWER_UP: frames get out.
    pub carrier: bool,
    /// IFF_PROMISC.
    pub promisc: bool,
    /// IFF_ALLMULTI.
    pub allmulti: bool,
    /// IFF_NOARP.
    pub noarp: bool,
    /// An XDP program is attached.
    pub xdp: bool,
    /// `IFLA_GROUP`
    pub group: u32,
    /// `txqueuelen`, packets.
    pub queue_length: u32,
    /// `ifalias`, empty when unset.
    pub alias: String,
    /// The PCI function it belongs to: known in any namespace (IFLA_PARENT_DEV_NAME, or ethtool on kernels before 5.14).
    pub pci: Option<PciAddress>,
    /// `rtnl_link_ops` kind (`veth`, `vlan`, …); hardware has none.
    pub kind: Option<String>,
    /// Index of the bond or bridge it is a port of.
    pub master: Option<u32>,
    /// Index of the link it is stacked on.
    pub lower: Option<u32>,
}

impl Link {
    /// Facts about a VF, with what its interface is now.
    pub fn noted_in(self, clean: CleanFacts) -> CleanFacts {
        CleanFacts {
            name: IfName::new(self.name).ok(),
            hw_addr: self.hw_addr,
            mtu: Some(self.mtu),
            alt_names: self.alt_names,
            alias: Some(self.alias).filter(|alias| !alias.is_empty()),
            up: self.up,
            queue_length: Some(self.queue_length),
            ..clean
        }
    }
}
