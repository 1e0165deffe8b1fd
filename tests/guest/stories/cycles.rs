//! Many pods one after the other, on real VFs: what stays behind.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use sriov_dra::DEFAULT_DRIVER_NAME;
use sriov_dra::demo::stage::{NODE, Running, Stage};

use crate::held::{Held, mib};
use crate::host::{Vf, ensure_no_more, facts, netdev, run, wait_as_before};
use crate::inside::Ground;
use crate::node::AGENT;

const CYCLES: usize = 100;
/// Pools and caches are filled by then.
const WARM_UP: usize = 10;
/// Longer than the API server keeps connections that idle (90 s).
const IDLE: Duration = Duration::from_secs(100);
/// Memory goes up and down with the threads at work; the least of so many cycles goes up only if something is kept.
const WINDOW: usize = 25;
/// 20 KiB for each cycle between the first window and the last: what a claim takes once it is read. Some 8 KiB a cycle
/// are seen; whether that levels off takes more cycles than an emulated processor has time for.
const MOST_MEMORY_KIB: u64 = 20 * (CYCLES - WINDOW) as u64;

// With containerd's own sandboxes a cycle takes ten seconds here; the runtime's calls are the same.
pub async fn a_hundred_pods_one_after_the_other_leave_nothing_behind(ground: Ground) -> Result<()> {
    // One PF's: the agent looks at all VFs after each change, which takes an emulated processor most of a cycle.
    let vfs = ground.of_one_pf();
    for vf in ground.vfs.iter().filter(|vf| vf.index == 0 && vf.pf != vfs[0].pf) {
        fs::write(format!("/sys/bus/pci/devices/{}/sriov_numvfs", vf.pf), "0")?;
    }
    let before = facts(&vfs)?;
    let folder = tempfile::tempdir()?;
    let stage = Stage::start(Path::new(AGENT), folder.path(), Path::new("/sys")).await?;
    let mut left = None;
    let mut memory = Vec::new();
    let began = Instant::now();
    for cycle in 0..WARM_UP + CYCLES {
        if cycle == WARM_UP {
            wait_as_before(&before, Duration::from_secs(20))?;
            reports_written(folder.path()).await?;
            left = Some((held(&stage, folder.path())?, Instant::now()));
        }
        let vf = vfs[cycle % vfs.len()];
        one(&stage, vf, cycle).await.with_context(|| {
            format!("cycle {cycle}, VF {}; the agent's log:\n{}", vf.pci, stage.agent_log())
        })?;
        memory.push(memory_kib(&stage)?);
    }
    let least = |cycles: &[u64]| cycles.iter().min().copied().context("some cycles");
    let memory = (least(&memory[WARM_UP..WARM_UP + WINDOW])?, least(&memory[WARM_UP + CYCLES - WINDOW..])?);
    let (first, since) = left.context("a warm-up")?;
    let took = since.elapsed();
    wait_as_before(&before, Duration::from_secs(20))?;
    reports_written(folder.path()).await?;
    // A second connection to the API server, opened because one was busy, is kept for a while.
    let until = Instant::now() + IDLE;
    let mut last = held(&stage, folder.path())?;
    while last.descriptors.len() > first.descriptors.len() && Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        last = held(&stage, folder.path())?;
    }
    let files: Vec<_> = last.files.difference(&first.files).collect();
    println!(
        "{CYCLES} cycles in {:.0} s ({:.0} s with the warm-up), left over: 0 VFs, {} files, {} namespaces, {} descriptors; \
         the agent's own memory {} KiB in the first {WINDOW}, {} KiB in the last",
        took.as_secs_f32(),
        began.elapsed().as_secs_f32(),
        files.len(),
        last.namespaces.len().saturating_sub(first.namespaces.len()),
        last.descriptors.len().saturating_sub(first.descriptors.len()),
        memory.0,
        memory.1,
    );
    ensure!(files.is_empty(), "left over: {files:?}");
    ensure_no_more(&first, &last)?;
    ensure!(
        memory.1 <= memory.0 + MOST_MEMORY_KIB,
        "the agent's memory grew from {} to {} KiB",
        memory.0,
        memory.1
    );
    stage.end().await?;
    Ok(())
}

/// A pod of its own with a claim of its own: by NRI with the hook behind it, or by the hook alone.
async fn one(stage: &Stage, vf: Vf, cycle: usize) -> Result<()> {
    let name = format!("cycle-{cycle}");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "containers": [{ "name": "main", "image": "x" }] },
    }))?;
    let pod = stage.create_pod(&pod).await?;
    let opaque = json!({ "driver": DEFAULT_DRIVER_NAME, "parameters": {
        "apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig",
        "interface": { "name": "fast0", "mtu": 1400, "addresses": ["10.9.0.1/24"] },
    } });
    let claim: ResourceClaim = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "devices": {
            "requests": [{ "name": "vf", "exactly": { "deviceClassName": "sriov-vf" } }],
            "config": [{ "opaque": opaque }],
        } },
    }))?;
    let claim = stage.create_claim(&claim).await?;
    let allocation = json!({ "devices": {
        "results": [{ "request": "vf", "driver": DEFAULT_DRIVER_NAME, "pool": NODE, "device": vf.pci.device_name() }],
        "config": [{ "source": "FromClaim", "opaque": opaque }],
    } });
    let claim = stage.allocate(&claim, serde_json::from_value(allocation)?, &pod).await?;
    let prepared = stage.prepare(&claim).await?;
    let running = stage.sandbox(&pod, |_| Ok(()))?;
    if cycle.is_multiple_of(2) {
        // "Still attaching" is an answer: on an emulated processor the work may take longer than the runtime waits.
        let mut attached = stage.announce(&running).await;
        let end = Instant::now() + Duration::from_secs(30);
        while attached.is_err() && Instant::now() < end {
            attached = stage.ask_for_container(&running, "main", &[&prepared]).await.map(drop);
        }
        attached?;
    }
    stage.run_hooks(&running, &prepared.cdi).await?;
    ensure!(netdev(vf.pci)?.is_none(), "the VF is still on the host");
    let link = link_in(&running)?;
    ensure!(
        link["parentdev"] == vf.pci.to_string().as_str()
            && link["mtu"] == 1400
            && link["addr_info"][0]["local"] == "10.9.0.1",
        "fast0 of the pod is {link}"
    );
    // "Still returning" is one as well: what is not back by then, Unprepare returns.
    if let Err(error) = stage.stop(running).await {
        ensure!(error.to_string().contains("still returning"), "StopPodSandbox: {error:#}");
    }
    stage.unprepare(&claim).await?;
    ensure!(netdev(vf.pci)?.is_some(), "the VF is not back on the host after Unprepare");
    Ok(())
}

/// A report waits as a file until the API server, which is in this process, has it.
async fn reports_written(folder: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while let Some(waits) = fs::read_dir(folder.join("run/status"))?.next() {
        ensure!(Instant::now() < end, "the report {:?} is not written", waits?.path());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn link_in(pod: &Running) -> Result<Value> {
    let netns = pod.netns().context("a pod with a network of its own")?;
    let netns = format!("--net={}", netns.display());
    let shown = run("nsenter", &[&netns, "ip", "-json", "-details", "address", "show", "dev", "fast0"])?;
    let links: Value = serde_json::from_str(&shown)?;
    Ok(links[0].clone())
}

/// The agent's own memory: files that are mapped come and go with the machine's need.
fn memory_kib(stage: &Stage) -> Result<u64> {
    Ok((mib(stage.agent_pid(), "RssAnon")? * 1024.0) as u64)
}

/// What there is at one moment.
fn held(stage: &Stage, folder: &Path) -> Result<Held> {
    Held::of(stage.agent_pid(), &["kubelet", "run", "cdi"].map(|name| folder.join(name)))
}
