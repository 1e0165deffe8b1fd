//! What a claim needs around it: the API server, the agent as a process of its own, and the kubelet's and the runtime's
//! calls in the order those make them, over the real sockets.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use super::agent::{Agent, PATIENCE, Place};
use super::apiserver::{ApiServer, Store};
use super::claims::reserved;
use super::pod::Process;
use crate::DEFAULT_DRIVER_NAME;
use crate::attach::nri::fake::{Failure, FakeRuntime, Options};
use crate::attach::nri::proto::api;
use crate::kubelet::{ClaimRef, PreparedDevice};
use crate::prepare::cdi;

/// Name of the node unless it is given another.
pub const NODE: &str = "demo-node";

/// Everything around one agent.
#[derive(Debug)]
pub struct Stage {
    /// The API server.
    pub server: ApiServer,
    place: Place,
    agent: Agent,
    listener: FakeRuntime,
    /// A runtime never gives an ID twice.
    sandboxes: AtomicU64,
}

/// Which node of which cluster a stage is.
#[derive(Debug)]
pub struct Part<'a> {
    /// The node's name.
    pub node: &'a str,
    /// `--rails` of its agent.
    pub rails: &'a str,
    /// The cluster's objects; another stage may have the same.
    pub store: Store,
    /// What the runtime gives its plugins to answer. Runtimes have 2 s, in which a slow or busy machine that plays a
    /// whole node may not get a pod's VFs in; a plugin that is late is cut off.
    pub request_timeout: Duration,
}

impl Default for Part<'_> {
    fn default() -> Self {
        Self { node: NODE, rails: "", store: Store::default(), request_timeout: Duration::from_secs(10) }
    }
}

/// A claim on its way to a pod.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The CDI file's path.
    pub cdi_file: PathBuf,
    /// The CDI file.
    pub cdi: cdi::Spec,
    /// What a container gets that uses the whole claim.
    pub cdi_ids: Vec<String>,
    /// Duration of NodePrepareResources.
    pub took: Duration,
    devices: Vec<PreparedDevice>,
}

impl Prepared {
    /// The claim as a container sees it that uses only one of its requests.
    pub fn only(&self, request: &str) -> Self {
        let (devices, _): (Vec<_>, Vec<_>) =
            self.devices.iter().cloned().partition(|device| device.request == request);
        Self { cdi_ids: cdi_ids(&devices), devices, ..self.clone() }
    }
}

fn cdi_ids(devices: &[PreparedDevice]) -> Vec<String> {
    devices.iter().flat_map(|device| device.cdi_ids.iter().cloned()).collect()
}

/// A pod whose sandbox runs.
#[derive(Debug)]
pub struct Running {
    sandbox: api::PodSandbox,
    /// None on the host's network.
    process: Option<Process>,
    /// Duration of RunPodSandbox.
    pub took: Duration,
}

impl Running {
    /// The sandbox's ID.
    pub fn id(&self) -> &str {
        &self.sandbox.id
    }

    /// Path of the pod's network namespace; none on the host's network.
    pub fn netns(&self) -> Option<PathBuf> {
        self.process.as_ref().map(Process::netns)
    }
}

impl Stage {
    /// Starts everything below `folder`, with `executable` as the agent's and the pods', and waits until the agent has
    /// registered and published.
    ///
    /// # Errors
    /// When the agent ends or does not come up; its log says why.
    pub async fn start(executable: &Path, folder: &Path, sysfs: &Path) -> anyhow::Result<Self> {
        Self::start_as(NODE, executable, folder, sysfs).await
    }

    /// The same as a node of this name.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_as(
        node: &str,
        executable: &Path,
        folder: &Path,
        sysfs: &Path,
    ) -> anyhow::Result<Self> {
        Self::start_part(Part { node, ..Part::default() }, executable, folder, sysfs).await
    }

    /// The same as a part of something larger.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_part(
        part: Part<'_>,
        executable: &Path,
        folder: &Path,
        sysfs: &Path,
    ) -> anyhow::Result<Self> {
        let Part { node, rails, store, request_timeout } = part;
        let server = ApiServer::start_with("127.0.0.1:0", store).await?;
        for name in ["default", "kube-system"] {
            server.store().create(&Namespace { metadata: named(name), ..Namespace::default() });
        }
        server.store().create(&Node { metadata: named(node), ..Node::default() });
        std::fs::write(folder.join("kubeconfig"), server.kubeconfig()?)?;
        let runtime =
            FakeRuntime::listen(&folder.join("nri.sock"), Options { request_timeout, ..Options::default() })?;
        let place = Place {
            node: node.to_owned(),
            executable: executable.to_owned(),
            sysfs: sysfs.to_owned(),
            rails: rails.to_owned(),
            folder: folder.to_owned(),
        };
        let agent = Agent::start(&place, &runtime, Vec::new()).await?;
        let stage = Self { server, place, agent, listener: runtime, sandboxes: AtomicU64::default() };
        let published = stage.wait_published().await;
        published
            .with_context(|| format!("nothing was published; the agent's log:\n{}", stage.agent_log()))?;
        Ok(stage)
    }

    /// Kills the agent as a crash would, and starts another, which is told of the pods that run.
    ///
    /// # Errors
    /// When it does not come up again.
    pub async fn crash(&mut self, pods: &[&Running]) -> anyhow::Result<()> {
        self.kill()?;
        self.start_another(pods).await
    }

    /// Kills the agent as a crash would; no other one starts.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.agent.kill()
    }

    /// Starts an agent in place of one that ended; it is told of the pods that run.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_another(&mut self, pods: &[&Running]) -> anyhow::Result<()> {
        let pods = pods.iter().map(|pod| pod.sandbox.clone()).collect();
        self.agent = Agent::start(&self.place, &self.listener, pods).await?;
        Ok(())
    }

    /// Registers the agent anew, as a kubelet does that has started again.
    ///
    /// # Errors
    /// When its sockets are not there.
    pub async fn register(&mut self) -> anyhow::Result<()> {
        self.agent.driver = self.place.register().await?;
        Ok(())
    }

    /// That the agent runs.
    ///
    /// # Errors
    /// When it ended; with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.agent.check().with_context(|| format!("its log:\n{}", self.place.log()))
    }

    async fn wait_published(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut slices = self.slices();
            slices.retain(|slice| slice.spec.node_name.as_ref() == Some(&self.place.node));
            let complete = slices.first().is_some_and(|first| {
                usize::try_from(first.spec.pool.resource_slice_count).is_ok_and(|count| count == slices.len())
            });
            if complete {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{} slices after {} s", slices.len(), PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The published slices, in the order the scheduler takes them.
    pub fn slices(&self) -> Vec<ResourceSlice> {
        let mut slices: Vec<ResourceSlice> = self.server.store().list();
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        slices
    }

    /// Creates a pod object, as `kubectl` would, and its namespace, should it be missing.
    ///
    /// # Errors
    /// The API server's words.
    pub async fn create_pod(&self, pod: &Pod) -> anyhow::Result<Pod> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        if self.server.store().get::<Namespace>("", namespace).is_none() {
            self.server.store().create(&Namespace { metadata: named(namespace), ..Namespace::default() });
        }
        let api: Api<Pod> = Api::namespaced(self.server.client()?, namespace);
        Ok(api.create(&PostParams::default(), pod).await?)
    }

    /// Creates a claim, as a user or the claim controller would.
    ///
    /// # Errors
    /// The API server's words.
    pub async fn create_claim(&self, claim: &ResourceClaim) -> anyhow::Result<ResourceClaim> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<ResourceClaim> = Api::namespaced(self.server.client()?, namespace);
        Ok(api.create(&PostParams::default(), claim).await?)
    }

    /// Writes an allocation and its reservation, as the scheduler does.
    ///
    /// # Errors
    /// The API server's words.
    pub async fn allocate(
        &self,
        claim: &ResourceClaim,
        allocation: AllocationResult,
        pod: &Pod,
    ) -> anyhow::Result<ResourceClaim> {
        let claim = reserved(claim, Some(allocation), pod);
        let namespace = claim.metadata.namespace.clone().unwrap_or_default();
        let name = claim.metadata.name.clone().unwrap_or_default();
        let api: Api<ResourceClaim> = Api::namespaced(self.server.client()?, &namespace);
        Ok(api.replace_status(&name, &PostParams::default(), &claim).await?)
    }

    /// The claim as the API server has it now.
    pub fn claim(&self, claim: &ResourceClaim) -> Option<ResourceClaim> {
        let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
        self.server.store().get(namespace.unwrap_or_default(), name.unwrap_or_default())
    }

    /// NodePrepareResources, then what the CDI file says.
    ///
    /// # Errors
    /// The agent's sentence, as it would stand in the pod's events.
    pub async fn prepare(&self, claim: &ResourceClaim) -> anyhow::Result<Prepared> {
        let reference = reference(claim);
        let started = Instant::now();
        let mut answers = self.agent.driver.prepare(std::slice::from_ref(&reference)).await?;
        let took = started.elapsed();
        let devices = answers.remove(&reference.uid).context("the agent did not answer for the claim")?;
        let devices = devices.map_err(anyhow::Error::msg)?;
        let cdi_file =
            self.place.folder.join("cdi").join(cdi::file_name(DEFAULT_DRIVER_NAME, &reference.uid));
        let text = std::fs::read_to_string(&cdi_file)?;
        Ok(Prepared { cdi: cdi::parse(&text)?, cdi_file, cdi_ids: cdi_ids(&devices), took, devices })
    }

    /// NodeUnprepareResources.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn unprepare(&self, claim: &ResourceClaim) -> anyhow::Result<()> {
        let reference = reference(claim);
        let mut answers = self.agent.driver.unprepare(std::slice::from_ref(&reference)).await?;
        let answer = answers.remove(&reference.uid).context("the agent did not answer for the claim")?;
        answer.map_err(anyhow::Error::msg)
    }

    /// RunPodSandbox: a process in a network namespace (on the host's network: none), then the event.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn run(&self, pod: &Pod) -> anyhow::Result<Running> {
        self.run_with(pod, |_| Ok(())).await
    }

    /// The same with a network: `network` is given the namespace before the event, as CNI plugins are.
    ///
    /// # Errors
    /// The agent's sentence, or that of `network`.
    pub async fn run_with(
        &self,
        pod: &Pod,
        network: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Running> {
        let mut running = self.sandbox(pod, network)?;
        let started = Instant::now();
        self.announce(&running).await?;
        running.took = started.elapsed();
        Ok(running)
    }

    /// The event RunPodSandbox.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn announce(&self, pod: &Running) -> anyhow::Result<()> {
        self.agent.runtime.run_pod_sandbox(&pod.sandbox).await.map_err(refusal)
    }

    /// A sandbox that the agent is not told of: the runtime has no NRI, or has dropped the plugin.
    ///
    /// # Errors
    /// When the process can't be started, or that of `network`.
    pub fn sandbox(
        &self,
        pod: &Pod,
        network: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Running> {
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let process = if on_host { None } else { Some(Process::start(&self.place.executable)?) };
        if let Some(process) = &process {
            network(&process.netns())?;
        }
        let number = self.sandboxes.fetch_add(1, Ordering::Relaxed);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let own = process.as_ref().map(|process| api::LinuxNamespace {
            r#type: "network".to_owned(),
            path: process.netns().to_string_lossy().into_owned(),
        });
        let sandbox = api::PodSandbox {
            id: format!("sandbox-{number}-{uid}"),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            linux: Some(api::LinuxPodSandbox { namespaces: own.into_iter().collect(), ..Default::default() }),
            // On the host's network as this process is.
            pid: process.as_ref().map_or_else(std::process::id, Process::pid),
            ..Default::default()
        };
        Ok(Running { sandbox, process, took: Duration::ZERO })
    }

    /// CreateContainer with the CDI devices injected, as the runtime does before it asks; then their hooks, as the OCI
    /// runtime runs them. The container's environment.
    ///
    /// # Errors
    /// The agent's sentence, or the hook's.
    pub async fn create_container(
        &self,
        pod: &Running,
        name: &str,
        prepared: &[&Prepared],
    ) -> anyhow::Result<Vec<String>> {
        let env = self.ask_for_container(pod, name, prepared).await?;
        for claim in prepared.iter().filter(|claim| !claim.cdi_ids.is_empty()) {
            self.run_hooks(pod, &claim.cdi).await?;
        }
        Ok(env)
    }

    /// The runtime's part of [`create_container`](Self::create_container).
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn ask_for_container(
        &self,
        pod: &Running,
        name: &str,
        prepared: &[&Prepared],
    ) -> anyhow::Result<Vec<String>> {
        let mut env: Vec<String> = Vec::new();
        // Of a file that no device is named of, nothing is injected.
        for claim in prepared.iter().filter(|claim| !claim.cdi_ids.is_empty()) {
            env.extend(claim.cdi.container_edits.env.iter().cloned());
            let named = |name: &str| claim.cdi_ids.iter().any(|id| id.ends_with(&format!("={name}")));
            let devices = claim.cdi.devices.iter().filter(|device| named(&device.name));
            env.extend(devices.flat_map(|device| device.container_edits.env.iter().cloned()));
        }
        let container = api::Container {
            id: format!("{}-{name}", pod.sandbox.id),
            pod_sandbox_id: pod.sandbox.id.clone(),
            name: name.to_owned(),
            env: env.clone(),
            ..Default::default()
        };
        let adjusted =
            self.agent.runtime.create_container(&pod.sandbox, &container).await.map_err(refusal)?;
        for (key, value) in adjusted.env {
            env.retain(|line| line.split('=').next() != Some(key.as_str()));
            env.push(format!("{key}={value}"));
        }
        env.sort();
        Ok(env)
    }

    /// The createRuntime hooks of a CDI file, as the OCI runtime runs them: the state on standard input, no environment
    /// but the file's.
    ///
    /// # Errors
    /// What the runtime makes of a hook that fails.
    pub async fn run_hooks(&self, pod: &Running, cdi: &cdi::Spec) -> anyhow::Result<()> {
        let sandbox = &pod.sandbox;
        let state = serde_json::json!({
            "ociVersion": "1.2.1", "id": format!("{}-main", sandbox.id), "status": "creating", "pid": sandbox.pid,
            "bundle": self.place.folder,
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-id": sandbox.id,
                "io.kubernetes.cri.sandbox-uid": sandbox.uid,
                "io.kubernetes.cri.sandbox-name": sandbox.name,
                "io.kubernetes.cri.sandbox-namespace": sandbox.namespace,
            },
        })
        .to_string();
        for hook in cdi.container_edits.hooks.iter().filter(|hook| hook.hook_name == "createRuntime") {
            let (hook, state) = (hook.clone(), state.clone());
            let done = tokio::task::spawn_blocking(move || {
                let mut process = Command::new(&hook.path)
                    .args(hook.args.iter().skip(1))
                    .env_clear()
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()?;
                if let Some(mut input) = process.stdin.take() {
                    input.write_all(state.as_bytes())?;
                }
                process.wait_with_output()
            });
            let output = done.await??;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!("error running createRuntime hook: {}, stderr: {}", output.status, said.trim());
            }
        }
        Ok(())
    }

    /// StopPodSandbox, then the end of its process, then RemovePodSandbox.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn stop(&self, pod: Running) -> anyhow::Result<()> {
        let stopped = self.agent.runtime.stop_pod_sandbox(&pod.sandbox).await.map_err(refusal);
        drop(pod.process);
        let gone = api::PodSandbox { pid: 0, linux: None, ..pod.sandbox };
        self.agent.runtime.remove_pod_sandbox(&gone).await.map_err(refusal)?;
        stopped
    }

    /// From the agent's start to its registration.
    pub fn registered_in(&self) -> Duration {
        self.agent.registered_in
    }

    /// PID of the agent.
    pub fn agent_pid(&self) -> u32 {
        self.agent.pid()
    }

    /// The end of the agent's log.
    pub fn agent_log(&self) -> String {
        self.place.log()
    }

    /// SIGTERM, and how long the agent took to end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(mut self) -> anyhow::Result<Duration> {
        self.terminate().await
    }

    /// Asks the agent to end, and how long it took; there may be another one afterwards.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn terminate(&mut self) -> anyhow::Result<Duration> {
        let ended = self.agent.terminate().await;
        ended.with_context(|| format!("its log:\n{}", self.place.log()))
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn reference(claim: &ResourceClaim) -> ClaimRef {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    ClaimRef {
        uid: of(&claim.metadata.uid),
        namespace: of(&claim.metadata.namespace),
        name: of(&claim.metadata.name),
    }
}

fn refusal(failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Refused { message, .. } => anyhow::Error::msg(message),
        other => anyhow::anyhow!("the agent did not answer the runtime: {other:?}"),
    }
}
