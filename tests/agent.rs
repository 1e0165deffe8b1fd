//! The agent as a process, behind its real sockets: registration, claims good and bad, crashes. The kubelet's, the
//! runtime's and the API server's parts are played by the stand-ins; `tests/guest` and `tests/cluster` have the real ones.
//!
//! Needs root, or user namespaces (`unshare -Urnm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{Device, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use sriov_dra::address::{AddressPool, Block, Span};
use sriov_dra::demo::apiserver::Fault;
use sriov_dra::demo::stage::{NODE, Prepared, Running, Stage};
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

    /// `status.devices` of the claim once it is written; nobody waits for that.
    async fn status(&self, claim: &ResourceClaim) -> Value {
        for _ in 0..200 {
            let status = self.stage.claim(claim).and_then(|claim| claim.status);
            if let Some(devices) = status.and_then(|status| status.devices) {
                return serde_json::to_value(devices).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no status within 10 s; the agent's log:\n{}", self.stage.agent_log());
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
        .args(["ip", "addr"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}: {}", netns.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn config(interface: Value) -> Value {
    json!({"apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig", "interface": interface})
}

const VF: &str = "0000-3b-00-2";
const OTHER_VF: &str = "0000-3b-01-1";

#[test]
fn every_vf_is_published_with_the_address_that_its_pfs_block_has_for_it() {
    on_a_node(|node| async move {
        let pool = json!({
            "metadata": {"name": "rails"},
            "spec": {"mode": "perNodePrefix", "ipv4": {"cidr": "172.16.0.0/16", "prefixLength": 27, "gatewayIndex": 1}},
        });
        node.stage.server.store().create(&object::<AddressPool>(pool)).unwrap();
        let published = || -> BTreeMap<String, String> {
            let slices = node.stage.slices();
            let devices = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
            let address =
                |device: &Device| device.attributes.as_ref()?.get("sriov-dra.io/ipv4")?.string.clone();
            devices.filter_map(|device| Some((device.name.clone(), address(device)?))).collect()
        };
        for _ in 0..200 {
            if published().len() == 64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (addresses, log) = (published(), node.stage.agent_log());
        assert_eq!(addresses.values().collect::<BTreeSet<_>>().len(), 64, "{addresses:?}\n{log}");
        let file = node.folder.path().join("kubelet/plugins/sriov-dra.io/addresses.json");
        let kept: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let block = &kept["body"]["pools"]["rails"]["blocks"]["0000:3b:00.0"];
        let block: Block = serde_json::from_value(block.clone()).unwrap();
        // VF 0 of the PF is the first after network and gateway.
        let first = Span::of(block.cidrs[0]).at(2).unwrap().to_string();
        assert_eq!(addresses[VF], first);
    });
}

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
fn the_hook_alone_brings_the_vf_while_no_agent_runs_and_the_next_agent_writes_the_status_and_gives_it_back() {
    on_a_node(|mut node| async move {
        let pod = node.pod("worker").await;
        let asked = config(json!({"name": "fabric", "addresses": ["10.3.0.1/24"]}));
        let claim = node.claim("c", &pod, &[VF], asked).await;
        let prepared = node.stage.prepare(&claim).await.unwrap();
        node.stage.kill().unwrap();
        let running = node.stage.sandbox(&pod, |_| Ok(())).unwrap();
        node.stage.run_hooks(&running, &prepared.cdi).await.unwrap();
        let inside = links(&running.netns().unwrap());
        assert!(inside.contains("fabric") && inside.contains("10.3.0.1/24"), "{inside}");
        // Again for the second container, and when one starts again.
        node.stage.run_hooks(&running, &prepared.cdi).await.unwrap();
        assert_eq!(links(&running.netns().unwrap()), inside);

        node.stage.start_another(&[&running]).await.unwrap();
        let told = node.status(&claim).await;
        assert_eq!(told[0]["networkData"]["interfaceName"], "fabric", "{told}");
        assert_eq!(told[0]["conditions"][0]["status"], "True", "{told}");
        node.stage.stop(running).await.unwrap();
        node.stage.unprepare(&claim).await.unwrap();
        node.assert_nothing_is_left();
    });
}

#[test]
fn a_container_does_not_start_when_the_hook_can_not_bring_its_vf_and_the_sentence_says_why() {
    on_a_node(|mut node| async move {
        let pod = node.pod("worker").await;
        let claim = node.claim("c", &pod, &[VF], Value::Null).await;
        let prepared = node.stage.prepare(&claim).await.unwrap();
        node.stage.kill().unwrap();
        let running = node.stage.sandbox(&pod, |_| Ok(())).unwrap();
        // The CNI plugin has taken the name that the container was told.
        let made = Command::new("nsenter")
            .arg(format!("--net={}", running.netns().unwrap().display()))
            .args(["ip", "link", "add", "net1", "type", "veth", "peer", "name", "other"])
            .status();
        assert!(made.unwrap().success());
        let refusal = node.stage.run_hooks(&running, &prepared.cdi).await.unwrap_err().to_string();
        assert!(refusal.contains("pod default/worker must not start without its VFs"), "{refusal}");
        assert!(refusal.contains("interface name net1 for VF 0000:3b:00.2 is taken"), "{refusal}");

        let thief = node.stage.sandbox(&node.pod("thief").await, |_| Ok(())).unwrap();
        node.stage.run_hooks(&thief, &prepared.cdi).await.unwrap();
        let inside = links(&thief.netns().unwrap());
        assert!(inside.contains("net1"), "nobody lives where the claim was: it may be handed over: {inside}");
        node.stage.start_another(&[&running, &thief]).await.unwrap();
        node.stage.stop(thief).await.unwrap();
        node.stage.unprepare(&claim).await.unwrap();
        node.assert_nothing_is_left();
    });
}

/// A VF's interface in a namespace that nobody here knows, until this value ends.
struct Elsewhere {
    link: String,
    there: std::process::Child,
    home: std::process::Child,
}

impl Elsewhere {
    fn hide(device: &str) -> Self {
        let run = |arguments: &[&str]| {
            let out = Command::new("ip").args(arguments).output().unwrap();
            assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        let (bus, function) = device.rsplit_once('-').unwrap();
        let alias = format!("alias {}.{function}", bus.replace('-', ":"));
        let all = run(&["-o", "link"]);
        let line = all.lines().find(|line| line.contains(&alias)).unwrap();
        let link = line.split([':', '@']).nth(1).unwrap().trim().to_owned();
        let there = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let home = Command::new("sleep").arg("600").spawn().unwrap();
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        while of(&there.id().to_string()).is_none_or(|now| Some(now) == of("thread-self")) {
            std::thread::sleep(Duration::from_millis(1));
        }
        run(&["link", "set", &link, "netns", &there.id().to_string()]);
        Self { link, there, home }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let (there, home) = (self.there.id().to_string(), self.home.id().to_string());
        let back = Command::new("nsenter")
            .args([&format!("--net=/proc/{there}/ns/net"), "ip", "link", "set", &self.link, "netns", &home])
            .status();
        for process in [&mut self.there, &mut self.home] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert!(back.unwrap().success());
    }
}

/// Where the agent dies on a pod's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    Never,
    BeforeSandbox,
    BeforeContainer,
    /// And another one is there in time.
    BeforeContainerReplaced,
    BeforeHook,
}

impl Node {
    /// A pod's way from Prepare to its container's hook; the runtime tells the agent of sandbox and container so many
    /// times. `Err`: the container does not start.
    async fn way(
        &mut self,
        running: &Running,
        prepared: &Prepared,
        (sandbox_told, container_told): (usize, usize),
        dies: Dies,
    ) -> Result<(), String> {
        // A runtime goes on without a plugin that is gone, and stops at one that refuses.
        let heard = |done: anyhow::Result<()>| match done {
            Err(error) if !error.to_string().contains("did not answer the runtime") => Err(error.to_string()),
            _ => Ok(()),
        };
        if dies == Dies::BeforeSandbox {
            self.stage.kill().unwrap();
        }
        for _ in 0..sandbox_told {
            heard(self.stage.announce(running).await)?;
        }
        if matches!(dies, Dies::BeforeContainer | Dies::BeforeContainerReplaced) {
            self.stage.kill().unwrap();
        }
        if dies == Dies::BeforeContainerReplaced {
            self.stage.start_another(&[]).await.unwrap();
        }
        for _ in 0..container_told {
            heard(self.stage.ask_for_container(running, "main", &[prepared]).await.map(drop))?;
        }
        if dies == Dies::BeforeHook {
            self.stage.kill().unwrap();
        }
        let done = self.stage.run_hooks(running, &prepared.cdi).await.map_err(|error| error.to_string());
        if matches!(dies, Dies::BeforeSandbox | Dies::BeforeContainer | Dies::BeforeHook) {
            self.stage.start_another(&[running]).await.unwrap();
        }
        done
    }
}

#[test]
fn whatever_fails_on_the_way_a_container_starts_with_its_vf_or_not_at_all() {
    use Dies::{BeforeContainer, BeforeContainerReplaced, BeforeHook, BeforeSandbox, Never};
    on_a_node(|mut node| async move {
        let mut started = 0;
        for dies in [Never, BeforeSandbox, BeforeContainer, BeforeContainerReplaced, BeforeHook] {
            for told in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)] {
                for vf_is_there in [true, false] {
                    // Half a second for each look at a VF that is nowhere: not all of them.
                    if !vf_is_there && told.0 != told.1 {
                        continue;
                    }
                    let case = format!(
                        "agent dies: {dies:?}; told of sandbox and container {told:?} times; VF there: {vf_is_there}"
                    );
                    let pod = node.pod(&format!("pod-{started}-{dies:?}-{vf_is_there}").to_lowercase()).await;
                    let claim =
                        node.claim(pod.metadata.name.as_ref().unwrap(), &pod, &[VF], Value::Null).await;
                    let prepared = node.stage.prepare(&claim).await.unwrap();
                    let running = node.stage.sandbox(&pod, |_| Ok(())).unwrap();
                    let elsewhere = (!vf_is_there).then(|| Elsewhere::hide(VF));
                    let outcome = node.way(&running, &prepared, told, dies).await;
                    let inside = links(&running.netns().unwrap());
                    match outcome {
                        Ok(()) => {
                            assert!(vf_is_there && inside.contains("net1"), "{case}: {inside}");
                            started += 1;
                        }
                        Err(sentence) => {
                            assert!(!vf_is_there && !inside.contains("net1"), "{case}: {sentence}");
                            // On a busy machine the runtime is answered before the agent has looked for long enough.
                            let named = ["0000:3b:00.2", "still attaching the VFs of pod"];
                            assert!(named.iter().any(|name| sentence.contains(name)), "{case}: {sentence}");
                        }
                    }
                    drop(elsewhere);
                    node.stage.stop(running).await.unwrap();
                    node.stage.unprepare(&claim).await.unwrap();
                    node.assert_nothing_is_left();
                    node.stage
                        .server
                        .store()
                        .delete::<ResourceClaim>("default", claim.metadata.name.as_deref().unwrap());
                }
            }
        }
        assert_eq!(started, 25, "with its VF there, every pod starts");
    });
}

#[test]
fn a_status_that_the_api_server_does_not_take_at_first_is_written_when_it_does() {
    on_a_node(|node| async move {
        let pod = node.pod("worker").await;
        let claim = node.claim("c", &pod, &[VF], Value::Null).await;
        let prepared = node.stage.prepare(&claim).await.unwrap();
        node.stage.server.faults().next(
            3,
            |request| request.is_write() && request.is_about("resourceclaims"),
            Fault::Drop,
        );
        let running = node.stage.run(&pod).await.unwrap();
        node.stage.create_container(&running, "main", &[&prepared]).await.unwrap();
        let told = node.status(&claim).await;
        assert_eq!(told[0]["conditions"][0]["status"], "True", "{told}");
        let waiting = || std::fs::read_dir(node.folder.path().join("run/status")).unwrap().count();
        for _ in 0..100 {
            if waiting() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(waiting(), 0, "what is written waits no more");
        node.stage.stop(running).await.unwrap();
        node.stage.unprepare(&claim).await.unwrap();
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
