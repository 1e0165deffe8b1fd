//! Who gets which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{pf, pool};
use crate::address::{Assigned, Block, NoAddress, Overlap, assign, gives_any, overlaps, read, usable};

fn addresses(assigned: Result<Assigned, NoAddress>) -> Vec<String> {
    assigned.unwrap().addresses.iter().map(ToString::to_string).collect()
}

fn block(spec: &Value, index: u64, node: &str, own: &[&str]) -> Block {
    pool(spec.clone()).block(index, node, &pf(0, own)).unwrap()
}

/// Numbers that look random and are the same in every run.
fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    }
}

#[test]
fn a_shared_subnet_is_cut_into_blocks_and_vfs_count_past_what_is_not_for_them() {
    let spec = json!({"mode": "sharedSubnet", "ipv4": {
        "cidr": "172.16.11.0/24", "blockSize": 16, "gateway": "172.16.11.254", "exclude": ["172.16.11.2-172.16.11.3"],
        "ranges": ["172.16.11.1-172.16.11.200"],
    }});
    let rail = pool(spec.clone());
    assert_eq!(rail.blocks(), 16);
    let first = block(&spec, 0, "a", &["172.16.11.1/24"]);
    assert_eq!(first.cidrs[0].to_string(), "172.16.11.0/28");
    // Network, the PF's own and two excluded ones.
    assert_eq!(usable(&first), 12);
    let own = pf(0, &["172.16.11.1/24"]);
    assert_eq!(addresses(assign(&rail, &first, &own, 0)), ["172.16.11.4/24"]);
    assert_eq!(addresses(assign(&rail, &first, &own, 11)), ["172.16.11.15/24"]);
    let error = assign(&rail, &first, &own, 12).unwrap_err().to_string();
    assert_eq!(
        error,
        "AddressPool rails: VF 12 of PF 0000:3b:00.0 has no address: 172.16.11.0/28 has 12, for VF 0 and the 11 after it; \
         larger blocks or fewer VFs would do"
    );
    // 192 to 200 are in a range, 201 to 207 are not; the last block is in none.
    assert_eq!(usable(&block(&spec, 12, "b", &[])), 9);
    assert_eq!(usable(&block(&spec, 15, "b", &[])), 0);
    assert_eq!(rail.block(16, "b", &own), None);
    assert_eq!(
        assign(&rail, &first, &own, 0).unwrap().gateways,
        ["172.16.11.254".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn a_prefix_for_each_pf_has_its_gateway_first_and_its_routes_on_the_pfs_they_are_for() {
    let spec = json!({"mode": "perNodePrefix",
        "ipv4": {"cidr": "172.16.0.0/16", "prefixLength": 27, "gatewayIndex": 1},
        "ipv6": {"cidr": "2001:db8::/48", "prefixLength": 64, "gatewayIndex": -1},
        "routes": [{"to": "172.16.0.0/16", "pfs": {"names": ["eno3np1"]}}, {"to": "2001:db8::/32"}],
    });
    let rails = pool(spec.clone());
    assert_eq!(rails.blocks(), 2048);
    let held = block(&spec, 9, "a", &["172.16.1.34/27"]);
    assert_eq!(
        held.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["172.16.1.32/27", "2001:db8:0:9::/64"]
    );
    let assigned = assign(&rails, &held, &pf(0, &["172.16.1.34/27"]), 0).unwrap();
    assert_eq!(addresses(Ok(assigned.clone())), ["172.16.1.35/27", "2001:db8:0:9::1/64"]);
    let gateways: Vec<String> = assigned.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["172.16.1.33", "2001:db8:0:9:ffff:ffff:ffff:ffff"]);
    let routes: Vec<String> = assigned.routes.iter().map(|r| format!("{} via {}", r.to, r.via)).collect();
    assert_eq!(
        routes,
        ["172.16.0.0/16 via 172.16.1.33", "2001:db8::/32 via 2001:db8:0:9:ffff:ffff:ffff:ffff"]
    );
    let other = assign(&rails, &held, &pf(1, &[]), 0).unwrap();
    assert_eq!(other.routes.len(), 1, "the IPv4 route is for the first PF only");
    assert_eq!(usable(&held), 28, "32 less network, broadcast, gateway and the PF's own");
}

#[test]
fn the_parents_prefix_is_the_block_where_the_pf_has_one_of_the_right_length() {
    let rails = pool(
        json!({"mode": "fromParent", "ipv4": {"cidr": "172.16.0.0/16", "prefixLength": 27, "gatewayIndex": 1}}),
    );
    let own = pf(0, &["10.0.0.1/8", "172.16.1.226/27"]);
    let held = rails.parents_block("a", &own).unwrap();
    assert_eq!((held.index, held.cidrs[0].to_string().as_str()), (15, "172.16.1.224/27"));
    assert_eq!(addresses(assign(&rails, &held, &own, 0)), ["172.16.1.227/27"]);
    assert_eq!(addresses(assign(&rails, &held, &own, 27)), ["172.16.1.254/27"]);
    assert!(matches!(assign(&rails, &held, &own, 28), Err(NoAddress::Beyond { holds: 28, .. })));
    for (own, why) in [
        (&["10.0.0.1/8"][..], "the PF has no address of 172.16.0.0/16"),
        (&["172.16.1.226/24"], "the PF's address 172.16.1.226/24 has not the pool's prefixLength 27"),
    ] {
        assert_eq!(rails.parents_block("a", &pf(0, own)).unwrap_err(), why);
    }
}

#[test]
fn no_two_vfs_share_an_address_and_nobody_gets_one_that_is_not_for_vfs() {
    for seed in 1..=60 {
        let mut roll = dice(seed);
        let (length, size_bits) = (22 + roll(5), 2 + roll(4));
        let shared = roll(2) == 0;
        let base = "172.20.64";
        let mut family = json!({"cidr": format!("{base}.0/{length}")});
        let excluded: Vec<String> =
            (0..roll(4)).map(|_| format!("{base}.{}", roll(1 << (32 - length).min(8)))).collect();
        family["exclude"] = json!(excluded);
        match shared {
            true => {
                family["blockSize"] = json!(1 << size_bits.min(32 - length));
                family["gateway"] = json!(format!("{base}.{}", 1 + roll((1 << (32 - length).min(8)) - 2)));
            }
            false => {
                family["prefixLength"] = json!((32 - size_bits).max(length));
                family["gatewayIndex"] = json!(if roll(2) == 0 { 1 } else { -1 });
            }
        }
        let mode = if shared { "sharedSubnet" } else { "perNodePrefix" };
        let rails = pool(json!({"mode": mode, "ipv4": family}));
        let mut given: BTreeMap<IpAddr, (u64, u32)> = BTreeMap::new();
        for index in 0..rails.blocks() {
            let own = format!("{base}.{}/24", roll(256));
            let pf = pf(0, &[&own]);
            let held = rails.block(index, &format!("node-{index}"), &pf).unwrap();
            for vf in 0..(1 << size_bits) + 2 {
                let Ok(assigned) = assign(&rails, &held, &pf, vf) else { continue };
                let net = assigned.addresses[0];
                let address = net.addr();
                assert!(held.cidrs[0].contains(&address), "seed {seed}: {address} is outside of its block");
                assert!(address != net.network() && address != net.broadcast(), "seed {seed}: {net}");
                assert!(!assigned.gateways.contains(&address), "seed {seed}: {address} is the gateway");
                assert!(!excluded.contains(&address.to_string()), "seed {seed}: {address} is excluded");
                assert_ne!(address, pf.addresses[0].addr(), "seed {seed}: the PF has it");
                let other = given.insert(address, (index, vf));
                assert_eq!(other, None, "seed {seed}: {address} is given out twice");
            }
        }
        assert_eq!(!given.is_empty(), gives_any(&rails), "seed {seed}");
    }
}

#[test]
fn whatever_is_changed_afterwards_a_vf_keeps_its_address_or_has_none() {
    for seed in 1..=60 {
        let mut roll = dice(seed);
        let spec = |length: u64, exclude: Vec<String>, gateway: u64| {
            json!({"mode": "sharedSubnet", "ipv4": {
                "cidr": format!("172.20.0.0/{length}"), "blockSize": 16, "exclude": exclude, "gateway": format!("172.20.0.{gateway}"),
            }})
        };
        let some = |roll: &mut dyn FnMut(u64) -> u64| {
            (0..roll(5)).map(|_| format!("172.20.0.{}", roll(255))).collect()
        };
        let before = pool(spec(24, some(&mut roll), 1 + roll(253)));
        let after = pool(spec(16 + roll(9), some(&mut roll), 1 + roll(253)));
        assert_eq!(before.refuses(&after), Ok(()));
        let (old, new) = (format!("172.20.0.{}/24", roll(255)), format!("172.20.0.{}/24", roll(255)));
        for index in 0..16 {
            let held = before.block(index, "a", &pf(0, &[&old])).unwrap();
            for vf in 0..16 {
                let was = assign(&before, &held, &pf(0, &[&old]), vf).ok().map(|a| a.addresses[0].addr());
                match assign(&after, &held, &pf(0, &[&new]), vf) {
                    Ok(now) => assert_eq!(Some(now.addresses[0].addr()), was, "seed {seed}"),
                    Err(NoAddress::Taken { address, .. }) => assert_eq!(Some(address), was, "seed {seed}"),
                    Err(NoAddress::Beyond { .. }) => assert_eq!(was, None, "seed {seed}"),
                    Err(other) => panic!("seed {seed}: {other}"),
                }
            }
        }
    }
}

#[test]
fn what_is_taken_since_is_withheld_and_says_by_whom() {
    let spec = |extra: Value| {
        let mut spec = json!({"mode": "sharedSubnet", "ipv4": {"cidr": "10.1.0.0/24", "blockSize": 8}});
        spec["ipv4"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    let held = block(&spec(json!({})), 1, "a", &[]);
    let told = |extra: Value, own: &[&str]| {
        assign(&pool(spec(extra)), &held, &pf(0, own), 2).unwrap_err().to_string()
    };
    let begin = "AddressPool rails: the address of VF 2 of PF 0000:3b:00.0 would be 10.1.0.10, but ";
    assert_eq!(told(json!({"gateway": "10.1.0.10"}), &[]), format!("{begin}that is the gateway now"));
    assert_eq!(told(json!({"exclude": ["10.1.0.0/28"]}), &[]), format!("{begin}the pool excludes it now"));
    assert_eq!(told(json!({}), &["10.1.0.10/24"]), format!("{begin}the PF has it on the host now"));
    assert!(told(json!({"blockSize": 16}), &[]).contains("which they must not be; put them back"));
}

#[test]
fn the_search_begins_elsewhere_for_each_pf_and_at_the_same_place_each_time() {
    let rails = pool(json!({"mode": "perNodePrefix", "ipv4": {"cidr": "172.16.0.0/16", "prefixLength": 27}}));
    let starts: BTreeSet<u64> = (0..50)
        .flat_map(|node| (0..8).map(move |function| (node, function)))
        .map(|(node, function)| rails.first_try(&format!("node-{node}"), &pf(function, &[])))
        .collect();
    // 400 of 2048 drawn at random meet about 36 times.
    assert!((340..=385).contains(&starts.len()), "{} places for 400 PFs", starts.len());
    assert!(starts.last().unwrap() < &2048);
    // A new version must find the blocks of the old one at the first try.
    assert_eq!(rails.first_try("node-1", &pf(0, &[])), 927);
}

#[test]
fn changes_that_would_move_addresses_are_refused_and_growth_is_not() {
    let spec = |mode: &str, family: Value| json!({"mode": mode, "ipv4": family});
    let before = pool(spec("perNodePrefix", json!({"cidr": "172.16.0.0/18", "prefixLength": 27})));
    for (after, why) in [
        (
            spec("fromParent", json!({"cidr": "172.16.0.0/18", "prefixLength": 27})),
            Some("spec.mode: it may not change"),
        ),
        (spec("perNodePrefix", json!({"cidr": "172.16.0.0/18", "prefixLength": 28})), Some("may not change")),
        (
            spec("perNodePrefix", json!({"cidr": "172.16.0.0/19", "prefixLength": 27})),
            Some("it may only grow at its end"),
        ),
        (
            spec("perNodePrefix", json!({"cidr": "172.17.0.0/18", "prefixLength": 27})),
            Some("172.16.0.0 must stay"),
        ),
        (
            spec("perNodePrefix", json!({"cidr": "172.16.0.0/16", "prefixLength": 27, "gatewayIndex": 1})),
            None,
        ),
    ] {
        match (before.refuses(&pool(after.clone())), why) {
            (Ok(()), None) => {}
            (Err(said), Some(why)) => assert!(said.contains(why), "{said}"),
            (other, _) => panic!("{after}: {other:?}"),
        }
    }
    let mut both = spec("perNodePrefix", json!({"cidr": "172.16.0.0/18", "prefixLength": 27}));
    both["ipv6"] = json!({"cidr": "2001:db8::/56", "prefixLength": 64});
    assert!(before.refuses(&pool(both)).unwrap_err().contains("neither be added nor removed"));
}

#[test]
fn of_two_pools_that_overlap_the_younger_claims_nothing_and_the_older_stays_out_of_it() {
    let named = |name: &str, cidr: &str, ranges: &[&str]| {
        let spec = json!({"mode": "sharedSubnet", "ipv4": {"cidr": cidr, "blockSize": 16, "ranges": ranges}});
        read(name, name, &spec).unwrap()
    };
    let found = overlaps(&[
        named("old", "172.16.0.0/16", &["172.16.11.0-172.16.11.200"]),
        named("beside", "172.16.0.0/16", &["172.16.12.0-172.16.12.200"]),
        named("young", "172.16.11.128/25", &[]),
    ]);
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["old", "young"],
        "different ranges of one subnet do not overlap"
    );
    let Overlap { older, younger, avoid, place } = &found["old"];
    assert_eq!((older.len(), younger.as_slice()), (0, &["young".to_owned()][..]));
    assert_eq!(avoid[0].to_string(), "172.16.11.128-172.16.11.255");
    assert_eq!(place.unwrap().to_string(), "172.16.11.128-172.16.11.200");
    assert_eq!(found["young"].older, ["old"]);

    // Where it meets the older pool is what is told of a pool, whatever younger ones meet it elsewhere.
    let found = overlaps(&[
        named("old", "172.16.0.0/16", &["172.16.11.0-172.16.11.200"]),
        named("young", "172.16.11.128/25", &[]),
        named("youngest", "172.16.11.224/27", &[]),
    ]);
    assert_eq!(found["young"].place.unwrap().to_string(), "172.16.11.128-172.16.11.200");
}
