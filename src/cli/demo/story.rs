//! The steps of the demonstration, in the order a cluster takes them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::addresses;
use super::pods::with_pods;
use super::show::{AgentTale, ClaimTale, EndTale, NodeTale, PodTale, Printer, Run, link_line};
use crate::DEFAULT_DRIVER_NAME;
use crate::app::{Looked, Supply, take_inventory};
use crate::cli::documents::Documents;
use crate::cli::explain::{
    Answer, Given, Origin, PodClaim, Source, answer, claims_of, pod_name, render_text,
};
use crate::cli::inventory::{self, Inventory};
use crate::demo::claims::of_template;
use crate::demo::pod::{SeenLink, links_in, links_on_host};
use crate::demo::stage::{NODE, Prepared, Running, Stage};
use crate::policy::Rules;

/// How long a claim's status may take; nobody waits for it in a cluster.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// What the node has.
pub fn inventory(sysfs: &Path, printer: &mut Printer) -> anyhow::Result<NodeTale> {
    let rules = Rules {
        driver_name: DEFAULT_DRIVER_NAME.to_owned(),
        devices: None,
        attach: Some("nri".to_owned()),
        rails: Default::default(),
    };
    let Looked { snapshot, verdicts, .. } = take_inventory(sysfs, Path::new("/nonexistent"), rules)?;
    let told = Inventory::new(&snapshot, &verdicts);
    printer.heading("The node: what the kernel shows, what is offered");
    printer.block(&inventory::render(&told, inventory::Format::Table)?);
    let offered = verdicts.iter().filter(|verdict| verdict.is_offered()).count();
    Ok(NodeTale { pfs: snapshot.pfs.len(), vfs: snapshot.vfs.len(), offered })
}

/// How the agent came up.
pub fn agent(stage: &Stage, printer: &mut Printer) -> AgentTale {
    let slices = stage.slices();
    let told = AgentTale {
        registered_after_ms: stage.registered_in().as_millis(),
        slices: slices.len(),
        generation: slices.first().map_or(0, |slice| slice.spec.pool.generation),
        devices: slices.iter().map(|slice| slice.spec.devices.iter().flatten().count()).sum(),
    };
    printer.heading("The agent: registered with the kubelet, slices published");
    printer.event("registered", &format!("after {} ms", told.registered_after_ms));
    let (slices, devices) = (told.slices, told.devices);
    printer.event(
        "published",
        &format!(
            "{slices} ResourceSlice(s) of pool {NODE}, generation {}, {devices} devices",
            told.generation
        ),
    );
    told
}

/// All pods of one file: allocated, started together, stopped.
pub async fn file(
    stage: &Stage,
    sysfs: &Path,
    name: &str,
    documents: &Documents,
    printer: &mut Printer,
) -> anyhow::Result<Run> {
    printer.heading(name);
    for class in &documents.classes {
        stage.server.store().create::<DeviceClass>(class);
    }
    addresses::bring(stage, &documents.pools).await?;
    let documents = with_pods(documents);
    let supply = Supply {
        slices: stage.slices(),
        classes: stage.server.store().list(),
        claims: stage.server.store().list(),
        ..Supply::default()
    };
    let given = Given { asked: documents, supply, from: Origin::Machine, node: Some(NODE.to_owned()) };
    let explained = answer(&given, DEFAULT_DRIVER_NAME)?;
    printer.block(&render_text(&explained, printer.colour()));
    let mut run = Run {
        file: name.to_owned(),
        ok: explained.allocatable,
        notes: explained.notes.clone(),
        ..Run::default()
    };
    let mut running = Vec::new();
    for pod in given.asked.pods.iter().filter(|pod| uses_claims(pod)) {
        let (told, pod) = start(stage, pod, &given, &explained, printer).await?;
        run.ok &= told.error.is_none();
        run.pods.push(told);
        running.push(pod);
    }
    for (told, started) in run.pods.iter_mut().zip(running) {
        told.returned = stop(stage, sysfs, started, printer).await?;
    }
    addresses::take(stage, &given.asked.pools).await?;
    run.explained = explained.subjects;
    Ok(run)
}

fn uses_claims(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()))
}

/// A pod that runs, with what it holds.
struct Started {
    pod: Pod,
    running: Option<Running>,
    claims: Vec<ResourceClaim>,
}

/// From the pod object to its container; what is refused ends it there, and stands in the tale.
async fn start(
    stage: &Stage,
    pod: &Pod,
    given: &Given,
    explained: &Answer,
    printer: &mut Printer,
) -> anyhow::Result<(PodTale, Started)> {
    let (namespace, name) = pod_name(pod);
    let mut told = PodTale { pod: format!("{namespace}/{name}"), ..PodTale::default() };
    let subject = explained.subjects.iter().find(|subject| subject.subject == format!("Pod {}", told.pod));
    let allocations: BTreeMap<&str, &AllocationResult> = subject
        .and_then(|subject| subject.nodes.first())
        .iter()
        .flat_map(|node| &node.claims)
        .filter_map(|claim| Some((claim.claim.as_str(), claim.allocation.as_ref()?)))
        .collect();
    let object = stage.create_pod(&bare(pod, namespace)).await?;
    let mut started = Started { pod: object.clone(), running: None, claims: Vec::new() };
    let mut prepared: Vec<Prepared> = Vec::new();
    for of_pod in claims_of(pod, &given.asked, &given.supply)? {
        let wanted = of_pod.name.clone();
        let Some(allocation) = allocations.get(wanted.as_str()) else {
            let other = given.asked.pods.iter().take_while(|other| *other != pod).find(|other| {
                let claims = claims_of(other, &given.asked, &given.supply).unwrap_or_default();
                claims.iter().any(|claim| claim.name == wanted)
            });
            told.error = Some(match other.map(pod_name) {
                Some((namespace, other)) => format!(
                    "claim {wanted} belongs to pod {namespace}/{other} already: a VF can be in one pod only; a \
                     ResourceClaimTemplate makes a claim for each"
                ),
                None => format!("claim {wanted} can't be allocated; the reasons stand above"),
            });
            printer.event("refused", told.error.as_deref().unwrap_or_default());
            return Ok((told, started));
        };
        let claim = stage.create_claim(&object_of(&of_pod, &object)).await?;
        let claim = stage.allocate(&claim, (*allocation).clone(), &object).await?;
        let devices: Vec<String> = allocation
            .devices
            .iter()
            .flat_map(|devices| devices.results.iter().flatten())
            .map(|result| format!("{} for request {}", result.device, result.request))
            .collect();
        printer.event("allocated", &format!("claim {wanted}: {}", devices.join(", ")));
        let done = stage.prepare(&claim).await;
        started.claims.push(claim);
        match done {
            Ok(done) => {
                let cdi = serde_json::to_value(&done.cdi)?;
                let file = done.cdi_file.display().to_string();
                printer.event(
                    "prepared",
                    &format!("in {}; CDI file {file}\n{}", time(done.took), yaml_like(&cdi)?),
                );
                let prepared_in_us = done.took.as_micros();
                told.claims.push(ClaimTale { claim: wanted, devices, prepared_in_us, cdi_file: file, cdi });
                prepared.push(done);
            }
            Err(error) => {
                told.error = Some(format!("{error:#}"));
                printer.event("refused", told.error.as_deref().unwrap_or_default());
                return Ok((told, started));
            }
        }
    }
    let entered = enter(stage, &object, &prepared, &mut told, printer).await;
    match entered {
        Ok(running) => started.running = Some(running),
        Err(error) => {
            told.error = Some(format!("{error:#}"));
            printer.event("refused", told.error.as_deref().unwrap_or_default());
        }
    }
    for claim in &started.claims {
        let lines = status(stage, claim).await;
        if lines.is_empty() {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let patience = STATUS_PATIENCE.as_secs();
            told.error.get_or_insert(format!(
                "the agent wrote no status of claim {namespace}/{name} within {patience} s"
            ));
        }
        told.status.extend(lines);
    }
    printer.event("status", &told.status.join("\n"));
    Ok((told, started))
}

async fn enter(
    stage: &Stage,
    pod: &Pod,
    prepared: &[Prepared],
    told: &mut PodTale,
    printer: &mut Printer,
) -> anyhow::Result<Running> {
    let running = stage.run(pod).await?;
    told.attached_in_us = Some(running.took.as_micros());
    told.links = links_in(&running.netns().context("a pod of the demonstration has a network namespace")?)?;
    let lines: Vec<String> = told.links.iter().map(link_line).collect();
    let took = time(running.took);
    printer.event(
        "attached",
        &format!("in {took}; links in the network namespace of pod {}:\n{}", told.pod, lines.join("\n")),
    );
    told.env = stage.create_container(&running, "main", &prepared.iter().collect::<Vec<_>>()).await?;
    printer.event("container", &format!("allowed; its environment has\n{}", told.env.join("\n")));
    Ok(running)
}

/// The pod goes, its claims with it; the VFs as they are on the host afterwards.
async fn stop(
    stage: &Stage,
    sysfs: &Path,
    started: Started,
    printer: &mut Printer,
) -> anyhow::Result<Vec<SeenLink>> {
    if let Some(running) = started.running {
        stage.stop(running).await.context("StopPodSandbox")?;
    }
    let mut returned = Vec::new();
    for claim in &started.claims {
        let results = stage.claim(claim).and_then(|claim| claim.status?.allocation?.devices?.results);
        stage.unprepare(claim).await.context("NodeUnprepareResources")?;
        for result in results.into_iter().flatten() {
            if let Ok(pci) = crate::device::PciAddress::from_device_name(&result.device) {
                returned.extend(links_on_host(sysfs, pci)?);
            }
        }
        stage.server.store().delete::<ResourceClaim>(
            claim.metadata.namespace.as_deref().unwrap_or_default(),
            claim.metadata.name.as_deref().unwrap_or_default(),
        );
    }
    let (namespace, name) = pod_name(&started.pod);
    stage.server.store().delete::<Pod>(namespace, name);
    if !returned.is_empty() {
        let lines: Vec<String> = returned.iter().map(link_line).collect();
        printer.event("returned", &format!("to the host:\n{}", lines.join("\n")));
    }
    Ok(returned)
}

/// The agent ends; nothing of any claim may be left.
pub async fn end(
    stage: Stage,
    folder: &Path,
    runs: &[Run],
    printer: &mut Printer,
) -> anyhow::Result<EndTale> {
    let took = stage.end().await?;
    let durable = folder.join("kubelet/plugins").join(DEFAULT_DRIVER_NAME);
    let places = [
        durable.join("claims"),
        durable.join("vf"),
        durable.join("pods"),
        folder.join("cdi"),
        folder.join("run/attach"),
    ];
    let mut left = Vec::new();
    for place in places {
        let entries = std::fs::read_dir(&place).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    printer.heading("The end");
    let pods: Vec<_> = runs.iter().flat_map(|run| &run.pods).collect();
    let refused: Vec<_> =
        pods.iter().filter(|told| told.error.is_some()).map(|told| told.pod.as_str()).collect();
    let mut sum = format!("{} of {} got their VFs", pods.len() - refused.len(), pods.len());
    if !refused.is_empty() {
        sum.push_str(&format!("; refused: {}", refused.join(", ")));
    }
    printer.event("pods", &sum);
    printer.event("stopped", &format!("the agent, after {}", time(took)));
    let what = if left.is_empty() {
        "nothing: no claim, no owned VF, no CDI file".to_owned()
    } else {
        left.join("\n")
    };
    printer.event("left", &what);
    Ok(EndTale { agent_stopped_after_ms: took.as_millis(), left })
}

/// The object that a pod's claim is, as a user or the claim controller creates it.
fn object_of(of_pod: &PodClaim<'_>, pod: &Pod) -> ResourceClaim {
    match of_pod.source {
        Source::Claim(claim) => {
            let namespace = pod.metadata.namespace.clone();
            let metadata = ObjectMeta { namespace, ..claim.metadata.clone() };
            ResourceClaim { metadata, spec: Some(of_pod.spec()), status: None }
        }
        Source::Template(template) => of_template(pod, of_pod.called, template),
    }
}

/// Just enough of a pod for an API server: the images are nobody's business here.
fn bare(pod: &Pod, namespace: &str) -> Pod {
    let metadata = ObjectMeta {
        name: pod.metadata.name.clone(),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    let container =
        Container { name: "main".to_owned(), image: Some("demo".to_owned()), ..Container::default() };
    let spec = PodSpec {
        containers: vec![container],
        node_name: Some(NODE.to_owned()),
        resource_claims: pod.spec.as_ref().and_then(|spec| spec.resource_claims.clone()),
        ..PodSpec::default()
    };
    Pod { metadata, spec: Some(spec), ..Pod::default() }
}

/// `Ready` of each device, once it is written.
async fn status(stage: &Stage, claim: &ResourceClaim) -> Vec<String> {
    let until = Instant::now() + STATUS_PATIENCE;
    loop {
        let devices = stage.claim(claim).and_then(|claim| claim.status?.devices).unwrap_or_default();
        if !devices.is_empty() || Instant::now() > until {
            let lines = devices.iter().flat_map(|device| {
                device.conditions.iter().flatten().map(|c| format!("{} {}: {}", c.type_, c.status, c.message))
            });
            return lines.collect();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// JSON as YAML: shorter to read.
fn yaml_like(value: &serde_json::Value) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

fn time(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
