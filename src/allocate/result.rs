//! A choice of devices as the scheduler writes it down.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult,
    ResourceSlice,
};

use super::problem::Problem;
use super::request::Request;
use super::search::Choice;
use super::{Node, pools::Candidate};

/// One allocation for each claim.
pub(super) fn results(problem: &Problem<'_>, chosen: &[Choice], node: &Node) -> Vec<AllocationResult> {
    let choices: Vec<(&Request<'_>, &Candidate<'_>)> = chosen
        .iter()
        .filter_map(|choice| problem.requests.get(choice.request).zip(problem.candidates.get(choice.device)))
        .collect();
    let of_claim = |claim: usize| {
        let own: Vec<_> = choices.iter().filter(|(request, _)| request.claim == claim).copied().collect();
        let config = config(problem, claim, &own);
        let devices = DeviceAllocationResult {
            results: Some(own.iter().map(|(request, candidate)| result(request, candidate)).collect()),
            config: (!config.is_empty()).then_some(config),
        };
        AllocationResult {
            allocation_timestamp: None,
            devices: Some(devices),
            node_selector: node_selector(&own, node),
        }
    };
    (0..problem.claims.len()).map(of_claim).collect()
}

fn result(request: &Request<'_>, candidate: &Candidate<'_>) -> DeviceRequestAllocationResult {
    let device = candidate.device;
    DeviceRequestAllocationResult {
        request: request.full_name(),
        driver: candidate.id.driver.clone(),
        pool: candidate.id.pool.clone(),
        device: candidate.id.device.clone(),
        admin_access: request.admin_access.then_some(true),
        tolerations: (!request.tolerations.is_empty()).then(|| request.tolerations.to_vec()),
        binding_conditions: device.binding_conditions.clone().filter(|list| !list.is_empty()),
        binding_failure_conditions: device.binding_failure_conditions.clone().filter(|list| !list.is_empty()),
        ..DeviceRequestAllocationResult::default()
    }
}

/// Config of classes, once for each class with the requests it is for; then that of the claim as it stands there, once
/// for each of its requests that is in the claim. That is how the scheduler writes it.
fn config(
    problem: &Problem<'_>,
    claim: usize,
    own: &[(&Request<'_>, &Candidate<'_>)],
) -> Vec<DeviceAllocationConfiguration> {
    // What was chosen for each slot, in the order of the slots.
    let mut requests: Vec<&Request<'_>> = Vec::new();
    for slot in problem.slots.iter().filter(|slot| slot.claim == claim) {
        let alternatives = slot.alternatives.iter().filter_map(|number| problem.requests.get(*number));
        let chosen = alternatives.clone().find(|request| {
            own.iter()
                .any(|(chosen, _)| chosen.name == request.name && chosen.subrequest == request.subrequest)
        });
        requests.extend(chosen.or_else(|| alternatives.clone().next()));
    }

    let mut entries: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: Vec<&str> = Vec::new();
    for request in &requests {
        if classes.contains(&request.class_name()) {
            continue;
        }
        classes.push(request.class_name());
        let same = requests.iter().filter(|other| other.class_name() == request.class_name());
        let names: Vec<String> = same.map(|request| request.full_name()).collect();
        entries.extend(request.class_config().iter().map(|config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(names.clone()),
            opaque: config.opaque.clone(),
        }));
    }

    let devices = problem.claims.get(claim).and_then(|wanted| wanted.spec.devices.as_ref());
    for config in devices.and_then(|devices| devices.config.as_ref()).into_iter().flatten() {
        let scope = config.requests.as_deref().unwrap_or_default();
        let times = match scope {
            [] => 1,
            scope => requests.iter().filter(|request| request.is_among(scope)).count(),
        };
        let entry = DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: config.requests.clone().filter(|requests| !requests.is_empty()),
            opaque: config.opaque.clone(),
        };
        entries.extend(std::iter::repeat_n(entry, times));
    }
    entries
}

/// One node if a device is local to it; else what the devices' slices ask of nodes; else any.
fn node_selector(own: &[(&Request<'_>, &Candidate<'_>)], node: &Node) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for (_, candidate) in own {
        let ResourceSlice { spec, .. } = candidate.slice;
        let (name, selector) = match spec.per_device_node_selection {
            Some(true) => (&candidate.device.node_name, &candidate.device.node_selector),
            _ => (&spec.node_name, &spec.node_selector),
        };
        if name.is_some() || candidate.device.binds_to_node == Some(true) {
            let requirement = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.name.clone()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        for from in selector.iter().flat_map(|selector| selector.node_selector_terms.first()) {
            add(&from.match_fields, &mut term.match_fields);
            add(&from.match_expressions, &mut term.match_expressions);
        }
    }
    let any = term.match_fields.is_none() && term.match_expressions.is_none();
    (!any).then(|| NodeSelector { node_selector_terms: vec![term] })
}

fn add(from: &Option<Vec<NodeSelectorRequirement>>, to: &mut Option<Vec<NodeSelectorRequirement>>) {
    for requirement in from.iter().flatten() {
        let list = to.get_or_insert_default();
        if !list.contains(requirement) {
            list.push(requirement.clone());
        }
    }
}
