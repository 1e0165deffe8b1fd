//! Facts of single functions to PFs and VFs.

use std::collections::BTreeSet;

use super::links::HostLinks;
use super::netdevs;
use crate::device::{EswitchMode, LinkType, Netdev, PciAddress, Pf, Place, Vf, is_userspace};
use crate::host::sysfs::{Function, Kind, Sriov};

/// ARPHRD types (include/uapi/linux/if_arp.h).
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_INFINIBAND: u16 = 32;

/// 24-bit PCI classes (PCI Code and ID Assignment Specification); 0x0280 is any other network controller.
const CLASS_ETHERNET: u32 = 0x0200;
const CLASS_INFINIBAND: u32 = 0x0207;

/// What holds for a whole scan.
pub(super) struct Assembly<'a> {
    pub links: &'a HostLinks,
    pub uplinks: BTreeSet<u32>,
    pub eswitch: &'a dyn Fn(PciAddress) -> Option<EswitchMode>,
    /// IPoIB is there, so an InfiniBand function at home has a netdev.
    pub ipoib: bool,
    /// Names below `/dev/vfio` that some process holds.
    pub open_vfio: BTreeSet<String>,
}

impl Assembly<'_> {
    pub fn pf(&self, function: &Function, sriov: &Sriov) -> Pf {
        let netdev = self.own_netdev(function);
        Pf {
            pci: function.pci,
            vendor: function.vendor,
            device: function.device,
            driver: function.driver.clone(),
            link_type: link_type(function),
            eswitch_mode: (self.eswitch)(function.pci)
                .or_else(|| eswitch_from_sysfs(function, netdev.as_ref())),
            netdev,
            rdma: function.rdma.clone(),
            total_vfs: sriov.total_vfs,
            num_vfs: sriov.num_vfs,
            numa_node: function.numa_node,
            pcie_root: function.pcie_root.clone(),
            pcie_switch: function.upstream_bridge,
            iommu_group: function.iommu_group,
            drivers_autoprobe: sriov.drivers_autoprobe,
        }
    }

    pub fn vf(&self, function: &Function, pf: Option<&Function>, index: Option<u32>) -> Vf {
        // Own netdev, PF's netdev, PF's or own RDMA device, PCI class: what is asked first is surest, and all but the
        // first stay the same while the VF is lent.
        let link_type = by_netdev(function)
            .or_else(|| pf.and_then(link_type))
            .or_else(|| by_rdma(function))
            .or_else(|| by_class(function));
        let place = self.place(function, link_type);
        Vf {
            pci: function.pci,
            pf: pf.map(|pf| pf.pci),
            index,
            vendor: function.vendor,
            device: function.device,
            driver: function.driver.clone(),
            link_type,
            netdev: self.own_netdev(function),
            rdma: function.rdma.clone(),
            numa_node: function.numa_node.or_else(|| pf.and_then(|pf| pf.numa_node)),
            pcie_root: function.pcie_root.clone().or_else(|| pf.and_then(|pf| pf.pcie_root.clone())),
            pcie_switch: pf.unwrap_or(function).upstream_bridge,
            iommu_group: function.iommu_group,
            vfio_open: place == Place::Userspace && self.is_open(function),
            incarnation: function.incarnation,
            place,
        }
    }

    fn place(&self, function: &Function, link_type: Option<LinkType>) -> Place {
        let Some(driver) = function.driver.as_deref() else {
            return Place::Unbound;
        };
        if is_userspace(driver) {
            return Place::Userspace;
        }
        // Without IPoIB an InfiniBand function has no netdev anywhere: its RDMA device says where it is.
        let needs_no_netdev =
            link_type == Some(LinkType::Infiniband) && !self.ipoib && !function.rdma.is_empty();
        if function.netdevs.is_empty() && !needs_no_netdev { Place::Elsewhere } else { Place::Host }
    }

    /// The function's netdev with what netlink knows. Whatever else the function has on the host counts as stacked on
    /// it: the VF is in use either way.
    fn own_netdev(&self, function: &Function) -> Option<Netdev> {
        let (own, others) = netdevs::choose(&function.netdevs);
        let mut netdev = self.joined(&own?.netdev);
        for other in others {
            let joined = self.joined(&other.netdev);
            if other.is_child {
                netdev.uppers.push(joined.name);
            }
            netdev.uppers.extend(joined.uppers);
            netdev.master = netdev.master.or(joined.master);
            netdev.addresses.extend(joined.addresses);
            netdev.uplink |= joined.uplink;
        }
        let master = netdev.master.clone();
        netdev.uppers.retain(|upper| Some(upper) != master.as_ref());
        netdev.uppers.sort_unstable();
        netdev.uppers.dedup();
        Some(netdev)
    }

    fn joined(&self, netdev: &Netdev) -> Netdev {
        let mut netdev = netdev.clone();
        if self.links.has(&netdev.name, netdev.ifindex) {
            netdev.addresses = self.links.addresses_of(netdev.ifindex);
            netdev.uplink = self.uplinks.contains(&netdev.ifindex);
            netdev.max_mtu = self.links.max_mtus.get(&netdev.ifindex).copied();
            netdev.uppers.extend(self.links.uppers_of(netdev.ifindex).map(str::to_owned));
        }
        netdev
    }

    fn is_open(&self, function: &Function) -> bool {
        let group = function.iommu_group.is_some_and(|group| {
            self.open_vfio.contains(&group.to_string())
                || self.open_vfio.contains(&format!("noiommu-{group}"))
        });
        let device = function.vfio_device.as_ref();
        group || device.is_some_and(|device| self.open_vfio.contains(&format!("devices/{device}")))
    }
}

/// Whether some process could hold the function through vfio.
pub(super) fn is_on_vfio(function: &Function) -> bool {
    function.driver.as_deref().is_some_and(|driver| driver.contains("vfio"))
}

fn link_type(function: &Function) -> Option<LinkType> {
    by_netdev(function).or_else(|| by_rdma(function)).or_else(|| by_class(function))
}

fn by_netdev(function: &Function) -> Option<LinkType> {
    match netdevs::choose(&function.netdevs).0?.netdev.arphrd {
        ARPHRD_ETHER => Some(LinkType::Ethernet),
        ARPHRD_INFINIBAND => Some(LinkType::Infiniband),
        _ => None,
    }
}

fn by_rdma(function: &Function) -> Option<LinkType> {
    function.rdma.iter().find_map(|device| device.link_type)
}

fn by_class(function: &Function) -> Option<LinkType> {
    match function.class >> 8 {
        CLASS_ETHERNET => Some(LinkType::Ethernet),
        CLASS_INFINIBAND => Some(LinkType::Infiniband),
        _ => None,
    }
}

/// Where devlink has no answer: a port of a switchdev switch has a switch ID and there are representors beside it; a
/// PF without switch ID has no such switch. In between, and without netdev, it can't be told: some drivers in legacy
/// mode have a switch ID too.
fn eswitch_from_sysfs(function: &Function, own: Option<&Netdev>) -> Option<EswitchMode> {
    let Kind::Physical(_) = function.kind else {
        return None;
    };
    let own = own.filter(|own| own.arphrd == ARPHRD_ETHER && function.driver.is_some())?;
    match &own.phys_switch_id {
        None => Some(EswitchMode::Legacy),
        Some(_) if function.netdevs.iter().any(netdevs::is_representor) => Some(EswitchMode::Switchdev),
        Some(_) => None,
    }
}
