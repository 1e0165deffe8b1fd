//! Addresses from pools: what a VF gets, and who is refused.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::address::{Book, Page, PoolSpec, read};
use crate::claim::{WantedRoute, WantedRouting};
use crate::prepare::records::VfEntry;

/// Pool `rail7`, of which the PF has a block.
fn book() -> Book {
    let spec = json!({
        "mode": "sharedSubnet", "routes": [{"to": "172.16.0.0/16"}, {"to": "172.16.7.0/24"}],
        "ipv4": {"cidr": "172.16.7.0/24", "blockSize": 8, "gateway": "172.16.7.254"},
        "ipv6": {"cidr": "fd00:7::/64", "blockSize": 8, "gatewayIndex": 1},
    });
    serde_json::from_value::<PoolSpec>(spec.clone()).unwrap();
    let pool = read("rail7", "uid-7", &spec).unwrap();
    let parent = crate::address::Parent { pci: PF, name: None, rail: None, addresses: Vec::new() };
    let block = pool.block(3, "node-a", &parent).unwrap();
    let page = Page { uid: "uid-7".into(), spec, blocks: [(PF, block)].into(), without: BTreeMap::new() };
    Book { pools: [("rail7".to_owned(), page)].into() }
}

/// A node with one VF, number 2 of its PF.
fn lab() -> Lab {
    let lab = Lab::new(1);
    lab.functions.change(pci(1), |facts| {
        facts.pf = Some(pf(9000));
        facts.vf.pf = Some(PF);
        facts.vf.index = Some(2);
        facts.rail = Some(7);
    });
    lab.functions.know(book());
    lab
}

fn from_pool(pool: &str, routing: WantedRouting) -> ClaimSpec {
    claim("c1", "p1", vec![ResultSpec { address_pool: Some(pool.to_owned()), routing, ..wants(1) }])
}

fn by_source() -> WantedRouting {
    WantedRouting { source_routing: true, ..Default::default() }
}

fn has(vf: &VfEntry) -> (Vec<String>, Vec<String>) {
    let addresses = vf.addresses.iter().map(ToString::to_string).collect();
    (addresses, vf.routes.iter().map(ToString::to_string).collect())
}

#[test]
fn a_vf_gets_address_gateway_and_routes_of_the_pool_that_its_rail_names() {
    let lab = lab();
    let entry = lab.engine.prepare(&from_pool("rail{rail}", by_source()), soon()).unwrap();
    assert_eq!(entry.vfs[0].address_pool.as_deref(), Some("rail7"));
    let (addresses, routes) = has(&entry.vfs[0]);
    // Block 3 begins at .24; nothing of it is reserved, and VF 2 has the third.
    assert_eq!(addresses, ["172.16.7.26/24", "fd00:7::1a/64"]);
    assert_eq!(
        routes,
        ["172.16.0.0/16 via 172.16.7.254", "0.0.0.0/0 via 172.16.7.254", "::/0 via fd00:7::1"]
    );
}

#[test]
fn what_the_claim_says_of_a_destination_counts_over_the_pool() {
    let lab = lab();
    let route = WantedRoute { to: "172.16.0.0/16".parse().unwrap(), via: "172.16.7.1".parse().ok() };
    let routing = WantedRouting { routes: vec![route], source_routing: false, ..Default::default() };
    let entry = lab.engine.prepare(&from_pool("rail7", routing), soon()).unwrap();
    assert_eq!(
        has(&entry.vfs[0]).1,
        ["172.16.0.0/16 via 172.16.7.1"],
        "and no default route without a table"
    );
}

#[test]
fn a_claim_keeps_its_address_whatever_becomes_of_the_pool() {
    let lab = lab();
    let spec = from_pool("rail7", by_source());
    let first = lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions.know(Book::default());
    assert_eq!(lab.engine.prepare(&spec, soon()).unwrap(), first);
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    let error = lab.engine.prepare(&spec, soon()).unwrap_err();
    assert!(error.sentence().contains("knows no pool of that name"), "{}", error.sentence());
}

#[test]
fn a_pool_that_comes_while_the_claim_is_prepared_is_waited_for() {
    let lab = lab();
    lab.functions.know(Book::default());
    let functions = lab.functions.clone();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        functions.know(book());
    });
    let until = Instant::now() + Duration::from_secs(3);
    lab.engine.prepare(&from_pool("rail7", by_source()), until).unwrap();
    later.join().unwrap();
}

#[test]
fn who_can_not_have_an_address_is_told_why_and_nothing_is_left() {
    let route = WantedRoute { to: "10.0.0.0/8".parse().unwrap(), via: "172.17.0.1".parse().ok() };
    let astray = WantedRouting { routes: vec![route], ..by_source() };
    let without_ipv6 = WantedRouting { sysctls: [("disable_ipv6".to_owned(), 1)].into(), ..by_source() };
    let beyond = |facts: &mut Facts| facts.vf.index = Some(8);
    let no_rail = |facts: &mut Facts| facts.rail = None;
    let virtual_machine = |facts: &mut Facts| (facts.pf, facts.vf.pf, facts.vf.index) = (None, None, None);
    type Change = fn(&mut Facts);
    for (pool, routing, change, says) in [
        (
            "rail7",
            by_source(),
            beyond as Change,
            "VF 8 of PF 0000:81:00.0 has no address: 172.16.7.24/29 has 8",
        ),
        (
            "rail{rail}",
            by_source(),
            no_rail,
            "asks for {rail}, which VF 0000:81:02.1 does not have; say with the agent's --rails",
        ),
        ("rail7", by_source(), virtual_machine, "it has no PF on this node"),
        ("rail7", astray, |_| (), "172.17.0.1 is not on the interface's networks"),
        ("rail8", by_source(), |_| (), "AddressPool rail8"),
        ("rail7", without_ipv6, |_| (), "fd00:7::1a/64 of AddressPool rail7 is an IPv6 address"),
    ] {
        let lab = lab();
        lab.functions.change(pci(1), change);
        let error = lab.engine.prepare(&from_pool(pool, routing), soon()).unwrap_err().sentence();
        assert!(
            error.starts_with("ResourceClaim ns/claim-c1: request vf1: ") && error.contains(says),
            "{error}"
        );
        assert!(lab.engine.site.ledger.entry("c1").unwrap().is_none());
    }
}

#[test]
fn a_pod_has_one_default_route_through_a_vf_whichever_claims_its_vfs_are_of() {
    let lab = Lab::new(2);
    let route = WantedRoute { to: "0.0.0.0/0".parse().unwrap(), via: "10.1.0.1".parse().ok() };
    let routing = WantedRouting { routes: vec![route], default_route: true, ..Default::default() };
    let with_default = |n: u8| ResultSpec {
        addresses: vec![format!("10.1.0.{}/24", n + 1).parse().unwrap()],
        routing: routing.clone(),
        ..wants(n)
    };
    let says = "only one can have it";
    let both = claim("c1", "p1", vec![with_default(1), with_default(2)]);
    let error = lab.engine.prepare(&both, soon()).unwrap_err().sentence();
    assert!(error.contains("request vf1 of claim claim-c1") && error.contains(says), "{error}");
    lab.engine.prepare(&claim("c2", "p1", vec![with_default(1)]), soon()).unwrap();
    let error = lab.engine.prepare(&claim("c3", "p1", vec![with_default(2)]), soon()).unwrap_err().sentence();
    assert!(error.contains("request vf1 of claim claim-c2") && error.contains(says), "{error}");
}
