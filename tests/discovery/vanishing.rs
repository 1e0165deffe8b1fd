//! Files that vanish while they are read, and files that say nonsense.

use super::*;

#[test]
fn a_vf_without_its_links_is_coming_or_going_and_is_left_out_even_if_its_id_says_vf() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").vfs(2, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let links = ["0000:81:00.1/physfn", "0000:81:00.0/virtfn1"];
    for link in links {
        std::fs::remove_file(tree.root().join("bus/pci/devices").join(link)).unwrap();
    }
    let snapshot = look(&tree);
    assert!(snapshot.vfs.is_empty(), "{:?}", snapshot.vfs);
    assert_eq!(snapshot.pfs.len(), 1);
}

#[test]
fn vfs_that_come_and_go_while_they_are_read_are_whole_or_absent_and_the_others_always_there() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").rdma("mlx5_0").vfs(4, |_, vf| vf);
    let mut tree = Tree::new().card(card).build().unwrap();
    let steady = look(&tree);
    let sysfs = tree.sysfs();
    let stop = AtomicBool::new(false);
    let changes = AtomicUsize::new(0);
    let (mut scans, mut absent) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for vf in ["0000:81:00.2", "0000:81:00.4"] {
                    tree.remove_vf(vf).unwrap();
                    std::thread::yield_now();
                    tree.add_vf(vf).unwrap();
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // A failed assertion must end the other thread too, or the scope waits for ever.
        let _end = SetAtEnd(&stop);
        let begin = Instant::now();
        while (scans < 300 || changes.load(Ordering::Relaxed) < 300)
            && begin.elapsed() < Duration::from_secs(20)
        {
            let seen = scan(&sysfs, &HostLinks::default(), None, &|_| None).unwrap();
            scans += 1;
            absent += 4 - seen.vfs.len();
            for vf in &seen.vfs {
                let mut expected = steady.vf(vf.pci).unwrap().clone();
                expected.incarnation = vf.incarnation;
                assert_eq!(*vf, expected, "a VF was read half-way");
            }
            for vf in ["0000:81:00.1", "0000:81:00.3"] {
                assert!(seen.vf(pci(vf)).is_some(), "{vf} never went away");
            }
        }
    });
    let changes = changes.load(Ordering::Relaxed);
    println!("{scans} scans during {changes} removals, {absent} absences seen");
    assert!(scans > 20 && changes > 20 && absent > 0, "the two did not really run beside each other");
    assert_eq!(look(&tree).vfs.len(), 4, "all are back at the end");
}

#[test]
fn a_folder_that_is_no_sysfs_is_an_error_and_a_machine_without_pci_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let look = || scan(&Sysfs::at(folder.path()), &HostLinks::default(), None, &|_| None);
    let error = look().unwrap_err().to_string();
    assert!(error.contains("can't list the PCI devices in") && error.contains("--sysfs-root"), "{error}");
    std::fs::create_dir(folder.path().join("bus")).unwrap();
    assert_eq!(look().unwrap(), Snapshot::default());
}

#[test]
fn nonsense_in_files_makes_facts_absent_and_nothing_worse() {
    let card = Card::ethernet("0000:81:00.0", "ens1f0", "ice").vfs(1, |_, vf| vf);
    let tree = Tree::new().card(card).build().unwrap();
    let vf = "0000:81:00.1";
    for (file, text) in [
        ("numa_node", "banana"),
        ("net/ens1f0v0/mtu", "-5"),
        ("net/ens1f0v0/flags", "zz"),
        ("net/ens1f0v0/address", "\u{1F600}"),
    ] {
        tree.set(vf, file, text).unwrap();
    }
    tree.set("0000:81:00.0", "sriov_numvfs", "4000000000").unwrap();
    tree.set("0000:81:00.0", "net/ens1f0/speed", "4294967295").unwrap();
    std::fs::create_dir(tree.root().join("bus/pci/devices/not-an-address")).unwrap();
    std::fs::create_dir(tree.root().join("bus/pci/devices/0000:99:00.0")).unwrap();
    let snapshot = look(&tree);
    let netdev = snapshot.vfs[0].netdev.as_ref().unwrap();
    assert_eq!((netdev.mtu, netdev.up, &netdev.hw_addr), (None, false, &None));
    assert_eq!(snapshot.vfs[0].numa_node, snapshot.pfs[0].numa_node, "the PF's node stands in");
    assert_eq!(snapshot.pfs[0].netdev.as_ref().unwrap().speed_mbps, None);
    tree.set(vf, "class", "0x010802").unwrap();
    assert!(look(&tree).vfs.is_empty(), "another class is no network function");
}

#[test]
fn some_vfs_can_be_read_without_the_others_and_look_the_same() {
    let tree = Tree::new()
        .card(Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").vfs(3, |_, vf| vf))
        .nic(Nic::passed_through("0000:00:06.0", "ens6", 0x15b3, 0x101e, "mlx5_core"))
        .build()
        .unwrap();
    let all = look(&tree);
    let only = |vfs: &[PciAddress]| {
        let vfs = vfs.iter().copied().collect();
        scan_only(&tree.sysfs(), &HostLinks::default(), None, &|_| None, &vfs).unwrap()
    };
    let addresses: Vec<PciAddress> = all.vfs.iter().map(|vf| vf.pci).collect();
    assert_eq!(addresses.len(), 4);
    for vf in &all.vfs {
        let alone = only(&[vf.pci]);
        assert_eq!(alone.vfs, std::slice::from_ref(vf));
        assert_eq!(alone.pfs.first(), all.pf_of(vf));
    }
    let (some, rest): (Vec<PciAddress>, Vec<PciAddress>) = addresses
        .iter()
        .partition(|address| address.domain == 0 && address.bus == 0x81 && address.function < 3);
    for those in [&some, &rest, &addresses] {
        let snapshot = only(those);
        let expected: Vec<_> = all.vfs.iter().filter(|vf| those.contains(&vf.pci)).cloned().collect();
        assert_eq!(snapshot.vfs, expected);
        assert_eq!(snapshot.pfs.len(), usize::from(expected.iter().any(|vf| vf.pf.is_some())));
    }
    for none in ["0000:81:00.0", "0000:ff:00.0"] {
        assert_eq!(only(&[pci(none)]).vfs, [], "{none}");
    }
    // A PF that says nothing of use about where its VFs are: they are looked for.
    tree.set("0000:81:00.0", "sriov_offset", "77").unwrap();
    for vf in &all.vfs {
        assert_eq!(only(&[vf.pci]).vfs, std::slice::from_ref(vf));
    }
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
