//! What stays behind after many pods: descriptors, memory and threads of the agent, files, links. And how soon an agent
//! that starts on a node full of prepared claims serves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::json;
use sriov_dra::demo::stage::{NODE, Stage};

use crate::held::Held;
use crate::measure::{Samples, Table};
use crate::node;

const CYCLES: usize = 1000;
/// Caches and pools are filled by then.
const WARM_UP: usize = 50;
/// Prepared claims of the node that an agent starts on.
const CLAIMS: usize = 200;
const STARTS: usize = 7;

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let tree = node::large()?;
    let folder = tempfile::Builder::new().prefix("sdra").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut stage = Stage::start(binary, folder.path(), tree.root()).await?;
        cycles(&stage, folder.path(), table).await?;
        restarts(&mut stage, table).await?;
        stage.end().await?;
        Ok(())
    })
}

async fn cycles(stage: &Stage, folder: &Path, table: &mut Table) -> anyhow::Result<()> {
    let mut before = None;
    for cycle in 0..WARM_UP + CYCLES {
        if cycle == WARM_UP {
            before = Some(Left::of(stage, folder)?);
        }
        // Each with a claim of its own, as a template makes them: whatever remembers claims grows.
        let name = format!("cycle-{cycle}");
        let pod = pod(stage, &name).await?;
        let claim = claim(stage, &name, 0, &pod).await?;
        let prepared = stage.prepare(&claim).await?;
        let running = stage.run(&pod).await?;
        stage.create_container(&running, "main", &[&prepared]).await?;
        stage.stop(running).await?;
        stage.unprepare(&claim).await?;
    }
    let (before, after) = (before.context("some cycles")?, Left::of(stage, folder)?);
    let what = format!("{CYCLES} pods one after the other, each with its own claim: left over");
    let files = after.held.files.difference(&before.held.files).count();
    table.aim(
        format!("{what}, links away from the host"),
        "0",
        after.away(&before).to_string(),
        after.away(&before) == 0,
    );
    table.aim(format!("{what}, files"), "0", files.to_string(), files == 0);
    let more = after.held.descriptors.len().saturating_sub(before.held.descriptors.len());
    table.aim(format!("{what}, descriptors of the agent"), "0", more.to_string(), more == 0);
    table.figure(
        format!("{what}, own memory of the agent"),
        format!(
            "{:+.1} MiB ({:.1} to {:.1})",
            after.held.own - before.held.own,
            before.held.own,
            after.held.own
        ),
    );
    Ok(())
}

async fn restarts(stage: &mut Stage, table: &mut Table) -> anyhow::Result<()> {
    for number in 0..CLAIMS {
        let name = format!("held-{number}");
        let pod = pod(stage, &name).await?;
        let claim = claim(stage, &name, number, &pod).await?;
        stage.prepare(&claim).await?;
    }
    let mut starts = Samples::default();
    for _ in 0..STARTS {
        stage.crash(&[]).await?;
        starts.push(stage.registered_in());
    }
    table.limit(
        format!("Start to serving with {CLAIMS} prepared claims, median of {STARTS}"),
        std::time::Duration::from_millis(300),
        starts.median(),
    );
    Ok(())
}

pub async fn pod(stage: &Stage, name: &str) -> anyhow::Result<Pod> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }))?;
    stage.create_pod(&pod).await
}

/// A claim of the device in this place of the published order.
pub async fn claim(stage: &Stage, name: &str, place: usize, pod: &Pod) -> anyhow::Result<ResourceClaim> {
    let slices = stage.slices();
    let device = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten()).nth(place);
    let device = device.with_context(|| format!("no device in place {place}"))?.name.clone();
    let claim = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": "sriov-vf"}}]}},
    }))?;
    let claim = stage.create_claim(&claim).await?;
    let result = json!({"request": "vf", "driver": "sriov-dra.io", "pool": NODE, "device": device});
    let allocation = serde_json::from_value(json!({"devices": {"results": [result]}}))?;
    stage.allocate(&claim, allocation, pod).await
}

/// What there is at one moment.
pub struct Left {
    links: BTreeSet<String>,
    held: Held,
}

impl Left {
    pub fn of(stage: &Stage, folder: &Path) -> anyhow::Result<Self> {
        let kernel = sriov_dra::host::Linux::new("/sys")?;
        let mut host = sriov_dra::host::Kernel::enter(&kernel, sriov_dra::host::Kernel::host(&kernel))?;
        let links = host.all()?.into_iter().map(|link| link.name).collect();
        Ok(Self { links, held: Held::of(stage.agent_pid(), &folders(folder))? })
    }

    /// Links that were on the host before.
    pub fn away(&self, before: &Self) -> usize {
        before.links.difference(&self.links).count()
    }
}

/// Where the agent of a stage has its files.
pub fn folders(stage: &Path) -> Vec<PathBuf> {
    ["kubelet", "run", "cdi"].map(|name| stage.join(name)).to_vec()
}
