//! Puts claims, templates and pods together, asks the allocator node by node.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimSpec};
use serde::Serialize;

use super::pods::{Source, claims_of, pod_name, template_spec};
use crate::allocate::{
    Cluster, DeviceId, Explanation, Node, Taken, Wanted, allocate, claim_name, explain, nodes,
};
use crate::app::Supply;
use crate::claim::some;
use crate::cli::documents::Documents;

/// The class that comes with the manifests.
const BUILT_IN: &str = include_str!("../../../manifests/deviceclass.yaml");

/// Where the devices are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file of slices.
    File(PathBuf),
    /// An API server.
    Cluster,
    /// This machine.
    Machine,
}

/// The question.
#[derive(Debug)]
pub struct Given {
    /// From `-f`.
    pub asked: Documents,
    /// What there is.
    pub supply: Supply,
    /// And from where.
    pub from: Origin,
    /// `--node`
    pub node: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Raised when a field changes its meaning or goes.
    pub format_version: u32,
    /// Everything can be allocated, one after the other.
    pub allocatable: bool,
    /// `cluster`, `file` or `machine`.
    pub source: String,
    /// What else should be known, a sentence each.
    pub notes: Vec<String>,
    /// Pods with their claims, claims, templates.
    pub subjects: Vec<Subject>,
}

/// One pod, claim or template.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// `Pod default/x`
    pub subject: String,
    /// The first node, by name, where it can be allocated.
    pub node: Option<String>,
    /// Nodes that were looked at: the one above first, then those before it. Where one shows a fault that makes the
    /// scheduler give up on all nodes, only that.
    pub nodes: Vec<Explanation>,
    /// Set instead where it is not known before looking at devices that it can't be allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// Nodes that the scheduler looks at in any case, before it is content with a share of them
/// (`minFeasibleNodesToFind`).
const LOOKED_AT: usize = 100;

struct Question {
    subject: String,
    claims: Vec<(String, ResourceClaimSpec)>,
}

/// Answers.
///
/// # Errors
/// A fault in the files, one sentence a line.
pub fn answer(given: &Given, driver: &str) -> anyhow::Result<Answer> {
    let Given { asked, supply, from, node } = given;
    if !asked.faults.is_empty() {
        bail!("{}", asked.sentences());
    }
    let mut notes: Vec<String> = asked
        .passed_over
        .iter()
        .map(|place| {
            format!(
                "{place} was passed over: only ResourceClaim, ResourceClaimTemplate, DeviceClass, ResourceSlice, AddressPool and Pod are read"
            )
        })
        .collect();
    // What is missing may stand in a document of a misspelt kind.
    let passed_over: String = notes.iter().map(|note| format!("\n{note}")).collect();
    notes.extend(asked.notes.iter().chain(&supply.notes).cloned());
    let questions =
        questions(asked, supply, &mut notes).map_err(|error| anyhow!("{error:#}{passed_over}"))?;
    if questions.is_empty() {
        bail!(
            "the file has no ResourceClaim, no ResourceClaimTemplate and no Pod with claims in it, so there is nothing to allocate{passed_over}"
        );
    }
    let classes = classes(given, driver, &questions, &mut notes)?;
    let mut slices = supply.slices.clone();
    slices.extend(asked.slices.iter().cloned());
    let known = if supply.nodes.is_empty() { nodes(&slices) } else { supply.nodes.clone() };
    let nodes: Vec<Node> = match node {
        Some(name) => match known.iter().find(|node| node.name == *name) {
            Some(node) => vec![node.clone()],
            None if *from == Origin::Machine => vec![Node::named(name)],
            None => bail!(
                "there is no node {name}; known are {}",
                some(&known.iter().map(|node| node.name.clone()).collect::<Vec<_>>(), 8)
            ),
        },
        None if known.is_empty() => vec![Node::named("(any)")],
        None => known,
    };

    let mut taken = supply.taken.clone();
    taken.0.extend(Taken::by(&supply.claims).0);
    let mut subjects = Vec::new();
    for question in questions {
        let subject = ask(&question, &slices, &classes, &taken, &nodes);
        // What comes later in the file finds less.
        for report in subject.nodes.iter().filter(|found| found.allocatable).flat_map(|found| &found.claims) {
            let devices = report.allocation.as_ref().and_then(|allocation| allocation.devices.as_ref());
            for result in devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten() {
                if result.admin_access != Some(true) {
                    let (driver, pool, device) =
                        (result.driver.clone(), result.pool.clone(), result.device.clone());
                    let holder = format!("{} (earlier in the file)", report.claim);
                    taken.0.insert(DeviceId { driver, pool, device }, holder);
                }
            }
        }
        subjects.push(subject);
    }
    Ok(Answer {
        format_version: 1,
        allocatable: subjects.iter().all(|subject| subject.node.is_some()),
        source: match from {
            Origin::File(_) => "file",
            Origin::Cluster => "cluster",
            Origin::Machine => "machine",
        }
        .to_owned(),
        notes,
        subjects,
    })
}

fn ask(
    question: &Question,
    slices: &[k8s_openapi::api::resource::v1::ResourceSlice],
    classes: &[DeviceClass],
    taken: &Taken,
    nodes: &[Node],
) -> Subject {
    let cluster = Cluster { slices, classes, taken };
    let claims: Vec<Wanted<'_>> = question.claims.iter().map(|(name, spec)| Wanted { name, spec }).collect();
    let mut subject =
        Subject { subject: question.subject.clone(), node: None, nodes: Vec::new(), refusal: None };
    for (index, node) in nodes.iter().enumerate() {
        if subject.node.is_some() {
            // Not needed for an answer, but a fault that one node shows makes the scheduler give up on all.
            let faulty = index < LOOKED_AT
                && allocate(&cluster, &claims, node).is_err_and(|refusal| refusal.is_fatal());
            if !faulty {
                continue;
            }
        }
        match explain(&cluster, &claims, node) {
            Ok(found) if found.allocatable => {
                subject.node = Some(node.name.clone());
                subject.nodes.insert(0, found);
            }
            Ok(found) if found.fatal => {
                subject.node = None;
                subject.nodes = vec![found];
                break;
            }
            Ok(found) => subject.nodes.push(found),
            Err(refusal) => {
                subject.refusal = Some(refusal.to_string());
                break;
            }
        }
    }
    subject
}

/// Pods first, in the order of the file, then claims and templates that no pod in it uses.
fn questions(asked: &Documents, supply: &Supply, notes: &mut Vec<String>) -> anyhow::Result<Vec<Question>> {
    let mut questions = Vec::new();
    let mut used_claims = BTreeSet::new();
    let mut used_templates = BTreeSet::new();
    for pod in &asked.pods {
        let (namespace, pod_name) = pod_name(pod);
        let mut claims = Vec::new();
        for of_pod in claims_of(pod, asked, supply)? {
            match of_pod.source {
                Source::Claim(claim) => {
                    let first = used_claims.insert(of_pod.name.clone());
                    if let Some(devices) = allocated(claim) {
                        notes.push(format!("ResourceClaim {} is allocated already: {devices}", of_pod.name));
                        continue;
                    }
                    // A claim of two pods is allocated once, with the first.
                    if !first {
                        continue;
                    }
                }
                Source::Template(template) => {
                    used_templates.insert((namespace, template.metadata.name.as_deref()));
                }
            }
            claims.push((of_pod.name.clone(), of_pod.spec()));
        }
        if !claims.is_empty() {
            questions.push(Question { subject: format!("Pod {namespace}/{pod_name}"), claims });
        }
    }
    for claim in asked.claims.iter().filter(|claim| !used_claims.contains(&claim_name(claim))) {
        let name = claim_name(claim);
        if let Some(devices) = allocated(claim) {
            notes.push(format!("ResourceClaim {name} is allocated already: {devices}"));
            continue;
        }
        let claims = vec![(name.clone(), claim.spec.clone().unwrap_or_default())];
        questions.push(Question { subject: format!("ResourceClaim {name}"), claims });
    }
    for template in &asked.templates {
        let namespace = template.metadata.namespace.as_deref().unwrap_or("default");
        if !used_templates.contains(&(namespace, template.metadata.name.as_deref())) {
            let name = format!("{namespace}/{}", template.metadata.name.as_deref().unwrap_or_default());
            questions.push(Question {
                subject: format!("ResourceClaimTemplate {name}"),
                claims: vec![(name, template_spec(template))],
            });
        }
    }
    Ok(questions)
}

fn allocated(claim: &ResourceClaim) -> Option<String> {
    let devices = claim.status.as_ref()?.allocation.as_ref()?.devices.clone()?;
    let devices: Vec<String> = devices
        .results
        .into_iter()
        .flatten()
        .map(|result| format!("{}/{}", result.pool, result.device))
        .collect();
    Some(some(&devices, 8))
}

/// The file's classes come before the cluster's; the built-in one only where there is no cluster that could have it.
fn classes(
    given: &Given,
    driver: &str,
    questions: &[Question],
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<DeviceClass>> {
    let mut classes = given.asked.classes.clone();
    classes.extend(given.supply.classes.iter().cloned());
    let text = BUILT_IN.replace(crate::DEFAULT_DRIVER_NAME, driver);
    let built_in: DeviceClass = serde_saphyr::from_str(&text).context("the built-in DeviceClass")?;
    let name = built_in.metadata.name.clone().unwrap_or_default();
    let is_defined = classes.iter().any(|class| class.metadata.name.as_ref() == Some(&name));
    let is_named =
        questions.iter().flat_map(|question| &question.claims).any(|(_, spec)| names_class(spec, &name));
    if is_named && !is_defined {
        match given.from {
            Origin::Cluster => notes
                .push(format!("the cluster has no DeviceClass {name}; kubectl apply -k manifests brings it")),
            Origin::File(_) | Origin::Machine => {
                notes.push(format!(
                    "DeviceClass {name} is the one of manifests/, as nothing given defines it"
                ));
                classes.push(built_in);
            }
        }
    }
    Ok(classes)
}

fn names_class(spec: &ResourceClaimSpec, class: &str) -> bool {
    let requests = spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    requests.into_iter().any(|request| {
        let exactly = request.exactly.iter().map(|exactly| &exactly.device_class_name);
        let alternatives = request.first_available.iter().flatten().map(|sub| &sub.device_class_name);
        exactly.chain(alternatives).any(|name| name == class)
    })
}
