//! Where a VF is: on the host, lent, unbound, on vfio, below unusual PFs.

use super::*;

#[test]
fn vfs_without_driver_on_vfio_and_lent_are_told_apart_and_take_their_link_type_from_the_pf() {
    let card =
        Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").rdma("mlx5_0").vfs(
            4,
            |index, vf| match index {
                1 => VfPlan::unbound(),
                2 => VfPlan::vfio(),
                _ => vf,
            },
        );
    // 0x0280 says nothing about the link, so it can come from the PF's netdev only.
    let mut tree = Tree::new().card(Card { class: 0x02_8000, ..card }).build().unwrap();
    tree.lend("0000:81:00.4", true).unwrap();
    let snapshot = look(&tree);
    let places: Vec<Place> = snapshot.vfs.iter().map(|vf| vf.place).collect();
    assert_eq!(places, [Place::Host, Place::Unbound, Place::Userspace, Place::Elsewhere]);
    assert!(snapshot.vfs.iter().all(|vf| vf.link_type == Some(LinkType::Ethernet)));
    let verdicts = verdicts(&snapshot);
    assert_eq!(offered_addresses(&verdicts), ["0000:81:00.1", "0000:81:00.2", "0000:81:00.3"]);
    assert_eq!(
        reasons(&verdicts, "0000:81:00.4"),
        ["driver mlx5_core is bound but the host has no netdev of it: it is in another network namespace"]
    );
}

#[test]
fn an_open_vfio_group_or_device_withholds_the_vf_and_only_that() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").vfs(3, |_, _| VfPlan::vfio());
    let tree = Tree::new().card(Card { iommu_group: Some(100), ..card }).build().unwrap();
    std::fs::create_dir_all(tree.function_dir("0000:81:00.2").join("vfio-dev/vfio7")).unwrap();
    tree.open_vfio("101").unwrap();
    tree.open_vfio("devices/vfio7").unwrap();
    let verdicts = verdicts(&look(&tree));
    assert_eq!(offered_addresses(&verdicts), ["0000:81:00.3"]);
    assert_eq!(reasons(&verdicts, "0000:81:00.1"), ["a process has its vfio group 101 open"]);
    assert_eq!(reasons(&verdicts, "0000:81:00.2"), ["a process has its vfio group 102 open"]);
}

#[test]
fn a_pf_without_netdev_still_has_vfs_and_they_get_what_can_be_told() {
    let vfio = Card {
        netdevs: vec![],
        driver: Some("vfio-pci".into()),
        ..Card::ethernet("0000:01:00.0", "x", "ice")
    };
    let no_ipoib = Card { netdevs: vec![], ..Card::infiniband("0000:02:00.0", "x", "mlx5_0") };
    let tree = Tree::new()
        .card(vfio.vfs(1, |_, _| VfPlan::vfio()))
        .card(no_ipoib.vfs(1, |_, vf| vf))
        .build()
        .unwrap();
    let snapshot = look(&tree);
    assert!(snapshot.pfs.iter().all(|pf| pf.netdev.is_none()));
    let ib = snapshot.vf(pci("0000:02:00.1")).unwrap();
    assert_eq!(
        (ib.place, ib.link_type),
        (Place::Host, Some(LinkType::Infiniband)),
        "without ib_ipoib it has no netdev"
    );
    let verdicts = verdicts(&snapshot);
    assert_eq!(offered_addresses(&verdicts), ["0000:01:00.1", "0000:02:00.1"]);
    assert!(!verdicts[0].device.attributes.contains_key("sriov-dra.io/pfName"));
}

#[test]
fn an_infiniband_vf_that_is_lent_in_exclusive_mode_is_elsewhere_with_and_without_ipoib() {
    for module in ["ib_ipoib", "other"] {
        let card = Card::infiniband("0000:02:00.0", "ibs2", "mlx5_0").vfs(1, |_, vf| vf);
        let mut tree = Tree::new().card(card).module(module).build().unwrap();
        tree.lend("0000:02:00.1", true).unwrap();
        assert_eq!(look(&tree).vfs[0].place, Place::Elsewhere, "{module}");
    }
}

#[test]
fn an_ipoib_child_on_the_host_withholds_its_vf() {
    let card = Card::infiniband("0000:02:00.0", "ibs2", "mlx5_0").vfs(1, |_, mut vf| {
        let child = NetdevPlan { child_of: Some("ibs2v0".into()), ..NetdevPlan::ipoib("ibs2v0.8001") };
        vf.netdevs.insert(0, child);
        vf
    });
    let tree = Tree::new().card(card).module("ib_ipoib").build().unwrap();
    let snapshot = look(&tree);
    assert_eq!(snapshot.vfs[0].netdev.as_ref().unwrap().name, "ibs2v0");
    assert_eq!(
        reasons(&verdicts(&snapshot), "0000:02:00.1"),
        ["ibs2v0.8001 on the host uses its netdev ibs2v0"]
    );
}

#[test]
fn a_hardware_virtio_vf_has_its_netdev_one_level_deeper() {
    let card = Card::ethernet("0000:05:00.0", "ens5", "virtio-pci").vfs(1, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let snapshot = look(&tree);
    assert_eq!(snapshot.pfs[0].netdev.as_ref().unwrap().name, "ens5");
    assert_eq!(snapshot.vfs[0].netdev.as_ref().unwrap().name, "ens5v0");
    assert_eq!(snapshot.vfs[0].place, Place::Host);
}

#[test]
fn the_uplink_of_a_switchdev_pf_is_found_among_its_representors() {
    let uplink = |name: &str| NetdevPlan {
        speed: Some(100_000),
        ..NetdevPlan::representor(name, "p0", "e8ebd3030003a1b2")
    };
    let representor =
        |n| NetdevPlan::representor(&format!("enp129s0f0r{n}"), &format!("pf0vf{n}"), "e8ebd3030003a1b2");
    let mut card = Card::ethernet("0000:81:00.0", "zuplink", "mlx5_core").vfs(2, |_, vf| vf);
    card.netdevs = vec![representor(0), representor(1), uplink("zuplink")];
    let tree = Tree::new().card(card).build().unwrap();
    let pf = look(&tree).pfs.remove(0);
    assert_eq!(pf.netdev.as_ref().unwrap().name, "zuplink");
    assert_eq!(pf.eswitch_mode, Some(EswitchMode::Switchdev));
    assert!(pf.netdev.unwrap().uppers.is_empty(), "a representor is not stacked on the uplink");
}

#[test]
fn devlink_knows_better_than_sysfs_what_the_switch_does() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core");
    let tree = Tree::new().card(card).build().unwrap();
    assert_eq!(look(&tree).pfs[0].eswitch_mode, Some(EswitchMode::Legacy), "no switch ID");
    let devlink = |_| Some(EswitchMode::Switchdev);
    let snapshot = scan(&tree.sysfs(), &HostLinks::default(), None, &devlink).unwrap();
    assert_eq!(snapshot.pfs[0].eswitch_mode, Some(EswitchMode::Switchdev));

    let mut legacy_with_id = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core");
    legacy_with_id.netdevs[0].phys_switch_id = Some("a1".into());
    let tree = Tree::new().card(legacy_with_id).build().unwrap();
    assert_eq!(look(&tree).pfs[0].eswitch_mode, None, "some drivers have a switch ID in legacy mode too");
}

#[test]
fn an_infiniband_vf_without_netdev_is_elsewhere_where_ipoib_is_there_though_its_rdma_device_is_shared() {
    for (module, place) in [("ib_ipoib", Place::Elsewhere), ("other", Place::Host)] {
        let card = Card::infiniband("0000:02:00.0", "ibs2", "mlx5_0").vfs(1, |_, vf| vf);
        let mut tree = Tree::new().card(card).module(module).build().unwrap();
        tree.lend("0000:02:00.1", false).unwrap();
        assert_eq!(look(&tree).vfs[0].place, place, "{module}");
    }
}

#[test]
fn a_vf_with_its_network_driver_is_not_in_use_because_another_of_its_iommu_group_is() {
    let card = Card { iommu_group: Some(100), ..Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core") };
    let card = card.vfs(2, |index, vf| if index == 0 { VfPlan::vfio() } else { vf });
    let tree = Tree::new().card(card).build().unwrap();
    let group = tree.function_dir("0000:81:00.2").join("iommu_group");
    std::fs::remove_file(&group).unwrap();
    std::os::unix::fs::symlink("../../../../kernel/iommu_groups/101", group).unwrap();
    tree.open_vfio("101").unwrap();
    assert_eq!(offered_addresses(&verdicts(&look(&tree))), ["0000:81:00.2"]);
}
