//! The engine on the kernel that holds state: what is refused, what is undone, what a reboot changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::claim::{ClaimId, ClaimSpec, NameSpec, PodRef, ResultSpec};
use crate::device::{IfName, LinkType, PciAddress, Pf, Place};
use crate::host::fake::FakeKernel;
use crate::prepare::PrepareError;
use crate::prepare::engine::Engine;
use crate::prepare::fake::{self, FakeFunctions, plain_result, site};
use crate::prepare::functions::Facts;
use crate::prepare::records::Progress;
use crate::prepare::steps::{Driver, Step};

mod pools;
mod rdma;
mod rivals;
mod settings;
mod vfio;

struct Lab {
    kernel: FakeKernel,
    functions: FakeFunctions,
    engine: Engine,
    dir: tempfile::TempDir,
}

const PF: PciAddress = PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 };

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(300)
}

fn pci(n: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x81, device: 2, function: n }
}

fn pf(mtu: u32) -> Pf {
    let mut pf = fake::pf(PF);
    pf.netdev.iter_mut().for_each(|netdev| netdev.mtu = Some(mtu));
    pf
}

fn wants(n: u8) -> ResultSpec {
    plain_result(pci(n))
}

fn claim(uid: &str, pod: &str, results: Vec<ResultSpec>) -> ClaimSpec {
    ClaimSpec {
        id: ClaimId { uid: uid.into(), namespace: "ns".into(), name: format!("claim-{uid}") },
        pod_claim_name: "vf".into(),
        pod: Some(PodRef { uid: pod.into(), name: format!("pod-{pod}") }),
        results,
    }
}

fn explicit(n: u8, name: &str) -> ResultSpec {
    ResultSpec { name: NameSpec::Explicit(IfName::new(name).unwrap()), ..wants(n) }
}

impl Lab {
    fn facts(&self, n: u8) -> Facts {
        self.engine.site.functions.facts(&[pci(n)].into()).unwrap().remove(&pci(n)).unwrap()
    }

    fn new(vfs: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, functions) = (FakeKernel::default(), FakeFunctions::default());
        for n in 1..=vfs {
            kernel.add_vf(pci(n), &format!("ens1v{n}"), 1500, &format!("02:00:00:00:00:{n:02x}"));
            functions.add(pci(n));
            functions.change(pci(n), |facts| {
                facts.vf.pf = Some(PF);
                facts.vf.index = Some(u32::from(n) - 1);
                facts.pf = Some(pf(9000));
            });
        }
        let site = site(dir.path(), Arc::new(kernel.clone()), functions.clone(), "boot-1").unwrap();
        let engine = Engine { site };
        Self { kernel, functions, engine, dir }
    }

    fn refusal(&self, spec: &ClaimSpec) -> String {
        let error = self.engine.prepare(spec, soon()).unwrap_err().sentence();
        assert!(
            self.engine.site.ledger.owned().unwrap().iter().all(|(_, owner)| owner.claim.uid != spec.id.uid),
            "{error}"
        );
        assert_eq!(self.engine.site.ledger.entry(&spec.id.uid).unwrap(), None, "{error}");
        assert!(
            !self.dir.path().join(format!("cdi/sriov-dra.io-vf_{}.json", spec.id.uid)).exists(),
            "{error}"
        );
        error
    }

    fn names(&self, spec: &ClaimSpec) -> Vec<String> {
        self.engine.prepare(spec, soon()).unwrap().vfs.iter().map(|vf| vf.name.to_string()).collect()
    }
}

#[test]
fn what_can_not_be_is_refused_in_one_sentence_and_nothing_is_left() {
    let lab = Lab::new(3);
    let missing = lab.refusal(&claim("c1", "p1", vec![wants(1), wants(7)]));
    assert!(
        missing.contains(
            "ResourceClaim ns/claim-c1: request vf7: device 0000-81-02-7 does not exist on this node"
        ),
        "{missing}"
    );
    let mtu = lab.refusal(&claim("c1", "p1", vec![ResultSpec { mtu: Some(9001), ..wants(1) }]));
    assert!(mtu.contains("interface.mtu 9001 is above the MTU 9000 of PF ens1f0 (0000:81:00.0)"), "{mtu}");
    let mut limited = lab.facts(1).pf.unwrap().netdev.unwrap();
    limited.max_mtu = Some(9216);
    lab.functions.change(pci(1), |facts| {
        facts.vf.netdev = Some(limited);
        facts.pf = Some(pf(9500));
    });
    let mtu = lab.refusal(&claim("c1", "p1", vec![ResultSpec { mtu: Some(9217), ..wants(1) }]));
    assert!(mtu.contains("interface.mtu 9217 is above 9216, the most that driver igbvf takes"), "{mtu}");
    lab.functions.change(pci(2), |facts| facts.withheld = Some("it carries the node's default route".into()));
    let uplink = lab.refusal(&claim("c1", "p1", vec![wants(1), wants(2)]));
    assert!(
        uplink.contains("VF 0000:81:02.2 can't be given to a pod: it carries the node's default route"),
        "{uplink}"
    );
    let address: ipnet::IpNet = "10.0.0.5/24".parse().unwrap();
    let with_address = |n| ResultSpec { addresses: vec![address], ..wants(n) };
    let twice = lab.refusal(&claim("c1", "p1", vec![with_address(1), with_address(3)]));
    assert!(twice.contains("address 10.0.0.5/24 is already given to another VF of the same pod"), "{twice}");
}

#[test]
fn interface_names_count_per_pod_give_way_to_explicit_ones_and_are_never_dealt_anew() {
    let lab = Lab::new(5);
    assert_eq!(lab.names(&claim("c1", "p1", vec![wants(1), explicit(2, "net1")])), ["net2", "net1"]);
    assert_eq!(lab.names(&claim("c2", "p1", vec![wants(3)])), ["net3"]);
    assert_eq!(lab.names(&claim("c3", "p2", vec![wants(4)])), ["net1"], "another pod counts for itself");
    let taken = lab.refusal(&claim("c4", "p1", vec![explicit(5, "net3")]));
    assert!(
        taken.contains("interface.name net3 is taken by another VF of the same pod (claim claim-c2)"),
        "{taken}"
    );
    lab.engine.unprepare(&claim("c1", "p1", vec![]).id, soon()).unwrap();
    assert_eq!(lab.names(&claim("c2", "p1", vec![wants(3)])), ["net3"], "a later Prepare keeps the number");
}

#[test]
fn a_template_with_the_pfs_name_uses_it_and_one_too_long_is_refused() {
    let lab = Lab::new(2);
    let template = |n, text: &str| ResultSpec { name: NameSpec::Template(text.into()), ..wants(n) };
    assert_eq!(lab.names(&claim("c1", "p1", vec![template(1, "{pf}n{n}")])), ["ens1f0n1"]);
    let long = lab.refusal(&claim("c2", "p1", vec![template(2, "{pf}-{pf}-x-{n}")]));
    assert!(long.contains("ens1f0-ens1f0-"), "{long}");
}

#[test]
fn a_vf_without_driver_is_bound_for_the_claim_and_is_without_driver_again_afterwards() {
    let lab = Lab::new(1);
    lab.functions.change(pci(1), |facts| (facts.vf.driver, facts.vf.place) = (None, Place::Unbound));
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.engine.prepare(&spec, soon()).unwrap();
    let driver = || lab.facts(1).vf.driver;
    assert_eq!(driver().as_deref(), Some("igbvf"));
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(driver(), None);
}

#[test]
fn a_failure_after_the_bind_gives_the_vf_its_old_driver_back() {
    let lab = Lab::new(1);
    lab.functions.change(pci(1), |facts| {
        (facts.vf.driver, facts.vf.place) = (Some("vfio-pci".into()), Place::Userspace)
    });
    std::fs::write(lab.dir.path().join("cdi"), "a file where the folder should be").unwrap();
    let spec = claim("c1", "p1", vec![wants(1)]);
    let error = lab.engine.prepare(&spec, soon()).unwrap_err().sentence();
    assert!(error.contains("cdi"), "{error}");
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(lab.engine.site.ledger.entry("c1").unwrap(), None);
    assert!(lab.engine.site.ledger.owned().unwrap().is_empty());
}

#[test]
fn every_step_is_taken_back_by_its_inverse() {
    let step = Step::Bind { vf: pci(1), from: Driver::Named("vfio-pci".into()), to: Driver::Network };
    assert_eq!(step.inverse().inverse(), step);
    assert_eq!(
        step.inverse(),
        Step::Bind { vf: pci(1), from: Driver::Network, to: Driver::Named("vfio-pci".into()) }
    );
}

#[test]
fn a_claim_prepared_again_rewrites_its_cdi_file_and_forgets_nothing() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let first = lab.engine.prepare(&spec, soon()).unwrap();
    let clean = lab.engine.site.ledger.ownership(pci(1)).unwrap().unwrap().clean;
    let cdi = lab.dir.path().join("cdi/sriov-dra.io-vf_c1.json");
    std::fs::remove_file(&cdi).unwrap();
    // Changed by now, as an attach would: the note of what it was must not be taken anew.
    lab.kernel.meddle(pci(1), |link| link.mtu = 4000);
    assert_eq!(lab.engine.prepare(&spec, soon()).unwrap(), first);
    assert!(cdi.exists());
    assert_eq!(lab.engine.site.ledger.ownership(pci(1)).unwrap().unwrap().clean, clean);
}

#[test]
fn after_a_reboot_or_a_re_creation_the_vf_is_noted_anew() {
    let mut lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| link.mtu = 2000);
    lab.engine.site.boot_id = "boot-2".into();
    let again = lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!((again.boot_id.as_str(), again.progress), ("boot-2", Progress::Prepared));
    assert_eq!(lab.engine.site.ledger.ownership(pci(1)).unwrap().unwrap().clean.mtu, Some(2000));
    lab.functions.change(pci(1), |facts| facts.vf.incarnation.0 += 1);
    lab.kernel.meddle(pci(1), |link| link.mtu = 3000);
    lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.engine.site.ledger.ownership(pci(1)).unwrap().unwrap().clean.mtu, Some(3000));
}

#[test]
fn an_entry_of_a_newer_agent_is_left_alone_and_the_rest_is_served() {
    let lab = Lab::new(2);
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    let path = lab.dir.path().join("durable/claims/c1.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"minReader\":1", "\"minReader\":9");
    std::fs::write(&path, &text).unwrap();
    let error = lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap_err();
    assert!(matches!(error, PrepareError::Newer { min_reader: 9, .. }), "{error:?}");
    lab.engine.unprepare(&claim("c1", "p1", vec![]).id, soon()).unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    lab.engine.prepare(&claim("c2", "p2", vec![wants(2)]), soon()).unwrap();
    assert_eq!(lab.engine.site.ledger.survey("boot-1").unwrap().newer.len(), 1);
    assert_eq!(lab.engine.site.ledger.kept_by_newer().unwrap(), [pci(1)], "not to be offered");
}

#[test]
fn an_unprepare_of_a_claim_nobody_knows_is_a_success() {
    let lab = Lab::new(1);
    lab.engine.unprepare(&claim("never", "p1", vec![]).id, soon()).unwrap();
    assert_eq!(std::fs::read_dir(lab.engine.site.ledger.lock_folder()).unwrap().count(), 0);
}

#[test]
fn an_orphan_that_somebody_else_let_go_of_and_a_claim_took_meanwhile_stays_that_claims() {
    let lab = Lab::new(1);
    let (orphan, next) = (claim("c1", "p1", vec![wants(1)]), claim("c2", "p2", vec![wants(1)]));
    lab.engine.prepare(&next, soon()).unwrap();
    // Found while c1 still held it.
    assert!(!lab.engine.release_orphan(pci(1), &orphan.id).unwrap());
    let owner = lab.engine.site.ledger.ownership(pci(1)).unwrap();
    assert_eq!(owner.map(|owner| owner.claim), Some(next.id));
}

#[test]
fn cdi_files_of_an_older_version_are_renewed_once_and_those_of_another_boot_are_left() {
    let mut lab = Lab::new(2);
    let file = |uid: &str| lab.dir.path().join(format!("cdi/sriov-dra.io-vf_{uid}.json"));
    let (one, two) = (file("c1"), file("c2"));
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    lab.engine.prepare(&claim("c2", "p2", vec![wants(2)]), soon()).unwrap();
    assert_eq!(lab.engine.renew_cdi().unwrap(), 0);
    let wanted = std::fs::read_to_string(&one).unwrap();
    let mut older: serde_json::Value = serde_json::from_str(&wanted).unwrap();
    older["containerEdits"].as_object_mut().unwrap().remove("hooks").unwrap();
    std::fs::write(&one, older.to_string()).unwrap();
    std::fs::remove_file(&two).unwrap();
    assert_eq!(lab.engine.renew_cdi().unwrap(), 2);
    assert_eq!(std::fs::read_to_string(&one).unwrap(), wanted);
    assert!(two.exists());
    std::fs::remove_file(&two).unwrap();
    lab.engine.site.boot_id = "boot-2".into();
    assert_eq!(lab.engine.renew_cdi().unwrap(), 0);
    assert!(!two.exists());
}
