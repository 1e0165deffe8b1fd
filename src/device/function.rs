//! PFs and VFs as one scan saw them.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{HwAddr, IfName, PciAddress, VfSettings};

/// The life of one VF between two (re-)creations: the inode of its sysfs directory. A new incarnation is clean by
/// definition: all settings of a VF vanish with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Link layer of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkType {
    /// Ethernet, RoCE included.
    Ethernet,
    /// InfiniBand, with IPoIB as its netdev.
    Infiniband,
}

/// Mode of a PF's embedded switch (devlink `ESWITCH_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EswitchMode {
    /// VFs are set up through the PF's netdev.
    Legacy,
    /// Each VF has a representor.
    Switchdev,
}

/// How RDMA devices relate to network namespaces on this node (`RDMA_NLDEV_SYS_ATTR_NETNS_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RdmaNetnsMode {
    /// Every namespace sees every RDMA device.
    Shared,
    /// An RDMA device belongs to one namespace.
    Exclusive,
}

/// An RDMA device below a PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RdmaDevice {
    /// Kernel name now; udev may rename it, so never a key.
    pub name: String,
    /// Link layer of port 1.
    pub link_type: Option<LinkType>,
    /// Node GUID as sysfs prints it, `xxxx:xxxx:xxxx:xxxx`.
    pub node_guid: Option<String>,
    /// `fw_ver`.
    pub firmware: Option<String>,
    /// Port GUID of port 1, as the node GUID is written: the low half of its first GID. None before the port has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_guid: Option<String>,
    /// Names of its nodes below `/dev/infiniband`, that of its subnet managers left out. A move gives it others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub char_devices: Vec<String>,
}

/// A netdev below a PCI function, in the namespace of the reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Netdev {
    /// Name now.
    pub name: String,
    /// Interface index in the reader's namespace.
    pub ifindex: u32,
    /// ARPHRD type: 1 Ethernet, 32 InfiniBand.
    pub arphrd: u16,
    /// Link-layer address.
    pub hw_addr: Option<HwAddr>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Largest MTU that the driver takes, bytes (netlink only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mtu: Option<u32>,
    /// `operstate`: `up`, `down`, `unknown`, …
    pub oper_state: Option<String>,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Mbit/s; `None` when the link is down or does not say.
    pub speed_mbps: Option<u32>,
    /// `phys_port_name`: `p0` on an uplink, `pf0vf3` on a representor.
    pub phys_port_name: Option<String>,
    /// `phys_switch_id`, hexadecimal.
    pub phys_switch_id: Option<String>,
    /// Name of the bond, bridge or team it is a port of.
    pub master: Option<String>,
    /// Links stacked on it (VLANs, macvlans, …).
    pub uppers: Vec<String>,
    /// IP addresses on the host, link-local ones left out: any link that is up has those.
    pub addresses: Vec<IpNet>,
    /// Carries the node's default route, by itself or below a bond, bridge, team or VLAN.
    pub uplink: bool,
}

/// A physical function with SR-IOV.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pf {
    /// Identity.
    pub pci: PciAddress,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub device: u16,
    /// Bound kernel driver.
    pub driver: Option<String>,
    /// From the netdev, else RDMA, else the PCI class.
    pub link_type: Option<LinkType>,
    /// The PF's own netdev (never a representor); `None` on vfio-pci or without IPoIB.
    pub netdev: Option<Netdev>,
    /// RDMA devices of the PF.
    pub rdma: Vec<RdmaDevice>,
    /// `sriov_totalvfs`.
    pub total_vfs: u32,
    /// `sriov_numvfs`.
    pub num_vfs: u32,
    /// `None` when the kernel says -1.
    pub numa_node: Option<u32>,
    /// `pci<domain>:<bus>`, the root complex.
    pub pcie_root: Option<String>,
    /// The bridge the PF hangs below, nearest first.
    pub pcie_switch: Option<PciAddress>,
    /// `None` when it can't be told.
    pub eswitch_mode: Option<EswitchMode>,
    /// IOMMU group number.
    pub iommu_group: Option<u32>,
    /// `sriov_drivers_autoprobe`.
    pub drivers_autoprobe: Option<bool>,
}

/// Where a VF's netdev is, as far as sysfs and netlink of the host tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// Its netdev is in the host's network namespace.
    Host,
    /// A network driver is bound but the host has no netdev for it: it is in another namespace (or on its way back).
    Elsewhere,
    /// No driver is bound.
    Unbound,
    /// A driver without netdev is bound (vfio-pci, uio).
    Userspace,
}

/// Drivers that hand a function to user space or keep it from the host, and give it no netdev.
const USERSPACE_DRIVERS: [&str; 5] = ["uio_pci_generic", "igb_uio", "pci-stub", "pciback", "xen-pciback"];

/// Whether a driver makes no netdev of a function.
pub fn is_userspace(driver: &str) -> bool {
    // vfio-pci and its variants: mlx5_vfio_pci, nvgrace_gpu_vfio_pci, hisi-acc-vfio-pci, …
    driver.contains("vfio") || USERSPACE_DRIVERS.contains(&driver)
}

/// A virtual function, or a VF that was passed into this VM and so has no PF here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vf {
    /// Identity.
    pub pci: PciAddress,
    /// Its PF; `None` inside a VM.
    pub pf: Option<PciAddress>,
    /// N of the PF's `virtfnN`; the number every per-VF setting uses. `None` inside a VM.
    pub index: Option<u32>,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub device: u16,
    /// Bound kernel driver.
    pub driver: Option<String>,
    /// From the netdev, else the PF, else the PCI class.
    pub link_type: Option<LinkType>,
    /// In the host's namespace, if it is there.
    pub netdev: Option<Netdev>,
    /// RDMA devices, if they are visible here.
    pub rdma: Vec<RdmaDevice>,
    /// `None` when the kernel says -1.
    pub numa_node: Option<u32>,
    /// The root complex.
    pub pcie_root: Option<String>,
    /// The bridge its PF hangs below.
    pub pcie_switch: Option<PciAddress>,
    /// IOMMU group number.
    pub iommu_group: Option<u32>,
    /// Some process has the VF's vfio group or device open.
    pub vfio_open: bool,
    /// Which life of the VF this is.
    pub incarnation: Incarnation,
    /// Where its netdev is.
    pub place: Place,
}

/// What a VF is like when nobody owns it. Recorded before the first change; while a claim owns the VF, attributes and
/// the return come from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanFacts {
    /// The life of the VF these facts are about.
    pub incarnation: Incarnation,
    /// Driver that was bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Driver that was forced for it (`driver_override`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<String>,
    /// Host name of its netdev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<IfName>,
    /// Its effective link-layer address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_addr: Option<HwAddr>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Alternative names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alt_names: Vec<String>,
    /// `ifalias`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Was administratively up.
    #[serde(default)]
    pub up: bool,
    /// `txqueuelen`, packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u32>,
    /// Names of its RDMA devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rdma: Vec<RdmaDevice>,
    /// Settings made by its PF, of the kinds that its claim changes; others are nobody's business.
    #[serde(default, skip_serializing_if = "VfSettings::is_empty")]
    pub settings: VfSettings,
}

/// One scan of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Sorted by address.
    pub pfs: Vec<Pf>,
    /// Sorted by address.
    pub vfs: Vec<Vf>,
    /// `None` without RDMA.
    pub rdma_netns: Option<RdmaNetnsMode>,
}

impl Snapshot {
    /// The PF of a VF.
    pub fn pf_of(&self, vf: &Vf) -> Option<&Pf> {
        let address = vf.pf?;
        self.pfs.iter().find(|pf| pf.pci == address)
    }

    /// The VF at an address.
    pub fn vf(&self, address: PciAddress) -> Option<&Vf> {
        self.vfs.iter().find(|vf| vf.pci == address)
    }
}
