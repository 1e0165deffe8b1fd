//! The runtime's events, answered by the attacher on threads that may block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use tokio::task::spawn_blocking;

use crate::attach::nri::{Adjustment, Container, PodEvents, Sandbox};
use crate::attach::{AttachError, Attacher, names_a_claim};
use crate::claim::PodRef;
use crate::host::limits::memlock_room;

/// The runtime has its answer long before (the wire sees to that); this is when the task itself gives up.
const BUDGET: Duration = Duration::from_secs(30);
/// One look at the API server, only where a claim changes hands.
const FETCH_TIMEOUT: Duration = Duration::from_millis(800);

/// Attaches and returns VFs as pods come and go.
#[derive(Clone)]
pub struct Pods {
    /// The API server.
    pub client: kube::Client,
    /// Moves VFs.
    pub attacher: Arc<Attacher>,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").finish_non_exhaustive()
    }
}

impl Pods {
    /// A look at two files, on the spot: most pods have no VF, and must not wait for a thread behind those that do.
    fn has_claims(&self, sandbox: &Sandbox) -> bool {
        let ledger = &self.attacher.site.ledger;
        let claims = ledger.claims_of_pod(&sandbox.pod_uid).map_or(true, |claims| !claims.is_empty());
        claims || ledger.current_sandbox(&sandbox.pod_uid).map_or(true, |note| note.is_some())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        sandbox: &Sandbox,
        work: impl FnOnce(&Attacher, Instant) -> Result<T, AttachError> + Send + 'static,
    ) -> Result<T, String> {
        let attacher = self.attacher.clone();
        let done = spawn_blocking(move || {
            work(&attacher, Instant::now() + BUDGET).map_err(|error| error.sentence())
        });
        let done = done.await.unwrap_or_else(|error| Err(format!("{what} was cut off: {error}")));
        if let Err(error) = &done {
            let pod = format!("{}/{}", sandbox.pod_namespace, sandbox.pod_name);
            tracing::warn!(%pod, sandbox = %sandbox.id, error = %error, "{what} failed");
        }
        done
    }

    /// A container names a claim of another pod: that pod may be over, and this one in line. Only the API server knows
    /// whether it is; anybody can write an environment variable.
    async fn take_over(&self, sandbox: &Sandbox, container: &Container) -> Result<(), String> {
        let foreign = {
            let (sandbox, container) = (sandbox.clone(), container.clone());
            self.blocking("CreateContainer", &sandbox.clone(), move |attacher, _| {
                attacher.foreign_claims(&sandbox, &container)
            })
            .await?
        };
        for foreign in foreign {
            let name = format!("{}/{}", foreign.claim.namespace, foreign.claim.name);
            let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &foreign.claim.namespace);
            let object = tokio::time::timeout(FETCH_TIMEOUT, api.get(&foreign.claim.name)).await;
            let object = match object {
                Ok(Ok(object)) => object,
                Ok(Err(error)) => {
                    return Err(format!(
                        "claim {name} belongs to pod {}, and whether this pod may have it can't be asked: {error}",
                        foreign.holder.name
                    ));
                }
                Err(_) => {
                    return Err(format!(
                        "claim {name} belongs to pod {}, and the API server does not say in time whether this pod may have it",
                        foreign.holder.name
                    ));
                }
            };
            let reserved = object.status.and_then(|status| status.reserved_for).unwrap_or_default();
            let ours = object.metadata.uid.as_deref() == Some(foreign.claim.uid.as_str())
                && reserved
                    .iter()
                    .any(|consumer| consumer.resource == "pods" && consumer.uid == sandbox.pod_uid);
            if !ours {
                // create_container refuses it with its own sentence.
                continue;
            }
            let to = PodRef { uid: sandbox.pod_uid.clone(), name: sandbox.pod_name.clone() };
            let uid = foreign.claim.uid.clone();
            self.blocking("hand-over", sandbox, move |attacher, deadline| {
                attacher.hand_over(&uid, &to, deadline)
            })
            .await?;
        }
        Ok(())
    }
}

impl PodEvents for Pods {
    fn connected(&self, pid: Option<i32>) {
        let room = pid.map(memlock_room).and_then(|room| {
            room.inspect_err(|error| {
                tracing::warn!(error = %error.sentence(), "how much memory the runtime can let containers lock is not known");
            })
            .ok()
        });
        tracing::debug!(?pid, ?room, "what the runtime can let containers lock");
        self.attacher.site.runtime.can_lock(room);
    }

    async fn run(&self, sandbox: Sandbox) -> Result<(), String> {
        if !self.has_claims(&sandbox) {
            return Ok(());
        }
        self.blocking("RunPodSandbox", &sandbox.clone(), move |attacher, deadline| {
            attacher.run(&sandbox, deadline)
        })
        .await
    }

    async fn stop(&self, sandbox: Sandbox) -> Result<(), String> {
        if !self.has_claims(&sandbox) {
            return Ok(());
        }
        self.blocking("StopPodSandbox", &sandbox.clone(), move |attacher, deadline| {
            attacher.stop(&sandbox, deadline)
        })
        .await
    }

    async fn remove(&self, sandbox: Sandbox) -> Result<(), String> {
        if !self.has_claims(&sandbox) {
            return Ok(());
        }
        self.blocking("RemovePodSandbox", &sandbox.clone(), move |attacher, deadline| {
            attacher.stop(&sandbox, deadline)
        })
        .await
    }

    async fn create_container(&self, sandbox: Sandbox, container: Container) -> Result<Adjustment, String> {
        if !names_a_claim(&container.env) {
            return Ok(Adjustment::default());
        }
        self.take_over(&sandbox, &container).await?;
        self.blocking("CreateContainer", &sandbox.clone(), move |attacher, deadline| {
            attacher.create_container(&sandbox, &container, deadline)
        })
        .await
    }

    async fn synchronize(&self, sandboxes: Vec<Sandbox>, _containers: Vec<Container>) {
        let attacher = self.attacher.clone();
        let done = spawn_blocking(move || attacher.synchronize(&sandboxes, Instant::now() + BUDGET));
        if let Err(error) = done.await {
            tracing::warn!(%error, "Synchronize was cut off");
        }
    }
}
