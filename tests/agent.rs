//! The agent as a process, behind its real sockets: registration, claims good and bad, crashes. The kubelet's, the
//! runtime's and the API server's parts are played by the stand-ins; `tests/guest` and `tests/cluster` have the real ones.
//!
//! Needs root, or user namespaces (`unshare -Urnm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use sriov_dra::demo::apiserver::Fault;
use sriov_dra::demo::stage::{NODE, Stage};
use sriov_dra::demo::world::{World, enter_private_namespaces};

const BINARY: &str = env!("CARGO_BIN_EXE_sriov-dra");

/// Runs a test on a simulated node of its own.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    enter_private_namespaces().unwrap();
    let folder = tempfile::Builder::new().prefix("sdra").tempdir().unwrap();
    let world = World::build(Path::new(BINARY), folder.path(), &mut |_| {}).unwrap();
    // Its threads are made by this one, and so live in its namespaces.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = Stage::start(Path::new(BINARY), folder.path(), world.sysfs()).await.unwrap();
        test(Node { stage, folder }).await;
    });
}

struct Node {
    stage: Stage,
    folder: tempfile::TempDir,
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Node {
    async fn pod(&self, name: &str) -> Pod {
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "main", "image": "x"}]}});
        self.stage.create_pod(&object(pod)).await.unwrap()
    }

    /// A claim with these devices, allocated and reserved for the pod.
    async fn claim(&self, name: &str, pod: &Pod, devices: &[&str], parameters: Value) -> ResourceClaim {
        let requests: Vec<Value> = (0..devices.len())
            .map(|n| json!({"name": format!("vf{n}"), "exactly": {"deviceClassName": "sriov-vf"}}))
            .collect();
        let opaque = json!({"driver": "sriov-dra.io", "parameters": parameters});
        let config = if parameters.is_null() { json!([]) } else { json!([{"opaque": opaque}]) };
        let claim = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"devices": {"requests": requests, "config": config}},
        });
        let claim = self.stage.create_claim(&object(claim)).await.unwrap();
        let results: Vec<Value> = devices
            .iter()
            .enumerate()
            .map(|(n, device)| json!({"request": format!("vf{n}"), "driver": "sriov-dra.io", "pool": NODE, "device": device}))
            .collect();
        let config =
            if parameters.is_null() { json!([]) } else { json!([{"source": "FromClaim", "opaque": opaque}]) };
        let allocation = json!({"devices": {"results": results, "config": config}});
        self.stage.allocate(&claim, object(allocation), pod).await.unwrap()
    }

    async fn refusal(&self, claim: &ResourceClaim) -> String {
        let sentence = self.stage.prepare(claim).await.unwrap_err().to_string();
        self.assert_nothing_is_left();
        sentence
    }

    fn assert_nothing_is_left(&self) {
        for folder in
            ["kubelet/plugins/sriov-dra.io/claims", "kubelet/plugins/sriov-dra.io/vf", "run/attach", "cdi"]
        {
            let left: Vec<_> = std::fs::read_dir(self.folder.path().join(folder))
                .unwrap()
                .flatten()
                .map(|e| e.path())
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

fn links(netns: &Path) -> String {
    let out = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(["ip", "-o", "addr"])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn config(interface: Value) -> Value {
    json!({"apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig", "interface": interface})
}

const VF: &str = "0000-3b-00-2";
const OTHER_VF: &str = "0000-3b-01-1";

#[test]
fn a_claim_goes_all_the_way_and_no_slice_is_written_for_it() {
    on_a_node(|node| async move {
        let devices: usize =
            node.stage.slices().iter().map(|slice| slice.spec.devices.iter().flatten().count()).sum();
        assert_eq!(devices, 64);
        node.stage.server.faults().forget_requests();
        let pod = node.pod("worker").await;
        let claim = node.claim("rails", &pod, &[VF, OTHER_VF], config(json!({"mtu": 4200}))).await;
        let prepared = node.stage.prepare(&claim).await.unwrap();
        assert_eq!(prepared.cdi_ids.len(), 2, "one CDI device a request");
        let running = node.stage.run(&pod).await.unwrap();
        let env = node.stage.create_container(&running, "main", &[&prepared]).await.unwrap();
        assert!(env.iter().any(|line| line == "SRIOV_DRA_RAILS_VF0_PCI_ADDRESSES=0000:3b:00.2"), "{env:?}");
        assert!(env.iter().any(|line| line == "SRIOV_DRA_RAILS_VF1_INTERFACES=net2"), "{env:?}");
        let inside = links(&running.netns().unwrap());
        assert!(inside.contains("net1") && inside.contains("net2"), "{inside}");

        let ready = |claim: Option<ResourceClaim>| {
            let devices = claim?.status?.devices?;
            let ready = |d: &k8s_openapi::api::resource::v1::AllocatedDeviceStatus| {
                d.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
            };
            (devices.len() == 2 && devices.iter().all(ready)).then(|| devices[0].network_data.clone())?
        };
        let mut network = None;
        for _ in 0..100 {
            network = ready(node.stage.claim(&claim));
            if network.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(network.unwrap().interface_name.as_deref(), Some("net1"));

        node.stage.stop(running).await.unwrap();
        node.stage.unprepare(&claim).await.unwrap();
        node.assert_nothing_is_left();
        assert!(links(Path::new("/proc/thread-self/ns/net")).contains("lo"));
        assert_eq!(node.stage.server.faults().writes("resourceslices").len(), 0);
    });
}

#[test]
fn what_is_wrong_with_a_claim_is_said_in_one_sentence_and_nothing_is_half_done() {
    on_a_node(|node| async move {
        let pod = node.pod("worker").await;
        let wrong = [
            (config(json!({"mtuu": 1500})), "interface.mtuu"),
            (config(json!({"name": "sixteen-chars-xx"})), "16 characters"),
            (config(json!({"name": "a/b"})), "'/'"),
            (config(json!({"name": "eth0"})), "eth0"),
            (config(json!({"mtu": 9001})), "9001"),
            (config(json!({"mtu": "1500"})), "interface.mtu"),
            (config(json!({"addresses": ["10.0.0.300/24"]})), "10.0.0.300/24"),
            (config(json!({"addresses": ["10.0.0.3/24", "10.0.0.3/24"]})), "10.0.0.3"),
            (json!({"apiVersion": "sriov-dra.io/v9", "kind": "VfConfig"}), "sriov-dra.io/v1alpha1"),
            (json!({"apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfigg"}), "VfConfig"),
        ];
        for (n, (parameters, says)) in wrong.into_iter().enumerate() {
            let name = format!("wrong-{n}");
            let claim = node.claim(&name, &pod, &[VF], parameters.clone()).await;
            let sentence = node.refusal(&claim).await;
            assert!(
                sentence.contains(&format!("default/{name}")) && sentence.contains(says),
                "{parameters}: {sentence}"
            );
            assert!(!sentence.contains('\n'), "{sentence}");
        }
        let one_for_two = config(json!({"addresses": ["10.0.0.3/24"]}));
        let claim = node.claim("one-for-two", &pod, &[VF, OTHER_VF], one_for_two).await;
        assert!(node.refusal(&claim).await.contains("addresses"));
        let claim = node.claim("nowhere", &pod, &["0000-99-00-2"], Value::Null).await;
        assert!(node.refusal(&claim).await.contains("0000-99-00-2 does not exist on this node"));
    });
}

#[test]
fn a_claim_that_is_not_this_nodes_to_prepare_is_refused_with_the_reason() {
    on_a_node(|node| async move {
        let (pod, second) = (node.pod("worker").await, node.pod("second").await);
        let fresh: ResourceClaim = object(json!({
            "metadata": {"name": "fresh", "namespace": "default"},
            "spec": {"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": "sriov-vf"}}]}},
        }));
        let fresh = node.stage.create_claim(&fresh).await.unwrap();
        assert!(node.refusal(&fresh).await.contains("not allocated"));

        let claim = node.claim("mine", &pod, &[VF], Value::Null).await;
        let mut stranger = claim.clone();
        stranger.metadata.uid = Some("11111111-2222-3333-4444-555555555555".into());
        assert!(node.refusal(&stranger).await.contains("its UID is"));
        let mut gone = claim.clone();
        gone.metadata.name = Some("gone".into());
        assert!(node.refusal(&gone).await.contains("ResourceClaim default/gone does not exist"));
        let mut escape = claim.clone();
        escape.metadata.uid = Some("../../../etc/passwd".into());
        assert!(node.refusal(&escape).await.contains("is not a UID"));

        let mut shared = claim.clone();
        let reserved = shared.status.as_mut().unwrap().reserved_for.as_mut().unwrap();
        let mut other = reserved[0].clone();
        (other.name, other.uid) = ("second".into(), second.metadata.uid.clone().unwrap());
        reserved.push(other);
        node.stage.server.store().replace(&shared).unwrap();
        let sentence = node.refusal(&shared).await;
        assert!(sentence.contains("worker") && sentence.contains("second"), "{sentence}");

        let mut elsewhere = node.claim("elsewhere", &pod, &[VF], Value::Null).await;
        let status = elsewhere.status.as_mut().unwrap();
        status.allocation.as_mut().unwrap().devices.as_mut().unwrap().results.as_mut().unwrap()[0].pool =
            "node-b".into();
        node.stage.server.store().replace(&elsewhere).unwrap();
        assert!(node.refusal(&elsewhere).await.contains("node-b"));
    });
}

#[test]
fn an_agent_killed_between_prepare_and_sandbox_attaches_after_its_restart_and_reports_a_damaged_entry() {
    on_a_node(|mut node| async move {
        let pod = node.pod("worker").await;
        let claim = node
            .claim("c", &pod, &[VF], config(json!({"name": "fabric", "addresses": ["10.3.0.1/24"]})))
            .await;
        let prepared = node.stage.prepare(&claim).await.unwrap();
        let broken = node.folder.path().join("kubelet/plugins/sriov-dra.io/claims/0000-broken.json");
        std::fs::write(&broken, "{\"version\":1,").unwrap();
        node.stage.crash(&[]).await.unwrap();
        let running = node.stage.run(&pod).await.unwrap();
        node.stage.create_container(&running, "main", &[&prepared]).await.unwrap();
        let inside = links(&running.netns().unwrap());
        assert!(inside.contains("fabric") && inside.contains("10.3.0.1/24"), "{inside}");
        let log = node.stage.agent_log();
        assert!(
            log.contains("damaged ledger file put into quarantine") && log.contains("0000-broken.json"),
            "{log}"
        );
        // Killed again: the pod keeps its VF, and everything comes back through the next agent.
        node.stage.crash(&[&running]).await.unwrap();
        assert!(links(&running.netns().unwrap()).contains("fabric"));
        node.stage.stop(running).await.unwrap();
        node.stage.unprepare(&claim).await.unwrap();
        node.assert_nothing_is_left();
    });
}

#[test]
fn an_api_server_that_is_away_for_a_moment_delays_a_claim_and_ends_nothing() {
    on_a_node(|node| async move {
        let pod = node.pod("worker").await;
        let claim = node.claim("c", &pod, &[VF], Value::Null).await;
        node.stage.server.faults().next(3, |request| request.is_about("resourceclaims"), Fault::Drop);
        node.stage.prepare(&claim).await.unwrap();
        node.stage.unprepare(&claim).await.unwrap();
        let slices: Vec<ResourceSlice> = node.stage.slices();
        node.stage.server.faults().next(
            2,
            |request| request.is_write() && request.is_about("resourceslices"),
            Fault::Drop,
        );
        node.stage.server.store().delete::<ResourceSlice>("", slices[0].metadata.name.as_deref().unwrap());
        for _ in 0..200 {
            if !node.stage.slices().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the slice did not come back within 10 s");
    });
}

#[test]
fn what_is_missing_at_the_start_is_named() {
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).env_remove("KUBECONFIG").output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (kubelet, runs, cdi) = (at("kubelet"), at("run"), at("cdi"));
    let base = ["node", "--node-name=n", "--kubelet-dir", &kubelet, "--run-dir", &runs, "--cdi-dir", &cdi];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    // A user namespace without a mapping for this user: no capability survives the exec.
    let mut bare = vec!["-U", BINARY];
    bare.extend(with(&["--kubeconfig=/dev/null"]));
    let text = run("unshare", &bare);
    assert!(text.contains("CAP_NET_ADMIN") && text.contains("CAP_SYS_ADMIN"), "{text}");
    let text = run(BINARY, &with(&["--sysfs-root=/nonexistent"]));
    assert!(text.contains("/nonexistent is not a sysfs") && text.contains("--sysfs-root"), "{text}");
    let text =
        run(BINARY, &with(&["--kubeconfig=/nonexistent/kubeconfig", "--nri-socket=/nonexistent/nri.sock"]));
    assert!(text.contains("kubeconfig /nonexistent/kubeconfig can't be read"), "{text}");
    assert!(text.contains("NRI socket /nonexistent/nri.sock does not exist"), "{text}");
    let text = run(BINARY, &with(&["--driver-name=Not_A_Name"]));
    assert!(text.contains("--driver-name \"Not_A_Name\" is not a driver name"), "{text}");
    let text = run(BINARY, &with(&["--devices=device.attributes["]));
    assert!(text.contains("--devices"), "{text}");
    let text = run(BINARY, &with(&["--nri-index=5"]));
    assert!(text.contains("two digits"), "{text}");
}
