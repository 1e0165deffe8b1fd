//! What `sriov-dra inventory` prints.

use super::*;

fn mixed_machine() -> FakeSysfs {
    let card =
        Card::ethernet("0000:81:00.0", "ens1f0np0", "mlx5_core").rdma("mlx5_0").vfs(4, |index, mut vf| {
            match index {
                1 => return VfPlan::vfio(),
                2 => vf.netdevs[0].master = Some("bond0".into()),
                _ => {}
            }
            vf
        });
    let mut tree = Tree::new()
        .card(card)
        .card(Card::infiniband("0000:0c:00.0", "ibs1", "mlx5_2").vfs(1, |_, vf| vf))
        .card(Card::ethernet("10000:01:00.0", "ens9f0", "ice"))
        .module("ib_ipoib")
        .build()
        .unwrap();
    tree.lend("0000:81:00.4", true).unwrap();
    tree
}

#[test]
fn the_table_shows_pfs_vfs_verdicts_and_reasons_within_120_columns() {
    let snapshot = look(&mixed_machine());
    let text = render(&Inventory::new(&snapshot, &verdicts(&snapshot)), Format::Table).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    insta::assert_snapshot!("table", text);
}

#[test]
fn json_and_yaml_say_the_same() {
    let snapshot = look(&mixed_machine());
    let inventory = Inventory::new(&snapshot, &verdicts(&snapshot));
    let json = render(&inventory, Format::Json).unwrap();
    let yaml = render(&inventory, Format::Yaml).unwrap();
    let mut from_json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let from_yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(from_json, from_yaml);
    for vf in from_json["vfs"].as_array_mut().unwrap() {
        vf["incarnation"] = "an inode".into();
    }
    insta::assert_json_snapshot!("json", from_json);
}

#[test]
fn machines_without_sriov_or_without_vfs_get_a_helpful_sentence() {
    let text = |tree: Tree| {
        let snapshot = look(&tree.build().unwrap());
        render(&Inventory::new(&snapshot, &verdicts(&snapshot)), Format::Table).unwrap()
    };
    let none = text(Tree::new().nic(Nic::virtio("0000:00:03.0", "eth0")));
    assert!(none.starts_with("No SR-IOV here: "), "{none}");
    let no_vfs = text(Tree::new().card(Card::ethernet("0000:81:00.0", "ens1f0", "ice")));
    assert!(no_vfs.contains("echo 8 > /sys/class/net/ens1f0/device/sriov_numvfs"), "{no_vfs}");
}
