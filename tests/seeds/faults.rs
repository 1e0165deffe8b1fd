//! What is wrong with the guides' own ranges, and that it is told.

use serde_json::{Value, json};
use sriov_dra::address::{self, Pool};

/// The same as a pool of ours, word for word.
fn ours(theirs: &Value) -> Value {
    let of = |field: &str| theirs["spec"][field].clone();
    let family = json!({"cidr": of("subnet"), "gateway": of("gateway"), "ranges": of("ips"), "blockSize": 8});
    let routes = if of("routes").is_null() { json!([]) } else { of("routes") };
    json!({"mode": "sharedSubnet", "ipv4": family, "routes": routes})
}

fn theirs() -> Vec<(String, Value)> {
    let all: Vec<Value> = serde_saphyr::from_multiple(include_str!("guides.yaml")).unwrap();
    all.iter().map(|pool| (pool["metadata"]["name"].as_str().unwrap().to_owned(), ours(pool))).collect()
}

fn said(name: &str, spec: &Value) -> String {
    address::read(name, "", spec).unwrap_err().to_string()
}

#[test]
fn every_range_of_the_guides_is_refused_with_the_reason() {
    let outside = |first: &str, last: &str, subnet: &str, hosts: &str| {
        format!("spec.ipv4.ranges[0]: {first}-{last} is not all of {subnet}, whose hosts are {hosts}")
    };
    let rail = |n: u32| {
        let at = 32 * (n - 1);
        let address = |host: u32| format!("172.16.1.{}", at + host);
        outside(
            &address(2),
            &address(32),
            &format!("172.16.1.{at}/27"),
            &format!("{}-{}", address(1), address(30)),
        )
    };
    let mut expected = vec![(
        "gpu1-net11".to_owned(),
        "spec.ipv4.cidr: \"172.16.11.0/16\": the address goes on behind the prefix; write 172.16.0.0/16, or 172.16.11.0/24"
            .to_owned(),
    )];
    expected.extend((1..=7).map(|n| (format!("eno3np{n}-rail{n}-node1"), rail(n))));
    let eighth = "spec.ipv4.ranges[0]: \"172.16.1.226-172.16.1.256\": ";
    expected.push(("eno3np8-rail8-node1".to_owned(), eighth.to_owned()));
    let pools = theirs();
    assert_eq!(pools.len(), expected.len());
    for ((name, spec), (expected_name, expected)) in pools.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        let said = said(name, spec);
        assert!(said.starts_with(&format!("AddressPool {name}: {expected}")), "{said}\nexpected: {expected}");
    }
    let (name, spec) = &pools[8];
    assert!(said(name, spec).contains("256 is more than 255"));
}

#[test]
fn half_mended_ranges_are_refused_for_what_is_left() {
    let (name, mended) = theirs().into_iter().nth(2).unwrap();
    let with = |change: fn(&mut Value)| {
        let mut spec = mended.clone();
        spec["ipv4"]["ranges"] = json!(["172.16.1.34-172.16.1.62"]);
        change(&mut spec["ipv4"]);
        spec
    };
    address::read(&name, "", &with(|_| {})).unwrap();
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 4] = [
        (|v4| v4["ranges"] = json!(["172.16.1.34-172.16.1.63"]), "holds the network or broadcast address"),
        (|v4| v4["ranges"] = json!(["172.16.1.32-172.16.1.62"]), "holds the network or broadcast address"),
        // That of the first rail, as its text is copied.
        (|v4| v4["gateway"] = json!("172.16.1.1"), "172.16.1.1 is outside of 172.16.1.32/27"),
        (|v4| v4["gateway"] = json!("172.16.1.63"), "172.16.1.63 is the broadcast address of 172.16.1.32/27"),
    ];
    for (change, why) in cases {
        let said = said(&name, &with(change));
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn the_second_nodes_first_prefix_which_the_guide_takes_from_the_first_node_overlaps() {
    // "rail network card 1 on node1 might use the 172.16.1.0/27 subnet, while rail network card 1 on node2 might use the
    // 172.16.1.32/27 subnet", which is that of rail 2 on node1 further down.
    let prefix = |name: &str, cidr: &str| -> Pool {
        let family = json!({"cidr": cidr, "prefixLength": 27, "gatewayIndex": 1});
        address::read(name, "", &json!({"mode": "perNodePrefix", "ipv4": family})).unwrap()
    };
    let pools = [
        prefix("eno3np1-rail1-node1", "172.16.1.0/27"),
        prefix("eno3np2-rail2-node1", "172.16.1.32/27"),
        prefix("eno3np1-rail1-node2", "172.16.1.32/27"),
    ];
    let found = address::overlaps(&pools);
    assert_eq!(found["eno3np1-rail1-node2"].older, ["eno3np2-rail2-node1"]);
    assert!(!found.contains_key("eno3np1-rail1-node1"));
}
