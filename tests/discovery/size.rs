//! A node with as many VFs as nodes have.

use super::*;

#[test]
fn a_node_with_1016_vfs_is_read_and_judged_whole() {
    let mut tree = Tree::new();
    for card in 0..8 {
        let pci = format!("0000:{:02x}:00.0", 0x41 + card * 0x10);
        tree = tree.card(
            Card::ethernet(&pci, &format!("ens{card}f0"), "mlx5_core")
                .rdma(&format!("mlx5_{card}"))
                .vfs(127, |_, vf| vf),
        );
    }
    let tree = tree.build().unwrap();
    let timed = |_| {
        let start = Instant::now();
        (look(&tree), start.elapsed())
    };
    let (snapshot, read) = (0..7).map(timed).min_by_key(|(_, elapsed)| *elapsed).unwrap();
    let start = Instant::now();
    let verdicts = verdicts(&snapshot);
    let judged = start.elapsed();
    println!("8 PFs and 1016 VFs: read in {read:?}, judged in {judged:?}");
    assert_eq!(offered(&verdicts).len(), 1016);
    let first: Vec<u32> =
        verdicts.iter().take(9).map(|v| snapshot.vf(v.device.pci).unwrap().index.unwrap()).collect();
    assert_eq!(first, [0, 0, 0, 0, 0, 0, 0, 0, 1], "VF 0 of every PF comes first");
}
