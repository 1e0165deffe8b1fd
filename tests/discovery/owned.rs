//! VFs that a claim owns look as they did when they were clean.

use super::*;

#[test]
fn lending_renaming_and_rebinding_a_claimed_vf_changes_nothing_that_is_published() {
    let plan = || {
        Tree::new()
            .card(Card {
                iommu_group: Some(100),
                ..Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").rdma("mlx5_0").vfs(2, |_, vf| vf)
            })
            .card(Card::infiniband("0000:0c:00.0", "ibs1", "mlx5_2").vfs(1, |_, vf| vf))
            .nic(Nic::passed_through("0000:00:06.0", "ens6", 0x15b3, 0x101e, "mlx5_core"))
            .module("ib_ipoib")
    };
    let mut tree = plan().build().unwrap();
    let before = look(&tree);
    let published = offered(&verdicts(&before));
    assert_eq!(published.len(), 4);
    let owned: BTreeMap<PciAddress, CleanFacts> = before.vfs.iter().map(|vf| (vf.pci, clean(vf))).collect();

    for vf in ["0000:81:00.1", "0000:0c:00.1", "0000:00:06.0"] {
        tree.lend(vf, true).unwrap();
    }
    // One was bound to vfio and is in use.
    tree.lend("0000:81:00.2", true).unwrap();
    let driver = tree.function_dir("0000:81:00.2").join("driver");
    std::fs::remove_file(&driver).unwrap();
    std::os::unix::fs::symlink("../../../../bus/pci/drivers/vfio-pci", driver).unwrap();
    tree.open_vfio("102").unwrap();

    let after = look(&tree);
    assert!(after.vfs.iter().all(|vf| vf.netdev.is_none()), "they are all away");
    let judged = judge(&after, &owned, &rules());
    assert!(judged.iter().all(|verdict| verdict.owned));
    assert_eq!(offered(&judged), published);
    assert!(offered(&verdicts(&after)).is_empty(), "without the ledger none of them could be offered");
}

#[test]
fn a_vf_that_was_made_anew_is_not_the_claims_any_more() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(1, |_, vf| vf);
    let mut tree = Tree::new().card(card).build().unwrap();
    let first = look(&tree).vfs.remove(0);
    let owned = BTreeMap::from([(first.pci, CleanFacts { mtu: Some(9000), ..clean(&first) })]);
    tree.remove_vf("0000:81:00.1").unwrap();
    assert!(look(&tree).vfs.is_empty());
    tree.add_vf("0000:81:00.1").unwrap();
    let second = look(&tree);
    assert_ne!(second.vfs[0].incarnation, first.incarnation);
    let verdict = judge(&second, &owned, &rules()).remove(0);
    assert!(!verdict.owned);
    assert_eq!(verdict.device.attributes["sriov-dra.io/mtu"], AttributeValue::Int(1500));
    tree.lend("0000:81:00.1", false).unwrap();
    assert!(!judge(&look(&tree), &owned, &rules())[0].is_offered(), "old facts excuse no foreign namespace");
}
