//! The netdevs of a PCI function (Documentation/ABI/testing/sysfs-class-net).
//!
//! They sit in `net/`, for virtio one level deeper in `virtioN/net/`. `net/` belongs to the network namespace in which
//! this sysfs was mounted: a netdev that was moved away is not there.

use std::fs;

use super::dir::Dir;
use super::{Sysfs, SysfsError};
use crate::device::{HwAddr, Netdev, PciAddress};

/// `addr_assign_type` of an address that the hardware gave (include/uapi/linux/netdevice.h).
const NET_ADDR_PERM: &str = "0";
/// IFF_UP of `flags` (include/uapi/linux/if.h).
const IFF_UP: u32 = 1;

/// How much is read of a netdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Only what needs no lock.
    Cheap,
    /// `speed`, `phys_port_name` and `phys_switch_id` too.
    Full,
}

/// A netdev and what tells it from the others of its function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundNetdev {
    /// The facts; addresses and uplink are not known to sysfs.
    pub netdev: Netdev,
    /// `dev_port`, 0-based; two ports of one function differ in it.
    pub dev_port: u32,
    /// `iflink` names another interface: this one is stacked on it, as IPoIB children are.
    pub is_child: bool,
}

impl Sysfs {
    /// Whether the address of a function's netdev is of its driver's or its user's choice (random, set), and not what the
    /// hardware gave: for a VF, its PF. `false` without a netdev on the host.
    pub fn chose_its_address(&self, pci: PciAddress) -> bool {
        let Ok(mut netdevs) = fs::read_dir(self.function_dir(pci).join("net")) else { return false };
        let kind = netdevs.next().and_then(Result::ok).map(|netdev| netdev.path().join("addr_assign_type"));
        kind.and_then(|path| fs::read_to_string(path).ok()).is_some_and(|kind| kind.trim() != NET_ADDR_PERM)
    }
}

/// All netdevs of a function, by name.
pub(super) fn read_all(
    dir: &Dir,
    driver: Option<&str>,
    detail: Detail,
) -> Result<Vec<FoundNetdev>, SysfsError> {
    let mut found = read_folder(dir, "net", detail)?;
    if found.is_empty() && driver == Some("virtio-pci") {
        for child in dir.names(".")?.iter().filter(|name| is_virtio(name)) {
            found.extend(read_folder(dir, &format!("{child}/net"), detail)?);
        }
    }
    Ok(found)
}

fn is_virtio(name: &str) -> bool {
    name.strip_prefix("virtio").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn read_folder(dir: &Dir, folder: &str, detail: Detail) -> Result<Vec<FoundNetdev>, SysfsError> {
    let names = dir.names(folder)?;
    let several = names.len() > 1;
    let mut found = Vec::new();
    for name in names {
        if let Some(netdev) = dir.sub(&format!("{folder}/{name}"))? {
            found.extend(read(&netdev, name, detail, several)?);
        }
    }
    Ok(found)
}

/// `None` when it goes while it is read.
fn read(dir: &Dir, name: String, detail: Detail, several: bool) -> Result<Option<FoundNetdev>, SysfsError> {
    let (Some(ifindex), Some(arphrd)) = (dir.number::<u32>("ifindex")?, dir.number("type")?) else {
        return Ok(None);
    };
    let full = detail == Detail::Full;
    let mut netdev = Netdev {
        name,
        ifindex,
        arphrd,
        hw_addr: dir.text("address")?.and_then(|text| text.parse::<HwAddr>().ok()),
        mtu: dir.number("mtu")?,
        max_mtu: None,
        oper_state: dir.text("operstate")?,
        up: dir.hex("flags")?.is_some_and(|flags| flags & IFF_UP != 0),
        speed_mbps: None,
        phys_port_name: None,
        phys_switch_id: None,
        master: None,
        uppers: Vec::new(),
        addresses: Vec::new(),
        uplink: false,
    };
    if full {
        // -1 as signed or as unsigned number while the link is down; some drivers give EINVAL instead.
        let speed: Option<i64> = dir.number("speed")?;
        netdev.speed_mbps = speed.and_then(|s| u32::try_from(s).ok()).filter(|s| *s != 0 && *s != u32::MAX);
        netdev.phys_port_name = dir.text("phys_port_name")?;
        netdev.phys_switch_id = dir.text("phys_switch_id")?;
    }
    for entry in dir.names(".")? {
        if entry == "master" {
            netdev.master = dir.link("master")?;
        } else if let Some(upper) = entry.strip_prefix("upper_") {
            netdev.uppers.push(upper.to_owned());
        }
    }
    // The kernel lists the master among the uppers.
    netdev.uppers.retain(|upper| Some(upper) != netdev.master.as_ref());
    let (dev_port, is_child) = if several {
        let iflink: Option<u32> = dir.number("iflink")?;
        (dir.number("dev_port")?.unwrap_or_default(), iflink.is_some_and(|parent| parent != ifindex))
    } else {
        (0, false)
    };
    Ok(Some(FoundNetdev { netdev, dev_port, is_child }))
}
