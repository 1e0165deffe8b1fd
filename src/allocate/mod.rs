//! Finds the devices for claims as kube-scheduler does, and says why where there are none. Pure.
//!
//! In: ResourceSlices, DeviceClasses, who holds what, the claims of one pod, a node. Out: an AllocationResult for each
//! claim ([`allocate`]), or what every selector, taint, constraint and other claim did to the devices ([`explain`]).
//! First fit, in the scheduler's order: pools by driver and name, slices by name, devices as listed. Never here: which
//! node is best, the API server.
//!
//! `pools` finds the devices, `request` reads the claims, `judge` tests devices for requests, `constraint` and `search`
//! choose, `result` writes the choice down; `check` is what the API server would refuse, `report` the explanation.

mod bounds;
mod check;
mod constraint;
mod error;
mod judge;
mod node;
mod pools;
mod problem;
mod reasons;
mod report;
mod request;
mod result;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceClass, ResourceClaim, ResourceClaimSpec, ResourceSlice,
};
use serde::Serialize;

pub use check::{Fault, check_claim, check_class};
pub use error::Refusal;
pub use node::{Node, nodes};
pub use pools::UnusablePool;
pub use report::{
    ClaimReport, ConstraintReport, Explanation, Group, RequestReport, SelectorReport, Share, explain,
};

/// A device, cluster-wide.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeviceId {
    /// `spec.driver` of its slice.
    pub driver: String,
    /// `spec.pool.name` of its slice.
    pub pool: String,
    /// Its name there.
    pub device: String,
}

impl fmt::Display for DeviceId {
    /// `pool/device`, as drivers rarely share a pool name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.device)
    }
}

/// Devices that claims hold, with the claim (`namespace/name`) or whoever else holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken(pub BTreeMap<DeviceId, String>);

impl Taken {
    /// What allocated claims hold; admin access holds nothing.
    pub fn by(claims: &[ResourceClaim]) -> Self {
        let mut taken = BTreeMap::new();
        for claim in claims {
            let devices =
                claim.status.as_ref().and_then(|status| status.allocation.as_ref()?.devices.as_ref());
            for result in devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten() {
                if result.admin_access == Some(true) {
                    continue;
                }
                let id = DeviceId {
                    driver: result.driver.clone(),
                    pool: result.pool.clone(),
                    device: result.device.clone(),
                };
                taken.insert(id, claim_name(claim));
            }
        }
        Self(taken)
    }
}

/// `namespace/name`
pub fn claim_name(claim: &ResourceClaim) -> String {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or("default");
    format!("{namespace}/{}", claim.metadata.name.as_deref().unwrap_or("(no name)"))
}

/// A claim to allocate.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// For sentences: `namespace/name`.
    pub name: &'a str,
    /// What it asks for.
    pub spec: &'a ResourceClaimSpec,
}

/// What there is.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// Of all drivers and generations.
    pub slices: &'a [ResourceSlice],
    /// Those that the claims name; more do no harm.
    pub classes: &'a [DeviceClass],
    /// What is held already.
    pub taken: &'a Taken,
}

/// Allocates the claims of one pod together on `node`; an allocation for each, in their order.
///
/// # Errors
/// There is none, or a claim, class or slice keeps the scheduler from looking: see [`Refusal`].
pub fn allocate(
    cluster: &Cluster<'_>,
    claims: &[Wanted<'_>],
    node: &Node,
) -> Result<Vec<AllocationResult>, Refusal> {
    let problem = problem::Problem::new(cluster, claims, node)?;
    let chosen = search::search(&problem)?;
    Ok(result::results(&problem, &chosen, node))
}
