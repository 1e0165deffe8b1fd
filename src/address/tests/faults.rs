//! What is wrong with a pool, said in one sentence each.

use serde_json::{Value, json};

use crate::address::read;

fn said(spec: &Value) -> String {
    read("rail1", "uid", spec).unwrap_err().to_string()
}

fn shared(family: Value) -> Value {
    let mut spec = json!({"mode": "sharedSubnet", "ipv4": {"cidr": "172.16.1.0/27", "blockSize": 8}});
    spec["ipv4"].as_object_mut().unwrap().extend(family.as_object().unwrap().clone());
    spec
}

fn prefixes(family: Value) -> Value {
    let mut spec = json!({"mode": "perNodePrefix", "ipv4": {"cidr": "172.16.0.0/16", "prefixLength": 27}});
    spec["ipv4"].as_object_mut().unwrap().extend(family.as_object().unwrap().clone());
    spec
}

#[test]
fn every_fault_is_told_with_the_field_and_what_would_be_right() {
    let route = |route: Value| {
        let mut spec = shared(json!({"gateway": "172.16.1.1"}));
        spec["routes"] = json!([route]);
        spec
    };
    for (spec, sentence) in [
        // The faulty plans that people really wrote down.
        (
            shared(json!({"cidr": "172.16.11.0/16"})),
            "spec.ipv4.cidr: \"172.16.11.0/16\": the address goes on behind the prefix; write 172.16.0.0/16, or 172.16.11.0/24",
        ),
        (
            shared(json!({"ranges": ["172.16.1.2-172.16.1.32"]})),
            "spec.ipv4.ranges[0]: 172.16.1.2-172.16.1.32 is not all of 172.16.1.0/27, whose hosts are 172.16.1.1-172.16.1.30",
        ),
        (
            shared(json!({"cidr": "172.16.1.224/27", "ranges": ["172.16.1.226-172.16.1.256"]})),
            "spec.ipv4.ranges[0]: \"172.16.1.226-172.16.1.256\": 256 is more than 255, the largest part of an IPv4 address",
        ),
        (
            shared(json!({"ranges": ["172.16.1.2-172.16.1.31"]})),
            "spec.ipv4.ranges[0]: 172.16.1.2-172.16.1.31 holds the network or broadcast address of 172.16.1.0/27, whose hosts are 172.16.1.1-172.16.1.30",
        ),
        (
            shared(json!({"gateway": "172.16.1.33"})),
            "spec.ipv4.gateway: 172.16.1.33 is outside of 172.16.1.0/27, where no neighbour can have it",
        ),
        (
            shared(json!({"gateway": "172.16.1.0"})),
            "spec.ipv4.gateway: 172.16.1.0 is the network address of 172.16.1.0/27, where no neighbour can have it",
        ),
        (
            shared(json!({"gateway": "172.16.1.31"})),
            "spec.ipv4.gateway: 172.16.1.31 is the broadcast address of 172.16.1.0/27, where no neighbour can have it",
        ),
        (
            shared(json!({"ranges": ["172.16.1.2-172.16.1.9", "172.16.1.9-172.16.1.12"]})),
            "spec.ipv4.ranges[1]: 172.16.1.9-172.16.1.12 overlaps 172.16.1.2-172.16.1.9",
        ),
        // The rest.
        (
            shared(json!({"exclude": ["172.16.1.30-172.16.1.40"]})),
            "spec.ipv4.exclude[0]: 172.16.1.30-172.16.1.40 is not all in 172.16.1.0/27",
        ),
        (shared(json!({"blockSize": 12})), "spec.ipv4.blockSize: 12 is no power of two; write 8 or 16"),
        (
            shared(json!({"blockSize": 64})),
            "spec.ipv4.blockSize: 64 addresses are more than 172.16.1.0/27 has",
        ),
        (shared(json!({"blockSize": 0})), "spec.ipv4.blockSize: 0 is not 1 to 65536"),
        (
            shared(json!({"blockSize": null})),
            "spec.ipv4.blockSize: it is missing: how many addresses each PF gets, such as 16",
        ),
        (
            shared(json!({"prefixLength": 30})),
            "spec.ipv4.prefixLength: mode sharedSubnet has no prefixes; use blockSize",
        ),
        (
            shared(json!({"gateway": "172.16.1.1", "gatewayIndex": 1})),
            "spec.ipv4.gatewayIndex: gateway is given too; only one of them can hold",
        ),
        (
            shared(json!({"gatewayIndex": 31})),
            "spec.ipv4.gatewayIndex: 31 is no host of 172.16.1.0/27; 1 is the first, -1 the last",
        ),
        (
            shared(json!({"gatewayIndex": 0})),
            "spec.ipv4.gatewayIndex: 0 is no host of 172.16.1.0/27; 1 is the first, -1 the last",
        ),
        (
            shared(json!({"cidr": "172.16.1.0/31", "blockSize": 1})),
            "spec.ipv4.cidr: 172.16.1.0/31 is too small to be shared: it has no network address",
        ),
        (
            shared(json!({"cidr": "16.0.0.0/4"})),
            "spec.ipv4.cidr: 16.0.0.0/4 is wider than any network; the prefix length is at least 8",
        ),
        (shared(json!({"cidr": "2001:db8::/64"})), "spec.ipv4.cidr: 2001:db8::/64 is no IPv4 subnet"),
        (shared(json!({"cidr": "127.0.0.0/24"})), "spec.ipv4.cidr: 127.0.0.0/24 is for loopback"),
        (shared(json!({"cidr": "169.254.1.0/24"})), "spec.ipv4.cidr: 169.254.1.0/24 is reserved"),
        (shared(json!({"cidr": "224.0.0.0/24"})), "spec.ipv4.cidr: 224.0.0.0/24 is for multicast"),
        (prefixes(json!({"prefixLength": 15})), "spec.ipv4.prefixLength: 15 is not 16 to 32"),
        (
            prefixes(json!({"prefixLength": null})),
            "spec.ipv4.prefixLength: it is missing: the length of each PF's prefix, such as 27",
        ),
        (
            prefixes(json!({"gateway": "172.16.0.1"})),
            "spec.ipv4.gateway: mode perNodePrefix has a gateway and addresses in each prefix; use gatewayIndex",
        ),
        (
            prefixes(json!({"ranges": ["172.16.0.1"]})),
            "spec.ipv4.ranges: mode perNodePrefix has a gateway and addresses in each prefix; use exclude",
        ),
        (
            prefixes(json!({"blockSize": 16})),
            "spec.ipv4.blockSize: mode perNodePrefix gives a prefix to each PF; use prefixLength",
        ),
        (
            json!({"mode": "sharedSubnet"}),
            "spec: neither ipv4 nor ipv6 is there; a pool has one of them or both",
        ),
        (shared(json!({"gatway": "172.16.1.1"})), "unknown field `gatway`"),
        (
            json!({"mode": "dhcp", "ipv4": {"cidr": "10.0.0.0/24"}}),
            "unknown variant `dhcp`, expected one of `sharedSubnet`, `perNodePrefix`, `fromParent`",
        ),
        (
            route(json!({"to": "0.0.0.0/0"})),
            "spec.routes[0].to: 0.0.0.0/0 would be, or replace, the pod's default route",
        ),
        (
            route(json!({"to": "128.0.0.0/1"})),
            "spec.routes[0].to: 128.0.0.0/1 would be, or replace, the pod's default route",
        ),
        (route(json!({"to": "172.16.1.0/16"})), "write 172.16.0.0/16, or 172.16.1.0/24"),
        (
            route(json!({"to": "2001:db8::/32"})),
            "spec.routes[0].to: 2001:db8::/32 is of a family that the pool has no addresses of",
        ),
        (
            route(json!({"to": "172.16.0.0/16", "via": "172.16.2.1"})),
            "spec.routes[0].via: 172.16.2.1 is no host of 172.16.1.0/27, so it can't be a neighbour",
        ),
    ] {
        let error = said(&spec);
        assert!(error.starts_with("AddressPool rail1: spec"), "{error}");
        assert!(error.contains(sentence), "\n  said: {error}\nwanted: {sentence}");
    }
    let mut no_gateway = prefixes(json!({}));
    no_gateway["routes"] = json!([{"to": "172.16.0.0/16"}]);
    assert!(
        said(&no_gateway)
            .contains("spec.routes[0]: via is missing, and spec.ipv4 has no gateway to lead it to")
    );
}

#[test]
fn all_faults_of_a_pool_are_told_at_once() {
    let error = said(&shared(json!({"blockSize": 12, "gateway": "172.16.2.1", "exclude": ["x"]})));
    for field in ["blockSize", "gateway", "exclude[0]"] {
        assert!(error.contains(&format!("spec.ipv4.{field}: ")), "{error}");
    }
}
