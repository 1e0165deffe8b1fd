//! A runtime's side of NRI, over a real socket: takes plugins in, configures and synchronizes them, sends events in
//! either form, and cuts off a plugin that answers too late, as containerd does. For tests and for nodes without a
//! runtime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio::sync::mpsc;

use super::Adjustment;
use super::link::{Answers, CallError, Link, Peer, Question};
use super::mux;
use super::proto::api;
use super::proto::google::rpc::Status;
use super::session::{PLUGIN_SERVICE, RUNTIME_SERVICE};
use super::ttrpc::code;
use crate::device::CharDevice;

/// How events without an answer of their own arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// NRI up to 0.11: one `StateChange` for all.
    StateChange,
    /// NRI 0.12: a method per event, `StateChange` where that is unimplemented.
    Dedicated,
}

/// What this runtime is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Form of events.
    pub events: Events,
    /// How long a plugin may take to answer; given in Configure.
    pub request_timeout: Duration,
    /// Configure is sent, and answered, before RegisterPlugin is.
    pub configure_first: bool,
    /// Pods and containers in one part of Synchronize; more make several parts.
    pub part: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            events: Events::StateChange,
            request_timeout: Duration::from_secs(2),
            configure_first: false,
            part: usize::MAX,
        }
    }
}

/// A runtime that waits for plugins.
#[derive(Debug)]
pub struct FakeRuntime {
    listener: UnixListener,
    options: Options,
}

/// A plugin that is registered.
#[derive(Debug)]
pub struct Registered {
    /// As it introduced itself.
    pub name: String,
    /// As it introduced itself.
    pub index: String,
    /// Events it subscribed to, bit `event - 1`.
    pub mask: i32,
    options: Options,
    peer: Arc<Peer>,
    /// Gone after a request that was not answered in time.
    link: Mutex<Option<Link>>,
}

/// Why a request to a plugin had no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The plugin answered with an error: the pod or container fails and is tried again.
    Refused {
        /// gRPC code.
        code: i32,
        /// The plugin's sentence.
        message: String,
    },
    /// No answer in time: the plugin was cut off, and the pod goes on without it.
    TimedOut,
    /// The plugin is not there.
    Gone,
    /// The answer can't be decoded.
    Garbled(String),
}

impl FakeRuntime {
    /// Listens on `socket`, over a stale one if need be.
    ///
    /// # Errors
    /// The directory or the socket can't be made.
    pub fn listen(socket: &Path, options: Options) -> anyhow::Result<Self> {
        if let Some(dir) = socket.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("directory {}", dir.display()))?;
        }
        let _ = std::fs::remove_file(socket);
        let listener =
            UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
        Ok(Self { listener, options })
    }

    /// Takes the next plugin in: RegisterPlugin, Configure, Synchronize.
    ///
    /// # Errors
    /// It did not do its part of the handshake.
    pub async fn accept(
        &self,
        pods: Vec<api::PodSandbox>,
        containers: Vec<api::Container>,
    ) -> anyhow::Result<Registered> {
        let options = self.options.clone();
        let (stream, _) = self.listener.accept().await.context("accept")?;
        let (tell, mut registrations) = mpsc::channel(1);
        let (allow, allowed) = tokio::sync::watch::channel(!options.configure_first);
        let link = Link::start(stream, mux::RUNTIME, Arc::new(RuntimeService { tell, allowed }));
        let peer = Arc::clone(&link.peer);
        let patience = Duration::from_secs(5);
        let registration = tokio::time::timeout(patience, registrations.recv())
            .await
            .context("no RegisterPlugin within 5 s")?
            .context("the plugin closed the connection before RegisterPlugin")?;
        let mut registered = Registered {
            name: registration.plugin_name,
            index: registration.plugin_idx,
            mask: 0,
            options,
            peer,
            link: Mutex::new(Some(link)),
        };
        registered.configure().await?;
        let _ = allow.send(true);
        registered.synchronize(pods, containers).await?;
        Ok(registered)
    }
}

impl Registered {
    async fn configure(&mut self) -> anyhow::Result<()> {
        let millis = i64::try_from(self.options.request_timeout.as_millis()).unwrap_or(i64::MAX);
        let request = api::ConfigureRequest {
            runtime_name: "fake".to_owned(),
            runtime_version: "1.0".to_owned(),
            registration_timeout: 5000,
            request_timeout: millis,
            ..Default::default()
        };
        let reply: api::ConfigureResponse =
            self.request("Configure", &request).await.map_err(|f| anyhow::anyhow!("Configure: {f:?}"))?;
        self.mask = reply.events;
        Ok(())
    }

    /// Lists everything, as after a registration.
    ///
    /// # Errors
    /// The plugin failed, or wants containers changed.
    pub async fn synchronize(
        &self,
        mut pods: Vec<api::PodSandbox>,
        mut containers: Vec<api::Container>,
    ) -> anyhow::Result<()> {
        loop {
            let rest_pods = pods.split_off(self.options.part.min(pods.len()));
            let rest_containers = containers.split_off(self.options.part.min(containers.len()));
            let more = !rest_pods.is_empty() || !rest_containers.is_empty();
            let request = api::SynchronizeRequest { pods, containers, more };
            let reply: api::SynchronizeResponse = self
                .request("Synchronize", &request)
                .await
                .map_err(|f| anyhow::anyhow!("Synchronize: {f:?}"))?;
            ensure!(reply.update.is_empty(), "the plugin wants containers updated");
            ensure!(reply.more == more, "the plugin answered more={} to more={more}", reply.more);
            if !more {
                return Ok(());
            }
            (pods, containers) = (rest_pods, rest_containers);
        }
    }

    /// RunPodSandbox.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run_pod_sandbox(&self, pod: &api::PodSandbox) -> Result<(), Failure> {
        self.event(api::Event::RunPodSandbox, "RunPodSandbox", pod).await
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn stop_pod_sandbox(&self, pod: &api::PodSandbox) -> Result<(), Failure> {
        self.event(api::Event::StopPodSandbox, "StopPodSandbox", pod).await
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn remove_pod_sandbox(&self, pod: &api::PodSandbox) -> Result<(), Failure> {
        self.event(api::Event::RemovePodSandbox, "RemovePodSandbox", pod).await
    }

    /// CreateContainer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn create_container(
        &self,
        pod: &api::PodSandbox,
        container: &api::Container,
    ) -> Result<Adjustment, Failure> {
        let request =
            api::CreateContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        let reply: api::CreateContainerResponse = self.request("CreateContainer", &request).await?;
        let adjust = reply.adjust.unwrap_or_default();
        let is_read_only =
            |mount: &api::Mount| mount.r#type == "bind" && mount.options.iter().any(|option| option == "ro");
        let read_only = adjust.mounts.into_iter().filter(is_read_only);
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let devices = adjust.linux.unwrap_or_default().devices.into_iter().map(|device| CharDevice {
            path: device.path,
            major: number(device.major),
            minor: number(device.minor),
        });
        Ok(Adjustment {
            env: adjust.env.into_iter().map(|kv| (kv.key, kv.value)).collect(),
            devices: devices.collect(),
            memlock: adjust.rlimits.first().map(|limit| limit.hard),
            files: read_only.map(|mount| (mount.source.into(), mount.destination)).collect(),
        })
    }

    async fn event(&self, event: api::Event, method: &str, pod: &api::PodSandbox) -> Result<(), Failure> {
        if self.mask & (1 << (event as i32 - 1)) == 0 {
            return Ok(());
        }
        if self.options.events == Events::Dedicated {
            // Run-, Stop- and RemovePodSandboxRequest have one shape.
            let request = api::RunPodSandboxRequest { pod: Some(pod.clone()) };
            match self.request::<api::Empty>(method, &request).await {
                Err(Failure::Refused { code: code::UNIMPLEMENTED, .. }) => {}
                outcome => return outcome.map(|_| ()),
            }
        }
        let mut change = api::StateChangeEvent { pod: Some(pod.clone()), ..Default::default() };
        change.set_event(event);
        self.request::<api::Empty>("StateChange", &change).await.map(|_| ())
    }

    async fn request<R: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<R, Failure> {
        let reply = self.call(PLUGIN_SERVICE, method, request.encode_to_vec()).await?;
        R::decode(reply.as_slice()).map_err(|e| Failure::Garbled(e.to_string()))
    }

    /// Any method of any service, any payload.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call(&self, service: &str, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        match self.peer.call(service, method, payload, self.options.request_timeout).await {
            Ok(reply) => Ok(reply.to_vec()),
            Err(CallError::Status(Status { code, message })) => Err(Failure::Refused { code, message }),
            Err(CallError::Closed) => Err(Failure::Gone),
            Err(CallError::Timeout) => {
                self.link.lock().await.take();
                Err(Failure::TimedOut)
            }
        }
    }

    /// Returns when the plugin has closed the connection.
    pub async fn closed(&self) {
        self.peer.closed().await;
    }
}

#[derive(Debug)]
struct RuntimeService {
    tell: mpsc::Sender<api::RegisterPluginRequest>,
    /// RegisterPlugin may be answered.
    allowed: tokio::sync::watch::Receiver<bool>,
}

impl Answers for RuntimeService {
    async fn answer(self: Arc<Self>, question: Question) -> Result<Vec<u8>, Status> {
        if question.service != RUNTIME_SERVICE || question.method != "RegisterPlugin" {
            let message = format!("{}/{} is not implemented", question.service, question.method);
            return Err(Status { code: code::UNIMPLEMENTED, message });
        }
        let request = api::RegisterPluginRequest::decode(question.payload)
            .map_err(|e| Status { code: code::INVALID_ARGUMENT, message: e.to_string() })?;
        let gone = |_| Status { code: code::UNKNOWN, message: "this runtime is gone".to_owned() };
        self.tell.send(request).await.map_err(|_| gone(()))?;
        self.allowed.clone().wait_for(|allowed| *allowed).await.map_err(|_| gone(()))?;
        Ok(Vec::new())
    }
}
