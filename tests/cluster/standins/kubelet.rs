//! The kubelet's part, and the container runtime's: pods of this node get their claims prepared, a sandbox, containers,
//! and lose them again.
//!
//! As the kubelet it looks at all pods again and again and takes each one step further, tries again after a while what
//! failed, prepares a claim once for all pods that share it, and goes on where it was after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use sriov_dra::demo::claims::names;
use sriov_dra::demo::stage::{Prepared, Running, Stage};
use tokio::sync::{Mutex, RwLock};

use super::machine::{Machine, Machines, network};
use super::{daemon, event};
use crate::plane::NODE;

/// Until what failed is tried again.
const BACKOFF: Duration = Duration::from_millis(500);

/// How long a driver may be away before its slices are removed. The real one gives it 30 s.
const AWAY: Duration = Duration::from_secs(3);

/// A node's kubelet with what it remembers, which its restart does not touch.
pub struct Kubelet {
    client: Client,
    stage: Arc<RwLock<Stage>>,
    runs: AtomicBool,
    /// By UID.
    pods: Mutex<BTreeMap<String, Life>>,
    /// By UID.
    claims: Mutex<BTreeMap<String, Held>>,
    machines: Arc<Machines>,
    /// When the agent was first missed.
    missed: Mutex<Option<Instant>>,
}

/// A pod from its binding to its end.
struct Life {
    pod: Pod,
    ending: bool,
    over: bool,
    machine: Option<Machine>,
    /// UIDs, by the pod's names.
    claims: BTreeMap<String, String>,
    attempts: u32,
    ready: bool,
    not_before: Instant,
    told: BTreeSet<String>,
}

/// A prepared claim, and the pods it is prepared for.
struct Held {
    claim: ResourceClaim,
    prepared: Prepared,
    pods: BTreeSet<String>,
}

/// What a step failed with: the reason and the message of the event.
struct Trouble(&'static str, String);

impl Kubelet {
    pub fn new(client: Client, stage: Arc<RwLock<Stage>>) -> Self {
        Self {
            client,
            stage,
            runs: AtomicBool::new(true),
            pods: Mutex::default(),
            claims: Mutex::default(),
            machines: Arc::default(),
            missed: Mutex::default(),
        }
    }

    pub fn machines(&self) -> Arc<Machines> {
        self.machines.clone()
    }

    /// From here on nothing is done for any pod.
    pub async fn stop(&self) -> Result<()> {
        ensure!(self.runs.swap(false, Ordering::SeqCst), "no kubelet is running");
        // The step that is being taken is its last one.
        drop(self.pods.lock().await);
        Ok(())
    }

    /// A kubelet that starts removes its node's slices, since no driver is registered with it; then drivers register.
    pub async fn start(&self) -> Result<()> {
        self.remove_slices().await?;
        self.stage.write().await.register().await?;
        self.runs.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn remove_slices(&self) -> Result<()> {
        let slices = Api::<ResourceSlice>::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={NODE}"));
        slices.delete_collection(&DeleteParams::default(), &of_node).await?;
        Ok(())
    }

    /// Ends the agent, while no pod takes a step.
    pub async fn end_agent(&self) -> Result<()> {
        let _pods = self.pods.lock().await;
        self.stage.write().await.terminate().await?;
        Ok(())
    }

    /// Starts an agent, while no pod takes a step.
    pub async fn start_agent(&self) -> Result<()> {
        let pods = self.pods.lock().await;
        let running: Vec<&Running> =
            pods.values().filter_map(|life| Some(&life.machine.as_ref()?.running)).collect();
        self.stage.write().await.start_another(&running).await
    }

    /// The slices of a driver that stays away are removed: nobody could prepare what they offer.
    async fn miss_agent(&self) -> Result<()> {
        let there = self.stage.write().await.check().is_ok();
        let mut missed = self.missed.lock().await;
        match *missed {
            _ if there => *missed = None,
            None => *missed = Some(Instant::now()),
            Some(since) if since.elapsed() >= AWAY => self.remove_slices().await?,
            Some(_) => {}
        }
        Ok(())
    }

    /// Takes every pod of the node one step further.
    pub async fn sync(&self) -> Result<()> {
        if !self.runs.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut lives = self.pods.lock().await;
        if !self.runs.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.miss_agent().await?;
        let own = ListParams::default().fields(&format!("spec.nodeName={NODE}"));
        let pods = Api::<Pod>::all(self.client.clone()).list(&own).await?.items;
        let mut seen = BTreeSet::new();
        for pod in pods.into_iter().filter(|pod| pod.metadata.namespace.as_deref() != Some(daemon::NAMESPACE))
        {
            let uid = pod.metadata.uid.clone().context("a pod without a UID")?;
            let life = lives.entry(uid.clone()).or_insert_with(|| Life::of(pod.clone()));
            life.ending |= pod.metadata.deletion_timestamp.is_some();
            life.pod = pod;
            seen.insert(uid);
        }
        for (uid, life) in lives.iter_mut() {
            life.ending |= !seen.contains(uid);
        }
        let steps = lives.iter_mut().map(|(uid, life)| self.take_step(uid, life, seen.contains(uid)));
        join_all(steps).await.into_iter().collect::<Result<()>>()?;
        lives.retain(|_, life| !life.over);
        Ok(())
    }

    /// `there`: the API still has the pod.
    async fn take_step(&self, uid: &str, life: &mut Life, there: bool) -> Result<()> {
        if Instant::now() >= life.not_before {
            let done = if life.ending { self.end(uid, life).await } else { self.further(uid, life).await };
            if let Err(Trouble(reason, message)) = done {
                life.not_before = Instant::now() + BACKOFF;
                if there && life.told.insert(message.clone()) {
                    event(&self.client, "kubelet", &life.pod, reason, &message).await?;
                }
            }
        }
        let (namespace, name) = life.name();
        self.machines.set(uid, life.name(), life.machine.as_mut());
        if !there {
            return Ok(());
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        if life.over {
            let mut now = DeleteParams::default().grace_period(0);
            now.preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
            pods.delete(&name, &now).await?;
            return Ok(());
        }
        let ready = life.is_complete();
        if ready != life.ready {
            let status = status(&life.pod, ready, life.attempts);
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            life.ready = ready;
        }
        Ok(())
    }

    async fn further(&self, uid: &str, life: &mut Life) -> Result<(), Trouble> {
        for (called, name) in names(&life.pod) {
            if !life.claims.contains_key(&called) {
                let trouble = |error: anyhow::Error| {
                    let message =
                        format!("Failed to prepare dynamic resources: prepare dynamic resources: {error:#}");
                    Trouble("FailedPrepareDynamicResources", message)
                };
                let held = self.hold(uid, &life.pod, name.as_deref()).await.map_err(trouble)?;
                life.claims.insert(called, held);
            }
        }
        if life.machine.as_mut().is_some_and(|machine| !machine.lives()) {
            self.stop_sandbox(life).await;
        }
        if life.machine.is_none() {
            let run = async {
                let stage = self.stage.read().await;
                Machine::of(stage.run_with(&life.pod, network).await?)
            };
            let trouble = |error: anyhow::Error| {
                let what =
                    "Failed to create pod sandbox: rpc error: code = Unknown desc = NRI RunPodSandbox failed";
                Trouble("FailedCreatePodSandBox", format!("{what}: {error:#}"))
            };
            life.machine = Some(run.await.map_err(trouble)?);
        }
        let Some(machine) = &mut life.machine else { return Ok(()) };
        for container in life.pod.spec.iter().flat_map(|spec| &spec.containers) {
            if machine.has(&container.name) {
                continue;
            }
            let start = async {
                let used = self.used(container, &life.claims).await?;
                let used: Vec<&Prepared> = used.iter().collect();
                let stage = self.stage.read().await;
                let env = stage.create_container(&machine.running, &container.name, &used).await?;
                life.attempts += 1;
                machine.start(&container.name, life.attempts, env)
            };
            start.await.map_err(|error| {
                Trouble("Failed", format!("Error: failed to create containerd task: {error:#}"))
            })?;
        }
        Ok(())
    }

    /// Prepares a claim, unless it is prepared for another pod already; its UID.
    async fn hold(&self, pod_uid: &str, pod: &Pod, name: Option<&str>) -> Result<String> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = name.context("the claim is not made yet")?;
        let claim = Api::<ResourceClaim>::namespaced(self.client.clone(), &namespace).get(name).await?;
        let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
        if !reserved.into_iter().any(|user| user.uid == pod_uid) {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            bail!("pod {pod}({pod_uid}) is not allowed to use ResourceClaim {name}");
        }
        let uid = claim.metadata.uid.clone().context("a claim without a UID")?;
        if let Some(held) = self.claims.lock().await.get_mut(&uid) {
            held.pods.insert(pod_uid.to_owned());
            return Ok(uid);
        }
        let prepared = self
            .stage
            .read()
            .await
            .prepare(&claim)
            .await
            .with_context(|| format!("NodePrepareResources failed for ResourceClaim {name}"))?;
        let held = Held { claim, prepared, pods: BTreeSet::new() };
        let mut claims = self.claims.lock().await;
        claims.entry(uid.clone()).or_insert(held).pods.insert(pod_uid.to_owned());
        Ok(uid)
    }

    /// What of the pod's claims a container uses.
    async fn used(&self, container: &Container, own: &BTreeMap<String, String>) -> Result<Vec<Prepared>> {
        let held = self.claims.lock().await;
        let mut used = Vec::new();
        let asked = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
        for wanted in asked {
            let held = own.get(&wanted.name).and_then(|uid| held.get(uid));
            let prepared = &held.with_context(|| format!("claim {} is not the pod's", wanted.name))?.prepared;
            used.push(match &wanted.request {
                Some(request) => prepared.only(request),
                None => prepared.clone(),
            });
        }
        Ok(used)
    }

    async fn stop_sandbox(&self, life: &mut Life) {
        let Some(mut machine) = life.machine.take() else { return };
        machine.end_containers();
        let stopped = self.stage.read().await.stop(machine.running).await;
        if let Err(error) = stopped {
            // A runtime logs it and goes on.
            println!("    stand-in for the runtime: StopPodSandbox: {error:#}");
        }
    }

    async fn end(&self, uid: &str, life: &mut Life) -> Result<(), Trouble> {
        self.stop_sandbox(life).await;
        while let Some((called, claim)) = life.claims.pop_first() {
            if let Err(error) = self.give_back(uid, &claim).await {
                life.claims.insert(called, claim);
                return Err(Trouble("FailedUnprepareDynamicResources", format!("{error:#}")));
            }
        }
        life.over = true;
        Ok(())
    }

    /// Unprepares a claim that no other pod holds.
    async fn give_back(&self, pod_uid: &str, uid: &str) -> Result<()> {
        let claim = match self.claims.lock().await.get(uid) {
            Some(held) if held.pods.iter().all(|holder| holder == pod_uid) => Some(held.claim.clone()),
            _ => None,
        };
        if let Some(claim) = &claim {
            self.stage.read().await.unprepare(claim).await?;
        }
        let mut claims = self.claims.lock().await;
        if let Some(held) = claims.get_mut(uid) {
            held.pods.remove(pod_uid);
            if held.pods.is_empty() {
                claims.remove(uid);
            }
        }
        Ok(())
    }
}

impl Life {
    fn of(pod: Pod) -> Self {
        Self {
            pod,
            ending: false,
            over: false,
            machine: None,
            claims: BTreeMap::new(),
            attempts: 0,
            ready: false,
            not_before: Instant::now(),
            told: BTreeSet::new(),
        }
    }

    fn name(&self) -> (String, String) {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        (of(&self.pod.metadata.namespace), of(&self.pod.metadata.name))
    }

    fn is_complete(&mut self) -> bool {
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let names: Vec<&str> = containers.map(|container| container.name.as_str()).collect();
        let complete = |machine: &mut Machine| machine.lives() && names.iter().all(|name| machine.has(name));
        !self.ending && self.machine.as_mut().is_some_and(complete)
    }
}

/// What a kubelet says of a pod.
fn status(pod: &Pod, ready: bool, started: u32) -> Value {
    let word = if ready { "True" } else { "False" };
    let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status });
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<Value> = containers
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "", "ready": ready,
                "restartCount": started.saturating_sub(1),
            })
        })
        .collect();
    json!({ "status": {
        "phase": "Running",
        "conditions": [
            condition("PodScheduled", "True"), condition("Initialized", "True"),
            condition("ContainersReady", word), condition("Ready", word),
        ],
        "containerStatuses": containers,
    } })
}
