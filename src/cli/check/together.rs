//! Claims with their classes: precedence, grants, and what can't hold for the VFs that a claim would get. Pools with each
//! other.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceAllocationConfiguration, DeviceClaim, DeviceClass, DeviceRequest, ExactDeviceRequest,
    ResourceClaimSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::address::{self, Pool};
use crate::claim::{Asked, FROM_CLASS, check_config};
use crate::cli::documents::{Documents, Finding, Place, of_parameters};
use crate::cli::explain::template_spec;

/// VFs of one request that are looked at: as many as a claim can have.
const MOST_VFS: i64 = 32;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub faults: Vec<Finding>,
    pub notes: Vec<String>,
}

/// Judges every claim and template of the files.
pub fn judge(documents: &Documents, driver: &str, namespace: &str) -> Found {
    let mut found = Found::default();
    for (class, place) in documents.classes.iter().zip(&documents.places.classes) {
        let spec = one_request(class);
        let alone = Together::new(&spec, documents, place, "spec").faults(&spec, driver, namespace);
        found.faults.extend(alone.into_iter().filter(|fault| !completed_by_claims(fault)));
    }
    found.faults.extend(overlaps(documents));
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let claims = documents.claims.iter().zip(&documents.places.claims).map(|(claim, place)| {
        (claim.spec.clone().unwrap_or_default(), "spec", "ResourceClaim", &claim.metadata, place)
    });
    let templates = documents.templates.iter().zip(&documents.places.templates).map(|(template, place)| {
        (template_spec(template), "spec.spec", "ResourceClaimTemplate", &template.metadata, place)
    });
    for (spec, path, kind, metadata, place) in claims.chain(templates) {
        let namespace = metadata.namespace.as_deref().unwrap_or(namespace);
        let shown = format!("{kind} {namespace}/{}", metadata.name.as_deref().unwrap_or_default());
        let together = Together::new(&spec, documents, place, path);
        for class in &together.missing {
            missing.entry(class.clone()).or_default().push(shown.clone());
        }
        for fault in together.faults(&spec, driver, namespace) {
            // Beside the claim, a fault that a class has only with it would not be understood.
            let with = (!fault.place.same_object(place)).then(|| shown.clone());
            if !found.faults.iter().any(|known| known.same(&fault)) {
                found.faults.push(Finding { with, ..fault });
            }
        }
    }
    for (class, users) in missing {
        found.notes.push(format!(
            "DeviceClass {class} is not in the files: what it sets and grants was not judged with {}",
            users.join(", ")
        ));
    }
    for (pod, place) in documents.pods.iter().zip(&documents.places.pods) {
        found.notes.extend(missing_claims(pod, place, documents, namespace));
    }
    found
}

/// Pools that could give out the same address. In a cluster the younger one claims nothing; here it is the later one.
fn overlaps(documents: &Documents) -> Vec<Finding> {
    let read = documents.pools.iter().zip(&documents.places.pools).filter_map(|(pool, place)| {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        Some((address::read(name, "", &pool.spec).ok()?, place))
    });
    let (pools, places): (Vec<Pool>, Vec<&Place>) = read.unzip();
    let found = address::overlaps(&pools);
    let told = pools.iter().zip(places).filter_map(|(pool, place)| {
        let overlap = found.get(&pool.name).filter(|overlap| !overlap.older.is_empty())?;
        let shared = overlap.place.map(|span| span.to_string()).unwrap_or_default();
        let older: BTreeSet<&str> = overlap.older.iter().map(String::as_str).collect();
        let within = if older.len() > 1 { ", for example in" } else { " in" };
        let older = older.into_iter().collect::<Vec<_>>().join(", ");
        let problem = format!(
            "it overlaps AddressPool {older}{within} {shared}: two pools must not give out the same address, whatever PFs and nodes \
             they select"
        );
        Some(place.finding("spec", problem))
    });
    told.collect()
}

/// The claim of a class that says nothing itself.
fn one_request(class: &DeviceClass) -> ResourceClaimSpec {
    let device_class_name = class.metadata.name.clone().unwrap_or_default();
    let exactly = Some(ExactDeviceRequest { device_class_name, ..Default::default() });
    let request = DeviceRequest { name: "vf".to_owned(), exactly, ..Default::default() };
    ResourceClaimSpec { devices: Some(DeviceClaim { requests: Some(vec![request]), ..Default::default() }) }
}

/// What a class leaves to its claims: a tag's priority and protocol are defaults for those that set a VLAN.
fn completed_by_claims(fault: &Finding) -> bool {
    [".vf.vlanQos", ".vf.vlanProtocol"].iter().any(|field| fault.field.ends_with(field))
}

/// The entries that an allocation of a claim would have, and where each comes from.
struct Together<'d> {
    entries: Vec<DeviceAllocationConfiguration>,
    origins: Vec<(&'d Place, String)>,
    /// The VFs that it would get: request, count, class.
    requests: Vec<Wanted>,
    /// Classes that are not in the files.
    missing: BTreeSet<String>,
    place: &'d Place,
    path: String,
}

struct Wanted {
    request: String,
    count: i64,
    class: String,
}

impl<'d> Together<'d> {
    fn new(spec: &ResourceClaimSpec, documents: &'d Documents, place: &'d Place, path: &str) -> Self {
        let requests = requests(spec);
        let mut together = Self {
            entries: Vec::new(),
            origins: Vec::new(),
            missing: BTreeSet::new(),
            place,
            path: format!("{path}.devices"),
            requests,
        };
        let mut of_classes: Vec<(&str, Vec<String>)> = Vec::new();
        for Wanted { request, class, .. } in &together.requests {
            match of_classes.iter_mut().find(|(known, _)| known == class) {
                Some((_, requests)) => requests.push(request.clone()),
                None => of_classes.push((class, vec![request.clone()])),
            }
        }
        for (name, requests) in of_classes {
            let Some((class, place)) = class(documents, name) else {
                together.missing.insert(name.to_owned());
                continue;
            };
            let configs = class.spec.iter().flat_map(|spec| spec.config.iter().flatten());
            for (index, config) in configs.enumerate() {
                together.entries.push(DeviceAllocationConfiguration {
                    source: FROM_CLASS.to_owned(),
                    requests: Some(requests.clone()),
                    opaque: config.opaque.clone(),
                });
                together.origins.push((place, format!("spec.config[{index}]")));
            }
        }
        let configs = spec.devices.iter().flat_map(|devices| devices.config.iter().flatten());
        for (index, config) in configs.enumerate() {
            together.entries.push(DeviceAllocationConfiguration {
                source: "FromClaim".to_owned(),
                requests: config.requests.clone(),
                opaque: config.opaque.clone(),
            });
            together.origins.push((place, format!("{}.config[{index}]", together.path)));
        }
        together
    }

    fn faults(&self, spec: &ResourceClaimSpec, driver: &str, namespace: &str) -> Vec<Finding> {
        let asked = self.requests.iter().flat_map(|Wanted { request, count, class }| {
            (1..=*count).map(move |number| Asked {
                request,
                shown: match count {
                    1 => format!("the VF of request {request}"),
                    _ => format!("VF {number} of request {request}"),
                },
                class_is_known: !self.missing.contains(class),
            })
        });
        let faults = check_config(&self.entries, spec, driver, namespace, &asked.collect::<Vec<_>>());
        let found = faults.iter().map(|fault| {
            match fault.entry.as_ref().and_then(|entry| self.origins.get(entry.index)) {
                Some((place, path)) => place.finding(of_parameters(path, &fault.path), &fault.problem),
                None => self.place.finding(&self.path, format!("{}: {}", fault.path, fault.problem)),
            }
        });
        found.collect()
    }
}

/// Every VF that a claim may get, alternatives included; those it only looks at aside.
fn requests(spec: &ResourceClaimSpec) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let amount = |mode: Option<&str>, count: Option<i64>| match mode {
        // How many there will be is not known.
        Some("All") => 1,
        _ => count.unwrap_or(1).clamp(1, MOST_VFS),
    };
    for request in spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        if let Some(exactly) = request.exactly.as_ref().filter(|exactly| exactly.admin_access != Some(true)) {
            wanted.push(Wanted {
                request: request.name.clone(),
                count: amount(exactly.allocation_mode.as_deref(), exactly.count),
                class: exactly.device_class_name.clone(),
            });
        }
        wanted.extend(request.first_available.iter().flatten().map(|sub| Wanted {
            request: format!("{}/{}", request.name, sub.name),
            count: amount(sub.allocation_mode.as_deref(), sub.count),
            class: sub.device_class_name.clone(),
        }));
    }
    wanted
}

fn class<'d>(documents: &'d Documents, name: &str) -> Option<(&'d DeviceClass, &'d Place)> {
    let mut classes = documents.classes.iter().zip(&documents.places.classes);
    classes.find(|(class, _)| class.metadata.name.as_deref() == Some(name))
}

/// Claims and templates that a pod names and the files don't have.
fn missing_claims(pod: &Pod, place: &Place, documents: &Documents, namespace: &str) -> Vec<String> {
    let of = |metadata: &ObjectMeta| metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned());
    let named = |metadata: &ObjectMeta, name: &str| {
        metadata.name.as_deref() == Some(name) && of(metadata) == of(&pod.metadata)
    };
    let references = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()).enumerate();
    let missing = references.filter_map(|(index, reference)| {
        let (kind, name) = match (&reference.resource_claim_name, &reference.resource_claim_template_name) {
            (Some(name), None) if !documents.claims.iter().any(|claim| named(&claim.metadata, name)) => {
                ("ResourceClaim", name)
            }
            (None, Some(name)) if !documents.templates.iter().any(|of| named(&of.metadata, name)) => {
                ("ResourceClaimTemplate", name)
            }
            _ => return None,
        };
        Some(format!(
            "{place}: spec.resourceClaims[{index}] names {kind} {}/{name}, which is not in the files: it was not judged",
            of(&pod.metadata)
        ))
    });
    missing.collect()
}
