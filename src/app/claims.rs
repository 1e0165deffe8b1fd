//! The kubelet's calls, answered: fetch the claim, compile it, hand it to the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use crate::attach::Attacher;
use crate::attach::nri::Connection;
use crate::claim::{self, ClaimId, ClaimSpec, PodRef};
use crate::kubelet::{ClaimRef, ClaimService, PreparedDevice};
use crate::prepare::PrepareError;
use crate::prepare::cdi;
use crate::prepare::engine::Engine;
use crate::prepare::records::Entry;

/// The kubelet gives up after 45 s and comes back a minute later: answer before that.
const BUDGET: Duration = Duration::from_secs(40);
/// A Prepare waits no longer for anybody: after that a VF has 5 s to come back from where it was, and what was done has 5 s
/// to be undone (`prepare::engine`).
const WAITS: Duration = Duration::from_secs(32);
/// How long an API server that does not answer is asked again.
const FETCH_BUDGET: Duration = Duration::from_secs(20);
/// One request to the API server.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a Prepare waits for a VF of another claim before the API server is asked whether that claim lives.
const HOLDER_BUDGET: Duration = Duration::from_secs(5);
/// Prepares at work at a time. Those that wait for VFs must not take every thread from those that give VFs back.
pub const PREPARES: usize = 16;

/// Prepares and unprepares claims.
#[derive(Clone)]
pub struct Claims {
    /// Whether the runtime calls when a pod starts; none where it never does.
    pub runtime: Option<watch::Receiver<Connection>>,
    /// [`PREPARES`]
    pub prepares: Arc<Semaphore>,
    /// The API server.
    pub client: kube::Client,
    /// Plans and the ledger.
    pub engine: Arc<Engine>,
    /// Returns VFs.
    pub attacher: Arc<Attacher>,
    /// Node name, and so the pool's.
    pub node: String,
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims").field("node", &self.node).finish_non_exhaustive()
    }
}

/// UIDs become file names; whoever calls must not choose the folder.
fn check_uid(uid: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if uid.is_empty() || uid.len() > 128 || uid.starts_with('.') || !uid.bytes().all(fine) {
        return Err(format!("claim UID {uid:?} is not a UID: letters, digits and dashes are expected"));
    }
    Ok(())
}

impl ClaimService for Claims {
    async fn prepare(&self, claim: ClaimRef) -> Result<Vec<PreparedDevice>, String> {
        let started = Instant::now();
        let name = format!("{}/{}", claim.namespace, claim.name);
        let prepared = self.prepare_inner(&claim, started + WAITS).await;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &prepared {
            Ok(devices) => {
                tracing::info!(claim = %name, uid = %claim.uid, devices = devices.len(), took_ms, "prepared")
            }
            Err(error) => {
                tracing::warn!(claim = %name, uid = %claim.uid, error = %error, took_ms, "not prepared")
            }
        }
        prepared
    }

    async fn unprepare(&self, claim: ClaimRef) -> Result<(), String> {
        self.unprepare_by(claim, Instant::now() + BUDGET).await
    }
}

impl Claims {
    async fn unprepare_by(&self, claim: ClaimRef, deadline: Instant) -> Result<(), String> {
        let started = Instant::now();
        check_uid(&claim.uid)?;
        let (engine, attacher) = (self.engine.clone(), self.attacher.clone());
        let id = ClaimId { uid: claim.uid, namespace: claim.namespace, name: claim.name };
        let done = spawn_blocking({
            let id = id.clone();
            move || {
                attacher.release(&id.uid, deadline).map_err(|error| error.sentence())?;
                engine.unprepare(&id, deadline).map_err(|error| error.sentence())
            }
        });
        let done = done.await.map_err(|error| format!("unprepare was cut off: {error}"))?;
        let name = format!("{}/{}", id.namespace, id.name);
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &done {
            Ok(()) => tracing::info!(claim = %name, uid = %id.uid, took_ms, "unprepared"),
            Err(error) => {
                tracing::warn!(claim = %name, uid = %id.uid, error = %error, took_ms, "not unprepared")
            }
        }
        done
    }

    async fn prepare_inner(
        &self,
        claim: &ClaimRef,
        deadline: Instant,
    ) -> Result<Vec<PreparedDevice>, String> {
        check_uid(&claim.uid)?;
        let object = self.fetch(claim).await?;
        let held_by = {
            let (engine, uid) = (self.engine.clone(), claim.uid.clone());
            let entry = spawn_blocking(move || engine.site.ledger.entry(&uid)).await;
            let entry = entry.map_err(|error| error.to_string())?.map_err(|error| error.sentence())?;
            entry.and_then(|entry| entry.pod)
        };
        let held_uid = held_by.as_ref().map(|pod| pod.uid.as_str());
        let spec = claim::compile(&object, &self.engine.site.driver, &self.node, &claim.uid, held_uid)
            .map_err(|error| error.to_string())?;
        let connected = |runtime: &watch::Receiver<Connection>| {
            matches!(&*runtime.borrow(), Connection::Connected { .. })
        };
        if self.runtime.as_ref().is_some_and(|runtime| !connected(runtime)) {
            tracing::warn!(
                claim = %format!("{}/{}", claim.namespace, claim.name),
                "the container runtime is not connected over NRI: the pod gets its VFs from the hook, before its first container"
            );
        }
        if let (None, Some(pod)) = (&self.runtime, &spec.pod) {
            let pod = self.fetch_pod(&claim.namespace, pod).await?;
            spec.check_by_hook(&pod).map_err(|error| error.to_string())?;
        }
        let _turn = self.prepares.acquire().await.map_err(|error| error.to_string())?;
        let held = held_by.map(|pod| pod.uid);
        let first = deadline.min(Instant::now() + HOLDER_BUDGET);
        let entry = match self.on_thread(&spec, &held, first).await? {
            Err(PrepareFailure::Held { holder, .. }) => {
                self.make_room(holder, deadline).await?;
                self.on_thread(&spec, &held, deadline).await?
            }
            done => done,
        };
        let entry = entry.map_err(PrepareFailure::sentence)?;
        Ok(devices(&self.engine.site.driver, &entry))
    }

    async fn on_thread(
        &self,
        spec: &ClaimSpec,
        held_by: &Option<String>,
        deadline: Instant,
    ) -> Result<Result<Entry, PrepareFailure>, String> {
        let (engine, attacher) = (self.engine.clone(), self.attacher.clone());
        let (spec, held_by) = (spec.clone(), held_by.clone());
        let done = spawn_blocking(move || prepare(&engine, &attacher, &spec, held_by, deadline));
        done.await.map_err(|error| format!("prepare was cut off: {error}"))
    }

    /// Unprepares a claim that holds a VF another claim waits for: one that is over, and only where nobody can be using
    /// the VF. A pod that was deleted by force may still run (decision 0005).
    pub(super) async fn make_room(&self, holder: ClaimId, deadline: Instant) -> Result<(), String> {
        if self.is_over(&holder).await != Some(true) || !self.nobody_lives(&holder.uid).await {
            return Ok(());
        }
        tracing::warn!(claim = %holder.name, uid = %holder.uid, "a claim that is no more still holds a VF; it is unprepared");
        let ClaimId { uid, namespace, name } = holder;
        self.unprepare_by(ClaimRef { uid, namespace, name }, deadline).await
    }

    /// No process is where the claim's VFs are, or has one open. `false` too when it can't be told.
    pub(super) async fn nobody_lives(&self, claim_uid: &str) -> bool {
        let (attacher, uid) = (self.attacher.clone(), claim_uid.to_owned());
        matches!(spawn_blocking(move || attacher.is_used(&uid)).await, Ok(Ok(false)))
    }

    /// Whether a claim is gone, or has nothing allocated on this node any more. `None`: the API server does not say.
    pub(super) async fn is_over(&self, claim: &ClaimId) -> Option<bool> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let object = tokio::time::timeout(FETCH_TIMEOUT, api.get_opt(&claim.name)).await.ok()?.ok()?;
        Some(object.is_none_or(|object| {
            object.metadata.uid.as_deref() != Some(claim.uid.as_str()) || !self.has_devices_here(object)
        }))
    }

    /// A claim that people made outlives its pods, and may have moved to another node.
    fn has_devices_here(&self, claim: ResourceClaim) -> bool {
        let allocation = claim.status.and_then(|status| status.allocation);
        let results = allocation.and_then(|allocation| allocation.devices?.results).unwrap_or_default();
        let driver = &self.engine.site.driver;
        results.iter().any(|result| result.driver == *driver && result.pool == self.node)
    }

    /// Reads the claim; an API server that is away is asked again, a claim that is not there is an answer.
    async fn fetch(&self, claim: &ClaimRef) -> Result<ResourceClaim, String> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        read_until_told(&api, "ResourceClaim", &claim.namespace, &claim.name).await
    }

    /// Only where the hook alone attaches: over NRI the runtime tells what is to be known of a pod.
    async fn fetch_pod(&self, namespace: &str, pod: &PodRef) -> Result<Pod, String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let object = read_until_told(&api, "Pod", namespace, &pod.name).await?;
        match object.metadata.uid.as_deref() {
            Some(uid) if uid == pod.uid => Ok(object),
            other => Err(format!(
                "Pod {namespace}/{}: its UID is {}, but its claim is reserved for UID {}: it was deleted and created again",
                pod.name,
                other.unwrap_or("none"),
                pod.uid
            )),
        }
    }
}

/// One object, asked for until the API server answers or the budget is used up.
async fn read_until_told<K>(api: &Api<K>, kind: &str, namespace: &str, name: &str) -> Result<K, String>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let shown = format!("{kind} {namespace}/{name}");
    let until = Instant::now() + FETCH_BUDGET;
    let mut pause = Duration::from_millis(200);
    loop {
        let error = match tokio::time::timeout(FETCH_TIMEOUT, api.get_opt(name)).await {
            Ok(Ok(Some(object))) => return Ok(object),
            Ok(Ok(None)) => return Err(format!("{shown} does not exist")),
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                return Err(format!("{shown} can't be read: {}", status.message));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", FETCH_TIMEOUT.as_secs()),
        };
        if Instant::now() + pause >= until {
            return Err(format!("{shown} can't be read from the API server: {error}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Why a claim is not prepared, as far as it matters what to do about it.
enum PrepareFailure {
    Held { holder: ClaimId, sentence: String },
    Other(String),
}

impl PrepareFailure {
    fn sentence(self) -> String {
        match self {
            Self::Held { sentence, .. } | Self::Other(sentence) => sentence,
        }
    }
}

fn prepare(
    engine: &Engine,
    attacher: &Attacher,
    spec: &ClaimSpec,
    held_by: Option<String>,
    deadline: Instant,
) -> Result<Entry, PrepareFailure> {
    if let Some(pod) = spec.pod.as_ref().filter(|pod| held_by.is_some_and(|held| held != pod.uid)) {
        let handed = attacher.hand_over(&spec.id.uid, pod, deadline);
        handed.map_err(|error| PrepareFailure::Other(error.sentence()))?;
    }
    engine.prepare(spec, deadline).map_err(|error| match error {
        PrepareError::Held { ref holder, .. } => {
            PrepareFailure::Held { holder: holder.clone(), sentence: error.sentence() }
        }
        other => PrepareFailure::Other(other.sentence()),
    })
}

/// One CDI device stands for all results of a request; it goes with the first of them, so that it is injected once.
fn devices(driver: &str, entry: &Entry) -> Vec<PreparedDevice> {
    let mut named = BTreeSet::new();
    let devices = entry.vfs.iter().map(|vf| {
        let request = vf.top_level_request().to_owned();
        let first = named.insert(request.clone());
        let cdi_ids =
            if first { vec![cdi::qualified_name(driver, &entry.claim.uid, &request)] } else { Vec::new() };
        PreparedDevice {
            request,
            pool: vf.pool.clone(),
            device: vf.device.clone(),
            cdi_ids,
            share_id: vf.share_id.clone(),
        }
    });
    devices.collect()
}

#[cfg(test)]
#[path = "tests/claims.rs"]
mod tests;
