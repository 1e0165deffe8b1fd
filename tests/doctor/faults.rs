//! One thing wrong at a time: its line says so, with the mend, and no other line is worse for it.

use super::*;

/// What is wrong with a node, and what is to be said of it.
struct Case {
    check: &'static str,
    state: State,
    /// Parts of the sentence.
    seen: &'static [&'static str],
    /// Part of a command; empty: there is none.
    mend: &'static str,
    /// Lines that speak of the same thing.
    also: &'static [&'static str],
}

fn told(case: &Case, facts: &Facts) {
    let report = judge(facts);
    let Case { check, state, seen, mend, also } = case;
    let found = line(&report, check);
    assert_eq!(found.state, *state, "{found:?}");
    for part in *seen {
        assert!(found.seen.contains(part), "{check}: {part:?} is not in {:?}", found.seen);
    }
    let has = found.mend.iter().any(|command| command.contains(mend));
    assert!(
        if mend.is_empty() { found.mend.is_empty() } else { has },
        "{check}: {mend:?} is not in {:#?}",
        found.mend
    );
    for line in report.lines.iter().filter(|line| line.check != *check && !also.contains(&line.check)) {
        assert_eq!(line.state, State::Ok, "{line:?} because of {check}");
    }
    assert!(report.worst >= *state);
}

fn fault(check: &'static str, seen: &'static [&'static str], mend: &'static str) -> Case {
    Case { check, state: State::Fault, seen, mend, also: &[] }
}

fn warning(check: &'static str, seen: &'static [&'static str], mend: &'static str) -> Case {
    Case { check, state: State::Warning, seen, mend, also: &[] }
}

#[test]
fn an_iommu_that_is_off_is_told_from_one_that_is_not_there() {
    let mut facts = Node::good().facts();
    facts.survey.kernel.iommu.groups = 0;
    told(
        &warning("iommu", &["the kernel does not use it", "vfio-pci is refused"], "sudo update-grub"),
        &facts,
    );
    assert!(
        judge(&facts).lines[1].mend[0].contains("intel_iommu=on iommu=pt"),
        "{:?}",
        judge(&facts).lines[1]
    );

    facts.survey.kernel.cpu = Some("AuthenticAMD".into());
    facts.survey.programs = vec!["grubby"];
    told(
        &warning("iommu", &["does not use it"], "sudo grubby --update-kernel=ALL --args=\"iommu=pt\""),
        &facts,
    );

    facts.survey.kernel.command_line.push("iommu=off".into());
    told(&warning("iommu", &["switched off by the kernel's command line"], "# take"), &facts);

    facts.survey.kernel.command_line.clear();
    facts.survey.kernel.iommu.table = None;
    told(&warning("iommu", &["the firmware tells of none"], "BIOS setup: switch on IOMMU (AMD-Vi)"), &facts);

    facts.survey.kernel.virtual_machine = true;
    told(&warning("iommu", &["this virtual machine has none"], "virtual IOMMU"), &facts);
}

#[test]
fn sriov_that_is_off_in_the_machine_or_in_the_card_is_said_with_the_place_to_switch_it_on() {
    let none = &["sriov", "vfs", "rdma", "rdma-mode", "gpudirect", "memlock"];
    let node = Node::good();
    let mut facts = node.facts();
    facts.functions.as_mut().unwrap().snapshot.pfs.clear();
    facts.functions.as_mut().unwrap().snapshot.vfs.clear();
    told(
        &Case { also: none, ..fault("sriov", &["no network function has the SR-IOV"], "Above 4G Decoding") },
        &facts,
    );

    node.tree.set("0000:81:00.0", "sriov_totalvfs", "0").unwrap();
    told(
        &warning("sriov", &["ens1f0np0 may have 0 VFs"], "mstconfig -d 0000:81:00.0 set SRIOV_EN=1"),
        &node.facts(),
    );

    let node = Node::good();
    node.write("dev/kmsg", "3,9,9,-;mlx5_core 0000:81:00.0: not enough MMIO resources for SR-IOV\n");
    told(&fault("sriov", &["not enough MMIO resources for SR-IOV"], "pci=realloc"), &node.facts());

    let mut facts = Node::good().facts();
    facts.functions = Err("the node's PCI functions can't be read".into());
    let also = &["vfs", "rdma", "rdma-mode", "gpudirect", "memlock"];
    told(&Case { also, ..fault("sriov", &["can't be read"], "--sysfs-root") }, &facts);
}

#[test]
fn missing_vfs_and_ports_that_are_down_are_said_with_the_command() {
    let mut facts = Node::good().facts();
    let functions = facts.functions.as_mut().unwrap();
    functions.snapshot.vfs.clear();
    functions.offered = 0;
    let make = "echo 8 | sudo tee /sys/bus/pci/devices/0000:c1:00.0/sriov_numvfs";
    told(&fault("vfs", &["no PF has VFs"], make), &facts);

    let mut facts = Node::good().facts();
    facts.functions.as_mut().unwrap().snapshot.pfs[1].netdev.as_mut().unwrap().up = false;
    told(&warning("vfs", &["ens2f0np0 is down"], "sudo ip link set ens2f0np0 up"), &facts);
}

#[test]
fn functions_without_driver_are_said_where_nobody_could_bind_them() {
    let mut facts = Node::good().facts();
    facts.functions.as_mut().unwrap().snapshot.pfs[0].driver = None;
    told(&fault("drivers", &["PF 0000:81:00.0 is bound to no driver"], "drivers_probe"), &facts);

    let unbound = |facts: &mut Facts, driver: &str| {
        let snapshot = &mut facts.functions.as_mut().unwrap().snapshot;
        snapshot.pfs[0].driver = Some(driver.into());
        let of_first: Vec<_> =
            snapshot.vfs.iter_mut().filter(|vf| vf.pf == Some(snapshot.pfs[0].pci)).collect();
        for vf in of_first {
            vf.driver = None;
            vf.place = sriov_dra::device::Place::Unbound;
        }
    };
    let mut facts = Node::good().facts();
    unbound(&mut facts, "igb");
    told(&fault("drivers", &["module igbvf, which is theirs, is not loaded"], "sudo modprobe igbvf"), &facts);
    unbound(&mut facts, "ice");
    let case = fault("drivers", &["module iavf", "not installed for this kernel"], "iavf.ko");
    told(&Case { also: &["rdma"], ..case }, &facts);
    unbound(&mut facts, "mlx5_core");
    assert_eq!(
        line(&judge(&facts), "drivers").seen,
        "VFs are bound to mlx5_core; 4 VFs without driver, which claims bind"
    );
}

#[test]
fn a_node_with_nothing_to_offer_says_why() {
    let mut facts = Node::good().facts();
    let functions = facts.functions.as_mut().unwrap();
    functions.offered = 0;
    functions.withheld = functions.snapshot.vfs.iter().map(|vf| (vf.pci, "it has a master".into())).collect();
    told(&fault("offered", &["0 of 8 VFs; 0000:81:00.1: it has a master"], "sriov-dra inventory"), &facts);
    facts.functions.as_mut().unwrap().offered = 1;
    assert_eq!(line(&judge(&facts), "offered").state, State::Ok, "some are enough");
}

#[test]
fn a_port_that_carries_the_default_route_is_named_and_is_no_fault() {
    let mut facts = Node::good().facts();
    facts.functions.as_mut().unwrap().snapshot.pfs[0].netdev.as_mut().unwrap().uplink = true;
    let report = judge(&facts);
    assert!(line(&report, "uplink").seen.contains("PF ens1f0np0 carries"), "{:?}", line(&report, "uplink"));
    assert_eq!(report.worst, State::Ok);
}

#[test]
fn rdma_that_programs_could_not_use_is_a_warning() {
    let node = Node::good();
    node.remove("sys/module/rdma_ucm");
    told(&warning("rdma", &["module rdma_ucm is not loaded"], "sudo modprobe rdma_ucm"), &node.facts());

    let mut facts = Node::good().facts();
    let first = &mut facts.functions.as_mut().unwrap().snapshot.vfs[0];
    first.rdma = vec![sriov_dra::device::RdmaDevice {
        name: "mlx5_1".into(),
        link_type: Some(LinkType::Ethernet),
        node_guid: Some("0000:0000:0000:0000".into()),
        firmware: None,
        port_guid: None,
        char_devices: Vec::new(),
    }];
    told(
        &warning("rdma", &["0000:81:00.1 has node GUID 0"], "sudo ip link set ens1f0np0 vf 0 mac 02:"),
        &facts,
    );

    let mut facts = Node::good().facts();
    for vf in &mut facts.functions.as_mut().unwrap().snapshot.vfs {
        vf.link_type = Some(LinkType::Infiniband);
    }
    told(&warning("rdma", &["ib_ipoib"], "sudo modprobe ib_ipoib"), &facts);

    let node = Node::good();
    node.remove("sys/module/mlx5_ib");
    let mut facts = node.facts();
    let snapshot = &mut facts.functions.as_mut().unwrap().snapshot;
    snapshot.pfs.iter_mut().for_each(|pf| pf.rdma.clear());
    snapshot.vfs.iter_mut().for_each(|vf| vf.rdma.clear());
    told(&warning("rdma", &["module mlx5_ib is not loaded"], "sudo modprobe mlx5_ib"), &facts);
}

#[test]
fn the_rdma_mode_is_judged_now_and_at_the_next_boot() {
    let node = Node::good();
    let mode = |facts: &mut Facts, mode| facts.functions.as_mut().unwrap().snapshot.rdma_netns = Some(mode);
    let mut facts = node.facts();
    mode(&mut facts, RdmaNetnsMode::Shared);
    let case =
        warning("rdma-mode", &["shared, though /etc/modprobe.d/rdma.conf sets exclusive"], "sudo reboot");
    told(&case, &facts);

    node.remove("etc/modprobe.d/rdma.conf");
    let mut facts = node.facts();
    told(
        &warning("rdma-mode", &["nothing sets it at the next boot"], "options ib_core netns_mode=0"),
        &facts,
    );
    mode(&mut facts, RdmaNetnsMode::Shared);
    told(&warning("rdma-mode", &["rdma.mode: namespace is refused"], "sudo update-initramfs -u"), &facts);

    node.write("usr/lib/modprobe.d/x.conf", "options ib_core netns_mode=1\n");
    told(&warning("rdma-mode", &["/usr/lib/modprobe.d/x.conf sets shared"], "sudo tee"), &node.facts());
}

#[test]
fn gpus_whose_memory_rdma_can_not_reach_are_a_warning() {
    let node = Node::good();
    node.remove("sys/module/nvidia_peermem");
    told(
        &warning("gpudirect", &["nvidia_peermem is not loaded"], "sudo modprobe nvidia_peermem"),
        &node.facts(),
    );
    node.write(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.1\n",
    );
    let report = judge(&node.facts());
    assert!(line(&report, "gpudirect").seen.contains("DMA buffers"), "{:?}", line(&report, "gpudirect"));
    assert_eq!(report.worst, State::Ok);
}

#[test]
fn memory_that_can_not_be_locked_is_a_warning_where_nobody_may_raise_it() {
    let node = Node::good();
    node.write("proc/700/status", "CapEff:\t000001fffeffffff\n");
    let mend = "LimitMEMLOCK=infinity\\n' | sudo tee /etc/systemd/system/containerd.service.d/memlock.conf";
    told(&warning("memlock", &["containerd may lock 8 MiB", "lacks CAP_SYS_RESOURCE"], mend), &node.facts());
    node.write(
        "proc/700/limits",
        "Max locked memory         unlimited            unlimited            bytes\n",
    );
    assert_eq!(line(&judge(&node.facts()), "memlock").state, State::Ok);
    let mut facts = Node::good().facts();
    facts.settings.nri_socket = None;
    told(&warning("memlock", &["without NRI nobody raises it"], mend), &facts);
}

#[test]
fn runtimes_are_told_by_name_and_version() {
    let with = |name: &str, version: &str| {
        let mut facts = Node::good().facts();
        let runtime = facts.runtime.as_mut().unwrap();
        (runtime.name, runtime.version) = (name.into(), version.into());
        facts
    };
    told(&fault("runtime", &["1.6.36: needed is 1.7"], "newer containerd"), &with("containerd", "v1.6.36"));
    told(&warning("runtime", &["before 1.7.7"], "newer containerd"), &with("containerd", "1.7.2"));
    told(&fault("runtime", &["cri-o 1.29.1: needed is 1.30"], "newer cri-o"), &with("cri-o", "1.29.1"));
    told(&warning("runtime", &["containerd and CRI-O only"], ""), &with("docker", "28.0"));
    let node = Node::good();
    node.remove("proc/700");
    let mut facts = node.facts();
    facts.runtime = Err("no socket of containerd or CRI-O is to be seen".into());
    let case = fault("runtime", &["no container runtime runs here"], "sudo systemctl start");
    told(&Case { also: &["cdi", "memlock"], ..case }, &facts);
}

#[test]
fn nri_and_cdi_that_are_off_come_with_the_line_of_the_configuration_that_is_wrong() {
    let node = Node::good();
    node.listening(&["/var/lib/kubelet/plugins_registry/sriov-dra.io-u@reg.sock"]);
    let nobody = &["nobody listens on /var/run/nri/nri.sock", "from the hook"][..];
    told(&warning("nri", nobody, "sudo tee -a /etc/containerd/config.toml"), &node.facts());
    let config = "/etc/containerd/config.toml";
    node.write(&config[1..], "[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n");
    told(&warning("nri", nobody, "s/disable = true/disable = false/"), &node.facts());
    node.write(&config[1..], "[plugins.\"io.containerd.nri.v1.nri\"]\n");
    told(&warning("nri", nobody, "/a disable = false"), &node.facts());
    let mut facts = node.facts();
    facts.settings.nri_socket = None;
    assert_eq!(line(&judge(&facts), "nri").seen, "not needed: --attach=hook");

    let node = Node::good();
    let off = |config: &str, cdi| {
        node.write("etc/containerd/config.toml", config);
        let mut facts = node.facts();
        let runtime = facts.runtime.as_mut().unwrap();
        (runtime.cdi, runtime.version) = (cdi, "1.7.27".into());
        facts
    };
    let says = &["off in containerd"][..];
    told(
        &fault("cdi", says, "s/enable_cdi = false/enable_cdi = true/"),
        &off("enable_cdi = false\n", Some(false)),
    );
    told(
        &fault("cdi", says, "/a enable_cdi = true"),
        &off("[plugins.\"io.containerd.grpc.v1.cri\"]\n", None),
    );
    told(&fault("cdi", says, "sudo tee -a /etc/containerd/config.toml"), &off("version = 2\n", None));
    let mut facts = off("enable_cdi = true\n", None);
    assert_eq!(line(&judge(&facts), "cdi").state, State::Ok);
    facts.runtime.as_mut().unwrap().cdi_dirs = Some(vec!["/etc/cdi".into()]);
    told(&fault("cdi", &["reads /etc/cdi and not /var/run/cdi"], "cdi_spec_dirs"), &facts);
}

#[test]
fn a_hook_that_can_not_be_run_is_a_fault() {
    let node = Node::good();
    let mount = |options: &str| {
        let table =
            format!("1 0 8:1 / / rw shared:1 - ext4 a rw\n2 1 8:2 / /var {options} shared:2 - ext4 b rw\n");
        node.write("proc/1/mountinfo", &table);
        node.facts()
    };
    told(
        &fault("hook", &["/var, which is mounted noexec"], "sudo mount -o remount,exec /var"),
        &mount("rw,noexec"),
    );
    told(&fault("hook", &["mounted read-only"], "sudo mount -o remount,rw /var"), &mount("ro"));
    mount("rw");
    node.mode(HOOK, 0o644);
    told(&fault("hook", &["has mode 644"], "sudo chmod 755 /var/lib/kubelet"), &node.facts());
    node.remove(HOOK);
    told(&fault("hook", &["is gone"], "kubectl -n sriov-dra delete pod"), &node.facts());
    node.remove("proc/900");
    assert_eq!(line(&judge(&node.facts()), "hook").state, State::Ok, "before the first agent there is none");
}

#[test]
fn mounts_that_do_not_propagate_are_told_of_the_agent_and_of_the_node() {
    let node = Node::good();
    node.write("proc/900/mountinfo", "1 0 8:1 / / rw - overlay o rw\n2 1 8:1 / /run/netns rw - tmpfs t rw\n");
    told(
        &warning("propagation", &["the agent's /run/netns", "HostToContainer"], "kubectl apply"),
        &node.facts(),
    );
    let node = Node::good();
    node.write("proc/1/mountinfo", "1 0 8:1 / / rw - ext4 a rw\n");
    told(
        &warning("propagation", &["/ of the node hands on no mounts"], "sudo mount --make-rshared /"),
        &node.facts(),
    );
}

#[test]
fn kubelet_and_agent_are_looked_for_where_the_flags_say() {
    let node = Node::good();
    node.process(800, "kubelet", "/usr/bin/kubelet\0--root-dir=/data/kubelet\0");
    told(&fault("kubelet", &["its folder is /data/kubelet"], "--kubelet-dir=/data/kubelet"), &node.facts());
    node.remove("proc/800");
    told(&warning("kubelet", &["no process kubelet"], "sudo systemctl start kubelet"), &node.facts());
    node.remove("var/lib/kubelet/plugins_registry");
    told(&fault("kubelet", &["has no plugins_registry"], "--root-dir"), &node.facts());

    let node = Node::good();
    node.listening(&["/run/nri/nri.sock"]);
    told(&fault("agent", &["runs (PID 900), but has no registration socket"], "logs"), &node.facts());
}

#[test]
fn modules_that_claims_ask_for_and_that_are_not_installed_are_a_warning() {
    let node = Node::good();
    node.write(&format!("lib/modules/{KERNEL}/modules.dep"), "kernel/drivers/net/tun.ko:\n");
    told(
        &warning("modules", &["vhost_net not installed", "bind.vhost is refused"], "linux-modules-extra"),
        &node.facts(),
    );
    node.write("proc/sys/kernel/osrelease", "5.4.0-1\n");
    let case = fault("kernel", &["5.4.0-1: the driver is written for 5.10"], "newer kernel");
    told(&Case { also: &["modules"], ..case }, &node.facts());
}

#[test]
fn a_device_plugin_with_the_same_vfs_is_a_fault_and_one_with_others_is_not() {
    let node = Node::good();
    let checkpoint = "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint";
    let write = |registered: &str, in_pods: &str| {
        let entries = format!("[{{\"ResourceName\":\"a.com/used\",\"DeviceIDs\":{{\"0\":[{in_pods}]}}}}]");
        node.write(checkpoint, &format!("{{\"Data\":{{\"PodDeviceEntries\":{entries},\"RegisteredDevices\":{registered}}},\"Checksum\":1}}"));
        node.facts()
    };
    node.process(950, "sriovdp", "/usr/bin/sriovdp\0");
    let facts = write("{\"nvidia.com/gpu\":[\"GPU-1\"],\"a.com/vf\":[\"0000:03:00.1\"]}", "");
    assert_eq!(line(&judge(&facts), "device-plugin").seen, "sriovdp runs, and offers none of these VFs");
    assert_eq!(judge(&facts).worst, State::Ok);
    let facts = write("{\"a.com/vf\":[\"0000:81:00.1\",\"0000:81:00.2\",\"0000:03:00.1\"]}", "");
    let seen =
        &["resource a.com/vf of a device plugin offers 2 of these VFs (0000:81:00.1, 0000:81:00.2)"][..];
    told(&fault("device-plugin", seen, "kubectl get configmaps -A"), &facts);
    let facts = write("{}", "\"0000:81:00.1\"");
    told(&fault("device-plugin", &["a.com/used", "has in pods 1 of these VFs"], "kubectl"), &facts);
    node.write(checkpoint, "not JSON");
    told(&warning("device-plugin", &["sriovdp runs; whether it offers", "can't be read"], ""), &node.facts());
}
