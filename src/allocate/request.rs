//! The requests of claims, with the API's defaults, in one list.

use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceClassConfiguration, DeviceSelector, DeviceSubRequest,
    DeviceToleration, ExactDeviceRequest,
};

use super::{Refusal, Wanted};

/// How many devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    Exactly(usize),
    All,
}

/// A request, or one subrequest of it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// Index into the claims.
    pub claim: usize,
    pub name: &'a str,
    pub subrequest: Option<&'a str>,
    pub class: &'a DeviceClass,
    pub selectors: &'a [DeviceSelector],
    pub amount: Amount,
    pub admin_access: bool,
    pub tolerations: &'a [DeviceToleration],
    pub capacity: Option<&'a CapacityRequirements>,
}

impl<'a> Request<'a> {
    /// `req` or `req/sub`
    pub fn full_name(&self) -> String {
        match self.subrequest {
            Some(sub) => format!("{}/{sub}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// `requests` of a constraint or config: none is all, `req` is also every `req/sub`.
    pub fn is_among(&self, requests: &[String]) -> bool {
        requests.is_empty()
            || requests.iter().any(|wanted| match wanted.split_once('/') {
                None => wanted == self.name,
                Some((name, sub)) => name == self.name && Some(sub) == self.subrequest,
            })
    }

    /// Selectors of its class.
    pub fn class_selectors(&self) -> &'a [DeviceSelector] {
        self.class.spec.as_ref().and_then(|spec| spec.selectors.as_deref()).unwrap_or_default()
    }

    /// Configs of its class.
    pub fn class_config(&self) -> &'a [DeviceClassConfiguration] {
        self.class.spec.as_ref().and_then(|spec| spec.config.as_deref()).unwrap_or_default()
    }

    pub fn class_name(&self) -> &str {
        self.class.metadata.name.as_deref().unwrap_or_default()
    }
}

/// One entry of `requests` in a claim: the alternatives for it, in order, as indices into the list of requests.
#[derive(Debug)]
pub(super) struct Slot {
    pub claim: usize,
    pub alternatives: Vec<usize>,
}

/// All requests of all claims, and the slots they are alternatives of.
pub(super) fn requests<'a>(
    claims: &[Wanted<'a>],
    classes: &'a [DeviceClass],
) -> Result<(Vec<Request<'a>>, Vec<Slot>), Refusal> {
    let mut requests = Vec::new();
    let mut slots = Vec::new();
    for (claim, wanted) in claims.iter().enumerate() {
        let devices = wanted.spec.devices.as_ref();
        for request in devices.and_then(|devices| devices.requests.as_ref()).into_iter().flatten() {
            let alternatives = match (&request.exactly, request.first_available.as_deref()) {
                (Some(exactly), None | Some([])) => vec![of_exactly(exactly)],
                (None, Some(alternatives @ [_, ..])) => alternatives.iter().map(of_subrequest).collect(),
                _ => {
                    return Err(faulty(
                        wanted,
                        format!("request {} must have one of exactly and firstAvailable", request.name),
                    ));
                }
            };
            let mut slot = Slot { claim, alternatives: Vec::new() };
            for parts in alternatives {
                let Parts { subrequest, class, mode, count, .. } = parts;
                let full_name = match subrequest {
                    Some(sub) => format!("{}/{sub}", request.name),
                    None => request.name.clone(),
                };
                let amount = match (mode, count) {
                    (None | Some("ExactCount"), count) => {
                        Amount::Exactly(usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX))
                    }
                    (Some("All"), _) => Amount::All,
                    (Some(other), _) => {
                        return Err(faulty(
                            wanted,
                            format!(
                                "request {full_name} has allocationMode {other:?}, known are ExactCount and All"
                            ),
                        ));
                    }
                };
                let class = classes
                    .iter()
                    .find(|known| known.metadata.name.as_deref() == Some(class))
                    .ok_or_else(|| Refusal::NoClass {
                        claim: wanted.name.to_owned(),
                        request: full_name,
                        class: class.to_owned(),
                    })?;
                slot.alternatives.push(requests.len());
                requests.push(Request {
                    claim,
                    name: &request.name,
                    subrequest,
                    class,
                    selectors: parts.selectors,
                    amount,
                    admin_access: parts.admin_access,
                    tolerations: parts.tolerations,
                    capacity: parts.capacity,
                });
            }
            slots.push(slot);
        }
    }
    Ok((requests, slots))
}

fn faulty(wanted: &Wanted<'_>, problem: String) -> Refusal {
    Refusal::Faulty { object: format!("claim {}", wanted.name), problem }
}

/// What requests and subrequests have in common.
struct Parts<'a> {
    subrequest: Option<&'a str>,
    class: &'a str,
    mode: Option<&'a str>,
    count: Option<i64>,
    selectors: &'a [DeviceSelector],
    admin_access: bool,
    tolerations: &'a [DeviceToleration],
    capacity: Option<&'a CapacityRequirements>,
}

fn of_exactly(request: &ExactDeviceRequest) -> Parts<'_> {
    Parts {
        subrequest: None,
        class: &request.device_class_name,
        mode: request.allocation_mode.as_deref(),
        count: request.count,
        selectors: request.selectors.as_deref().unwrap_or_default(),
        admin_access: request.admin_access == Some(true),
        tolerations: request.tolerations.as_deref().unwrap_or_default(),
        capacity: request.capacity.as_ref(),
    }
}

fn of_subrequest(request: &DeviceSubRequest) -> Parts<'_> {
    Parts {
        subrequest: Some(&request.name),
        class: &request.device_class_name,
        mode: request.allocation_mode.as_deref(),
        count: request.count,
        selectors: request.selectors.as_deref().unwrap_or_default(),
        admin_access: false,
        tolerations: request.tolerations.as_deref().unwrap_or_default(),
        capacity: request.capacity.as_ref(),
    }
}
