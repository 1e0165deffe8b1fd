//! The gRPC services, thin: wire messages to claims and back. v1 and v1beta1 differ in the share ID only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait};

use super::flight::{Flights, Operation, Outcome};
use super::plugin::Registration;
use super::proto::registration::registration_server::Registration as RegistrationRpc;
use super::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use super::proto::{v1, v1beta1};
use super::{ClaimRef, ClaimService};

/// What `GetInfo` says is served, best first; not the names of the gRPC services.
const VERSIONS: [&str; 2] = ["v1.DRAPlugin", "v1beta1.DRAPlugin"];

/// Both versions of the DRA service.
#[derive(Debug)]
pub(super) struct DraService<S> {
    flights: Arc<Flights<S>>,
}

impl<S> Clone for DraService<S> {
    fn clone(&self) -> Self {
        Self { flights: Arc::clone(&self.flights) }
    }
}

impl<S: ClaimService> DraService<S> {
    pub(super) fn new(flights: Arc<Flights<S>>) -> Self {
        Self { flights }
    }

    /// All claims at once; one entry for every UID of the request.
    async fn call(&self, operation: Operation, claims: Vec<ClaimRef>) -> HashMap<String, Outcome> {
        let mut entries = HashMap::new();
        let mut wanted: BTreeMap<String, ClaimRef> = BTreeMap::new();
        for claim in claims {
            if let Err(sentence) = complete(&claim) {
                entries.insert(claim.uid, Err(sentence));
            } else if let Some(other) = wanted.get(&claim.uid).filter(|other| **other != claim) {
                let sentence = format!(
                    "claim UID {} is named twice, as {}/{} and as {}/{}: a UID belongs to one claim",
                    claim.uid, other.namespace, other.name, claim.namespace, claim.name
                );
                entries.insert(claim.uid, Err(sentence));
            } else {
                wanted.insert(claim.uid.clone(), claim);
            }
        }
        wanted.retain(|uid, _| !entries.contains_key(uid));
        // Every task is started before the first is waited for.
        let pending: Vec<_> =
            wanted.into_iter().map(|(uid, claim)| (uid, self.flights.start(operation, claim))).collect();
        for (uid, work) in pending {
            let outcome = work.wait().await;
            if let Err(sentence) = &outcome {
                tracing::warn!(claim = %uid, ?operation, error = %sentence, "claim failed");
            }
            entries.insert(uid, outcome);
        }
        entries
    }
}

fn complete(claim: &ClaimRef) -> Result<(), String> {
    let ClaimRef { uid, namespace, name } = claim;
    let missing =
        [("uid", uid), ("namespace", namespace), ("name", name)].into_iter().find(|(_, v)| v.is_empty());
    match missing {
        None => Ok(()),
        Some((field, _)) => Err(format!(
            "the request names claim \"{namespace}/{name}\" with UID \"{uid}\", and its {field} is empty: UID, \
             namespace and name are all needed"
        )),
    }
}

/// `main` of `main/sub`: containers refer to requests by that.
fn top_level(request: String) -> String {
    match request.split_once('/') {
        Some((top, _)) => top.to_owned(),
        None => request,
    }
}

macro_rules! serve_version {
    ($version:ident, |$device:ident| { $($field:ident: $value:expr),* }) => {
        #[async_trait]
        impl<S: ClaimService> $version::dra_plugin_server::DraPlugin for DraService<S> {
            async fn node_prepare_resources(
                &self,
                request: Request<$version::NodePrepareResourcesRequest>,
            ) -> Result<Response<$version::NodePrepareResourcesResponse>, Status> {
                let claims = request.into_inner().claims.into_iter().map(ClaimRef::from).collect();
                let entry = |outcome: Outcome| match outcome {
                    Err(error) => $version::NodePrepareResourceResponse { devices: Vec::new(), error },
                    Ok(devices) => $version::NodePrepareResourceResponse {
                        devices: Vec::from_iter(devices.into_iter().map(|$device| $version::Device {
                            request_names: vec![top_level($device.request)],
                            pool_name: $device.pool,
                            device_name: $device.device,
                            cdi_device_ids: $device.cdi_ids,
                            $($field: $value,)*
                        })),
                        error: String::new(),
                    },
                };
                let outcomes = self.call(Operation::Prepare, claims).await;
                let claims = outcomes.into_iter().map(|(uid, outcome)| (uid, entry(outcome))).collect();
                Ok(Response::new($version::NodePrepareResourcesResponse { claims }))
            }

            async fn node_unprepare_resources(
                &self,
                request: Request<$version::NodeUnprepareResourcesRequest>,
            ) -> Result<Response<$version::NodeUnprepareResourcesResponse>, Status> {
                let claims = request.into_inner().claims.into_iter().map(ClaimRef::from).collect();
                let entry = |outcome: Outcome| $version::NodeUnprepareResourceResponse {
                    error: outcome.err().unwrap_or_default(),
                };
                let outcomes = self.call(Operation::Unprepare, claims).await;
                let claims = outcomes.into_iter().map(|(uid, outcome)| (uid, entry(outcome))).collect();
                Ok(Response::new($version::NodeUnprepareResourcesResponse { claims }))
            }
        }

        impl From<$version::Claim> for ClaimRef {
            fn from(claim: $version::Claim) -> Self {
                let $version::Claim { namespace, uid, name } = claim;
                Self { uid, namespace, name }
            }
        }
    };
}

serve_version!(v1, |device| { share_id: device.share_id });
serve_version!(v1beta1, |device| {});

/// Answers the kubelet's plugin watcher.
#[derive(Debug, Clone)]
pub(super) struct RegistrationService {
    pub(super) driver: String,
    /// Absolute path of the DRA socket.
    pub(super) endpoint: String,
    pub(super) state: Arc<watch::Sender<Registration>>,
}

#[async_trait]
impl RegistrationRpc for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "DRAPlugin".to_owned(),
            name: self.driver.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!(driver = %self.driver, "registered with the kubelet");
            self.state.send_replace(Registration::Registered);
        } else {
            tracing::error!(driver = %self.driver, %error, "the kubelet refused the registration");
            self.state.send_replace(Registration::Refused(error));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
