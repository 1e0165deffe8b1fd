//! A cluster without Kubernetes: the embedded API server, and stand-ins that do with its objects, over HTTP, what the
//! control plane and a node do.
//!
//! The agent is the real one, a process of its own behind its real sockets; netdevs, network namespaces and containers'
//! processes are the kernel's. A stand-in does what stories need and no more: `claims` the claim controller and the
//! garbage collector, `scheduler` one node's scheduler, `kubelet` its pods, `daemon` the agent's pod. Where it shows,
//! they take their time and their words from the real ones, so that a story can't tell.

mod claims;
mod daemon;
mod kubelet;
mod machine;
mod scheduler;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::PostParams;
use sriov_dra::demo::stage::Stage;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use crate::api::Api;
use crate::apply;
use crate::plane::NODE;
use daemon::Daemon;
use kubelet::Kubelet;
pub use machine::Machines;

/// Nothing changed: how long until a stand-in looks again, for what changes outside the API.
const IDLE: Duration = Duration::from_millis(100);

/// The stand-ins; they end with this value.
pub struct StandIns {
    kubelet: Arc<Kubelet>,
    daemon: Arc<Daemon>,
    stage: Arc<RwLock<Stage>>,
    _loops: JoinSet<()>,
}

impl StandIns {
    /// Starts everything below a folder, the agent included.
    ///
    /// # Errors
    /// Names what does not come up.
    pub async fn start(folder: &Path, sysfs: &Path) -> Result<(Self, Api)> {
        let binary = Path::new(env!("CARGO_BIN_EXE_sriov-dra"));
        let stage = Stage::start_as(NODE, binary, folder, sysfs).await?;
        let api = Api::of(&stage.server.kubeconfig()?).await?;
        // Of the manifests only these are for a server without admission, access control and workloads.
        for file in ["namespace.yaml", "deviceclass.yaml"] {
            for object in apply::documents("manifests", file)? {
                apply::object(&api, "", &object).await?;
            }
        }
        let client = stage.server.client()?;
        let changes = stage.server.store().changes();
        let stage = Arc::new(RwLock::new(stage));
        let kubelet = Arc::new(Kubelet::new(client.clone(), stage.clone()));
        let daemon = Arc::new(Daemon::new(client.clone()));
        let mut loops = JoinSet::new();
        for part in [
            Part::Claims(client.clone()),
            Part::Scheduler(client),
            Part::Kubelet(kubelet.clone()),
            Part::Daemon(daemon.clone(), kubelet.clone()),
        ] {
            loops.spawn(part.play(changes.clone()));
        }
        Ok((Self { kubelet, daemon, stage, _loops: loops }, api))
    }

    /// What runs on the node.
    pub fn machines(&self) -> Arc<Machines> {
        self.kubelet.machines()
    }

    /// Folders below which a claim may leave something.
    pub fn traces(folder: &Path) -> Vec<PathBuf> {
        ["kubelet/plugins/sriov-dra.io", "run", "cdi"].map(|name| folder.join(name)).into()
    }

    /// For clients.
    pub fn kubeconfig(folder: &Path) -> PathBuf {
        folder.join("kubeconfig")
    }

    /// Ends the kubelet; pods go on.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stop_kubelet(&self) -> Result<()> {
        self.kubelet.stop().await
    }

    /// Starts the kubelet again.
    ///
    /// # Errors
    /// When the agent's sockets are not there.
    pub async fn start_kubelet(&self) -> Result<()> {
        self.kubelet.start().await
    }

    /// Whether there shall be an agent on the node.
    pub fn want_agent(&self, wanted: bool) {
        self.daemon.want(wanted);
    }

    /// That the agent runs.
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn check(&self) -> Result<()> {
        self.stage.write().await.check()
    }
}

/// Somebody of a cluster.
enum Part {
    Claims(Client),
    Scheduler(Client),
    Kubelet(Arc<Kubelet>),
    Daemon(Arc<Daemon>, Arc<Kubelet>),
}

impl Part {
    /// Looks at every change in the API, and now and then without one.
    async fn play(self, mut changes: tokio::sync::watch::Receiver<u64>) {
        let mut said = String::new();
        loop {
            changes.mark_unchanged();
            let (name, done) = match &self {
                Self::Claims(client) => ("claim controller", claims::sync(client).await),
                Self::Scheduler(client) => ("scheduler", scheduler::sync(client).await),
                Self::Kubelet(kubelet) => ("kubelet", kubelet.sync().await),
                Self::Daemon(daemon, kubelet) => ("DaemonSet", daemon.sync(kubelet).await),
            };
            if let Err(error) = done
                && !is_a_race(&error)
            {
                let error = format!("{error:#}");
                if error != said {
                    println!("    stand-in for the {name}: {error}");
                }
                said = error;
            }
            // Either is a reason to look.
            let _ = tokio::time::timeout(IDLE, changes.changed()).await;
        }
    }
}

/// Somebody else was faster; the next look sees what is so now.
fn is_a_race(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(kube::Error::Api(status)) if [404, 409].contains(&status.code))
    })
}

/// An event of a pod, as its owner reads it.
async fn event(client: &Client, component: &str, pod: &Pod, reason: &str, message: &str) -> Result<()> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    let event = Event {
        metadata: ObjectMeta { generate_name: Some(format!("{name}.")), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name),
            namespace: Some(namespace.clone()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        type_: Some("Warning".to_owned()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let events: kube::Api<Event> = kube::Api::namespaced(client.clone(), &namespace);
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}

/// Whether nothing of a pod will run any more.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}
