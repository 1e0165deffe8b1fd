//! What only netlink knows of the host's interfaces, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::host::{HostError, Links};

/// Addresses, default routes and the stacking of the links in the host's network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLinks {
    /// Interface index and address (RTM_GETADDR).
    pub addresses: Vec<(u32, IpNet)>,
    /// Interfaces of default routes, of every table and both families (RTM_GETROUTE).
    pub default_route_ifindexes: Vec<u32>,
    /// Upper and lower link: a master and its port (IFLA_MASTER), or a VLAN, macvlan, … and its parent (IFLA_LINK).
    pub lowers: Vec<(u32, u32)>,
    /// Names by index (RTM_GETLINK).
    pub names: BTreeMap<u32, String>,
    /// Largest MTUs by index, bytes, where drivers have a limit.
    pub max_mtus: BTreeMap<u32, u32>,
}

impl HostLinks {
    /// Reads them all in one session.
    ///
    /// # Errors
    /// The kernel refuses a list.
    pub fn read(links: &mut dyn Links) -> Result<Self, HostError> {
        let mut read = Self {
            addresses: links.all_addresses()?,
            default_route_ifindexes: links.default_route_links()?,
            ..Self::default()
        };
        for link in links.all()? {
            read.lowers.extend(link.master.map(|master| (master, link.index)));
            read.lowers.extend(link.lower.map(|lower| (link.index, lower)));
            read.max_mtus.extend(Some((link.index, link.max_mtu)).filter(|(_, limit)| *limit != 0));
            read.names.insert(link.index, link.name);
        }
        Ok(read)
    }

    /// Every interface that a default route goes through: its own, and all those below it.
    pub fn uplinks(&self) -> BTreeSet<u32> {
        let mut carrying = BTreeSet::new();
        let mut pending = self.default_route_ifindexes.clone();
        while let Some(ifindex) = pending.pop() {
            if carrying.insert(ifindex) {
                pending.extend(
                    self.lowers.iter().filter(|(upper, _)| *upper == ifindex).map(|(_, lower)| *lower),
                );
            }
        }
        carrying
    }

    /// Whether an interface of sysfs is the one of netlink: both must agree on name and index. A tree in a folder, or
    /// sysfs of another namespace, must not get the addresses of the host's interfaces.
    pub fn has(&self, name: &str, ifindex: u32) -> bool {
        self.names.get(&ifindex).is_some_and(|known| known == name)
    }

    /// Addresses of an interface, link-local ones left out: any link that is up has those.
    pub fn addresses_of(&self, ifindex: u32) -> Vec<IpNet> {
        let of_it = self.addresses.iter().filter(|(owner, _)| *owner == ifindex);
        of_it.map(|(_, address)| *address).filter(|address| !is_link_local(address)).collect()
    }

    /// Names of the links stacked on an interface.
    pub fn uppers_of(&self, ifindex: u32) -> impl Iterator<Item = &str> {
        let uppers = self.lowers.iter().filter(move |(upper, lower)| *lower == ifindex && *upper != ifindex);
        uppers.filter_map(|(upper, _)| self.names.get(upper)).map(String::as_str)
    }
}

fn is_link_local(address: &IpNet) -> bool {
    match address {
        IpNet::V4(v4) => v4.addr().is_link_local(),
        IpNet::V6(v6) => v6.addr().is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uplink_is_followed_down_through_vlan_bridge_and_bond_and_circles_end() {
        let links = HostLinks {
            default_route_ifindexes: vec![40],
            // VLAN 40 on bridge 30, whose port is bond 20 of 10 and 11; 12 is apart; 30 and 40 form a circle.
            lowers: vec![(40, 30), (30, 20), (20, 10), (20, 11), (30, 40), (50, 12)],
            ..HostLinks::default()
        };
        assert_eq!(links.uplinks().into_iter().collect::<Vec<_>>(), [10, 11, 20, 30, 40]);
        assert!(HostLinks::default().uplinks().is_empty());
    }

    #[test]
    fn link_local_addresses_are_no_addresses_of_the_host() {
        let addresses = ["169.254.7.1/16", "fe80::1/64", "10.0.0.1/24", "fd00::1/64"];
        let links = HostLinks {
            addresses: addresses.iter().map(|a| (3, a.parse().unwrap())).collect(),
            ..HostLinks::default()
        };
        let left: Vec<String> = links.addresses_of(3).iter().map(ToString::to_string).collect();
        assert_eq!(left, ["10.0.0.1/24", "fd00::1/64"]);
        assert!(links.addresses_of(4).is_empty());
    }
}
