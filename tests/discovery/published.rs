//! What is published, attribute by attribute.

use super::*;

#[test]
fn a_roce_card_with_two_ports_is_published_with_every_attribute_and_spread_over_its_pfs() {
    let port = |function: u32, offset| Card {
        offset,
        ..Card::ethernet(&format!("0000:81:00.{function}"), &format!("ens1f{function}"), "mlx5_core")
            .rdma(&format!("mlx5_{function}"))
            .vfs(2, |_, vf| vf)
    };
    let tree = Tree::new().card(port(0, 2)).card(port(1, 3)).build().unwrap();
    let verdicts = verdicts(&look(&tree));
    assert_eq!(
        offered_addresses(&verdicts),
        ["0000:81:00.2", "0000:81:00.4", "0000:81:00.3", "0000:81:00.5"]
    );
    insta::assert_json_snapshot!("two_port_roce", offered(&verdicts));
}

#[test]
fn an_infiniband_card_is_published_as_infiniband() {
    let tree = Tree::new()
        .card(Card::infiniband("0000:0c:00.0", "ibs1", "mlx5_0").vfs(1, |_, vf| vf))
        .module("ib_ipoib")
        .build()
        .unwrap();
    let snapshot = look(&tree);
    assert_eq!(snapshot.pfs[0].link_type, Some(LinkType::Infiniband));
    assert_eq!(snapshot.pfs[0].eswitch_mode, None, "nothing says what an InfiniBand PF's switch does");
    assert_eq!(snapshot.vfs[0].netdev.as_ref().unwrap().hw_addr.as_ref().unwrap().bytes().len(), 20);
    insta::assert_json_snapshot!("infiniband", offered(&verdicts(&snapshot)));
}

#[test]
fn a_vf_inside_a_vm_is_published_last_and_without_anything_of_a_pf() {
    let tree = Tree::new()
        .card(Card::ethernet("10000:01:00.0", "ens5f0", "ice").vfs(1, |_, vf| vf))
        .nic(Nic::passed_through("0000:00:06.0", "ens6", 0x15b3, 0x101e, "mlx5_core"))
        .nic(Nic::virtio("0000:00:03.0", "eth0"))
        .nic(Nic::passed_through("0000:00:04.0", "eno1", 0x8086, 0x100e, "e1000"))
        .build()
        .unwrap();
    let snapshot = look(&tree);
    let verdicts = verdicts(&snapshot);
    assert_eq!(
        offered_addresses(&verdicts),
        ["10000:01:00.1", "0000:00:06.0"],
        "virtio and e1000 are no VFs"
    );
    insta::assert_json_snapshot!("vm_and_long_domain", offered(&verdicts));
}

#[test]
fn what_the_kernel_does_not_know_is_left_out() {
    let card = Card {
        numa_node: -1,
        iommu_group: None,
        netdevs: vec![NetdevPlan { speed: Some(-1), ..NetdevPlan::ethernet("ens1f0") }],
        ..Card::ethernet("0000:01:00.0", "ens1f0", "igb")
    };
    let tree = Tree::new().card(card.vfs(1, |_, _| VfPlan::unbound())).build().unwrap();
    let published = offered(&verdicts(&look(&tree)));
    let attributes: Vec<&str> = published[0].attributes.keys().map(String::as_str).collect();
    for absent in ["numaNode", "mtu", "linkSpeedMbps", "rdma", "driver"] {
        assert!(
            !attributes.iter().any(|key| key.ends_with(&format!("/{absent}"))),
            "{absent} is in {attributes:?}"
        );
    }
    assert!(attributes.contains(&"sriov-dra.io/pfName"), "{attributes:?}");
}

#[test]
fn a_value_too_long_for_an_attribute_is_dropped_and_named() {
    let driver = "d".repeat(65);
    let card = Card::ethernet("0000:01:00.0", "ens1f0", "igb");
    let tree =
        Tree::new().card(card.vfs(1, |_, vf| VfPlan { driver: Some(driver.clone()), ..vf })).build().unwrap();
    let verdict = verdicts(&look(&tree)).remove(0);
    assert_eq!(verdict.dropped, ["sriov-dra.io/driver"]);
    assert!(!verdict.device.attributes.contains_key("sriov-dra.io/driver"));
}

#[test]
fn a_vf_is_published_with_the_rail_that_the_first_rule_gives_its_pf() {
    let tree = Tree::new()
        .card(Card::ethernet("0000:01:00.0", "ens3f0", "igb").vfs(1, |_, vf| vf))
        .card(Card::ethernet("0000:02:00.0", "ens4f1", "igb").vfs(1, |_, vf| vf))
        .card(Card::ethernet("0000:03:00.0", "mgmt", "igb").vfs(1, |_, vf| vf))
        .card(Card::ethernet("0000:04:00.0", "ensxf0", "igb").vfs(1, |_, vf| vf))
        .build()
        .unwrap();
    let rails = Rails::parse("ens{n}f0, ens4f1=8, 0000:03:00.0=9,ens3f0=1").unwrap();
    let judged = judge(&look(&tree), &BTreeMap::new(), &Rules { rails, ..rules() });
    let rail = |verdict: &Verdict| verdict.device.attributes.get("sriov-dra.io/rail").cloned();
    let rails: Vec<_> = judged.iter().map(rail).collect();
    let number = |n| Some(AttributeValue::Int(n));
    assert_eq!(rails, [number(3), number(8), number(9), None]);
}

#[test]
fn addresses_are_published_of_each_family_and_dropped_by_name_where_there_is_no_room() {
    let tree =
        Tree::new().card(Card::ethernet("0000:01:00.0", "ens1f0", "igb").vfs(1, |_, vf| vf)).build().unwrap();
    let mut verdict = verdicts(&look(&tree)).remove(0);
    let given = ["172.16.11.10/24".parse().unwrap(), "2001:db8::5/64".parse().unwrap()];
    let mut full = verdict.clone();
    add_addresses(&mut verdict, &given, &rules());
    let text = |key: &str| verdict.device.attributes.get(&format!("sriov-dra.io/{key}")).cloned();
    assert_eq!(text("ipv4"), Some(AttributeValue::String("172.16.11.10".to_owned())));
    assert_eq!(text("ipv6"), Some(AttributeValue::String("2001:db8::5".to_owned())));
    for n in full.device.attributes.len()..31 {
        full.device.attributes.insert(format!("sriov-dra.io/a{n}"), AttributeValue::Bool(true));
    }
    add_addresses(&mut full, &given, &rules());
    assert_eq!((full.device.attributes.len(), full.dropped), (32, vec!["sriov-dra.io/ipv6".to_owned()]));
}
