//! RDMA devices with their VFs: into pods, out of them, and what containers are told.

use crate::claim::{Memlock, RdmaMode, WantedRdma};
use crate::device::{CharDevice, MemlockRoom, RdmaNetnsMode};
use crate::host::Netns;
use crate::prepare::cdi;

use super::super::bundle::Bundle;
use super::*;

const UNLIMITED: u64 = u64::MAX;

fn lab(mode: RdmaNetnsMode, vfs: u8) -> Lab {
    let lab = Lab::new(vfs);
    lab.kernel.set_rdma_mode(mode);
    // The node's other devices have the lowest number.
    lab.kernel.add_rdma(pci(7), "spare");
    for n in 1..=vfs {
        lab.kernel.add_rdma(pci(n), &format!("mlx5_{n}"));
    }
    lab
}

fn with(n: u8, rdma: WantedRdma) -> ResultSpec {
    ResultSpec { rdma, ..wants(n) }
}

fn uverbs(n: u32) -> CharDevice {
    CharDevice { path: format!("/dev/infiniband/uverbs{n}"), major: 231, minor: 192 + n }
}

fn rdma_cm() -> CharDevice {
    CharDevice { path: "/dev/infiniband/rdma_cm".into(), major: 10, minor: 120 }
}

impl Lab {
    /// A container with these requests of a claim.
    fn container_of(&self, sandbox: &str, claim: &str, requests: &[&str]) -> Container {
        let mut container = container(sandbox, claim);
        let entry = self.engine.site.ledger.entry(claim).unwrap().unwrap();
        let prefixes: Vec<String> = requests.iter().map(|r| cdi::variable_prefix("vf", r)).collect();
        let listed = cdi::variables_of(&entry);
        let listed =
            listed.into_iter().filter(|(key, _)| prefixes.iter().any(|p| key.starts_with(p.as_str())));
        container.env.extend(listed.map(|(key, value)| format!("{key}={value}")));
        container
    }

    fn assert_rdma_home(&self, vfs: u8) {
        for n in 1..=vfs {
            let place = self.kernel.rdma_place(&format!("mlx5_{n}")).map(|(place, _)| place);
            assert_eq!(place, Some(self.host()), "device {n}");
        }
    }

    fn start(&self, claim: &str, pod: &str, vfs: Vec<ResultSpec>) -> (ClaimSpec, Netns, Sandbox) {
        let spec = self::claim(claim, pod, vfs);
        let path = format!("/run/netns/{pod}");
        let ns = self.kernel.add_netns(&path, 7);
        self.engine.prepare(&spec, soon()).unwrap();
        let sandbox = sandbox(&pod.to_uppercase(), pod, &path);
        (spec, ns, sandbox)
    }
}

#[test]
fn devices_of_pods_started_crosswise_are_in_them_and_their_containers_have_the_numbers_after_the_moves() {
    let lab = lab(RdmaNetnsMode::Exclusive, 2);
    let (one, a, in_a) = lab.start("c1", "p1", vec![wants(1)]);
    let (two, b, in_b) = lab.start("c2", "p2", vec![wants(2)]);
    // From now on a number is free that is lower than both.
    lab.kernel.remove_rdma("spare");
    lab.attacher.run(&in_b, soon()).unwrap();
    lab.attacher.run(&in_a, soon()).unwrap();
    assert_eq!(lab.kernel.rdma_place("mlx5_2"), Some((b.id(), 0)));
    assert_eq!(lab.kernel.rdma_place("mlx5_1"), Some((a.id(), 1)));
    for (sandbox, claim, vf, number) in [(&in_a, "c1", "vf1", 1), (&in_b, "c2", "vf2", 0)] {
        let container = lab.container_of(&sandbox.id, claim, &[vf]);
        let given = lab.attacher.create_container(sandbox, &container, soon()).unwrap();
        assert_eq!(given.devices, [rdma_cm(), uverbs(number)], "{claim}");
        assert_eq!(given.memlock, Some(UNLIMITED));
        // The second of two agents finds done what the first did.
        let adjusted = Container { devices: given.devices, memlock: given.memlock, ..container };
        let again = lab.attacher.create_container(sandbox, &adjusted, soon()).unwrap();
        assert_eq!((again.devices, again.memlock), (Vec::new(), None));
    }
    let told = &lab.attacher.outbox.waiting()[0].1.report.devices[0];
    assert!(told.message.ends_with(", with RDMA device mlx5_1"), "{}", told.message);

    // A namespace that ends by itself, and a sandbox that is stopped.
    lab.kernel.destroy(a.id());
    lab.attacher.stop(&in_a, soon()).unwrap();
    lab.attacher.stop(&in_b, soon()).unwrap();
    lab.assert_rdma_home(2);
    lab.assert_pristine(2);
    for spec in [one, two] {
        lab.unprepare(&spec).unwrap();
    }
    std::fs::remove_file(lab.dir.path().join("run/lock/rdma")).unwrap();
    lab.assert_forgotten();
}

#[test]
fn where_devices_are_shared_nothing_is_moved_and_the_cdi_file_has_the_nodes() {
    let lab = lab(RdmaNetnsMode::Shared, 1);
    let wanted = WantedRdma { umad: true, memlock: Memlock::Bytes(1 << 30), ..WantedRdma::default() };
    let (_, _, sandbox) = lab.start("c1", "p1", vec![with(1, wanted)]);
    let text = std::fs::read_to_string(lab.dir.path().join("cdi").join(cdi::file_name("sriov-dra.io", "c1")));
    let spec = cdi::parse(&text.unwrap()).unwrap();
    spec.validate().unwrap();
    let nodes = spec.devices[0].container_edits.device_nodes.iter();
    let nodes: Vec<_> = nodes.map(|node| (node.path.as_str(), node.major, node.minor)).collect();
    let minor = |n: i64| (Some(231), Some(n));
    assert_eq!(
        nodes,
        [
            ("/dev/infiniband/rdma_cm", Some(10), Some(120)),
            ("/dev/infiniband/umad1", minor(1).0, minor(1).1),
            ("/dev/infiniband/uverbs1", minor(193).0, minor(193).1),
        ]
    );
    assert!(spec.devices[0].container_edits.env.contains(&"SRIOV_DRA_VF_VF1_RDMA_DEVICES=mlx5_1".to_owned()));
    lab.attacher.run(&sandbox, soon()).unwrap();
    let container = lab.container_of("P1", "c1", &["vf1"]);
    let given = lab.attacher.create_container(&sandbox, &container, soon()).unwrap();
    assert_eq!((given.devices, given.memlock), (Vec::new(), Some(1 << 30)));
    lab.assert_rdma_home(1);
}

#[test]
fn a_container_gets_the_devices_of_the_requests_that_it_lists_and_no_limit_without_one() {
    let lab = lab(RdmaNetnsMode::Exclusive, 3);
    let none = WantedRdma { mode: RdmaMode::None, ..WantedRdma::default() };
    let (_, ns, sandbox) = lab.start("c1", "p1", vec![wants(1), wants(2), with(3, none)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let given = |requests: &[&str]| {
        let container = lab.container_of("P1", "c1", requests);
        lab.attacher.create_container(&sandbox, &container, soon()).unwrap()
    };
    assert_eq!(given(&["vf2"]).devices, [rdma_cm(), uverbs(2)]);
    assert_eq!(given(&["vf1", "vf2"]).devices, [rdma_cm(), uverbs(1), uverbs(2)]);
    let other = given(&["vf3"]);
    assert_eq!((other.devices, other.memlock), (Vec::new(), None), "asked for none");
    assert_eq!(lab.kernel.rdma_place("mlx5_3").unwrap().0, lab.host());
    assert_eq!(lab.kernel.rdma_place("mlx5_2").unwrap().0, ns.id());
}

#[test]
fn without_a_demand_a_device_whose_driver_can_not_move_it_stays_and_the_pod_starts_without() {
    let lab = lab(RdmaNetnsMode::Exclusive, 2);
    lab.kernel.pin_rdma("mlx5_1");
    let (spec, ns, sandbox) = lab.start("c1", "p1", vec![wants(1), wants(2)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let place = |device| lab.kernel.rdma_place(device).unwrap().0;
    assert_eq!((place("mlx5_1"), place("mlx5_2")), (lab.host(), ns.id()));
    let told = lab.attacher.outbox.waiting().remove(0).1.report.devices;
    assert!(told.iter().all(|device| device.reason == Reason::Attached));
    assert!(told[0].message.contains("without RDMA device mlx5_1"), "{}", told[0].message);
    assert!(told[1].message.contains("with RDMA device mlx5_2"), "{}", told[1].message);
    let container = lab.container_of("P1", "c1", &["vf1", "vf2"]);
    let given = lab.attacher.create_container(&sandbox, &container, soon()).unwrap();
    assert_eq!(given.devices, [rdma_cm(), uverbs(2)]);
    // Told of the sandbox again, prepared again by a kubelet that was restarted, and asked by the hook.
    lab.attacher.run(&sandbox, soon()).unwrap();
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.guard(&sandbox, "c1", soon()).unwrap();
    // A second sandbox of the pod is told the same.
    lab.attacher.stop(&sandbox, soon()).unwrap();
    let again = Sandbox { id: "again".into(), ..sandbox.clone() };
    lab.attacher.run(&again, soon()).unwrap();
    let told = lab.attacher.outbox.waiting().remove(0).1.report.devices;
    assert!(told[0].message.contains("without RDMA device mlx5_1"), "{}", told[0].message);
    let sandbox = again;
    lab.attacher.stop(&sandbox, soon()).unwrap();
    lab.unprepare(&spec).unwrap();
    for n in [1, 2] {
        lab.assert_rdma_home(n);
        lab.assert_pristine(n);
    }
}

#[test]
fn a_device_that_is_demanded_and_whose_driver_can_not_move_it_is_refused_and_its_vf_is_back() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    lab.kernel.pin_rdma("mlx5_1");
    let demand = WantedRdma { mode: RdmaMode::Namespace, ..WantedRdma::default() };
    let (_, _, sandbox) = lab.start("c1", "p1", vec![with(1, demand)]);
    let error = lab.attacher.run(&sandbox, soon()).unwrap_err().sentence();
    assert!(error.contains("the driver of its RDMA device mlx5_1 can't move it"), "{error}");
    lab.assert_pristine(1);
    lab.assert_rdma_home(1);
    assert!(lab.engine.site.ledger.attachment("c1").unwrap().is_none());
}

#[test]
fn a_change_that_fails_leaves_both_on_the_host_and_the_next_attach_brings_both() {
    for k in 0.. {
        let lab = lab(RdmaNetnsMode::Exclusive, 1);
        let (spec, ns, sandbox) = lab.start("c1", "p1", vec![wants(1)]);
        lab.kernel.fail_change(k, Errno::EIO);
        let failed = lab.attacher.run(&sandbox, soon()).is_err();
        if failed {
            lab.assert_rdma_home(1);
        }
        lab.kernel.fail_change(u64::MAX / 2, Errno::EIO);
        lab.attacher.run(&sandbox, soon()).unwrap();
        assert_eq!(lab.kernel.rdma_place("mlx5_1").unwrap().0, ns.id(), "change {k}");
        // The way back fails once at the same place.
        lab.kernel.fail_change(k, Errno::EIO);
        let _ = lab.attacher.stop(&sandbox, soon());
        lab.kernel.fail_change(u64::MAX / 2, Errno::EIO);
        lab.attacher.stop(&sandbox, soon()).unwrap();
        lab.unprepare(&spec).unwrap();
        lab.assert_rdma_home(1);
        lab.assert_pristine(1);
        if !failed {
            assert!(k >= 5, "{k} changes");
            return;
        }
    }
}

#[test]
fn a_record_that_is_lost_does_not_leave_the_device_in_a_living_namespace() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    let (spec, _, sandbox) = lab.start("c1", "p1", vec![wants(1)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    std::fs::remove_dir_all(lab.dir.path().join("run/attach")).unwrap();
    std::fs::create_dir(lab.dir.path().join("run/attach")).unwrap();
    lab.unprepare(&spec).unwrap();
    lab.assert_rdma_home(1);
    lab.assert_pristine(1);
}

#[test]
fn a_repeated_prepare_while_the_device_is_in_its_pod_changes_nothing() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    let (spec, _, sandbox) = lab.start("c1", "p1", vec![wants(1)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let before = lab.engine.site.ledger.entry("c1").unwrap().unwrap();
    lab.functions.change(pci(1), |facts| facts.vf.place = crate::device::Place::Elsewhere);
    assert_eq!(lab.engine.prepare(&spec, soon()).unwrap(), before);
    assert!(before.vfs[0].rdma.is_some());
}

#[test]
fn on_the_hosts_network_a_namespace_that_was_asked_for_is_refused_and_auto_gives_the_nodes() {
    let on_host = |pod: &str| Sandbox { netns: None, pid: 0, ..sandbox("H", pod, "/x") };
    let plain =
        |n, mode| ResultSpec { rdma: WantedRdma { mode, ..WantedRdma::default() }, ..plain_result(pci(n)) };
    let lab = lab(RdmaNetnsMode::Exclusive, 2);
    lab.start("c1", "p1", vec![plain(1, RdmaMode::Namespace)]);
    let error = lab.attacher.run(&on_host("p1"), soon()).unwrap_err().sentence();
    assert!(error.contains("hostNetwork: true") && error.contains("set rdma.mode to auto"), "{error}");
    lab.start("c2", "p2", vec![plain(2, RdmaMode::Auto)]);
    lab.attacher.run(&on_host("p2"), soon()).unwrap();
    let container = lab.container_of("H", "c2", &["vf2"]);
    let given = lab.attacher.create_container(&on_host("p2"), &container, soon()).unwrap();
    assert_eq!(given.devices, [rdma_cm(), uverbs(2)]);
    lab.assert_rdma_home(2);
}

#[test]
fn nodes_of_a_device_that_the_pod_could_not_open_are_not_given_out() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    let wanted = WantedRdma { mode: RdmaMode::CharDevice, ..WantedRdma::default() };
    let (_, _, sandbox) = lab.start("c1", "p1", vec![with(1, wanted)]);
    let error = lab.attacher.run(&sandbox, soon()).unwrap_err().sentence();
    assert!(error.contains("set rdma.mode to auto or namespace"), "{error}");
    lab.assert_pristine(1);
}

#[test]
fn a_runtime_that_can_not_raise_the_limit_gives_what_it_has_and_the_status_says_so() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    lab.engine.site.runtime.can_lock(Some(MemlockRoom::Bytes(8 << 20)));
    let (_, _, sandbox) = lab.start("c1", "p1", vec![wants(1)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let container = lab.container_of("P1", "c1", &["vf1"]);
    let given = lab.attacher.create_container(&sandbox, &container, soon()).unwrap();
    assert_eq!(given.memlock, Some(8 << 20));
    let told = lab.attacher.outbox.waiting().remove(0).1.report.devices.remove(0);
    assert_eq!(told.reason, Reason::MemlockLimited);
    assert!(told.reason.ready() && told.message.contains("may lock 8388608 bytes"), "{}", told.message);
}

#[test]
fn a_limit_that_the_runtime_sets_after_the_hook_has_to_be_what_the_claim_demands() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    let demand = WantedRdma { memlock: Memlock::Bytes(1 << 30), ..WantedRdma::default() };
    let (_, ns, sandbox) = lab.start("c1", "p1", vec![with(1, demand)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let env = lab.container_of("P1", "c1", &["vf1"]).env;
    let check = |memlock| {
        let bundle = Bundle { env: env.clone(), devices: vec![uverbs(1), rdma_cm()], memlock };
        lab.attacher.check_bundle("c1", &bundle, Some(&ns)).map_err(|error| error.sentence())
    };
    let error = check(Some(65536)).unwrap_err();
    assert!(error.contains("demands 1073741824 bytes") && error.contains("lock 65536 only"), "{error}");
    assert_eq!(check(Some(1 << 30)), Ok(None));
    let limit = check(None).unwrap().unwrap();
    assert_eq!((limit.bytes, limit.auto), (1 << 30, false));
    assert_eq!(check(None).unwrap().unwrap().bytes, 1 << 30, "the hook sets it");
}

#[test]
fn a_demand_holds_beside_a_device_that_would_take_less() {
    let lab = lab(RdmaNetnsMode::Exclusive, 2);
    let demand = WantedRdma { memlock: Memlock::Bytes(1 << 30), ..WantedRdma::default() };
    let (_, ns, sandbox) = lab.start("c1", "p1", vec![wants(1), with(2, demand)]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let env = lab.container_of("P1", "c1", &["vf1", "vf2"]).env;
    let check = |memlock| {
        let bundle = Bundle { env: env.clone(), devices: vec![uverbs(1), uverbs(2), rdma_cm()], memlock };
        lab.attacher.check_bundle("c1", &bundle, Some(&ns)).map_err(|error| error.sentence())
    };
    let error = check(Some(65536)).unwrap_err();
    assert!(error.contains("demands 1073741824 bytes"), "{error}");
    let limit = check(None).unwrap().unwrap();
    assert_eq!((limit.bytes, limit.auto), (UNLIMITED, false));
}

#[test]
fn each_hook_of_a_container_with_two_claims_sets_the_limit_of_both_and_of_no_other_pods() {
    let lab = lab(RdmaNetnsMode::Exclusive, 3);
    let wants = |bytes| WantedRdma { memlock: Memlock::Bytes(bytes), ..WantedRdma::default() };
    let (_, ns, sandbox) = lab.start("c1", "p1", vec![with(1, wants(1 << 30))]);
    lab.start("c2", "p1", vec![with(2, wants(1 << 20))]);
    lab.start("c3", "p2", vec![with(3, wants(1 << 40))]);
    lab.attacher.run(&sandbox, soon()).unwrap();
    let env = ["c1", "c2", "c3"].map(|claim| lab.container_of("P1", claim, &["vf1", "vf2", "vf3"]).env);
    let check = |memlock| {
        let devices = vec![uverbs(1), uverbs(2), rdma_cm()];
        let bundle = Bundle { env: env.concat(), devices, memlock };
        ["c1", "c2"].map(|claim| lab.attacher.check_bundle(claim, &bundle, Some(&ns)))
    };
    for (limit, claim) in check(None).into_iter().zip(["c1", "c2"]) {
        assert_eq!(limit.unwrap().unwrap().bytes, 1 << 30, "{claim}");
    }
    for refused in check(Some(1 << 20)) {
        let error = refused.unwrap_err().sentence();
        assert!(error.contains("demands 1073741824 bytes"), "{error}");
    }
}

#[test]
fn a_pod_on_the_hosts_network_is_told_of_its_device_and_its_limit_too() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    lab.engine.site.runtime.can_lock(Some(MemlockRoom::Bytes(8 << 20)));
    let (_, _, sandbox) = lab.start("c1", "p1", vec![wants(1)]);
    lab.attacher.run(&Sandbox { netns: None, ..sandbox }, soon()).unwrap();
    let told = lab.attacher.outbox.waiting().remove(0).1.report.devices.remove(0);
    assert_eq!(told.reason, Reason::MemlockLimited);
    let says = |what: &str| assert!(told.message.contains(what), "{}", told.message);
    says("with RDMA device mlx5_1");
    says("may lock 8388608 bytes");
}

#[test]
fn the_hook_lets_a_container_start_with_the_right_nodes_only_and_moves_no_device() {
    let lab = lab(RdmaNetnsMode::Exclusive, 1);
    let (_, ns, sandbox) = lab.start("c1", "p1", vec![wants(1)]);
    let error = lab.attacher.guard(&sandbox, "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("RDMA device mlx5_1 is not in the pod's network namespace"), "{error}");
    lab.assert_pristine(1);
    lab.assert_rdma_home(1);

    lab.attacher.run(&sandbox, soon()).unwrap();
    lab.attacher.guard(&sandbox, "c1", soon()).unwrap();
    assert!(lab.attacher.has_rdma("c1").unwrap() && !lab.attacher.has_rdma("c9").unwrap());
    let env = lab.container_of("P1", "c1", &["vf1"]).env;
    let check = |devices: Vec<CharDevice>, memlock| {
        let bundle = Bundle { env: env.clone(), devices, memlock };
        lab.attacher.check_bundle("c1", &bundle, Some(&ns)).map_err(|error| error.sentence())
    };
    let limit = check(vec![uverbs(1), rdma_cm()], None).unwrap().unwrap();
    assert_eq!((limit.bytes, limit.auto), (UNLIMITED, true), "nobody has set one over NRI");
    assert_eq!(check(vec![uverbs(1), rdma_cm()], Some(65536)), Ok(None));
    for devices in [vec![], vec![rdma_cm()], vec![rdma_cm(), CharDevice { minor: 200, ..uverbs(1) }]] {
        let error = check(devices, None).unwrap_err();
        assert!(error.contains("/dev/infiniband/uverbs1 with number 231:193"), "{error}");
    }
    // A container of another request of the pod has no business with it.
    let bundle = Bundle { env: Vec::new(), ..Bundle::default() };
    assert_eq!(lab.attacher.check_bundle("c1", &bundle, Some(&ns)).unwrap(), None);
}
