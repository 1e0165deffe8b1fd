//! Routes, rules and sysctls of VFs in a pod; the pod's own default route.

use nix::errno::Errno;

use super::*;
use crate::claim::{Probe, WantedProbe, WantedRoute, WantedRouting};
use crate::device::{InstalledRoute, MAIN_TABLE, Route};
use crate::host::fate::{Fate, Turn};
use crate::host::{Kernel, Netns};

fn rail(n: u8, routing: WantedRouting) -> ResultSpec {
    ResultSpec {
        addresses: vec![format!("172.16.11.{n}/24").parse().unwrap()],
        routing,
        ..plain_result(pci(n))
    }
}

fn by_source() -> WantedRouting {
    let route = |to: &str, via: &str| WantedRoute { to: to.parse().unwrap(), via: via.parse().ok() };
    WantedRouting {
        routes: vec![route("172.16.0.0/16", "172.16.11.200"), route("0.0.0.0/0", "172.16.11.254")],
        source_routing: true,
        default_route: false,
        sysctls: [("rp_filter".to_owned(), 2), ("arp_ignore".to_owned(), 1)].into(),
        probe: WantedProbe::default(),
    }
}

/// A pod with a network of its own on eth0, and its default route.
fn pod(lab: &Lab) -> (Netns, InstalledRoute) {
    let netns = lab.kernel.add_netns("/run/netns/a", 7);
    lab.kernel.add_other(netns.id(), "eth0");
    let mut links = lab.kernel.enter(&netns).unwrap();
    let eth0 = links.by_name("eth0").unwrap().unwrap();
    let route = Route {
        to: "0.0.0.0/0".parse().unwrap(),
        via: "10.244.0.1".parse().ok(),
        on_link: false,
        table: MAIN_TABLE,
        source: None,
        metric: 0,
    };
    links.add_route(&eth0, &route).unwrap();
    (netns, InstalledRoute { link: eth0.index, route })
}

fn shown(lab: &Lab, netns: &Netns) -> (Vec<String>, Vec<String>) {
    let (routes, rules, _) = lab.kernel.routing_of(netns.id());
    let routes = routes.iter().map(|installed| installed.route.to_string()).collect();
    (routes, rules.iter().map(ToString::to_string).collect())
}

#[test]
fn two_rails_in_one_subnet_have_tables_of_their_own_and_the_pods_default_route_stays() {
    let lab = Lab::new(2);
    let (netns, _) = pod(&lab);
    let spec = claim("c1", "p1", vec![rail(1, by_source()), rail(2, by_source())]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let (routes, rules) = shown(&lab, &netns);
    assert_eq!(
        routes,
        [
            "default via 10.244.0.1",
            "172.16.0.0/16 via 172.16.11.200 src 172.16.11.1 metric 101",
            "172.16.11.0/24 table 101 src 172.16.11.1",
            "172.16.0.0/16 via 172.16.11.200 table 101 src 172.16.11.1",
            "default via 172.16.11.254 table 101 src 172.16.11.1",
            "172.16.0.0/16 via 172.16.11.200 src 172.16.11.2 metric 102",
            "172.16.11.0/24 table 102 src 172.16.11.2",
            "172.16.0.0/16 via 172.16.11.200 table 102 src 172.16.11.2",
            "default via 172.16.11.254 table 102 src 172.16.11.2",
        ]
    );
    assert_eq!(rules, ["32001: from 172.16.11.1 lookup 101", "32002: from 172.16.11.2 lookup 102"]);
    let (.., announced) = lab.kernel.routing_of(netns.id());
    assert_eq!(announced.len(), 2);
    // Once more: nothing is made twice.
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(shown(&lab, &netns), (routes, rules));
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(shown(&lab, &netns), (vec!["default via 10.244.0.1".to_owned()], vec![]));
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(2);
}

#[test]
fn whichever_change_is_refused_no_rule_and_no_route_is_left_in_a_pod_that_lives_on() {
    let counted = {
        let lab = Lab::new(1);
        pod(&lab);
        lab.engine.prepare(&claim("c1", "p1", vec![rail(1, by_source())]), soon()).unwrap();
        let before = lab.kernel.changes();
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.kernel.changes() - before
    };
    assert!(counted > 6, "{counted}");
    for k in 0..counted {
        let lab = Lab::new(1);
        let (netns, default) = pod(&lab);
        lab.engine.prepare(&claim("c1", "p1", vec![rail(1, by_source())]), soon()).unwrap();
        lab.kernel.fail_change(k, Errno::EPERM);
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap_err();
        let (routes, rules, _) = lab.kernel.routing_of(netns.id());
        assert_eq!((routes, rules), (vec![default], vec![]), "change {k}");
        lab.assert_pristine(1);
    }
}

#[test]
fn a_class_that_says_so_gets_the_default_route_and_the_pods_own_stands_behind_it_and_comes_back() {
    let lab = Lab::new(1);
    let (netns, default) = pod(&lab);
    let routing = WantedRouting {
        default_route: true,
        source_routing: false,
        sysctls: Default::default(),
        ..by_source()
    };
    lab.engine.prepare(&claim("c1", "p1", vec![rail(1, routing)]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let (routes, _) = shown(&lab, &netns);
    assert!(routes.contains(&"default via 172.16.11.254 src 172.16.11.1".to_owned()), "{routes:?}");
    assert!(routes.contains(&"default via 10.244.0.1 metric 65000".to_owned()), "{routes:?}");
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(lab.kernel.routing_of(netns.id()).0, [default]);
}

#[test]
fn a_sysctl_is_in_effect_though_all_says_more_and_other_interfaces_keep_what_they_had() {
    let lab = Lab::new(1);
    let (netns, _) = pod(&lab);
    lab.kernel.put_sysctl(netns.id(), "ipv4/conf/all/rp_filter", "1");
    let routing = WantedRouting { sysctls: [("rp_filter".to_owned(), 0)].into(), ..Default::default() };
    lab.engine.prepare(&claim("c1", "p1", vec![rail(1, routing)]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let is = |interface: &str| lab.kernel.sysctl_of(netns.id(), &format!("ipv4/conf/{interface}/rp_filter"));
    // In effect is the larger of `all` and the interface's own.
    assert_eq!([is("all"), is("net1"), is("eth0")].map(Option::unwrap), ["0", "0", "1"]);
}

fn probing(duplicate_address: Option<Probe>, gateway: Option<Probe>) -> WantedRouting {
    WantedRouting { probe: WantedProbe { duplicate_address, gateway, budget_ms: 40 }, ..by_source() }
}

/// Type, status, reason and message of the conditions besides `Ready`.
fn conditions(lab: &Lab) -> Vec<String> {
    let (_, Letter { report, .. }) = lab.attacher.outbox.waiting().remove(0);
    let checks = report.devices.iter().flat_map(|device| &device.checks);
    checks
        .map(|check| {
            format!("{} {:?} {}: {}", check.kind.as_str(), check.passed, check.reason(), check.message)
        })
        .collect()
}

#[test]
fn what_probes_find_is_in_the_status_and_the_pod_starts() {
    let lab = Lab::new(1);
    let (netns, _) = pod(&lab);
    let probes = probing(Some(Probe::Report), Some(Probe::Report));
    lab.kernel.put_neighbour("172.16.11.1".parse().unwrap(), "02:00:00:00:00:99");
    lab.engine.prepare(&claim("c1", "p1", vec![rail(1, probes)]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(
        conditions(&lab),
        [
            "AddressUnique Some(false) Duplicate: 172.16.11.1 is used by 02:00:00:00:00:99",
            "GatewayReachable Some(false) NoAnswer: next hop 172.16.11.254 did not answer within 20 ms",
        ]
    );
    assert_eq!(lab.kernel.routing_of(netns.id()).1.len(), 1, "the pod has its rule all the same");
}

#[test]
fn a_question_that_the_kernel_refuses_is_told_where_answers_are_only_reported() {
    for (how, starts) in [(Probe::Report, true), (Probe::Fail, false)] {
        let attach = |fate: &Fate| {
            let lab = Lab::new(1);
            pod(&lab);
            lab.engine.prepare(&claim("c1", "p1", vec![rail(1, probing(Some(how), None))]), soon()).unwrap();
            let run = || lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).map(drop);
            (fate.live(run).unwrap(), lab)
        };
        let well = Fate::default();
        attach(&well).0.unwrap();
        let asks = well.effects().iter().position(|effect| effect == "ask the neighbours").unwrap();
        let (done, lab) = attach(&Fate::default().at(asks, Turn::Fails(Errno::EPERM)));
        assert_eq!(done.is_ok(), starts, "{done:?}");
        if starts {
            let told = conditions(&lab).remove(0);
            assert!(told.starts_with("AddressUnique None NotAsked: ask the neighbours"), "{told}");
            assert!(told.contains("EPERM") || told.contains("Operation not permitted"), "{told}");
        } else {
            lab.assert_pristine(1);
        }
    }
}

#[test]
fn a_probe_that_must_not_fail_keeps_the_pod_from_starting_and_leaves_nothing() {
    for (probes, found) in [
        (probing(Some(Probe::Fail), None), "172.16.11.1 is used by 02:00:00:00:00:99"),
        (probing(None, Some(Probe::Fail)), "next hop 172.16.11.254 did not answer within 20 ms"),
    ] {
        let lab = Lab::new(1);
        let (netns, default) = pod(&lab);
        lab.kernel.put_neighbour("172.16.11.1".parse().unwrap(), "02:00:00:00:00:99");
        lab.engine.prepare(&claim("c1", "p1", vec![rail(1, probes)]), soon()).unwrap();
        let error = lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap_err();
        let says = format!("net1 can't be used: {found}");
        assert!(error.sentence().contains(&says), "{}", error.sentence());
        let (routes, rules, announced) = lab.kernel.routing_of(netns.id());
        assert_eq!((routes, rules), (vec![default], vec![]));
        assert_eq!(
            announced.len(),
            usize::from(found.contains("next hop")),
            "an address in use is not announced"
        );
        lab.assert_pristine(1);
    }
}

#[test]
fn an_address_that_nobody_has_and_a_gateway_that_answers_pass() {
    let lab = Lab::new(1);
    pod(&lab);
    lab.kernel.put_neighbour("172.16.11.254".parse().unwrap(), "02:00:00:00:00:fe");
    let probes = probing(Some(Probe::Fail), Some(Probe::Fail));
    lab.engine.prepare(&claim("c1", "p1", vec![rail(1, probes)]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(
        conditions(&lab),
        [
            "AddressUnique Some(true) NoAnswer: nobody answered for it within 20 ms",
            "GatewayReachable Some(true) Answered: 172.16.11.254 is at 02:00:00:00:00:fe",
        ]
    );
}

/// Runtimes use paths again.
#[test]
fn the_late_stop_of_a_sandbox_takes_no_route_from_the_pod_whose_namespace_has_its_path_now() {
    let lab = Lab::new(2);
    let default = || WantedRouting { source_routing: false, default_route: true, ..by_source() };
    let specs = [claim("c1", "p1", vec![rail(1, default())]), claim("c2", "p2", vec![rail(2, default())])];
    let (former, _) = pod(&lab);
    lab.engine.prepare(&specs[0], soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.kernel.destroy(former.id());
    let (netns, _) = pod(&lab);
    lab.engine.prepare(&specs[1], soon()).unwrap();
    lab.attacher.run(&sandbox("B", "p2", "/run/netns/a"), soon()).unwrap();
    let before = shown(&lab, &netns);
    assert!(before.0.iter().any(|route| route.starts_with("default via 172.16.11.254")), "{before:?}");
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(shown(&lab, &netns), before);
    lab.unprepare(&specs[0]).unwrap();
    assert_eq!(shown(&lab, &netns), before);
    lab.unprepare(&specs[1]).unwrap();
    lab.assert_pristine(2);
}
