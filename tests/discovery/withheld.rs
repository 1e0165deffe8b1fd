//! What is withheld, and the sentence that says why.

use super::*;

#[test]
fn the_vf_below_the_default_route_is_withheld_through_vlan_and_bond_and_its_siblings_are_not() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(3, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let mut links = links_of(&tree, &["ens1f0v0", "ens1f0v1", "ens1f0v2"]);
    let vf1 = tree.ifindex("ens1f0v1").unwrap();
    links.names.extend([(200, "bond0".to_owned()), (201, "bond0.7".to_owned())]);
    links.lowers = vec![(200, vf1), (201, 200)];
    links.default_route_ifindexes = vec![201];
    let verdicts = verdicts(&look_with(&tree, &links));
    assert_eq!(offered_addresses(&verdicts), ["0000:81:00.1", "0000:81:00.3"]);
    assert_eq!(
        reasons(&verdicts, "0000:81:00.2"),
        [
            "its netdev ens1f0v1 carries the node's default route",
            "bond0 on the host uses its netdev ens1f0v1"
        ]
    );
}

#[test]
fn the_default_route_over_a_pf_withholds_none_of_its_vfs() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(1, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let mut links = links_of(&tree, &["ens1f0", "ens1f0v0"]);
    links.default_route_ifindexes = vec![tree.ifindex("ens1f0").unwrap()];
    let snapshot = look_with(&tree, &links);
    assert!(snapshot.pfs[0].netdev.as_ref().unwrap().uplink);
    assert_eq!(offered_addresses(&verdicts(&snapshot)), ["0000:81:00.1"]);
}

#[test]
fn an_address_on_the_host_withholds_and_a_link_local_one_does_not() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(2, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let mut links = links_of(&tree, &["ens1f0v0", "ens1f0v1"]);
    let of = |name: &str| tree.ifindex(name).unwrap();
    links.addresses = vec![
        (of("ens1f0v0"), "fe80::1/64".parse().unwrap()),
        (of("ens1f0v1"), "fe80::2/64".parse().unwrap()),
        (of("ens1f0v1"), "10.1.2.3/24".parse().unwrap()),
    ];
    let verdicts = verdicts(&look_with(&tree, &links));
    assert!(reasons(&verdicts, "0000:81:00.1").is_empty());
    assert_eq!(reasons(&verdicts, "0000:81:00.2"), ["its netdev ens1f0v1 has 10.1.2.3/24 on the host"]);
}

#[test]
fn the_hosts_addresses_are_not_given_to_an_interface_with_the_same_number_or_name_in_another_tree() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(1, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let vf = tree.ifindex("ens1f0v0").unwrap();
    for names in
        [BTreeMap::from([(vf, "eth0".to_owned())]), BTreeMap::from([(vf + 50, "ens1f0v0".to_owned())])]
    {
        let addresses = names.keys().map(|ifindex| (*ifindex, "10.1.2.3/24".parse().unwrap())).collect();
        let links = HostLinks { addresses, default_route_ifindexes: vec![vf], names, ..HostLinks::default() };
        assert_eq!(offered_addresses(&verdicts(&look_with(&tree, &links))), ["0000:81:00.1"]);
    }
}

#[test]
fn a_port_of_a_bridge_and_a_vf_with_a_vlan_are_withheld_by_sysfs_alone() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(2, |index, mut vf| {
        match index {
            0 => vf.netdevs[0].master = Some("br0".into()),
            _ => vf.netdevs[0].uppers = vec!["macvlan3".into(), "ens1f0v1.100".into()],
        }
        vf
    });
    let tree = Tree::new().card(card).build().unwrap();
    let verdicts = verdicts(&look(&tree));
    assert_eq!(reasons(&verdicts, "0000:81:00.1"), ["its netdev ens1f0v0 is a port of br0"]);
    assert_eq!(
        reasons(&verdicts, "0000:81:00.2"),
        ["ens1f0v1.100, macvlan3 on the host uses its netdev ens1f0v1"]
    );
}

#[test]
fn the_only_nic_of_a_vm_is_never_offered() {
    let tree =
        Tree::new().nic(Nic::passed_through("0000:00:05.0", "ens5", 0x8086, 0x1889, "iavf")).build().unwrap();
    let mut links = links_of(&tree, &["ens5"]);
    links.default_route_ifindexes = vec![tree.ifindex("ens5").unwrap()];
    assert!(offered_addresses(&verdicts(&look_with(&tree, &links))).is_empty());
}

#[test]
fn the_devices_expression_withholds_what_it_is_false_for_and_says_when_it_fails() {
    let card = |pci, name| Card::ethernet(pci, name, "ice").vfs(1, |_, vf| vf);
    let no_netdev = Card { netdevs: vec![], ..Card::ethernet("0000:83:00.0", "x", "vfio-pci") };
    let tree = Tree::new()
        .card(card("0000:81:00.0", "ens1f0"))
        .card(card("0000:82:00.0", "ens2f0"))
        .card(no_netdev.vfs(1, |_, _| VfPlan::vfio()))
        .build()
        .unwrap();
    let devices = Selector::compile(r#"device.attributes["sriov-dra.io"].pfName == "ens1f0""#).unwrap();
    let rules = Rules { devices: Some(devices), ..rules() };
    let verdicts = judge(&look(&tree), &BTreeMap::new(), &rules);
    assert_eq!(offered_addresses(&verdicts), ["0000:81:00.1"]);
    assert_eq!(reasons(&verdicts, "0000:82:00.1"), ["the --devices expression is false for it"]);
    assert_eq!(
        reasons(&verdicts, "0000:83:00.1"),
        ["the --devices expression fails for it: the device has no pfName; guard it with has() or \"in\""]
    );
}

#[test]
fn what_the_second_port_of_a_function_does_on_the_host_withholds_the_vf_too() {
    let card = Card::ethernet("0000:05:00.0", "ens5", "mlx4_core").vfs(2, |_, mut vf| {
        let first = vf.netdevs[0].clone();
        let name = format!("a{}p2", first.name);
        vf.netdevs.push(NetdevPlan { name, dev_port: 1, ..first });
        vf
    });
    let tree = Tree::new().card(card).build().unwrap();
    let mut links = links_of(&tree, &["ens5v0", "aens5v0p2"]);
    links.default_route_ifindexes = vec![tree.ifindex("aens5v0p2").unwrap()];
    let verdicts = verdicts(&look_with(&tree, &links));
    assert_eq!(reasons(&verdicts, "0000:05:00.1"), ["its netdev ens5v0 carries the node's default route"]);
    assert_eq!(offered_addresses(&verdicts), ["0000:05:00.2"], "a second port by itself is no use of the VF");
}
