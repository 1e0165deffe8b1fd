//! A claim of eight VFs through the agent as a process, over its sockets.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use sriov_dra::demo::stage::{NODE, Stage};
use sriov_dra::demo::world::World;

use crate::measure::{Samples, Table, ms};
use crate::node;

const ROUNDS: usize = 400;
const WARM_UP: usize = 20;
const PODS: usize = 40;
/// Containers of each pod.
const HOOKS: usize = 10;

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    node::leave()?;
    let folder = tempfile::Builder::new().prefix("sdra").tempdir()?;
    let world = World::build(binary, folder.path(), &mut |_| {})?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(rounds(binary, folder.path(), world.sysfs(), table))
}

async fn rounds(binary: &Path, folder: &Path, sysfs: &Path, table: &mut Table) -> anyhow::Result<()> {
    let stage = Stage::start(binary, folder, sysfs).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "worker", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }))?;
    let pod = stage.create_pod(&pod).await?;
    let claim = eight_rails(&stage, &pod).await?;

    let (mut prepares, mut unprepares, mut again) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..WARM_UP + ROUNDS {
        let first = stage.prepare(&claim).await?;
        let repeated = stage.prepare(&claim).await?;
        let started = Instant::now();
        stage.unprepare(&claim).await?;
        let unprepared = started.elapsed();
        if round >= WARM_UP {
            prepares.push(first.took);
            again.push(repeated.took);
            unprepares.push(unprepared);
        }
    }
    let what = "NodePrepareResources, 8 VFs, idle agent";
    table.figure(format!("{what}, p50"), ms(prepares.median()));
    table.limit(format!("{what}, p99"), Duration::from_millis(10), prepares.percentile(99));
    let both =
        |samples: &Samples| format!("p50 {}, p99 {}", ms(samples.median()), ms(samples.percentile(99)));
    table.figure("… repeated for a prepared claim", both(&again));
    table.figure("NodeUnprepareResources, 8 VFs", both(&unprepares));

    let (mut runs, mut stops, mut hooks) = (Samples::default(), Samples::default(), Samples::default());
    let mut prepared = stage.prepare(&claim).await?;
    for _ in 0..PODS {
        let running = stage.run(&pod).await?;
        runs.push(running.took);
        for _ in 0..HOOKS {
            let started = Instant::now();
            stage.run_hooks(&running, &prepared.cdi).await?;
            hooks.push(started.elapsed());
        }
        let started = Instant::now();
        stage.stop(running).await?;
        stops.push(started.elapsed());
        // The sandbox of the stopped pod is never run again; another one needs a claim prepared anew.
        stage.unprepare(&claim).await?;
        prepared = stage.prepare(&claim).await?;
    }
    stage.unprepare(&claim).await?;
    table.figure("RunPodSandbox, 8 VFs, over the NRI socket", both(&runs));
    table.figure("StopPodSandbox and RemovePodSandbox, 8 VFs, over the NRI socket", both(&stops));
    let what = "Hook, all 8 VFs attached, its process and all";
    table.limit(format!("{what}, median"), Duration::from_millis(20), hooks.median());
    table.figure("… p99", ms(hooks.percentile(99)));
    stage.end().await?;
    Ok(())
}

/// One VF of every rail: the first eight in publishing order.
async fn eight_rails(stage: &Stage, pod: &Pod) -> anyhow::Result<ResourceClaim> {
    let slices = stage.slices();
    let devices = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
    let results: Vec<Value> = devices
        .take(8)
        .map(|device| json!({"request": "rails", "driver": "sriov-dra.io", "pool": NODE, "device": device.name}))
        .collect();
    anyhow::ensure!(results.len() == 8, "the node published {} devices", results.len());
    let claim = serde_json::from_value(json!({
        "metadata": {"name": "rails", "namespace": "default"},
        "spec": {"devices": {"requests": [
            {"name": "rails", "exactly": {"deviceClassName": "sriov-vf", "count": 8}},
        ]}},
    }))?;
    let claim = stage.create_claim(&claim).await?;
    let config = json!([{"source": "FromClaim", "opaque": {"driver": "sriov-dra.io", "parameters": {
        "apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig", "interface": {"mtu": 4200},
    }}}]);
    let allocation = serde_json::from_value(json!({"devices": {"results": results, "config": config}}))?;
    stage.allocate(&claim, allocation, pod).await
}
