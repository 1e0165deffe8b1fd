//! sysfs, and the node's files and processes.
//!
//! An input is a list of edits of a tree that is all right: `=== path` and the content of a file up to the next edit,
//! `==> path target` a symbolic link, `==/ path` a folder, `==- path` what is to be removed.

use crate::engine::targets;

targets! {
    sysfs, 1 << 20;
    surveys, 1 << 18;
}

mod hold {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::{Component, Path, PathBuf};

    use sriov_dra::device::PciAddress;
    use sriov_dra::host::sysfs::tree::{Card, Tree};
    use sriov_dra::host::{survey, topology};
    use sriov_dra::inventory::{HostLinks, scan, scan_only};
    use sriov_dra::policy::{Rules, judge};

    /// The way of an edit below the root: names only, and none of them led elsewhere by a link.
    fn place(root: &Path, path: &[u8]) -> Option<PathBuf> {
        let mut here = root.to_owned();
        let parts: Vec<&OsStr> = Path::new(OsStr::from_bytes(path))
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .take(12)
            .collect();
        for part in &parts {
            if fs::symlink_metadata(&here).is_ok_and(|meta| !meta.is_dir()) {
                return None;
            }
            here.push(part);
        }
        (!parts.is_empty()).then_some(here)
    }

    /// The kernel takes care of names, and so may this: what can't be made is not made.
    fn edit(root: &Path, input: &[u8]) {
        let mut lines = input.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let Some((kind, rest)) = line.split_at_checked(4) else { continue };
            let mut words = rest.split(|byte| *byte == b' ');
            let (path, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let Some(path) = place(root, path) else { continue };
            let _ = path.parent().map(fs::create_dir_all);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) || kind == b"==- " {
                let _ = fs::remove_file(&path);
            }
            match kind {
                b"=== " => {
                    let mut content = Vec::new();
                    while let Some(more) = lines.next_if(|line| !line.starts_with(b"==")) {
                        content.extend_from_slice(more);
                        content.push(b'\n');
                    }
                    let _ = fs::write(&path, content);
                }
                b"==> " => {
                    let target = Path::new(OsStr::from_bytes(target)).components();
                    let ups = target.clone().take(2).filter(|part| *part == Component::ParentDir).count();
                    let names = target.filter(|part| matches!(part, Component::Normal(_)));
                    let target: PathBuf =
                        std::iter::repeat_n(Component::ParentDir, ups).chain(names).collect();
                    let _ = symlink(target, &path);
                }
                b"==/ " => drop(fs::create_dir_all(&path)),
                b"==- " => drop(fs::remove_dir_all(&path)),
                _ => {}
            }
        }
    }

    const PF: &str = "0000:81:00.0";
    const OTHER: &str = "0000:03:00.0";

    /// Of two cards one has files with anything in them; the other one is found whole.
    pub fn sysfs(input: &[u8]) {
        let tree = Tree::new()
            .card(Card::ethernet(PF, "ens1f0", "mlx5_core").rdma("mlx5_0").vfs(2, |_, vf| vf))
            .card(Card::ethernet(OTHER, "ens2f0", "igb").vfs(2, |_, vf| vf))
            .build()
            .unwrap();
        let before = scan(&tree.sysfs(), &HostLinks::default(), None, &|_| None).unwrap();
        let folder = fs::canonicalize(tree.function_dir(PF)).unwrap();
        let functions = folder.parent().unwrap();
        edit(functions, input);

        let sysfs = tree.sysfs();
        let snapshot = scan(&sysfs, &HostLinks::default(), None, &|_| None).unwrap();
        let pci: PciAddress = OTHER.parse().unwrap();
        let pf = |pfs: &[sriov_dra::device::Pf]| pfs.iter().find(|pf| pf.pci == pci).cloned();
        let vfs = |all: &[sriov_dra::device::Vf]| -> Vec<_> {
            all.iter().filter(|vf| vf.pf == Some(pci)).cloned().collect()
        };
        assert_eq!(pf(&snapshot.pfs), pf(&before.pfs));
        assert_eq!(vfs(&snapshot.vfs), vfs(&before.vfs));
        let wanted = before.vfs.iter().map(|vf| vf.pci).collect();
        let only = scan_only(&sysfs, &HostLinks::default(), None, &|_| None, &wanted).unwrap();
        assert_eq!(vfs(&only.vfs), vfs(&before.vfs));
        let rules = Rules {
            driver_name: "sriov-dra.io".into(),
            devices: None,
            attach: Some("nri".into()),
            rails: Default::default(),
        };
        assert_eq!(judge(&snapshot, &Default::default(), &rules).len(), snapshot.vfs.len());
        for vf in &before.vfs {
            let _ = (sysfs.iommu_group(vf.pci), sysfs.vfio_group(vf.pci), sysfs.chose_its_address(vf.pci));
            let _ =
                (sysfs.group_others(vf.pci), sysfs.group_blockers(vf.pci), sysfs.is_without_iommu(vf.pci));
        }
        topology::read(tree.root(), &tree.root().join("../proc"), &[PF.parse().unwrap(), pci]);
    }

    /// The node's `/`, with `sys`, `proc` and `k` (the kubelet's folder) in it.
    pub fn surveys(input: &[u8]) {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["sys/module/ib_core", "proc", "etc/modprobe.d", "k/device-plugins"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        edit(root.path(), input);
        let roots = survey::Roots {
            sys: at("sys"),
            proc: at("proc"),
            files: Some(root.path().to_owned()),
            kernel_log: at("kmsg"),
            kubelet_dir: "/k".into(),
            driver: "sriov-dra.io".to_owned(),
        };
        let seen = survey::take(&roots);
        let sum = |devices: &std::collections::BTreeMap<String, Vec<String>>| {
            devices.values().map(Vec::len).sum::<usize>()
        };
        if let Ok(Some(checkpoint)) = &seen.services.checkpoint {
            assert!(sum(&checkpoint.registered) + sum(&checkpoint.in_pods) <= input.len());
        }
        seen.services.listens(Path::new("/run/containerd/containerd.sock"));
        topology::read(&roots.sys, &roots.proc, &[PF.parse().unwrap()]);
    }
}
