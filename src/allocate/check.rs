//! What the API server would refuse in a claim or class, with the field: a file has not been through it yet.
//!
//! Limits are those of resource.k8s.io/v1. What only a driver can judge (opaque parameters) is not looked at.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::{
    DeviceClassSpec, DeviceRequest, DeviceSelector, OpaqueDeviceConfiguration, ResourceClaimSpec,
};

use super::search::MOST_RESULTS;
use crate::device::is_label;
use crate::policy::cel::Selector;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `spec.devices.requests[0].exactly.count`
    pub field: String,
    /// What is wrong and what would be right, without a full stop.
    pub problem: String,
}

/// Requests, constraints and configs of one claim.
const MOST: usize = 32;
/// Subrequests of one request.
const MOST_SUBREQUESTS: usize = 8;

/// Faults of a claim's spec, which stands at `path` (`spec`, or `spec.spec` of a template).
pub fn check_claim(spec: &ResourceClaimSpec, path: &str) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    let path = format!("{path}.devices");
    let devices = spec.devices.clone().unwrap_or_default();
    let requests = devices.requests.unwrap_or_default();
    if requests.is_empty() {
        faults.add(format!("{path}.requests"), "there is no request, so nothing would be allocated");
    }
    let mut names = BTreeSet::new();
    for (index, request) in requests.iter().enumerate() {
        let path = format!("{path}.requests[{index}]");
        faults.request(&path, request);
        if !names.insert(request.name.clone()) {
            faults.add(
                format!("{path}.name"),
                format!("{:?} is the name of another request, too", request.name),
            );
        }
        for sub in request.first_available.iter().flatten() {
            names.insert(format!("{}/{}", request.name, sub.name));
        }
    }
    let constraints = devices.constraints.unwrap_or_default();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = format!("{path}.constraints[{index}]");
        faults.scope(&path, constraint.requests.as_deref(), &names);
        let attributes = [
            ("matchAttribute", &constraint.match_attribute),
            ("distinctAttribute", &constraint.distinct_attribute),
        ];
        let set: Vec<_> =
            attributes.iter().filter_map(|(field, name)| Some((field, name.as_ref()?))).collect();
        match set.as_slice() {
            [(field, name)] => {
                let full =
                    name.split_once('/').is_some_and(|(domain, name)| !domain.is_empty() && !name.is_empty());
                if !full {
                    faults.add(
                        format!("{path}.{field}"),
                        format!("{name:?} has no domain; write it as in sriov-dra.io/pfName"),
                    );
                }
            }
            _ => faults.add(path, "must have one of matchAttribute and distinctAttribute"),
        }
    }
    let configs = devices.config.unwrap_or_default();
    for (index, config) in configs.iter().enumerate() {
        let path = format!("{path}.config[{index}]");
        faults.scope(&path, config.requests.as_deref(), &names);
        faults.opaque(&path, config.opaque.as_ref());
    }
    for (field, length) in
        [("requests", requests.len()), ("constraints", constraints.len()), ("config", configs.len())]
    {
        faults.at_most(format!("{path}.{field}"), length, MOST);
    }
    faults.0
}

/// Faults of a class.
pub fn check_class(spec: &DeviceClassSpec) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    faults.selectors("spec", spec.selectors.as_deref().unwrap_or_default());
    for (index, config) in spec.config.iter().flatten().enumerate() {
        faults.opaque(&format!("spec.config[{index}]"), config.opaque.as_ref());
    }
    faults.0
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Fault { field: field.into(), problem: problem.into() });
    }

    fn at_most(&mut self, field: String, length: usize, most: usize) {
        if length > most {
            self.add(field, format!("{length} entries are too many, at most {most} are allowed"));
        }
    }

    fn request(&mut self, path: &str, request: &DeviceRequest) {
        self.name(path, &request.name);
        match (&request.exactly, request.first_available.as_deref().unwrap_or_default()) {
            (Some(exactly), []) => {
                let path = format!("{path}.exactly");
                self.class(&path, &exactly.device_class_name);
                self.amount(&path, exactly.allocation_mode.as_deref(), exactly.count);
                self.selectors(&path, exactly.selectors.as_deref().unwrap_or_default());
            }
            (None, subrequests @ [_, ..]) => {
                self.at_most(format!("{path}.firstAvailable"), subrequests.len(), MOST_SUBREQUESTS);
                let mut names = BTreeSet::new();
                for (index, sub) in subrequests.iter().enumerate() {
                    let path = format!("{path}.firstAvailable[{index}]");
                    self.name(&path, &sub.name);
                    if !names.insert(&sub.name) {
                        let problem = format!("{:?} is the name of another subrequest, too", sub.name);
                        self.add(format!("{path}.name"), problem);
                    }
                    self.class(&path, &sub.device_class_name);
                    self.amount(&path, sub.allocation_mode.as_deref(), sub.count);
                    self.selectors(&path, sub.selectors.as_deref().unwrap_or_default());
                }
            }
            _ => self.add(path, "must have one of exactly and firstAvailable"),
        }
    }

    fn name(&mut self, path: &str, name: &str) {
        if !is_label(name) {
            let problem = format!(
                "{name:?} is no name; use at most 63 lower-case letters, digits and inner hyphens, as in rail-0"
            );
            self.add(format!("{path}.name"), problem);
        }
    }

    fn class(&mut self, path: &str, class: &str) {
        if class.is_empty() {
            self.add(format!("{path}.deviceClassName"), "is missing; name a DeviceClass, as in sriov-vf");
        }
    }

    fn amount(&mut self, path: &str, mode: Option<&str>, count: Option<i64>) {
        match (mode, count) {
            (None | Some("ExactCount"), Some(count)) if count < 1 => {
                self.add(format!("{path}.count"), format!("is {count}, it must be at least 1"));
            }
            (None | Some("ExactCount"), Some(count))
                if usize::try_from(count).is_ok_and(|count| count > MOST_RESULTS) =>
            {
                self.add(
                    format!("{path}.count"),
                    format!("is {count}, but a claim can have at most {MOST_RESULTS} devices"),
                );
            }
            (Some("All"), Some(count)) => {
                let problem = format!("is {count}, but with allocationMode All it must be left out");
                self.add(format!("{path}.count"), problem);
            }
            (None | Some("ExactCount" | "All"), _) => {}
            (Some(other), _) => self
                .add(format!("{path}.allocationMode"), format!("is {other:?}, it must be ExactCount or All")),
        }
    }

    fn selectors(&mut self, path: &str, selectors: &[DeviceSelector]) {
        self.at_most(format!("{path}.selectors"), selectors.len(), MOST);
        for (index, selector) in selectors.iter().enumerate() {
            let path = format!("{path}.selectors[{index}].cel");
            match &selector.cel {
                None => self.add(path, "is missing; a selector is a CEL expression"),
                Some(cel) => {
                    if let Err(error) = Selector::compile(&cel.expression) {
                        let refused = match error.is_refused_by_kubernetes() {
                            true => "; the API server refuses it",
                            false => "",
                        };
                        self.add(format!("{path}.expression"), format!("{error}{refused}"));
                    }
                }
            }
        }
    }

    fn scope(&mut self, path: &str, requests: Option<&[String]>, names: &BTreeSet<String>) {
        for (index, name) in requests.unwrap_or_default().iter().enumerate() {
            if !names.contains(name) {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                self.add(
                    format!("{path}.requests[{index}]"),
                    format!("{name:?} is no request of this claim, those are {}", known.join(", ")),
                );
            }
        }
    }

    fn opaque(&mut self, path: &str, opaque: Option<&OpaqueDeviceConfiguration>) {
        match opaque {
            None => self.add(format!("{path}.opaque"), "is missing; it is the only kind of config there is"),
            Some(opaque) => {
                if opaque.driver.is_empty() {
                    self.add(
                        format!("{path}.opaque.driver"),
                        "is missing; name a driver, as in sriov-dra.io",
                    );
                }
                if !opaque.parameters.0.is_object() {
                    self.add(format!("{path}.opaque.parameters"), "must be an object");
                }
            }
        }
    }
}
