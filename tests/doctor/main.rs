//! `sriov-dra doctor` on trees: a node that lacks nothing, and each fault put into it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy sees helpers of tests as no tests

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sriov_dra::app::{doctor_roots, examine};
use sriov_dra::device::{LinkType, RdmaNetnsMode};
use sriov_dra::doctor::{Facts, Line, Report, Runtime, Settings, State, judge};
use sriov_dra::host::sysfs::tree::{Card, FakeSysfs, Tree};
use sriov_dra::policy::Rules;

mod command;
mod faults;

const KERNEL: &str = "6.12.48+deb13-amd64";
const HOOK: &str = "var/lib/kubelet/plugins/sriov-dra.io/bin/hook";
/// 8 MiB, as systemd gives it.
const MEMLOCK: &str = "Max locked memory         8388608              8388608              bytes     \n";
const ALL_RIGHTS: &str = "CapEff:\t000001ffffffffff\n";

/// A node in a folder: two ports of a card with four VFs each, containerd, a kubelet, an agent.
struct Node {
    folder: tempfile::TempDir,
    tree: FakeSysfs,
}

impl Node {
    fn good() -> Self {
        let port = |pci: &str, name: &str, rdma: &str| {
            let mut card = Card::ethernet(pci, name, "mlx5_core").rdma(rdma);
            card.total_vfs = 16;
            card.iommu_group = Some(if rdma == "mlx5_0" { 40 } else { 60 });
            card.vfs(4, |_, vf| vf)
        };
        let mut tree = Tree::new().card(port("0000:81:00.0", "ens1f0np0", "mlx5_0")).card(port(
            "0000:c1:00.0",
            "ens2f0np0",
            "mlx5_20",
        ));
        for module in [
            "ib_core",
            "ib_uverbs",
            "rdma_ucm",
            "mlx5_core",
            "mlx5_ib",
            "vfio_pci",
            "nvidia",
            "nvidia_peermem",
        ] {
            tree = tree.module(module);
        }
        let folder = tempfile::tempdir().unwrap();
        let tree = tree.build_in(folder.path()).unwrap();
        let node = Self { folder, tree };
        node.gpu("0000:82:00.0");
        node.write("sys/class/iommu/dmar0/x", "");
        node.write("sys/firmware/acpi/tables/DMAR", "");
        node.write("proc/sys/kernel/osrelease", &format!("{KERNEL}\n"));
        node.write("proc/cmdline", "quiet intel_iommu=on\n");
        node.write("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n");
        node.write("proc/2/comm", "kthreadd\n");
        node.write("proc/1/mountinfo", "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n");
        node.process(700, "containerd", "/usr/bin/containerd\0");
        node.process(800, "kubelet", "/usr/bin/kubelet\0--config=/x\0");
        node.process(900, "sriov-dra", "/sriov-dra\0node\0");
        node.write(
            "proc/900/mountinfo",
            "1 0 8:1 / / rw - overlay o rw\n2 1 8:1 / /run/netns rw master:1 - tmpfs t rw\n",
        );
        let sockets = ["/run/nri/nri.sock", "/var/lib/kubelet/plugins_registry/sriov-dra.io-u@reg.sock"];
        node.listening(&sockets);
        node.write("dev/kmsg", "6,1,1,-;mlx5_core 0000:81:00.0: E-Switch: Enable: mode(LEGACY)\n");
        node.write("etc/modprobe.d/rdma.conf", "options ib_core netns_mode=0\n");
        node.write("etc/containerd/config.toml", "version = 3\n");
        node.write("usr/sbin/update-grub", "");
        node.write("usr/sbin/update-initramfs", "");
        let modules = format!("lib/modules/{KERNEL}");
        let list = [
            "drivers/vfio/pci/vfio-pci",
            "drivers/vhost/vhost_net",
            "drivers/net/tun",
            "drivers/net/igbvf/igbvf",
        ];
        let list: String = list.iter().map(|module| format!("kernel/{module}.ko.xz:\n")).collect();
        node.write(&format!("{modules}/modules.dep"), &list);
        node.write(&format!("{modules}/modules.builtin"), "");
        node.write("var/lib/kubelet/plugins_registry/x", "");
        node.write(HOOK, "");
        node.mode(HOOK, 0o755);
        fs::create_dir_all(node.path("run")).unwrap();
        symlink("/run", node.path("var/run")).unwrap();
        node
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn process(&self, pid: u32, name: &str, arguments: &str) {
        let files = [("comm", format!("{name}\n")), ("cmdline", arguments.to_owned())];
        for (file, text) in
            files.into_iter().chain([("limits", MEMLOCK.into()), ("status", ALL_RIGHTS.into())])
        {
            self.write(&format!("proc/{pid}/{file}"), &text);
        }
    }

    fn listening(&self, sockets: &[&str]) {
        let line = |path: &&str| format!("0: 00000002 00000000 00010000 0001 01 1590 {path}\n");
        let lines: String = sockets.iter().map(line).collect();
        self.write("proc/net/unix", &format!("Num RefCount Protocol Flags Type St Inode Path\n{lines}"));
    }

    fn gpu(&self, pci: &str) {
        let folder = format!("sys/bus/pci/devices/{pci}");
        self.write(&format!("{folder}/class"), "0x030200\n");
        self.write(&format!("{folder}/vendor"), "0x10de\n");
    }

    /// As `examine` finds it; what no file says (the RDMA mode, the runtime's answer) is as on a good node.
    fn facts(&self) -> Facts {
        let kubelet = Path::new("/var/lib/kubelet");
        let roots = doctor_roots(self.tree.root(), kubelet, "sriov-dra.io", Some(self.folder.path()));
        let settings = Settings {
            driver: "sriov-dra.io".into(),
            kubelet_dir: kubelet.into(),
            cdi_dir: "/var/run/cdi".into(),
            nri_socket: Some("/var/run/nri/nri.sock".into()),
        };
        let rules = Rules {
            driver_name: "sriov-dra.io".into(),
            devices: None,
            attach: Some("nri".into()),
            rails: Default::default(),
        };
        let mut facts = examine(&roots, settings, rules).unwrap();
        facts.functions.as_mut().unwrap().snapshot.rdma_netns = Some(RdmaNetnsMode::Exclusive);
        facts.runtime = Ok(Runtime {
            name: "containerd".into(),
            version: "2.2.6".into(),
            cdi: Some(true),
            cdi_dirs: Some(vec!["/etc/cdi".into(), "/var/run/cdi".into()]),
        });
        facts
    }
}

fn line<'a>(report: &'a Report, check: &str) -> &'a Line {
    report.lines.iter().find(|line| line.check == check).unwrap_or_else(|| panic!("no line {check}"))
}

#[test]
fn a_node_that_lacks_nothing_is_ok_in_every_line() {
    let report = judge(&Node::good().facts());
    let odd: Vec<&Line> = report.lines.iter().filter(|line| line.state != State::Ok).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    assert_eq!((report.worst, report.lines.len()), (State::Ok, 20));
    for (check, seen) in [
        ("iommu", "in use, "),
        ("sriov", "2 PFs with room for 32 VFs"),
        ("vfs", "8 VFs"),
        ("drivers", "VFs are bound to mlx5_core"),
        ("offered", "8 VFs"),
        ("rdma", "8 VFs with an RDMA device"),
        ("rdma-mode", "exclusive: a pod sees its own RDMA devices only; set in /etc/modprobe.d/rdma.conf"),
        ("gpudirect", "1 GPU of NVIDIA, module nvidia_peermem"),
        ("memlock", "containerd itself may lock 8 MiB and may raise that for containers (CAP_SYS_RESOURCE)"),
        ("runtime", "containerd 2.2.6"),
        ("nri", "the runtime listens on /var/run/nri/nri.sock"),
        ("cdi", "on; files in /var/run/cdi"),
        ("agent", "runs (PID 900) and waits for the kubelet"),
    ] {
        assert!(line(&report, check).seen.starts_with(seen), "{check}: {:?}", line(&report, check).seen);
    }
}

#[test]
fn nothing_but_a_kernel_is_told_from_nothing_that_can_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::new().build_in(folder.path()).unwrap();
    let node = Node { folder, tree };
    let mut facts = node.facts();
    facts.survey.sees_files = false;
    facts.runtime = Err("no socket of containerd or CRI-O is to be seen".into());
    let report = judge(&facts);
    for check in ["kernel", "modules", "runtime", "nri", "cdi", "kubelet", "hook", "propagation", "agent"] {
        assert_eq!(line(&report, check).state, State::Unknown, "{check}: {}", line(&report, check).seen);
    }
    assert_eq!(line(&report, "sriov").state, State::Fault);
}
