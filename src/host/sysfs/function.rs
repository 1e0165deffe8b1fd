//! One PCI function of class 02 as its folder states it (Documentation/ABI/testing/sysfs-bus-pci).
//!
//! Order of reading matters. The kernel takes a VF's `physfn` link and the PF's `virtfnN` link away before anything
//! else of the VF goes (`pci_iov_remove_virtfn`, drivers/pci/iov.c), so a VF whose `physfn` is still there after all
//! other reads was whole while they ran.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Component, Path};

use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::fstatat;

use super::SysfsError;
use super::dir::{Dir, tolerate};
use super::netdev::{self, Detail, FoundNetdev};
use crate::device::{Incarnation, LinkType, PciAddress, RdmaDevice};

/// `class >> 16` of network controllers.
const NETWORK_CLASS: u32 = 0x02;

/// A network function on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Identity.
    pub pci: PciAddress,
    /// 24-bit PCI class: `0x020000` Ethernet, `0x020700` InfiniBand.
    pub class: u32,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub device: u16,
    /// Bound driver.
    pub driver: Option<String>,
    /// `None` when the kernel says -1.
    pub numa_node: Option<u32>,
    /// IOMMU group number.
    pub iommu_group: Option<u32>,
    /// `pci<domain>:<bus>`: first such component of the real path.
    pub pcie_root: Option<String>,
    /// The bridge right above the function; `None` on the root bus.
    pub upstream_bridge: Option<PciAddress>,
    /// Inode of the real folder.
    pub incarnation: Incarnation,
    /// PF, VF or neither.
    pub kind: Kind,
    /// Netdevs that the namespace of the sysfs mount has.
    pub netdevs: Vec<FoundNetdev>,
    /// RDMA devices that the reader may see.
    pub rdma: Vec<RdmaDevice>,
    /// `vfioN` below `vfio-dev/`, on kernels with vfio character devices per device.
    pub vfio_device: Option<String>,
}

/// What a function is to SR-IOV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Has the SR-IOV capability.
    Physical(Sriov),
    /// Has a `physfn` link to this PF.
    Virtual(PciAddress),
    /// Neither: an ordinary NIC, or a VF passed into this VM.
    Plain,
}

/// The SR-IOV capability of a PF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sriov {
    /// `sriov_totalvfs`
    pub total_vfs: u32,
    /// `sriov_numvfs`
    pub num_vfs: u32,
    /// `sriov_drivers_autoprobe`
    pub drivers_autoprobe: Option<bool>,
    /// `sriov_offset`: routing ID of VF 0 relative to the PF's.
    pub offset: u32,
    /// `sriov_stride`: between the routing IDs of neighbours.
    pub stride: u32,
    /// VF to index, from the `virtfnN` links.
    pub vfs: BTreeMap<PciAddress, u32>,
}

impl Sriov {
    /// Whether one of the VFs this PF can ever have lives at an address.
    pub fn covers(&self, pf: PciAddress, address: PciAddress) -> bool {
        self.index_at(pf, address).is_some()
    }

    /// Index of the VF that this PF has, or can have, at an address (PCI Express Base, SR-IOV: routing ID of VF n is the
    /// PF's plus First VF Offset plus n times VF Stride).
    fn index_at(&self, pf: PciAddress, address: PciAddress) -> Option<u32> {
        let rid = |a: PciAddress| u32::from(a.bus) << 8 | u32::from(a.device) << 3 | u32::from(a.function);
        let distance = rid(address).checked_sub(rid(pf).saturating_add(self.offset))?;
        // A lone VF may have no stride.
        let index = distance.checked_div(self.stride).unwrap_or_default();
        let fits = pf.domain == address.domain && distance == index * self.stride && index < self.total_vfs;
        fits.then_some(index)
    }
}

/// Reads the function at an address; `None` for another class of device and for one that goes while it is read. Of a PF's
/// VFs only those wanted are looked at, where that can be told: a port may have 127.
pub(super) fn read(
    devices: impl AsFd,
    path: &Path,
    pci: PciAddress,
    wanted: Option<&BTreeSet<PciAddress>>,
) -> Result<Option<Function>, SysfsError> {
    let name = pci.to_string();
    let Some(dir) = Dir::open(devices.as_fd(), path, &name, pci)? else {
        return Ok(None);
    };
    let Some(class) = dir.hex("class")?.filter(|class| class >> 16 == NETWORK_CLASS) else {
        return Ok(None);
    };
    let (Some(vendor), Some(device)) = (id(&dir, "vendor")?, id(&dir, "device")?) else {
        return Ok(None);
    };
    let physfn = dir.link("physfn")?.and_then(|name| name.parse::<PciAddress>().ok());
    let place = tolerate(readlinkat(devices.as_fd(), name.as_str()), pci, &name)?.unwrap_or_default();
    let (pcie_root, upstream_bridge) = position(Path::new(&place));

    let kind = match physfn {
        Some(pf) => Kind::Virtual(pf),
        None => match dir.number::<u32>("sriov_totalvfs")? {
            Some(total_vfs) => Kind::Physical(sriov(&dir, pci, total_vfs, wanted)?),
            None => Kind::Plain,
        },
    };
    // speed and the phys_* attributes take the RTNL lock and may ask the firmware, so they are not read a thousand
    // times over: a VF's speed is its PF's.
    let detail = if physfn.is_some() { Detail::Cheap } else { Detail::Full };
    let mut driver = dir.link("driver")?;
    let netdevs = netdev::read_all(&dir, driver.as_deref(), detail)?;
    if netdevs.is_empty() && driver.is_some() {
        // The driver may have gone between the two reads; "bound but without netdev" means something else.
        driver = dir.link("driver")?;
    }
    let vfio_device = match &driver {
        Some(driver) if driver.contains("vfio") => dir.names("vfio-dev")?.into_iter().next(),
        _ => None,
    };
    let function = Function {
        pci,
        class,
        vendor,
        device,
        netdevs,
        driver,
        vfio_device,
        numa_node: dir.number::<i64>("numa_node")?.and_then(|node| u32::try_from(node).ok()),
        iommu_group: dir.link("iommu_group")?.and_then(|group| group.parse().ok()),
        pcie_root,
        upstream_bridge,
        incarnation: Incarnation(dir.inode().unwrap_or_default()),
        kind,
        rdma: rdma(&dir)?,
    };

    // The whole function must still be the one that was opened.
    let now = fstatat(devices.as_fd(), name.as_str(), AtFlags::empty());
    let same = tolerate(now, pci, &name)?.is_some_and(|stat| stat.st_ino == function.incarnation.0);
    let linked = physfn.is_none() || dir.link("physfn")?.is_some();
    Ok((same && linked).then_some(function))
}

fn id(dir: &Dir, file: &str) -> Result<Option<u16>, SysfsError> {
    Ok(dir.hex(file)?.and_then(|id| u16::try_from(id).ok()))
}

fn sriov(
    dir: &Dir,
    pf: PciAddress,
    total_vfs: u32,
    wanted: Option<&BTreeSet<PciAddress>>,
) -> Result<Sriov, SysfsError> {
    let mut sriov = Sriov {
        total_vfs,
        num_vfs: dir.number("sriov_numvfs")?.unwrap_or_default(),
        drivers_autoprobe: dir.number::<u8>("sriov_drivers_autoprobe")?.map(|flag| flag != 0),
        offset: dir.number("sriov_offset")?.unwrap_or_default(),
        stride: dir.number("sriov_stride")?.unwrap_or_default(),
        vfs: BTreeMap::new(),
    };
    let vf_at = |index: u32| -> Result<Option<PciAddress>, SysfsError> {
        Ok(dir.link(&format!("virtfn{index}"))?.and_then(|name| name.parse().ok()))
    };
    for vf in wanted.into_iter().flatten() {
        if let Some(index) = sriov.index_at(pf, *vf)
            && vf_at(index)? == Some(*vf)
        {
            sriov.vfs.insert(*vf, index);
        }
    }
    if wanted.is_some_and(|wanted| sriov.vfs.len() == wanted.len()) {
        return Ok(sriov);
    }
    // NumVFs is a 16-bit register: a larger number is no number of VFs.
    for index in 0..sriov.num_vfs.min(u32::from(u16::MAX)) {
        sriov.vfs.extend(vf_at(index)?.map(|vf| (vf, index)));
    }
    Ok(sriov)
}

/// Root complex and nearest bridge from the link below `bus/pci/devices`, which states the real path. The root is
/// searched for: on VMD, Hyper-V and platform bridges other components come first.
fn position(place: &Path) -> (Option<String>, Option<PciAddress>) {
    let names: Vec<&str> = place
        .components()
        .filter_map(|c| if let Component::Normal(name) = c { name.to_str() } else { None })
        .collect();
    let is_root = |name: &&&str| {
        name.strip_prefix("pci").and_then(|rest| rest.split_once(':')).is_some_and(|(domain, bus)| {
            [domain, bus].iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_hexdigit()))
        })
    };
    let root = names.iter().find(is_root).map(|name| (*name).to_owned());
    let bridge = names.iter().rev().nth(1).and_then(|name| name.parse().ok());
    (root, bridge)
}

fn rdma(dir: &Dir) -> Result<Vec<RdmaDevice>, SysfsError> {
    let mut devices = Vec::new();
    for name in dir.names("infiniband")? {
        let Some(device) = dir.sub(&format!("infiniband/{name}"))? else {
            continue;
        };
        let link_type = match device.text("ports/1/link_layer")?.as_deref() {
            Some("InfiniBand") => Some(LinkType::Infiniband),
            Some("Ethernet") => Some(LinkType::Ethernet),
            _ => None,
        };
        let (node_guid, firmware) = (device.text("node_guid")?, device.text("fw_ver")?);
        let gid = device.text("ports/1/gids/0")?;
        let port_guid = gid.as_deref().and_then(|gid| gid.get(20..)).map(str::to_owned);
        let port_guid = port_guid.filter(|guid| guid.bytes().any(|b| !matches!(b, b'0' | b':')));
        let char_devices = char_devices(dir, &name)?;
        devices.push(RdmaDevice { name, link_type, node_guid, firmware, port_guid, char_devices });
    }
    Ok(devices)
}

/// Of a function with two devices each has its own; `ibdev` says whose a node is.
fn char_devices(dir: &Dir, name: &str) -> Result<Vec<String>, SysfsError> {
    let mut nodes = Vec::new();
    for class in ["infiniband_verbs", "infiniband_mad"] {
        for node in dir.names(class)?.into_iter().filter(|node| !node.starts_with("issm")) {
            let Some(of) = dir.sub(&format!("{class}/{node}"))? else { continue };
            if of.text("ibdev")?.as_deref() == Some(name) {
                nodes.push(node);
            }
        }
    }
    nodes.sort();
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_complex_is_searched_for_and_the_nearest_bridge_taken() {
        for (place, root, bridge) in [
            (
                "../../../devices/pci0000:80/0000:80:01.0/0000:81:00.0",
                Some("pci0000:80"),
                Some("0000:80:01.0"),
            ),
            ("../../../devices/pci0000:00/0000:00:03.0", Some("pci0000:00"), None),
            ("../../../devices/LNXSYSTM:00/VMBUS:01/pci1a2b:00/1a2b:00:02.0", Some("pci1a2b:00"), None),
            (
                "../../../devices/pci0000:00/0000:00:0e.0/pci10000:00/10000:00:02.0/10000:01:00.0",
                Some("pci0000:00"),
                Some("10000:00:02.0"),
            ),
            ("0000:81:00.0", None, None),
            ("", None, None),
        ] {
            let (got_root, got_bridge) = position(Path::new(place));
            assert_eq!(got_root.as_deref(), root, "{place}");
            assert_eq!(got_bridge.map(|b| b.to_string()).as_deref(), bridge, "{place}");
        }
    }

    #[test]
    fn a_pf_covers_exactly_the_addresses_its_vfs_can_have() {
        let pf: PciAddress = "0000:01:00.0".parse().unwrap();
        let sriov = Sriov { total_vfs: 7, offset: 128, stride: 2, ..Sriov::default() };
        for (address, covered) in [
            ("0000:01:10.0", true),
            ("0000:01:10.2", true),
            ("0000:01:11.4", true),
            ("0000:01:11.6", false),
            ("0000:01:10.1", false),
            ("0000:01:00.0", false),
            ("0001:01:10.0", false),
            ("0000:02:10.0", false),
        ] {
            assert_eq!(sriov.covers(pf, address.parse().unwrap()), covered, "{address}");
        }
    }
}
