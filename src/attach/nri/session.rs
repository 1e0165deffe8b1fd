//! One registration with a runtime: Configure, Synchronize, then events, each answered before the runtime gives up.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;

use super::link::{Answers, Question};
use super::plugin::{RunErrors, Runtime};
use super::proto::api;
use super::proto::google::rpc::Status;
use super::ttrpc::code;
use crate::device::CharDevice;

use super::{Adjustment, Container, PodEvents, Sandbox};

/// What the plugin serves.
pub(super) const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// What the runtime serves.
pub(super) const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// RunPodSandbox, StopPodSandbox, RemovePodSandbox, CreateContainer: bit `event - 1`. A bit that the runtime doesn't
/// know ends the registration, so nothing else is asked for.
pub(super) const EVENTS: i32 = 0xf;
/// Of runtimes that don't say.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How far the handshake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing came yet.
    Connected,
    /// Configure was answered.
    Configured(Runtime),
    /// The last part of Synchronize was answered: events come from here on.
    Synchronized(Runtime),
}

/// What the runtime has told so far, and who wants to know.
#[derive(Debug)]
pub(super) struct Session<E> {
    events: Arc<E>,
    /// Only one Synchronize is worked on, also over reconnects.
    synchronizing: Arc<tokio::sync::Mutex<()>>,
    /// Parts of a Synchronize of which more follow.
    partial: Mutex<(Vec<Sandbox>, Vec<Container>)>,
    phase: watch::Sender<Phase>,
    run_errors: RunErrors,
    /// UIDs of pods whose RunPodSandbox was refused because it took too long.
    late: Mutex<BTreeSet<String>>,
}

/// More are forgotten: a pod that is refused once more than it had to be is no harm.
const MOST_LATE: usize = 1000;

impl<E: PodEvents> Session<E> {
    pub(super) fn new(
        events: Arc<E>,
        synchronizing: Arc<tokio::sync::Mutex<()>>,
        run_errors: RunErrors,
    ) -> Self {
        let phase = watch::Sender::new(Phase::Connected);
        Self { events, synchronizing, partial: Mutex::default(), phase, run_errors, late: Mutex::default() }
    }

    pub(super) fn connected(&self, pid: Option<i32>) {
        self.events.connected(pid);
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The longest that an answer may take: 60 % of what the runtime waits. (An answer that is late cuts the plugin
    /// off, and the pod starts without its VFs.)
    pub(super) fn budget(&self, own: Option<Duration>) -> Duration {
        let configured = match &*self.phase.borrow() {
            Phase::Configured(runtime) | Phase::Synchronized(runtime) => runtime.request_timeout,
            Phase::Connected => DEFAULT_REQUEST_TIMEOUT,
        };
        own.map_or(configured, |own| own.min(configured)).mul_f64(0.6)
    }

    fn leaves_errors_to_containers(&self) -> bool {
        match self.run_errors {
            RunErrors::Answer => false,
            RunErrors::LeaveToContainers => true,
            RunErrors::ByRuntime => match &*self.phase.borrow() {
                Phase::Configured(runtime) | Phase::Synchronized(runtime) => runtime.keeps_failed_sandboxes(),
                Phase::Connected => true,
            },
        }
    }

    fn configure(&self, request: api::ConfigureRequest) -> api::ConfigureResponse {
        let api::ConfigureRequest { runtime_name: name, runtime_version: version, request_timeout, .. } =
            request;
        let timeout = u64::try_from(request_timeout).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        let runtime = Runtime { name, version, request_timeout: timeout.unwrap_or(DEFAULT_REQUEST_TIMEOUT) };
        self.phase.send_replace(Phase::Configured(runtime));
        api::ConfigureResponse { events: EVENTS }
    }

    /// Answered at once: the runtime holds up every pod of the node while it waits.
    fn synchronize(&self, request: api::SynchronizeRequest) -> api::SynchronizeResponse {
        let api::SynchronizeRequest { pods, containers, more } = request;
        let mut partial = self.lock();
        partial.0.extend(pods.into_iter().map(Sandbox::from));
        partial.1.extend(containers.into_iter().map(Container::from));
        if more {
            return api::SynchronizeResponse { update: Vec::new(), more: true };
        }
        let (sandboxes, containers) = std::mem::take(&mut *partial);
        drop(partial);
        tracing::info!(
            sandboxes = sandboxes.len(),
            containers = containers.len(),
            "the runtime listed its pods"
        );
        let (events, turn) = (Arc::clone(&self.events), Arc::clone(&self.synchronizing));
        let work = tokio::spawn(async move {
            let _turn = turn.lock().await;
            events.synchronize(sandboxes, containers).await;
        });
        tokio::spawn(async move {
            if let Err(defect) = work.await {
                tracing::error!(error = %defect, "reconciling with the runtime's pods ended early");
            }
        });
        self.phase.send_if_modified(|phase| {
            let Phase::Configured(runtime) = phase else {
                return false;
            };
            *phase = Phase::Synchronized(runtime.clone());
            true
        });
        api::SynchronizeResponse::default()
    }

    async fn pod_event(
        &self,
        event: api::Event,
        pod: Option<api::PodSandbox>,
        own: Option<Duration>,
    ) -> Result<Vec<u8>, Status> {
        let sandbox = Sandbox::from(pod.ok_or_else(|| invalid(event.as_str_name(), "pod"))?);
        let budget = self.budget(own);
        let events = Arc::clone(&self.events);
        let pod = format!("pod {}/{}", sandbox.pod_namespace, sandbox.pod_name);
        let outcome = match event {
            api::Event::RunPodSandbox => {
                let doing = format!("attaching the VFs of {pod}");
                let uid = sandbox.pod_uid.clone();
                let outcome = within(budget, doing, async move { events.run(sandbox).await }).await;
                let again = self.is_late_again(uid, &outcome);
                match outcome {
                    Err(Refusal { message: error, .. }) if again || self.leaves_errors_to_containers() => {
                        tracing::warn!(%pod, %error, "the pod's containers will be refused until this is mended");
                        Ok(())
                    }
                    outcome => outcome,
                }
            }
            api::Event::StopPodSandbox => {
                let doing = format!("returning the VFs of {pod}");
                within(budget, doing, async move { events.stop(sandbox).await }).await
            }
            api::Event::RemovePodSandbox => {
                let doing = format!("returning what is left of {pod}");
                within(budget, doing, async move { events.remove(sandbox).await }).await
            }
            // Not subscribed to, hence nothing to do.
            _ => Ok(()),
        };
        outcome.map(|()| Vec::new()).map_err(|refusal| failed(refusal.message))
    }

    /// A refused sandbox is made anew, with all the work: where that takes longer than a runtime waits, the pod would never
    /// start. The second time its containers are refused instead, for which the kubelet keeps the sandbox, and the work
    /// goes on.
    fn is_late_again(&self, pod_uid: String, outcome: &Result<(), Refusal>) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if !outcome.as_ref().is_err_and(|refusal| refusal.late) {
            late.remove(&pod_uid);
            return false;
        }
        if late.len() >= MOST_LATE {
            late.clear();
        }
        !late.insert(pod_uid)
    }

    async fn create_container(
        &self,
        request: api::CreateContainerRequest,
        own: Option<Duration>,
    ) -> Result<Vec<u8>, Status> {
        let api::CreateContainerRequest { pod, container } = request;
        let sandbox = Sandbox::from(pod.ok_or_else(|| invalid("CreateContainer", "pod"))?);
        let container = Container::from(container.ok_or_else(|| invalid("CreateContainer", "container"))?);
        let doing = format!(
            "checking the VFs of container {} in pod {}/{}",
            container.name, sandbox.pod_namespace, sandbox.pod_name
        );
        let events = Arc::clone(&self.events);
        let work = async move { events.create_container(sandbox, container).await };
        let adjustment =
            within(self.budget(own), doing, work).await.map_err(|refusal| failed(refusal.message))?;
        let adjust = (adjustment != Adjustment::default()).then(|| adjust(adjustment));
        Ok(api::CreateContainerResponse { adjust, update: Vec::new(), evict: Vec::new() }.encode_to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Sandbox>, Vec<Container>)> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: PodEvents> Answers for Session<E> {
    async fn answer(self: Arc<Self>, question: Question) -> Result<Vec<u8>, Status> {
        let Question { service, method, payload, timeout } = question;
        if service != PLUGIN_SERVICE {
            return Err(unimplemented(&format!("service {service}")));
        }
        // Runtimes with NRI 0.12 call each event by its name; older ones send StateChange, and newer ones do so too
        // where the name is answered as unimplemented.
        match method.as_str() {
            "Configure" => Ok(self.configure(decode(&method, payload)?).encode_to_vec()),
            "Synchronize" => Ok(self.synchronize(decode(&method, payload)?).encode_to_vec()),
            "Shutdown" => {
                tracing::info!("the runtime shuts down");
                Ok(Vec::new())
            }
            "RunPodSandbox" => {
                let api::RunPodSandboxRequest { pod } = decode(&method, payload)?;
                self.pod_event(api::Event::RunPodSandbox, pod, timeout).await
            }
            "StopPodSandbox" => {
                let api::StopPodSandboxRequest { pod } = decode(&method, payload)?;
                self.pod_event(api::Event::StopPodSandbox, pod, timeout).await
            }
            "RemovePodSandbox" => {
                let api::RemovePodSandboxRequest { pod } = decode(&method, payload)?;
                self.pod_event(api::Event::RemovePodSandbox, pod, timeout).await
            }
            // Sent for a container that was refused, whatever was subscribed to; nothing to say about it.
            "StopContainer" => Ok(api::StopContainerResponse::default().encode_to_vec()),
            "CreateContainer" => self.create_container(decode(&method, payload)?, timeout).await,
            "StateChange" => {
                let change: api::StateChangeEvent = decode(&method, payload)?;
                match change.event() {
                    event @ (api::Event::RunPodSandbox
                    | api::Event::StopPodSandbox
                    | api::Event::RemovePodSandbox) => self.pod_event(event, change.pod, timeout).await,
                    // Not subscribed to, hence nothing to do.
                    _ => Ok(Vec::new()),
                }
            }
            _ => Err(unimplemented(&format!("method {method}"))),
        }
    }
}

/// `POSIXRlimit.type`
const MEMLOCK: &str = "RLIMIT_MEMLOCK";

fn adjust(adjustment: Adjustment) -> api::ContainerAdjustment {
    let Adjustment { env, devices, memlock, files } = adjustment;
    // The runtime allows the container's device cgroup what it makes a node for (`AdjustDevices`, NRI's runtime-tools).
    let device = |device: CharDevice| api::LinuxDevice {
        path: device.path,
        r#type: "c".to_owned(),
        major: device.major.into(),
        minor: device.minor.into(),
        file_mode: Some(api::OptionalFileMode { value: 0o666 }),
        ..Default::default()
    };
    let devices: Vec<_> = devices.into_iter().map(device).collect();
    let limit = |bytes| api::PosixRlimit { r#type: MEMLOCK.to_owned(), hard: bytes, soft: bytes };
    let mount = |(source, destination): (PathBuf, String)| api::Mount {
        destination,
        r#type: "bind".to_owned(),
        source: source.to_string_lossy().into_owned(),
        options: ["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
    };
    api::ContainerAdjustment {
        mounts: files.into_iter().map(mount).collect(),
        env: env.into_iter().map(|(key, value)| api::KeyValue { key, value }).collect(),
        linux: (!devices.is_empty()).then(|| api::LinuxContainerAdjustment { devices, ..Default::default() }),
        rlimits: memlock.map(limit).into_iter().collect(),
        ..Default::default()
    }
}

/// Why a call is answered with an error.
struct Refusal {
    message: String,
    /// Nothing failed: it takes longer than there is time.
    late: bool,
}

/// Runs the work in its own task, which goes on when the budget is over.
async fn within<T: Send + 'static>(
    budget: Duration,
    doing: String,
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, Refusal> {
    let begun = tokio::time::Instant::now();
    let mut task = tokio::spawn(work);
    if let Ok(ended) = tokio::time::timeout(budget, &mut task).await {
        let ended = ended.unwrap_or_else(|defect| {
            Err(format!("sriov-dra ran into a defect while {doing}: {}", defect_text(defect)))
        });
        return ended.map_err(|message| Refusal { message, late: false });
    }
    tracing::warn!(
        budget_ms = budget.as_millis(),
        "still {doing}; answering with an error before the runtime gives up"
    );
    let late = doing.clone();
    tokio::spawn(async move {
        let took_ms = begun.elapsed().as_millis();
        match task.await {
            Ok(Ok(_)) => {
                tracing::info!(took_ms = begun.elapsed().as_millis(), "done {late}, after the answer was due")
            }
            Ok(Err(error)) => tracing::warn!(took_ms, %error, "failed {late}, after the answer was due"),
            Err(defect) => tracing::error!(took_ms, error = %defect_text(defect), "defect while {late}"),
        }
    });
    Err(Refusal { message: format!("sriov-dra is still {doing}; the kubelet will try again"), late: true })
}

fn defect_text(defect: tokio::task::JoinError) -> String {
    match defect.try_into_panic() {
        Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "panic without a text".to_owned(),
        },
        Err(cancelled) => cancelled.to_string(),
    }
}

fn decode<M: prost::Message + Default>(method: &str, payload: bytes::Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status {
        code: code::INVALID_ARGUMENT,
        message: format!("the request of {method} can't be decoded: {error}"),
    })
}

fn invalid(method: &str, field: &str) -> Status {
    Status { code: code::INVALID_ARGUMENT, message: format!("the request of {method} has no {field}") }
}

fn unimplemented(what: &str) -> Status {
    Status { code: code::UNIMPLEMENTED, message: format!("{what} is not served by this plugin") }
}

fn failed(sentence: String) -> Status {
    Status { code: code::UNKNOWN, message: sentence }
}

impl From<api::PodSandbox> for Sandbox {
    fn from(pod: api::PodSandbox) -> Self {
        let namespaces = pod.linux.map(|linux| linux.namespaces).unwrap_or_default();
        let lists_namespaces = !namespaces.is_empty();
        let netns = namespaces
            .into_iter()
            .find(|ns| ns.r#type == "network" && !ns.path.is_empty())
            .map(|ns| ns.path.into());
        Self {
            id: pod.id,
            pod_uid: pod.uid,
            pod_name: pod.name,
            pod_namespace: pod.namespace,
            netns,
            lists_namespaces,
            pid: pod.pid,
        }
    }
}

impl From<api::Container> for Container {
    fn from(container: api::Container) -> Self {
        use api::ContainerState::{ContainerCreated, ContainerPaused, ContainerRunning};
        let live = matches!(container.state(), ContainerCreated | ContainerPaused | ContainerRunning);
        let api::Container { id, pod_sandbox_id: sandbox_id, name, env, linux, rlimits, .. } = container;
        let devices = linux.map(|linux| linux.devices).unwrap_or_default();
        let devices = devices.into_iter().filter(|device| device.r#type == "c");
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let devices = devices.map(|device| CharDevice {
            path: device.path,
            major: number(device.major),
            minor: number(device.minor),
        });
        let memlock =
            rlimits.iter().find(|limit| limit.r#type == MEMLOCK).map(|limit| limit.soft.min(limit.hard));
        Self { id, sandbox_id, name, env, live, devices: devices.collect(), memlock }
    }
}
