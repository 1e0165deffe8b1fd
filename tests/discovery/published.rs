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
