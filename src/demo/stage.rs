//! What a claim needs around it: the API server, the agent as a process of its own, and the kubelet's and the runtime's
//! calls in the order those make them, over the real sockets.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::resource::v1::{
    AllocationResult, ResourceClaim, ResourceClaimConsumerReference, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use super::apiserver::ApiServer;
use super::pod::Process;
use crate::DEFAULT_DRIVER_NAME;
use crate::attach::nri::fake::{Failure, FakeRuntime, Options, Registered};
use crate::attach::nri::proto::api;
use crate::kubelet::ClaimRef;
use crate::kubelet::fake::{Driver, FakeKubelet};
use crate::prepare::cdi;

/// Name of the node.
pub const NODE: &str = "demo-node";
/// How long the agent may take for any one thing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything around one agent.
#[derive(Debug)]
pub struct Stage {
    /// The API server.
    pub server: ApiServer,
    executable: PathBuf,
    sysfs: PathBuf,
    folder: PathBuf,
    agent: Agent,
    driver: Driver,
    listener: FakeRuntime,
    runtime: Registered,
    /// From the agent's start to its registration.
    pub registered_in: Duration,
}

/// The agent's process; it ends with this value, however far it came.
#[derive(Debug)]
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // Ended already, or nobody is left to ask it politely.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A claim on its way to a pod.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The CDI file's path.
    pub cdi_file: PathBuf,
    /// The CDI file.
    pub cdi: cdi::Spec,
    /// What the container gets.
    pub cdi_ids: Vec<String>,
    /// Duration of NodePrepareResources.
    pub took: Duration,
}

/// A pod whose sandbox runs.
#[derive(Debug)]
pub struct Running {
    sandbox: api::PodSandbox,
    process: Process,
    /// Duration of RunPodSandbox.
    pub took: Duration,
}

impl Running {
    /// Path of the pod's network namespace.
    pub fn netns(&self) -> PathBuf {
        self.process.netns()
    }
}

impl Stage {
    /// Starts everything below `folder`, with `executable` as the agent's and the pods', and waits until the agent has
    /// registered and published.
    ///
    /// # Errors
    /// When the agent ends or does not come up; its log says why.
    pub async fn start(executable: &Path, folder: &Path, sysfs: &Path) -> anyhow::Result<Self> {
        let server = ApiServer::start("127.0.0.1:0").await?;
        for name in ["default", "kube-system"] {
            server.store().create(&Namespace { metadata: named(name), ..Namespace::default() });
        }
        server.store().create(&Node { metadata: named(NODE), ..Node::default() });
        std::fs::write(folder.join("kubeconfig"), server.kubeconfig()?)?;
        let runtime = FakeRuntime::listen(&folder.join("nri.sock"), Options::default())?;
        let (agent, driver, registered, registered_in) =
            start_agent(executable, folder, sysfs, &runtime).await?;
        let stage = Self {
            server,
            executable: executable.to_owned(),
            sysfs: sysfs.to_owned(),
            folder: folder.to_owned(),
            agent,
            driver,
            listener: runtime,
            runtime: registered,
            registered_in,
        };
        let published = stage.wait_published().await;
        published
            .with_context(|| format!("nothing was published; the agent's log:\n{}", stage.agent_log()))?;
        Ok(stage)
    }

    /// Kills the agent as a crash would, and starts another.
    ///
    /// # Errors
    /// When it does not come up again.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.start_again().await
    }

    /// Kills the agent as a crash would; no other one starts.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.agent.0.kill()?;
        self.agent.0.wait()?;
        Ok(())
    }

    /// Starts an agent in place of one that was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        (self.agent, self.driver, self.runtime, self.registered_in) =
            start_agent(&self.executable, &self.folder, &self.sysfs, &self.listener).await?;
        Ok(())
    }

    async fn wait_published(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let slices = self.slices();
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
        let mut claim = claim.clone();
        let status = claim.status.get_or_insert_default();
        status.allocation = Some(allocation);
        let consumer = ResourceClaimConsumerReference {
            resource: "pods".to_owned(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            ..Default::default()
        };
        status.reserved_for = Some(vec![consumer]);
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
        let mut answers = self.driver.prepare(std::slice::from_ref(&reference)).await?;
        let took = started.elapsed();
        let devices = answers.remove(&reference.uid).context("the agent did not answer for the claim")?;
        let devices = devices.map_err(anyhow::Error::msg)?;
        let cdi_ids = devices.into_iter().flat_map(|device| device.cdi_ids).collect();
        let cdi_file = self.folder.join("cdi").join(cdi::file_name(DEFAULT_DRIVER_NAME, &reference.uid));
        let text = std::fs::read_to_string(&cdi_file)?;
        Ok(Prepared { cdi: cdi::parse(&text)?, cdi_file, cdi_ids, took })
    }

    /// NodeUnprepareResources.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn unprepare(&self, claim: &ResourceClaim) -> anyhow::Result<()> {
        let reference = reference(claim);
        let mut answers = self.driver.unprepare(std::slice::from_ref(&reference)).await?;
        let answer = answers.remove(&reference.uid).context("the agent did not answer for the claim")?;
        answer.map_err(anyhow::Error::msg)
    }

    /// RunPodSandbox: a process in a network namespace, then the event.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn run(&self, pod: &Pod) -> anyhow::Result<Running> {
        let mut running = self.sandbox(pod)?;
        let started = Instant::now();
        self.runtime.run_pod_sandbox(&running.sandbox).await.map_err(refusal)?;
        running.took = started.elapsed();
        Ok(running)
    }

    /// A sandbox that the agent is not told of: the runtime has no NRI, or has dropped the plugin.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn sandbox(&self, pod: &Pod) -> anyhow::Result<Running> {
        let process = Process::start(&self.executable)?;
        let netns = process.netns();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let sandbox = api::PodSandbox {
            id: format!("sandbox-{uid}"),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            linux: Some(api::LinuxPodSandbox {
                namespaces: vec![api::LinuxNamespace {
                    r#type: "network".to_owned(),
                    path: netns.to_string_lossy().into_owned(),
                }],
                ..Default::default()
            }),
            pid: process.pid(),
            ..Default::default()
        };
        Ok(Running { sandbox, process, took: Duration::ZERO })
    }

    /// CreateContainer with the CDI devices injected, as the runtime does before it asks; the container's environment.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn create_container(
        &self,
        pod: &Running,
        prepared: &[&Prepared],
    ) -> anyhow::Result<Vec<String>> {
        let mut env: Vec<String> = Vec::new();
        for claim in prepared {
            env.extend(claim.cdi.container_edits.env.iter().cloned());
            let named = |name: &str| claim.cdi_ids.iter().any(|id| id.ends_with(&format!("={name}")));
            let devices = claim.cdi.devices.iter().filter(|device| named(&device.name));
            env.extend(devices.flat_map(|device| device.container_edits.env.iter().cloned()));
        }
        let container = api::Container {
            id: format!("{}-main", pod.sandbox.id),
            pod_sandbox_id: pod.sandbox.id.clone(),
            name: "main".to_owned(),
            env: env.clone(),
            ..Default::default()
        };
        let adjusted = self.runtime.create_container(&pod.sandbox, &container).await.map_err(refusal)?;
        for (key, value) in adjusted.env {
            env.retain(|line| line.split('=').next() != Some(key.as_str()));
            env.push(format!("{key}={value}"));
        }
        for claim in prepared {
            self.run_hooks(pod, &claim.cdi).await?;
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
            "ociVersion": "1.2.1", "id": format!("{}-main", sandbox.id), "status": "creating", "pid": pod.process.pid(),
            "bundle": self.folder,
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
        let stopped = self.runtime.stop_pod_sandbox(&pod.sandbox).await.map_err(refusal);
        drop(pod.process);
        let gone = api::PodSandbox { pid: 0, linux: None, ..pod.sandbox };
        self.runtime.remove_pod_sandbox(&gone).await.map_err(refusal)?;
        stopped
    }

    /// PID of the agent.
    pub fn agent_pid(&self) -> u32 {
        self.agent.0.id()
    }

    /// The end of the agent's log.
    pub fn agent_log(&self) -> String {
        tail(&self.folder.join("agent.log"))
    }

    /// SIGTERM, and how long the agent took to end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.agent.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        while self.agent.0.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("the agent does not end; its log:\n{}", self.agent_log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(started.elapsed())
    }
}

async fn start_agent(
    executable: &Path,
    folder: &Path,
    sysfs: &Path,
    runtime: &FakeRuntime,
) -> anyhow::Result<(Agent, Driver, Registered, Duration)> {
    let log = folder.join("agent.log");
    let started = Instant::now();
    let agent = Command::new(executable)
        .args(["node", "--node-name", NODE, "--log-level", "sriov_dra=debug,info"])
        .args([
            option("--kubelet-dir", &folder.join("kubelet")),
            option("--run-dir", &folder.join("run")),
            option("--cdi-dir", &folder.join("cdi")),
            option("--nri-socket", &folder.join("nri.sock")),
            option("--sysfs-root", sysfs),
            option("--kubeconfig", &folder.join("kubeconfig")),
        ])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::options().create(true).append(true).open(&log)?)
        .spawn()
        .context("the agent can't be started")?;
    let mut agent = Agent(agent);
    let kubelet = FakeKubelet::new(folder.join("kubelet"));
    let up = async {
        tokio::try_join!(
            kubelet.register(DEFAULT_DRIVER_NAME, PATIENCE),
            runtime.accept(Vec::new(), Vec::new())
        )
    };
    let up = tokio::select! {
        up = tokio::time::timeout(PATIENCE, up) => up.context("it did not register in time").and_then(|up| up),
        error = ended(&mut agent.0) => Err(error),
    };
    let (driver, runtime) =
        up.with_context(|| format!("the agent did not come up; its log:\n{}", tail(&log)))?;
    Ok((agent, driver, runtime, started.elapsed()))
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

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}

async fn ended(agent: &mut Child) -> anyhow::Error {
    loop {
        match agent.try_wait() {
            Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(Some(status)) => return anyhow::anyhow!("it ended: {status}"),
            Err(error) => return error.into(),
        }
    }
}
