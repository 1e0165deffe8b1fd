//! Prepare, attach and return together, on the kernel that holds state.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::attacher::Present;
use super::nri::{Container, Sandbox};
use super::{AttachError, Attacher, Letter, Outbox, Reason};
use crate::claim::{ClaimId, ClaimSpec, NameSpec, PodRef, ResultSpec};
use crate::device::{IfName, PciAddress};
use crate::host::Kernel;
use crate::host::NetnsId;
use crate::host::fake::FakeKernel;
use crate::prepare::PrepareError;
use crate::prepare::engine::Engine;
use crate::prepare::fake::{FakeFunctions, plain_result, site};
use crate::prepare::site::Site;

mod deaths;
mod faults;
mod hook;
mod nccl;
mod rdma;
mod routing;
mod settings;

struct Lab {
    kernel: FakeKernel,
    functions: FakeFunctions,
    engine: Engine,
    attacher: Attacher,
    dir: tempfile::TempDir,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(300)
}

fn pci(n: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x81, device: 0, function: n }
}

fn name(name: &str) -> NameSpec {
    NameSpec::Explicit(IfName::new(name).unwrap())
}

fn wants(vf: u8) -> ResultSpec {
    ResultSpec {
        interface_asked: true,
        mtu: Some(9000),
        addresses: vec![format!("10.1.0.{vf}/24").parse().unwrap()],
        ..plain_result(pci(vf))
    }
}

fn claim(uid: &str, pod: &str, results: Vec<ResultSpec>) -> ClaimSpec {
    ClaimSpec {
        id: ClaimId { uid: uid.into(), namespace: "ns".into(), name: format!("claim-{uid}") },
        pod_claim_name: "vf".into(),
        pod: Some(PodRef { uid: pod.into(), name: format!("pod-{pod}") }),
        results,
    }
}

fn sandbox(id: &str, pod: &str, path: &str) -> Sandbox {
    Sandbox {
        id: id.into(),
        pod_uid: pod.into(),
        pod_name: format!("pod-{pod}"),
        pod_namespace: "ns".into(),
        netns: Some(PathBuf::from(path)),
        lists_namespaces: true,
        pid: 7,
    }
}

fn container(sandbox: &str, claim: &str) -> Container {
    let marker = format!("SRIOV_DRA_CLAIM_{}=ns/claim-{claim}", claim.to_uppercase().replace('-', "_"));
    Container {
        id: "c".into(),
        sandbox_id: sandbox.into(),
        name: "main".into(),
        env: vec![marker],
        live: false,
        devices: Vec::new(),
        memlock: None,
    }
}

impl Lab {
    fn new(vfs: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::default();
        let functions = FakeFunctions::default();
        for n in 1..=vfs {
            kernel.add_vf(pci(n), &format!("ens1v{n}"), 1500, &format!("02:00:00:00:00:{n:02x}"));
            functions.add(pci(n));
        }
        let site = site(dir.path(), Arc::new(kernel.clone()), functions.clone(), "boot-1").unwrap();
        let (outbox, _) = Outbox::at(site.ledger.outbox_folder());
        let engine = Engine { site: site.clone() };
        let attacher = Attacher { site, outbox };
        Self { kernel, functions, engine, attacher, dir }
    }

    fn host(&self) -> NetnsId {
        self.kernel.host().id()
    }

    /// Every VF is on the host as it was before anybody touched it.
    fn assert_pristine(&self, vfs: u8) {
        let links = self.kernel.links_of(self.host());
        for n in 1..=vfs {
            let (link, addresses) =
                links.get(&format!("ens1v{n}")).unwrap_or_else(|| panic!("VF {n} is not back: {links:?}"));
            assert_eq!((link.mtu, link.up, link.promisc), (1500, false, false), "VF {n}");
            assert_eq!(link.hw_addr, format!("02:00:00:00:00:{n:02x}").parse().ok());
            assert!(addresses.is_empty());
        }
    }

    /// No file of any claim is left.
    fn assert_forgotten(&self) {
        for folder in [
            "durable/claims",
            "durable/vf",
            "durable/pods",
            "run/attach",
            "run/pods",
            "run/lock",
            "run/containers",
            "cdi",
        ] {
            let left: Vec<_> = std::fs::read_dir(self.dir.path().join(folder))
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    fn unprepare(&self, spec: &ClaimSpec) -> Result<(), String> {
        self.attacher.release(&spec.id.uid, soon()).map_err(|e| e.sentence())?;
        self.engine.unprepare(&spec.id, soon()).map_err(|e| e.sentence())
    }
}

#[test]
fn two_vfs_go_into_the_pod_named_addressed_and_up_and_come_back_as_they_were() {
    let lab = Lab::new(2);
    let spec = claim("c1", "p1", vec![wants(1), wants(2)]);
    let ns = lab.kernel.add_netns("/run/netns/a", 7);
    lab.kernel.add_other(ns.id(), "eth0");
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();

    let inside = lab.kernel.links_of(ns.id());
    for n in 1..=2u8 {
        let (link, addresses) = &inside[&format!("net{n}")];
        assert_eq!((link.mtu, link.up), (9000, true));
        assert_eq!(addresses, &[format!("10.1.0.{n}/24").parse().unwrap()]);
    }
    let (_, Letter { report, .. }) = lab.attacher.outbox.waiting().remove(0);
    assert!(report.devices.iter().all(|device| device.reason == Reason::Attached));
    assert_eq!(report.devices[0].interface.as_deref(), Some("net1"));

    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.assert_pristine(2);
    lab.unprepare(&spec).unwrap();
    lab.assert_forgotten();
}

#[test]
fn every_call_done_twice_changes_nothing_the_second_time() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.kernel.add_netns("/run/netns/a", 7);
    let first = lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.engine.prepare(&spec, soon()).unwrap(), first);
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let changes = lab.kernel.changes();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(lab.engine.prepare(&spec, soon()).unwrap(), first);
    lab.attacher
        .create_container(&sandbox("A", "p1", "/run/netns/a"), &container("A", "c1"), soon())
        .unwrap();
    assert_eq!(lab.kernel.changes(), changes);
    for _ in 0..2 {
        lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.assert_pristine(1);
    }
    for _ in 0..2 {
        lab.unprepare(&spec).unwrap();
        lab.assert_forgotten();
    }
}

#[test]
fn stopping_the_old_sandbox_again_takes_nothing_from_the_new_one() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.kernel.add_netns("/run/netns/a", 7);
    let b = lab.kernel.add_netns("/run/netns/b", 8);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.attacher.run(&sandbox("B", "p1", "/run/netns/b"), soon()).unwrap();
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert!(lab.kernel.links_of(b.id()).contains_key("net1"));
}

#[test]
fn a_new_sandbox_takes_the_vf_from_a_dead_one_but_never_from_one_where_a_process_lives() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    let b = lab.kernel.add_netns("/run/netns/b", 8);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let refused = lab.attacher.run(&sandbox("B", "p1", "/run/netns/b"), soon()).unwrap_err();
    assert!(refused.sentence().contains("process 7"), "{}", refused.sentence());
    assert!(lab.kernel.links_of(a.id()).contains_key("net1"));
    lab.kernel.kill_users(a.id());
    lab.attacher.run(&sandbox("B", "p1", "/run/netns/b"), soon()).unwrap();
    assert!(lab.kernel.links_of(b.id()).contains_key("net1"));
}

#[test]
fn a_late_task_of_a_stopped_sandbox_does_nothing() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    let pod = super::PodSandbox::open(&lab.kernel, &sandbox("A", "p1", "/run/netns/a")).unwrap();
    let epoch = lab.attacher.make_current(&pod, soon()).unwrap();
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let late = lab.attacher.attach_claims(&["c1".into()], &pod, epoch, Present::Leave, soon());
    assert!(matches!(late, Err(AttachError::Superseded { .. })), "{late:?}");
    assert!(lab.kernel.links_of(a.id()).is_empty());
    lab.assert_pristine(1);
}

#[test]
fn a_vf_that_came_back_as_dev7_or_was_renamed_gets_its_name_back() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| (link.promisc, link.mtu) = (true, 1400));
    lab.kernel.destroy(a.id());
    lab.kernel.meddle(pci(1), |link| link.name = "dev7".into());
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(1);
    lab.assert_forgotten();
}

#[test]
fn a_pod_with_two_claims_keeps_the_vf_of_the_second_when_the_first_is_unprepared() {
    let lab = Lab::new(2);
    let (one, two) = (claim("c1", "p1", vec![wants(1)]), claim("c2", "p1", vec![wants(2)]));
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&one, soon()).unwrap();
    lab.engine.prepare(&two, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert_eq!(lab.kernel.links_of(a.id()).into_keys().collect::<Vec<_>>(), ["net1", "net2"]);
    lab.unprepare(&one).unwrap();
    assert_eq!(lab.kernel.links_of(a.id()).into_keys().collect::<Vec<_>>(), ["net2"]);
    // Numbers are not dealt anew: the third claim takes the free one, net2 stays.
    let third = lab.engine.prepare(&claim("c3", "p1", vec![wants(1)]), soon()).unwrap();
    assert_eq!(third.vfs[0].name.as_str(), "net1");
    lab.unprepare(&two).unwrap();
}

#[test]
fn whichever_change_of_an_attach_fails_the_vfs_are_on_the_host_as_they_were_and_a_retry_succeeds() {
    let total = {
        let lab = Lab::new(3);
        lab.kernel.add_netns("/run/netns/a", 7);
        lab.engine.prepare(&claim("c1", "p1", vec![wants(1), wants(2), wants(3)]), soon()).unwrap();
        let before = lab.kernel.changes();
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.kernel.changes() - before
    };
    assert!(total >= 12, "three VFs: move, MTU, up, address each; {total}");
    for k in 0..total {
        let lab = Lab::new(3);
        lab.kernel.add_netns("/run/netns/a", 7);
        let spec = claim("c1", "p1", vec![wants(1), wants(2), wants(3)]);
        lab.engine.prepare(&spec, soon()).unwrap();
        lab.kernel.fail_change(k, Errno::EBUSY);
        let failed = lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon());
        assert!(failed.unwrap_err().sentence().contains("VF 0000:81:00."), "change {k}");
        lab.assert_pristine(3);
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.unprepare(&spec).unwrap();
        lab.assert_pristine(3);
        lab.assert_forgotten();
    }
}

#[test]
fn whichever_change_of_a_return_fails_the_next_unprepare_finishes_it() {
    let total = {
        let lab = Lab::new(2);
        lab.kernel.add_netns("/run/netns/a", 7);
        lab.engine.prepare(&claim("c1", "p1", vec![wants(1), wants(2)]), soon()).unwrap();
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        let before = lab.kernel.changes();
        lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.kernel.changes() - before
    };
    for k in 0..total {
        let lab = Lab::new(2);
        lab.kernel.add_netns("/run/netns/a", 7);
        let spec = claim("c1", "p1", vec![wants(1), wants(2)]);
        lab.engine.prepare(&spec, soon()).unwrap();
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.kernel.fail_change(k, Errno::EBUSY);
        lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap_err();
        lab.unprepare(&spec).unwrap();
        lab.assert_pristine(2);
        lab.assert_forgotten();
    }
}

#[test]
fn a_default_name_that_is_taken_in_the_pod_gives_way_and_an_explicit_one_is_an_error() {
    let lab = Lab::new(2);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.kernel.add_other(a.id(), "net1");
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert!(lab.kernel.links_of(a.id()).contains_key("net2"));
    let cdi = std::fs::read_to_string(lab.dir.path().join("cdi/sriov-dra.io-vf_c1.json")).unwrap();
    assert!(cdi.contains("_INTERFACES=net2"), "{cdi}");

    let b = lab.kernel.add_netns("/run/netns/b", 8);
    lab.kernel.add_other(b.id(), "fabric");
    let explicit = ResultSpec { name: name("fabric"), ..wants(2) };
    lab.engine.prepare(&claim("c2", "p2", vec![explicit]), soon()).unwrap();
    let error = lab.attacher.run(&sandbox("B", "p2", "/run/netns/b"), soon()).unwrap_err().sentence();
    assert!(error.contains("interface name fabric") && error.contains("taken"), "{error}");
}

#[test]
fn a_container_is_refused_while_its_vf_can_not_be_brought_and_another_pods_claim_is_never_taken() {
    let lab = Lab::new(1);
    lab.kernel.add_netns("/run/netns/a", 7);
    lab.kernel.add_netns("/run/netns/b", 8);
    let unknown =
        lab.attacher.create_container(&sandbox("A", "p1", "/run/netns/a"), &container("A", "c9"), soon());
    assert!(unknown.unwrap_err().sentence().contains("claim c9 is not prepared on this node"));
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    // Started while the plugin was away: the container's turn brings the VF.
    lab.attacher
        .create_container(&sandbox("A", "p1", "/run/netns/a"), &container("A", "c1"), soon())
        .unwrap();
    let thief =
        lab.attacher.create_container(&sandbox("B", "p2", "/run/netns/b"), &container("B", "c1"), soon());
    assert!(thief.unwrap_err().sentence().contains("belongs to pod pod-p1"));
    let to = PodRef { uid: "p2".into(), name: "pod-p2".into() };
    let live = lab.attacher.hand_over("c1", &to, soon()).unwrap_err().sentence();
    assert!(live.contains("in use by pod pod-p1"), "{live}");
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.attacher.hand_over("c1", &to, soon()).unwrap();
    let note = |pod: &str| lab.engine.site.ledger.current_sandbox(pod).unwrap();
    assert_eq!(note("p1"), None, "no Unprepare comes by for the pod that handed its last claim over");
    lab.attacher
        .create_container(&sandbox("B", "p2", "/run/netns/b"), &container("B", "c1"), soon())
        .unwrap();

    let another = sandbox("A2", "p3", "/run/netns/a");
    lab.attacher.create_container(&another, &container("A2", "c1"), soon()).unwrap_err();
    assert!(note("p3").is_some());
    lab.attacher.stop(&another, soon()).unwrap();
    assert_eq!(note("p3"), None, "a pod that was refused leaves nothing");
    assert!(note("p2").is_some());
}

#[test]
fn pods_on_the_hosts_network_are_refused_interface_settings_and_told_the_hosts_name_otherwise() {
    let lab = Lab::new(2);
    let on_host = |pod: &str| Sandbox { netns: None, ..sandbox("H", pod, "") };
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    let refused = lab.attacher.run(&on_host("p1"), soon()).unwrap_err().sentence();
    assert!(refused.contains("hostNetwork: true"), "{refused}");
    let plain = ResultSpec { interface_asked: false, mtu: None, addresses: Vec::new(), ..wants(2) };
    lab.engine.prepare(&claim("c2", "p2", vec![plain]), soon()).unwrap();
    lab.attacher.run(&on_host("p2"), soon()).unwrap();
    let mut container = container("H", "c2");
    container.env.push("SRIOV_DRA_VF_VF2_INTERFACES=net1".into());
    let adjusted = lab.attacher.create_container(&on_host("p2"), &container, soon()).unwrap();
    assert_eq!(adjusted.env, [("SRIOV_DRA_VF_VF2_INTERFACES".to_owned(), "ens1v2".to_owned())]);
    lab.assert_pristine(2);
}

#[test]
fn admin_access_owns_and_moves_nothing() {
    let lab = Lab::new(1);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    let admin = ResultSpec { admin_access: true, interface_asked: false, ..wants(1) };
    lab.engine.prepare(&claim("c1", "p1", vec![admin]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert!(lab.kernel.links_of(a.id()).is_empty());
    assert!(lab.engine.site.ledger.owned().unwrap().is_empty());
    // And the VF is free for whoever uses it.
    lab.engine.prepare(&claim("c2", "p2", vec![wants(1)]), soon()).unwrap();
}

#[test]
fn a_vf_held_by_another_claim_is_waited_for_and_then_named() {
    let lab = Lab::new(1);
    let first = claim("c1", "p1", vec![wants(1)]);
    lab.engine.prepare(&first, soon()).unwrap();
    let error = lab.engine.prepare(&claim("c2", "p2", vec![wants(1)]), soon()).unwrap_err();
    assert!(matches!(error, PrepareError::Held { .. }));
    assert!(error.sentence().contains("still held by claim ns/claim-c1"), "{}", error.sentence());
    let engine = lab.engine.clone();
    let waiting = std::thread::spawn(move || {
        engine.prepare(&claim("c2", "p2", vec![wants(1)]), Instant::now() + Duration::from_secs(5))
    });
    std::thread::sleep(Duration::from_millis(150));
    lab.unprepare(&first).unwrap();
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_truncated_ledger_entry_is_set_aside_and_its_vf_still_comes_back() {
    let lab = Lab::new(2);
    let (one, two) = (claim("c1", "p1", vec![wants(1)]), claim("c2", "p2", vec![wants(2)]));
    lab.kernel.add_netns("/run/netns/a", 7);
    for spec in [&one, &two] {
        lab.engine.prepare(spec, soon()).unwrap();
    }
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let path = lab.dir.path().join("durable/claims/c1.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let survey = lab.engine.site.ledger.survey("boot-1").unwrap();
    assert_eq!((survey.entries, survey.quarantined.len()), (1, 1), "{survey:?}");
    lab.engine.prepare(&two, soon()).unwrap();
    lab.unprepare(&one).unwrap();
    lab.assert_pristine(2);
    lab.unprepare(&two).unwrap();
    lab.assert_forgotten_but_quarantine();
}

impl Lab {
    fn assert_forgotten_but_quarantine(&self) {
        let kept = std::fs::read_dir(self.dir.path().join("durable/quarantine")).unwrap().count();
        assert_eq!(kept, 1);
        let owned = self.engine.site.ledger.owned().unwrap();
        assert!(owned.is_empty(), "{owned:?}");
    }
}

#[test]
fn a_vf_that_was_removed_or_made_anew_while_lent_does_not_hold_up_unprepare() {
    let lab = Lab::new(2);
    let spec = claim("c1", "p1", vec![wants(1), wants(2)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| link.pci = None);
    lab.kernel.meddle(pci(2), |link| link.pci = None);
    lab.kernel.destroy(a.id());
    lab.functions.remove(pci(1));
    lab.functions.change(pci(2), |facts| facts.vf.incarnation.0 += 1);
    lab.unprepare(&spec).unwrap();
    lab.assert_forgotten();
}
