//! What a pod asks for that can't be had where the hook alone attaches.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{ClaimSpec, RdmaMode, ResultSpec};

/// Why a claim is refused with `--attach=hook`, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByHookError {
    /// Interface names are told to containers before anybody knows them.
    #[error(
        "Pod {pod}: hostNetwork is true, and this node's agent runs with --attach=hook, which can't tell containers the host's \
         names of their VFs; give the pod a network of its own, or attach over NRI (ResourceClaim {claim})"
    )]
    HostNetwork {
        /// `namespace/name`
        pod: String,
        /// `namespace/name`
        claim: String,
    },
    /// An RDMA device is in the pod before its containers are made.
    #[error(
        "ResourceClaim {claim}: rdma.mode namespace needs NRI, and this node's agent runs with --attach=hook, which can't move RDMA \
         devices; set rdma.mode to auto or none, or attach over NRI"
    )]
    Rdma {
        /// `namespace/name`
        claim: String,
    },
    /// The hook runs when a container that lists the claim starts.
    #[error(
        "Pod {pod}: no container lists {entry} under resources.claims, and this node's agent runs with --attach=hook, which \
         attaches VFs when such a container starts; list it in one, or attach over NRI (ResourceClaim {claim})"
    )]
    NotListed {
        /// `namespace/name`
        pod: String,
        /// `namespace/name`
        claim: String,
        /// The claim as the pod calls it.
        entry: String,
    },
}

impl ClaimSpec {
    /// Whether the pod can have the claim's VFs from the hook alone.
    ///
    /// # Errors
    /// When it can't. Claims that are only watched (admin access) are never refused: nothing is attached.
    pub fn check_by_hook(&self, pod: &Pod) -> Result<(), ByHookError> {
        if self.results.iter().all(|result| result.admin_access) {
            return Ok(());
        }
        let shown = || format!("{}/{}", self.id.namespace, pod.metadata.name.as_deref().unwrap_or("?"));
        let claim = || format!("{}/{}", self.id.namespace, self.id.name);
        let moves = |result: &ResultSpec| !result.admin_access && result.rdma.mode == RdmaMode::Namespace;
        if self.results.iter().any(moves) {
            return Err(ByHookError::Rdma { claim: claim() });
        }
        let Some(spec) = &pod.spec else { return Ok(()) };
        if spec.host_network == Some(true) {
            return Err(ByHookError::HostNetwork { pod: shown(), claim: claim() });
        }
        let status = pod.status.as_ref();
        // Made by the scheduler from extended resources: the kubelet gives it to the containers that asked for those.
        let extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
        if extended.is_some_and(|extended| extended.resource_claim_name == self.id.name) {
            return Ok(());
        }
        let made = status.and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
        let made_for = |entry: &str| {
            made.iter()
                .any(|m| m.name == entry && m.resource_claim_name.as_deref() == Some(self.id.name.as_str()))
        };
        let entries = spec.resource_claims.as_deref().unwrap_or_default();
        let named: Vec<&str> = entries
            .iter()
            .filter(|entry| {
                entry.resource_claim_name.as_deref() == Some(self.id.name.as_str()) || made_for(&entry.name)
            })
            .map(|entry| entry.name.as_str())
            .collect();
        let lists = |container: &Container| {
            let claims = container.resources.as_ref().and_then(|resources| resources.claims.as_deref());
            claims.unwrap_or_default().iter().any(|listed| named.contains(&listed.name.as_str()))
        };
        if spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(lists) {
            return Ok(());
        }
        let entry = named.first().map_or_else(|| self.pod_claim_name.clone(), |&name| name.to_owned());
        Err(ByHookError::NotListed { pod: shown(), claim: claim(), entry })
    }
}
