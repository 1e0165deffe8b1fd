//! Tests devices for requests, whoever holds them.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{self as resource, DeviceAttribute, DeviceTaint, DeviceToleration};

use super::pools::{Candidate, is_for_node};
use super::request::Request;
use super::{Node, Refusal};
use crate::policy::AttributeValue;
use crate::policy::cel::{CelError, DeviceFacts, Quantity, Selector};

/// What became of a device in one request. The order of the variants is the order of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    /// Selector number so many is not true; those of the class come first.
    Rejected(usize),
    /// Selector number so many has no answer.
    Error(usize),
    /// It is for other nodes.
    OtherNode,
    /// Its capacity is not what the request asks for.
    Capacity,
    /// It is shared or cut from a larger one, which is not counted here.
    Shared,
    /// A taint that the request does not tolerate.
    Tainted,
    Fits,
}

impl Verdict {
    /// The selectors are true: what "all devices" means.
    pub fn is_selected(self) -> bool {
        matches!(self, Self::Shared | Self::Tainted | Self::Fits)
    }
}

/// Compiled selectors and what they answered; each expression runs once for each device.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    selectors: Vec<Selector>,
    by_text: BTreeMap<&'a str, usize>,
    facts: Vec<Result<DeviceFacts, CelError>>,
    answers: Vec<Vec<Option<Result<bool, CelError>>>>,
}

impl<'a> Judge<'a> {
    pub fn new(candidates: &[Candidate<'_>]) -> Self {
        let facts =
            candidates.iter().map(|candidate| facts(&candidate.id.driver, candidate.device)).collect();
        Self { selectors: Vec::new(), by_text: BTreeMap::new(), facts, answers: Vec::new() }
    }

    /// Compiles the selectors of a request and its class; returns their numbers for [`Judge::answer`].
    pub fn compile(&mut self, claim: &str, request: &Request<'a>) -> Result<Vec<usize>, Refusal> {
        let of_class = request.class_selectors();
        let mut numbers = Vec::new();
        for (place, selector) in of_class.iter().chain(request.selectors).enumerate() {
            let object = || match place.checked_sub(of_class.len()) {
                None => (format!("DeviceClass {}", request.class_name()), place),
                Some(index) => (format!("claim {claim}, request {}", request.full_name()), index),
            };
            let Some(cel) = &selector.cel else {
                let (object, index) = object();
                return Err(Refusal::Faulty {
                    object,
                    problem: format!("selector {index} has no cel.expression"),
                });
            };
            let number = match self.by_text.get(cel.expression.as_str()) {
                Some(number) => *number,
                None => {
                    let compiled = Selector::compile(&cel.expression).map_err(|error| {
                        let (object, index) = object();
                        Refusal::Faulty { object, problem: format!("selector {index}: {error}") }
                    })?;
                    self.selectors.push(compiled);
                    self.answers.push(vec![None; self.facts.len()]);
                    self.by_text.insert(&cel.expression, self.selectors.len() - 1);
                    self.selectors.len() - 1
                }
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    pub fn selector(&self, number: usize) -> Option<&Selector> {
        self.selectors.get(number)
    }

    pub fn facts(&self, device: usize) -> Option<&DeviceFacts> {
        self.facts.get(device)?.as_ref().ok()
    }

    /// What a selector says about a device; the first time it is run.
    pub fn answer(&mut self, number: usize, device: usize) -> Result<bool, CelError> {
        let missing = || CelError::Failed("no such selector".to_owned());
        let (selector, facts) = self.selectors.get(number).zip(self.facts.get(device)).ok_or_else(missing)?;
        let answer = self.answers.get_mut(number).and_then(|row| row.get_mut(device)).ok_or_else(missing)?;
        answer
            .get_or_insert_with(|| {
                facts.as_ref().map_err(Clone::clone).and_then(|facts| selector.test(facts))
            })
            .clone()
    }

    /// What a selector said about a device; `None` if it was never asked.
    pub fn known_answer(&self, number: usize, device: usize) -> Option<&Result<bool, CelError>> {
        self.answers.get(number)?.get(device)?.as_ref()
    }

    /// Everything but who holds the device and the constraints.
    pub fn verdict(
        &mut self,
        selectors: &[usize],
        request: &Request<'_>,
        number: usize,
        candidate: &Candidate<'_>,
        node: &Node,
    ) -> Verdict {
        for (place, selector) in selectors.iter().enumerate() {
            match self.answer(*selector, number) {
                Ok(true) => {}
                Ok(false) => return Verdict::Rejected(place),
                Err(_) => return Verdict::Error(place),
            }
        }
        let device = candidate.device;
        if candidate.slice.spec.per_device_node_selection == Some(true) && !is_for_node(device, node) {
            return Verdict::OtherNode;
        }
        if capacity_problem(request, device).is_some() {
            return Verdict::Capacity;
        }
        if device.allow_multiple_allocations == Some(true)
            || device.consumes_counters.as_ref().is_some_and(|counters| !counters.is_empty())
        {
            return Verdict::Shared;
        }
        match untolerated(request, device) {
            Some(_) => Verdict::Tainted,
            None => Verdict::Fits,
        }
    }
}

fn facts(driver: &str, device: &resource::Device) -> Result<DeviceFacts, CelError> {
    let mut attributes = BTreeMap::new();
    for (key, attribute) in device.attributes.iter().flatten() {
        let value = value(attribute).ok_or_else(|| {
            CelError::Failed(format!(
                "attribute {key} of the device is a list, which selectors can't see without the feature gate \
                 DRAListTypeAttributes"
            ))
        })?;
        attributes.insert(key.clone(), value);
    }
    let capacity = device.capacity.iter().flatten();
    let capacity = capacity.map(|(key, capacity)| (key.clone(), capacity.value.0.clone())).collect();
    DeviceFacts::new(driver, &attributes, &capacity, device.allow_multiple_allocations == Some(true))
}

/// The attribute's one value; `None` for a list.
pub(super) fn value(attribute: &DeviceAttribute) -> Option<AttributeValue> {
    let DeviceAttribute { bool, int, string, version, .. } = attribute;
    int.map(AttributeValue::Int)
        .or(bool.map(AttributeValue::Bool))
        .or(string.clone().map(AttributeValue::String))
        .or(version.clone().map(AttributeValue::Version))
}

/// The attribute `domain/name` of a device; without domain in the slice it is the driver's.
pub(super) fn attribute<'d>(
    driver: &str,
    device: &'d resource::Device,
    domain: &str,
    name: &str,
) -> Option<&'d DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    attributes.get(&format!("{domain}/{name}")).or_else(|| attributes.get(name).filter(|_| domain == driver))
}

/// Why the request's capacity can't come from the device, without a full stop. A device that is not shared is taken
/// as a whole, so it only has to be large enough.
pub(super) fn capacity_problem(request: &Request<'_>, device: &resource::Device) -> Option<String> {
    let wanted = request.capacity?.requests.as_ref()?;
    wanted.iter().find_map(|(name, wanted)| {
        let Some(there) = device.capacity.as_ref().and_then(|capacity| capacity.get(name)) else {
            return Some(format!("capacity {name} is not published by this device"));
        };
        let amounts = wanted.0.parse::<Quantity>().ok().zip(there.value.0.parse::<Quantity>().ok());
        let enough = amounts.is_some_and(|(wanted, there)| wanted <= there);
        (!enough).then(|| format!("capacity {name} is {}, wanted {}", there.value.0, wanted.0))
    })
}

/// The first taint that keeps the request from the device. Other effects than these two keep nobody out.
pub(super) fn untolerated<'d>(
    request: &Request<'_>,
    device: &'d resource::Device,
) -> Option<&'d DeviceTaint> {
    device.taints.iter().flatten().find(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !request.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// An empty key or effect is any (`DeviceToleration` in resource.k8s.io/v1).
fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let any_or = |wanted: &Option<String>, is: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == is)
    };
    any_or(&toleration.effect, &taint.effect)
        && any_or(&toleration.key, &taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            Some("Exists") => true,
            Some(_) => false,
        }
}
