//! How packets of the pod get to a VF and leave by it: which routes and rules there are to be. Pure.
//!
//! Each VF with source routing has a table of its own, numbered after its interface: `net1` has table 101. In it are the
//! networks of its addresses and its routes, a default route among them; rules send what comes from its addresses there.
//! Main keeps the pod's default route.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::claim::WantedRoute;
use crate::device::{MAIN_TABLE, Route, Rule, covers_half};
use crate::prepare::records::VfEntry;

/// The table of interface 0, which no VF has: `eth0` keeps it free for others' use.
const FIRST_TABLE: u32 = 100;
/// The last one below those that the kernel uses itself (`RT_TABLE_DEFAULT` and on, include/uapi/linux/rtnetlink.h).
const LAST_TABLE: u32 = 252;
/// Tables of interfaces that have none below.
const FAR_TABLES: u32 = 1000;
/// Of the first interface's rules; main's own rule is 32766.
const FIRST_PRIORITY: u32 = 32000;
/// What the pod's former default route gets when a VF takes its place: behind every VF's.
pub(super) const DEMOTED: u32 = 65_000;

/// The table of an interface.
pub(super) fn table_of(index: u16) -> u32 {
    match FIRST_TABLE + u32::from(index) {
        table @ ..=LAST_TABLE => table,
        _ => FAR_TABLES + u32::from(index),
    }
}

/// The metric of an interface's routes in main: of two VFs that lead to one network the first counts, and the other stands
/// by.
pub(super) fn metric_of(vf: &VfEntry) -> u32 {
    FIRST_TABLE + u32::from(vf.index)
}

/// What the route to an address's own network has as metric in main; 0 is the kernel's own.
pub(super) fn network_metric(vf: &VfEntry) -> u32 {
    // Several rails may be in one subnet: without an order the kernel takes whichever came first.
    if vf.source_routing { metric_of(vf) } else { 0 }
}

/// Routes that are to be there besides those of the addresses, in the order in which they can be made.
pub(super) fn routes_of(vf: &VfEntry) -> Vec<Route> {
    let in_main = vf.routes.iter().filter(|route| !covers_half(&route.to) || vf.default_route);
    let mut routes: Vec<Route> = in_main
        .map(|wanted| {
            // In the place of the one there was.
            let metric = if covers_half(&wanted.to) { 0 } else { metric_of(vf) };
            Route { metric, ..route(vf, wanted, MAIN_TABLE) }
        })
        .collect();
    if vf.source_routing {
        let table = table_of(vf.index);
        routes.extend(vf.addresses.iter().map(|address| Route {
            to: address.trunc(),
            via: None,
            on_link: false,
            table,
            source: Some(address.addr()),
            metric: 0,
        }));
        routes.extend(vf.routes.iter().map(|wanted| route(vf, wanted, table)));
    }
    // Two addresses of one network, or a route to it: the first of its kind is enough, a second one is an error.
    let mut there = BTreeSet::new();
    let networks: BTreeSet<IpNet> = vf.addresses.iter().map(IpNet::trunc).collect();
    routes.retain(|route| {
        (route.table != MAIN_TABLE || !networks.contains(&route.to)) && there.insert((route.table, route.to))
    });
    routes
}

fn route(vf: &VfEntry, wanted: &WantedRoute, table: u32) -> Route {
    let covered = |via| vf.addresses.iter().any(|address| address.contains(&via));
    let of_family = |address: &&IpNet| address.addr().is_ipv4() == wanted.to.addr().is_ipv4();
    Route {
        to: wanted.to,
        via: wanted.via,
        on_link: wanted.via.is_some_and(|via| !covered(via)),
        table,
        // Of several addresses the first, and not whichever the kernel likes.
        source: vf.addresses.iter().find(of_family).map(|address| address.addr()),
        metric: 0,
    }
}

/// Neighbours that routes lead over, each with the address that asks for it: those of default routes, else all.
pub(super) fn next_hops(vf: &VfEntry) -> Vec<(IpAddr, Option<IpAddr>)> {
    let defaults: Vec<&WantedRoute> = vf.routes.iter().filter(|route| covers_half(&route.to)).collect();
    let routes = if defaults.is_empty() { vf.routes.iter().collect() } else { defaults };
    let hops: BTreeSet<IpAddr> = routes.into_iter().filter_map(|route| route.via).collect();
    let asker = |hop: IpAddr| {
        let of_family = vf.addresses.iter().find(|address| address.addr().is_ipv4() == hop.is_ipv4());
        of_family.map(IpNet::addr)
    };
    hops.into_iter().map(|hop| (hop, asker(hop))).collect()
}

/// Rules that are to be there.
pub(super) fn rules_of(vf: &VfEntry) -> Vec<Rule> {
    if !vf.source_routing {
        return Vec::new();
    }
    let rule = |address: &IpNet| Rule {
        from: address.addr(),
        table: table_of(vf.index),
        priority: FIRST_PRIORITY + u32::from(vf.index.min(700)),
    };
    vf.addresses.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vf(index: u16, more: serde_json::Value) -> VfEntry {
        let mut entry = serde_json::json!({
            "pci": "0000:81:00.2", "pf": null, "request": "r", "pool": "node-a", "device": "d",
            "index": index, "name": format!("net{index}"),
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    }

    fn shown(vf: &VfEntry) -> Vec<String> {
        routes_of(vf).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rail_has_its_networks_and_its_default_in_a_table_of_its_own_and_main_keeps_the_pods() {
        let rail = vf(
            7,
            serde_json::json!({
                "addresses": ["172.16.11.10/24", "fd00:11::10/64"], "sourceRouting": true,
                "routes": [{"to": "172.16.0.0/16", "via": "172.16.11.1"}, {"to": "0.0.0.0/0", "via": "172.16.11.254"}],
            }),
        );
        assert_eq!(
            shown(&rail),
            [
                "172.16.0.0/16 via 172.16.11.1 src 172.16.11.10 metric 107",
                "172.16.11.0/24 table 107 src 172.16.11.10",
                "fd00:11::/64 table 107 src fd00:11::10",
                "172.16.0.0/16 via 172.16.11.1 table 107 src 172.16.11.10",
                "default via 172.16.11.254 table 107 src 172.16.11.10",
            ]
        );
        let rules: Vec<String> = rules_of(&rail).iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["32007: from 172.16.11.10 lookup 107", "32007: from fd00:11::10 lookup 107"]);
        assert_eq!(network_metric(&rail), 107);
    }

    #[test]
    fn without_source_routing_there_are_the_routes_asked_for_in_main_and_a_default_only_where_it_is_the_pods()
    {
        let routes = serde_json::json!([{"to": "10.9.0.0/16", "via": "10.1.0.1"}, {"to": "0.0.0.0/0", "via": "10.1.0.1"}]);
        let plain = vf(1, serde_json::json!({ "addresses": ["10.1.0.5/24"], "routes": routes }));
        assert_eq!(shown(&plain), ["10.9.0.0/16 via 10.1.0.1 src 10.1.0.5 metric 101"]);
        assert!(rules_of(&plain).is_empty() && network_metric(&plain) == 0);
        let default = VfEntry { default_route: true, ..plain };
        assert_eq!(shown(&default)[1], "default via 10.1.0.1 src 10.1.0.5");
    }

    #[test]
    fn two_addresses_of_one_network_share_its_route_and_a_route_to_it_is_there_already() {
        let rail = vf(
            1,
            serde_json::json!({
                "addresses": ["10.1.0.5/24", "10.1.0.6/24"], "sourceRouting": true,
                "routes": [{"to": "10.1.0.0/24", "via": "10.1.0.1"}],
            }),
        );
        assert_eq!(shown(&rail), ["10.1.0.0/24 table 101 src 10.1.0.5"]);
        assert_eq!(rules_of(&rail).len(), 2);
    }

    #[test]
    fn a_next_hop_beyond_the_networks_is_on_the_link_and_tables_of_the_kernel_are_left_out() {
        let host = vf(
            1,
            serde_json::json!({
                "addresses": ["10.1.0.5/32"], "routes": [{"to": "10.9.0.0/16", "via": "10.1.0.1"}],
            }),
        );
        assert_eq!(shown(&host), ["10.9.0.0/16 via 10.1.0.1 onlink src 10.1.0.5 metric 101"]);
        assert_eq!([1, 152, 153, 156].map(table_of), [101, 252, 1153, 1156]);
    }
}
