//! Routes, pools, sysctls and probes of a claim.

use serde_json::{Value, json};
use sriov_dra::claim::{Probe, WantedRouting};

use super::lab::Claim;

const ADDRESS: &str = "172.16.11.10/24";

fn with_routes(routes: Value) -> Claim {
    Claim::new().config("FromClaim", &[], json!({"addresses": [ADDRESS, "fd00:11::10/64"], "routes": routes}))
}

fn routing(interface: Value) -> WantedRouting {
    Claim::new().config("FromClass", &[], interface).compiled().results[0].routing.clone()
}

#[test]
fn routes_that_the_interfaces_networks_lead_to_are_taken() {
    let spec = with_routes(json!([
        {"to": "172.16.0.0/16", "via": "172.16.11.254"}, {"to": "10.9.0.0/16"}, {"to": "::/0", "via": "fd00:11::1"},
    ]));
    let routes: Vec<String> =
        spec.compiled().results[0].routing.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["172.16.0.0/16 via 172.16.11.254", "10.9.0.0/16", "::/0 via fd00:11::1"]);
}

#[test]
fn a_route_that_can_not_be_is_refused_with_what_would_be_right() {
    for (routes, says) in [
        (
            json!([{"to": "172.16.0.0/16", "via": "172.17.0.1"}]),
            "172.17.0.1 is not on the interface's networks 172.16.11.0/24; name a next hop on one",
        ),
        (
            json!([{"to": "172.16.0.0/16", "via": "172.16.11.10"}]),
            "172.16.11.10 is the interface's own address",
        ),
        (
            json!([{"to": "172.16.0.0/16", "via": "fd00:11::1"}]),
            "fd00:11::1 is not of the same family as 172.16.0.0/16",
        ),
        (
            json!([{"to": "172.16.0.1/16"}]),
            "\"172.16.0.1/16\": the address goes on behind the prefix; write 172.16.0.0/16",
        ),
        (json!([{"to": "172.16.0.256/16"}]), "interface.routes[0].to: \"172.16.0.256/16\""),
        (json!([{"to": "172.16.0.0"}]), "has no prefix length"),
        (json!([{"to": "10.0.0.0/8"}, {"to": "10.0.0.0/8"}]), "10.0.0.0/8 is given twice"),
        (
            json!([{"to": "0.0.0.0/1", "via": "172.16.11.1"}]),
            "\"0.0.0.0/1\" is half of a default route; write 0.0.0.0/0",
        ),
        (json!([{"to": "128.0.0.0/1", "via": "172.16.11.1"}]), "\"128.0.0.0/1\" is half of a default route"),
        (json!([{"to": "8000::/1", "via": "fd00:11::1"}]), "is half of a default route; write ::/0"),
        (
            json!([{"to": "64.0.0.0/2", "via": "172.16.11.1"}]),
            "write prefixes of 8 bits or more, or 0.0.0.0/0",
        ),
        (json!([{"to": "2000::/3", "via": "fd00:11::1"}]), "write prefixes of 8 bits or more, or ::/0"),
        (
            json!([{"to": "172.16.11.0/24", "via": "172.16.11.1"}]),
            "172.16.11.0/24 is the interface's own network, which it leads to anyway; leave the route out",
        ),
        (json!([{"via": "172.16.11.1"}]), "interface.routes[0].to: is missing"),
        (json!([{"to": "10.0.0.0/8", "gateway": "172.16.11.1"}]), "unknown field, known are to, via"),
        (json!([{"to": "10.0.0.0/8", "via": "0.0.0.0"}]), "0.0.0.0 can be no next hop"),
    ] {
        let refused = with_routes(routes.clone()).refused();
        assert!(refused.contains(says), "{routes}: {refused}");
    }
}

#[test]
fn a_next_hop_needs_an_address_of_its_family() {
    let claim = Claim::new().config(
        "FromClaim",
        &[],
        json!({"addresses": ["fd00::1/64"], "routes": [{"to": "10.0.0.0/8", "via": "10.1.0.1"}]}),
    );
    assert!(claim.refused().contains("the interface has no address of the family of 10.1.0.1"));
}

#[test]
fn each_interface_with_an_address_has_its_own_table_unless_that_is_turned_off() {
    assert!(routing(json!({"addresses": [ADDRESS]})).source_routing);
    assert!(routing(json!({"addressPool": "rails"})).source_routing);
    assert!(!routing(json!({"mtu": 9000})).source_routing);
    assert!(!routing(json!({"addresses": [ADDRESS], "sourceRouting": false})).source_routing);
}

#[test]
fn a_default_route_needs_a_table_of_its_own_or_a_class_that_gives_the_pods() {
    let default = json!([{"to": "0.0.0.0/0", "via": "172.16.11.254"}]);
    let claim = |source: &str, more: Value| {
        let mut interface = json!({"addresses": [ADDRESS], "routes": default});
        interface.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Claim::new().config(source, &[], interface)
    };
    let refused = claim("FromClaim", json!({"sourceRouting": false})).refused();
    assert!(refused.contains("the pod's default route is not this interface's"), "{refused}");
    let refused = claim("FromClaim", json!({"defaultRoute": true})).refused();
    assert!(refused.contains("interface.defaultRoute: only a DeviceClass may set"), "{refused}");
    let spec = claim("FromClass", json!({"defaultRoute": true, "sourceRouting": false})).compiled();
    assert!(spec.results[0].routing.default_route);
    let nowhere = Claim::new()
        .config("FromClass", &[], json!({"addresses": [ADDRESS], "defaultRoute": true}))
        .refused();
    assert!(nowhere.contains("there is no next hop for it; add a route to 0.0.0.0/0 or ::/0"), "{nowhere}");
}

#[test]
fn an_address_is_given_by_the_claim_or_by_a_pool() {
    let both = Claim::new().config("FromClass", &[], json!({"addressPool": "rail{rail}"})).config(
        "FromClaim",
        &[],
        json!({"addresses": [ADDRESS]}),
    );
    let refused = both.refused();
    assert!(
        refused.contains(
            "config[1] (from claim): interface.addresses: interface.addressPool is set to rail{rail}, too"
        ),
        "{refused}"
    );
    let tenant = Claim::new().config("FromClaim", &[], json!({"addressPool": "rails"})).refused();
    assert!(tenant.contains("interface.addressPool"), "a claim needs a grant for it: {tenant}");
}

#[test]
fn the_preset_fills_what_no_key_says() {
    let values =
        routing(json!({"sysctls": {"preset": "multirail", "rp_filter": 0, "arp_notify": 1}})).sysctls;
    let values: Vec<String> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        values,
        ["accept_local=1", "arp_announce=2", "arp_filter=1", "arp_ignore=1", "arp_notify=1", "rp_filter=0"]
    );
}

#[test]
fn a_probe_needs_an_address_to_ask_with() {
    let probe = routing(json!({"addresses": [ADDRESS], "probe": {"gateway": "fail"}})).probe;
    assert_eq!((probe.gateway, probe.duplicate_address, probe.budget_ms), (Some(Probe::Fail), None, 300));
    let refused =
        Claim::new().config("FromClaim", &[], json!({"probe": {"duplicateAddress": "report"}})).refused();
    assert!(refused.contains("interface.probe.duplicateAddress: the interface has no address"), "{refused}");
}

#[test]
fn an_ipv6_address_on_an_interface_without_ipv6_is_refused() {
    let refused = Claim::new()
        .config("FromClass", &[], json!({"addresses": ["fd00:11::10/64"], "sysctls": {"disable_ipv6": 1}}))
        .refused();
    assert!(
        refused.contains("interface.sysctls.disable_ipv6: the interface has the IPv6 address fd00:11::10/64"),
        "{refused}"
    );
}
