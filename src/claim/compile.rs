//! A ResourceClaim object to a [`ClaimSpec`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim, ResourceClaimStatus};

use super::config::Entries;
use super::error::{ClaimError, Faults};
use super::settle::{Asked, settle};
use super::{ClaimId, ClaimSpec, DEFAULT_NAME_TEMPLATE, NameSpec, PodRef, ResultSpec};
use crate::device::PciAddress;

/// Set on claims made from a template (KEP-5304): the name that the pod uses for the claim.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";

/// Compiles an allocated claim to what `driver` has to do for it on `node`.
///
/// `request_uid` is the UID the kubelet asks for. `held_by` is the pod UID that this driver's ledger binds the claim
/// to, if any: where the claim is reserved for several pods and that pod is one of them, the claim stays its.
///
/// Errors: one sentence for the pod's events. Config faults are collected and told together; whatever comes before
/// them (identity, allocation, reservation) is told alone.
pub fn compile(
    claim: &ResourceClaim,
    driver: &str,
    node: &str,
    request_uid: &str,
    held_by: Option<&str>,
) -> Result<ClaimSpec, ClaimError> {
    let id = identity(claim)?;
    let name = format!("{}/{}", id.namespace, id.name);
    if id.uid != request_uid {
        return Err(ClaimError::Recreated { claim: name, held: id.uid, asked: request_uid.to_owned() });
    }
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    if allocation.is_none() {
        return Err(ClaimError::NotAllocated { claim: name });
    }
    let results = devices.and_then(|devices| devices.results.as_deref()).unwrap_or_default();
    let mut results = our_results(&name, results, driver, node)?;
    let only_admin = results.iter().all(|result| result.admin_access);
    let pod = consumer(&name, status, only_admin, held_by)?;

    let mut faults = Faults::default();
    let config = devices.and_then(|devices| devices.config.as_deref()).unwrap_or_default();
    let entries = Entries::decode(config, claim.spec.as_ref(), driver, &mut faults);
    let used = results.iter().filter(|result| !result.admin_access);
    let asked: Vec<Asked<'_>> = used
        .map(|result| Asked {
            request: &result.request,
            shown: format!("{} of request {}", result.device, result.request),
            class_is_known: true,
        })
        .collect();
    let settled = settle(&entries, &id.namespace, &asked, &mut faults);
    let used = results.iter_mut().filter(|result| !result.admin_access);
    used.zip(settled).for_each(|(result, settled)| result.take(settled));
    if !faults.is_empty() {
        return Err(ClaimError::Config { claim: name, faults });
    }
    let annotations = claim.metadata.annotations.as_ref();
    let pod_claim_name = annotations.and_then(|all| all.get(POD_CLAIM_NAME)).unwrap_or(&id.name).clone();
    Ok(ClaimSpec { id, pod_claim_name, pod, results })
}

fn identity(claim: &ResourceClaim) -> Result<ClaimId, ClaimError> {
    let metadata = &claim.metadata;
    let known = |part: &Option<String>| part.clone().filter(|text| !text.is_empty());
    let shown = || {
        let (namespace, name) = (known(&metadata.namespace), known(&metadata.name));
        format!("{}/{}", namespace.as_deref().unwrap_or("?"), name.as_deref().unwrap_or("?"))
    };
    let required = |part, field| known(part).ok_or_else(|| ClaimError::Incomplete { claim: shown(), field });
    Ok(ClaimId {
        uid: required(&metadata.uid, "metadata.uid")?,
        namespace: required(&metadata.namespace, "metadata.namespace")?,
        name: required(&metadata.name, "metadata.name")?,
    })
}

fn our_results(
    claim: &str,
    results: &[DeviceRequestAllocationResult],
    driver: &str,
    node: &str,
) -> Result<Vec<ResultSpec>, ClaimError> {
    let (ours, others): (Vec<_>, Vec<_>) = results.iter().partition(|result| result.driver == driver);
    if ours.is_empty() {
        let others: BTreeSet<&str> = others.iter().map(|result| result.driver.as_str()).collect();
        let others = Some(Vec::from_iter(others).join(", ")).filter(|list| !list.is_empty());
        return Err(ClaimError::NoResults {
            claim: claim.to_owned(),
            driver: driver.to_owned(),
            others: others.unwrap_or_else(|| "none".to_owned()),
        });
    }
    let mut owners: BTreeMap<PciAddress, &str> = BTreeMap::new();
    let mut specs = Vec::with_capacity(ours.len());
    for result in ours {
        let spec = our_result(claim, result, node)?;
        if !spec.admin_access
            && let Some(first) = owners.insert(spec.pci, &result.request)
        {
            return Err(ClaimError::AllocatedTwice {
                claim: claim.to_owned(),
                device: spec.device,
                first: first.to_owned(),
                second: spec.request,
            });
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn our_result(
    claim: &str,
    result: &DeviceRequestAllocationResult,
    node: &str,
) -> Result<ResultSpec, ClaimError> {
    let DeviceRequestAllocationResult { request, pool, device, .. } = result;
    if pool != node {
        return Err(ClaimError::OtherNode {
            claim: claim.to_owned(),
            request: request.clone(),
            device: device.clone(),
            pool: pool.clone(),
            node: node.to_owned(),
        });
    }
    let pci = PciAddress::from_device_name(device).map_err(|_| ClaimError::NotAVf {
        claim: claim.to_owned(),
        request: request.clone(),
        device: device.clone(),
    })?;
    Ok(ResultSpec {
        request: request.clone(),
        pool: pool.clone(),
        device: device.clone(),
        pci,
        share_id: result.share_id.clone(),
        admin_access: result.admin_access == Some(true),
        interface_asked: false,
        name: NameSpec::Template(DEFAULT_NAME_TEMPLATE.to_owned()),
        mtu: None,
        addresses: Vec::new(),
        settings: Default::default(),
        bind: Default::default(),
        address_pool: None,
        routing: Default::default(),
        rdma: Default::default(),
    })
}

/// The one pod that may use the claim.
fn consumer(
    claim: &str,
    status: Option<&ResourceClaimStatus>,
    only_admin: bool,
    held_by: Option<&str>,
) -> Result<Option<PodRef>, ClaimError> {
    let reserved = status.and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
    for consumer in reserved {
        let group = consumer.api_group.as_deref().unwrap_or_default();
        if consumer.resource != "pods" || !group.is_empty() {
            let dot = if group.is_empty() { "" } else { "." };
            return Err(ClaimError::NotAPod {
                claim: claim.to_owned(),
                resource: format!("{}{dot}{group}", consumer.resource),
                name: consumer.name.clone(),
            });
        }
    }
    let consumer = match reserved {
        [one] => Some(one),
        several => several.iter().find(|consumer| Some(consumer.uid.as_str()) == held_by),
    };
    match (consumer, reserved.len()) {
        (Some(pod), _) => Ok(Some(PodRef { uid: pod.uid.clone(), name: pod.name.clone() })),
        (None, _) if only_admin => Ok(None),
        (None, 0) => Err(ClaimError::Unreserved { claim: claim.to_owned() }),
        (None, count) => {
            let mut pods: Vec<&str> =
                reserved.iter().take(3).map(|consumer| consumer.name.as_str()).collect();
            if count > pods.len() {
                pods.push("…");
            }
            Err(ClaimError::SeveralPods { claim: claim.to_owned(), count, pods: pods.join(", ") })
        }
    }
}
