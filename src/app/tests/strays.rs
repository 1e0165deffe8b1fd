//! Strays on the kernel that holds state, beside the embedded API server.

use std::time::SystemTime;

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::json;

use super::*;
use crate::app::agent::{VF, agent};
use crate::attach::nri::{Runtime, Sandbox};
use crate::claim::{ClaimSpec, PodRef};
use crate::demo::apiserver::ApiServer;
use crate::host::fake::FakeKernel;
use crate::prepare::fake::plain_result;
use crate::prepare::records::CurrentSandbox;

struct Lab {
    kernel: FakeKernel,
    strays: Strays,
    server: ApiServer,
    dir: tempfile::TempDir,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

impl Lab {
    async fn new() -> Self {
        let server = ApiServer::start("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::default();
        let claims = agent(&server, dir.path(), &kernel);
        let strays = Strays::new(claims, dir.path().join("kubelet"));
        Self { kernel, strays, server, dir }
    }

    /// A claim at the API server, allocated or not, and prepared here.
    fn prepared(&self, allocated: bool) -> ClaimId {
        let allocation = json!({ "devices": { "results": [
            { "request": "vf", "driver": "sriov-dra.io", "pool": "node-a", "device": VF.device_name() },
        ] } });
        let object: ResourceClaim = serde_json::from_value(json!({
            "metadata": { "name": "vf", "namespace": "ns" },
            "spec": { "devices": { "requests": [{ "name": "vf", "exactly": { "deviceClassName": "sriov-vf" } }] } },
            "status": if allocated { json!({ "allocation": allocation }) } else { json!({}) },
        }))
        .unwrap();
        let made = self.server.store().create(&object);
        let id =
            ClaimId { uid: made.unwrap().metadata.uid.unwrap(), namespace: "ns".into(), name: "vf".into() };
        let spec = ClaimSpec {
            id: id.clone(),
            pod_claim_name: "vf".into(),
            pod: Some(PodRef { uid: "p1".into(), name: "worker".into() }),
            results: vec![plain_result(VF)],
        };
        self.strays.claims.engine.prepare(&spec, Instant::now() + Duration::from_millis(300)).unwrap();
        id
    }

    /// The claim's pod runs with the VF, in a namespace of its own.
    fn attached(&self) -> crate::host::NetnsId {
        let ns = self.kernel.add_netns("/run/netns/a", 7).id();
        let sandbox = Sandbox {
            id: "A".into(),
            pod_uid: "p1".into(),
            pod_name: "worker".into(),
            pod_namespace: "ns".into(),
            netns: Some("/run/netns/a".into()),
            lists_namespaces: true,
            pid: 7,
        };
        self.strays.claims.attacher.run(&sandbox, Instant::now() + Duration::from_millis(300)).unwrap();
        ns
    }

    fn is_prepared(&self, claim: &ClaimId) -> bool {
        self.strays.claims.engine.site.ledger.entry(&claim.uid).unwrap().is_some()
    }
}

#[tokio::test]
async fn a_claim_that_is_gone_is_undone_after_its_grace_and_not_before() {
    let mut lab = Lab::new().await;
    let claim = lab.prepared(true);
    lab.strays.look(Duration::ZERO).await;
    assert!(lab.is_prepared(&claim), "the API server has it, allocated");
    lab.server.store().delete::<ResourceClaim>("ns", "vf");
    lab.strays.look(Duration::from_secs(60)).await;
    assert!(lab.is_prepared(&claim), "the kubelet has its time");
    lab.strays.look(Duration::ZERO).await;
    assert!(!lab.is_prepared(&claim));
    assert!(lab.strays.claims.engine.site.ledger.owned().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(lab.dir.path().join("cdi")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_claim_that_was_deallocated_is_over_but_not_while_a_process_lives_where_its_vf_is() {
    let mut lab = Lab::new().await;
    let claim = lab.prepared(false);
    let ns = lab.attached();
    lab.strays.look(Duration::ZERO).await;
    assert!(lab.is_prepared(&claim) && lab.kernel.links_of(ns).contains_key("net1"));
    lab.kernel.kill_users(ns);
    lab.strays.look(Duration::ZERO).await;
    assert!(!lab.is_prepared(&claim));
    assert!(lab.kernel.links_of(crate::host::Kernel::host(&lab.kernel).id()).contains_key("ens1v1"));
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_ends_no_claim() {
    let mut lab = Lab::new().await;
    let claim = lab.prepared(true);
    lab.server.store().delete::<ResourceClaim>("ns", "vf");
    lab.server.faults().next(
        5,
        |request| request.is_about("resourceclaims"),
        crate::demo::apiserver::Fault::Drop,
    );
    lab.strays.look(Duration::ZERO).await;
    assert!(lab.is_prepared(&claim));
}

#[tokio::test]
async fn files_of_claims_nobody_knows_are_removed_and_others_are_left() {
    let mut lab = Lab::new().await;
    let claim = lab.prepared(true);
    let cdi = lab.dir.path().join("cdi");
    let stray = cdi.join("sriov-dra.io-vf_00000000-dead-4000-8000-000000000000.json");
    let foreign = cdi.join("other.example-nic_x.json");
    std::fs::write(&stray, "{}").unwrap();
    std::fs::write(&foreign, "{}").unwrap();
    // An entry that can't be read is still somebody's.
    let damaged = cdi.join("sriov-dra.io-vf_damaged.json");
    std::fs::write(&damaged, "{}").unwrap();
    std::fs::write(lab.dir.path().join("durable/claims/damaged.json"), "{").unwrap();
    lab.strays.look(Duration::from_secs(60)).await;
    assert!(!stray.exists() && foreign.exists() && damaged.exists());
    assert!(lab.is_prepared(&claim));
}

#[tokio::test]
async fn room_for_another_claim_is_never_made_in_a_pod_that_lives_even_where_no_record_says_so() {
    let lab = Lab::new().await;
    let claim = lab.prepared(false);
    let ns = lab.attached();
    lab.strays.claims.make_room(claim.clone(), soon()).await.unwrap();
    assert!(lab.is_prepared(&claim) && lab.kernel.links_of(ns).contains_key("net1"));
    lab.strays.claims.engine.site.ledger.remove_attachment(&claim.uid).unwrap();
    lab.strays.claims.make_room(claim.clone(), soon()).await.unwrap();
    assert!(lab.is_prepared(&claim) && lab.kernel.links_of(ns).contains_key("net1"));
    lab.kernel.kill_users(ns);
    lab.strays.claims.make_room(claim.clone(), soon()).await.unwrap();
    assert!(!lab.is_prepared(&claim));
    assert!(lab.kernel.links_of(crate::host::Kernel::host(&lab.kernel).id()).contains_key("ens1v1"));
}

/// The kubelet gives a Prepare up that goes on after it, and tells nothing but that.
#[tokio::test]
async fn making_room_takes_no_longer_than_whoever_needs_it_has() {
    let lab = Lab::new().await;
    let claim = lab.prepared(false);
    let at_work = lab.strays.claims.engine.site.locks.claim(&claim.uid, soon()).unwrap();
    let short = Instant::now() + Duration::from_millis(300);
    let room = lab.strays.claims.make_room(claim.clone(), short);
    let refused = tokio::time::timeout(Duration::from_secs(20), room).await.expect("an answer in time");
    assert!(refused.is_err() && lab.is_prepared(&claim), "{refused:?}");
    drop(at_work);
    lab.strays.claims.make_room(claim.clone(), soon()).await.unwrap();
    assert!(!lab.is_prepared(&claim));
}

#[tokio::test]
async fn a_claim_that_moved_to_another_node_is_over_here() {
    let mut lab = Lab::new().await;
    let claim = lab.prepared(true);
    lab.strays.claims.node = "node-b".into();
    lab.strays.look(Duration::ZERO).await;
    assert!(!lab.is_prepared(&claim));
}

#[tokio::test]
async fn a_claim_that_went_to_another_pod_meanwhile_has_its_whole_grace_again() {
    let mut lab = Lab::new().await;
    let claim = lab.prepared(false);
    lab.strays.look(Duration::from_secs(60)).await;
    let before = lab.strays.over[&claim.uid].since;
    lab.strays.look(Duration::from_secs(60)).await;
    assert_eq!(lab.strays.over[&claim.uid].since, before);
    let to = PodRef { uid: "p2".into(), name: "next".into() };
    let soon = Instant::now() + Duration::from_millis(300);
    lab.strays.claims.attacher.hand_over(&claim.uid, &to, soon).unwrap();
    lab.strays.look(Duration::from_secs(60)).await;
    assert!(lab.strays.over[&claim.uid].since > before);
}

#[tokio::test]
async fn a_pod_that_lives_in_a_namespace_with_the_number_of_a_former_one_keeps_nobodys_vf() {
    let lab = Lab::new().await;
    let claim = lab.prepared(false);
    let former = lab.attached();
    lab.kernel.destroy(former);
    let ledger = &lab.strays.claims.engine.site.ledger;
    let mut record = ledger.attachment(&claim.uid).unwrap().unwrap();
    record.netns = lab.kernel.add_netns("/run/netns/next", 8).id();
    ledger.put_attachment(&claim.uid, &record).unwrap();
    lab.strays.claims.make_room(claim.clone(), soon()).await.unwrap();
    assert!(!lab.is_prepared(&claim));
}

#[tokio::test]
async fn a_runtime_that_is_back_makes_the_agent_look_at_once() {
    let mut lab = Lab::new().await;
    let containerd = Runtime {
        name: "containerd".into(),
        version: "2.1.9".into(),
        request_timeout: Duration::from_secs(2),
    };
    let away = || Connection::Disconnected { since: SystemTime::now(), reason: None };
    let (runtime, connection) = watch::channel(away());
    lab.strays.claims.runtime = Some(connection);
    let cdi = lab.dir.path().join("cdi");
    std::fs::create_dir_all(&cdi).unwrap();
    let stop = CancellationToken::new();
    let looking = tokio::spawn(lab.strays.run(stop.clone()));
    // The look at the start finds the first; the next one would be minutes later.
    for number in 0..2 {
        let stray = cdi.join(format!("sriov-dra.io-vf_stray-{number}.json"));
        std::fs::write(&stray, "{}").unwrap();
        for _ in 0..200 {
            // Again and again: the first look may not be over when it is told the first time.
            runtime.send_replace(away());
            runtime.send_replace(Connection::Connected {
                since: SystemTime::now(),
                runtime: containerd.clone(),
            });
            if !stray.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!stray.exists(), "stray {number}");
    }
    stop.cancel();
    looking.await.unwrap();
}

#[tokio::test]
async fn what_a_late_hook_left_of_a_pod_and_a_claim_that_are_over_goes_and_what_is_in_use_stays() {
    let mut lab = Lab::new().await;
    lab.prepared(true);
    lab.attached();
    let site = lab.strays.claims.engine.site.clone();
    let soon = Instant::now() + Duration::from_millis(300);
    let record = CurrentSandbox { sandbox: "B".into(), epoch: 1, retired: Vec::new() };
    site.ledger.put_current_sandbox("p0", &record).unwrap();
    for lock in
        [site.locks.sandbox_record("p0", soon), site.locks.pod("p0", soon), site.locks.claim("c0", soon)]
    {
        drop(lock.unwrap());
    }
    let working = site.locks.claim("c1", soon).unwrap();
    lab.strays.look(Duration::ZERO).await;
    assert_eq!(site.ledger.current_sandbox("p0").unwrap(), None);
    assert_eq!(site.ledger.current_sandbox("p1").unwrap().unwrap().sandbox, "A");
    let files = std::fs::read_dir(lab.dir.path().join("run/lock")).unwrap();
    let names: Vec<String> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.contains(&"claim-c1".to_owned()), "somebody is at work: {names:?}");
    assert!(!names.iter().any(|name| name.ends_with("p0") || name.ends_with("c0")), "{names:?}");
    drop(working);
}
