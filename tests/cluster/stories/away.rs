//! What the agent works with goes away and comes back: API server, kubelet, container runtime.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::slices::wait_renewed;
use crate::lab::Lab;
use crate::pods::pod;
use crate::process::{run, wait_for};
use crate::stages::Stages;

/// For how many seconds the API server is away.
const AWAY_ENV: &str = "SRIOV_DRA_API_AWAY_S";

/// The agents' pods, and how often their containers were started.
async fn agents(lab: &Lab) -> Result<Vec<Value>> {
    let pods = lab.api.list("/api/v1/namespaces/sriov-dra/pods").await?;
    Ok(pods
        .iter()
        .map(|pod| json!([pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"]]))
        .collect())
}

pub async fn while_the_api_server_is_away_pods_keep_their_vfs_and_what_it_missed_comes_after(
    lab: &mut Lab,
) -> Result<()> {
    let told = without_api_server(lab).await;
    if told.is_err() {
        // The next story needs one.
        let plane = &mut lab.real_mut()?.plane;
        plane.kill_apiserver();
        plane.start_apiserver().await?;
    }
    told
}

async fn without_api_server(lab: &mut Lab) -> Result<()> {
    let away = std::env::var(AWAY_ENV).ok().map(|text| text.parse()).transpose().context(AWAY_ENV)?;
    let away = Duration::from_secs(away.unwrap_or(30));
    lab.template(&Value::Null).await?;
    lab.create(&pod("again", "vf")).await?;
    lab.create(&pod("moves", "vf")).await?;
    let again = lab.check_pod("default", "again").await?;
    let moves = lab.check_pod("default", "moves").await?;
    let stages = Stages::hold(lab, "api").await?;
    let [waits, prepared] = stages.held();
    let (waits, prepared) = ((waits, lab.vf_of(waits).await?.1), (prepared, lab.vf_of(prepared).await?.1));
    let (agents_before, slices) = (agents(lab).await?, lab.wait_published().await?);
    // On the host, so that its place is read from the host's files.
    let free = lab.sim.on_host()?.into_keys().find(|vf| *vf != prepared.1).context("a free VF")?;

    let gone = Instant::now();
    lab.real()?.plane.silence_apiserver()?;
    lab.restart_container("again").await?;
    lab.check_without_api("again", again[0].pci).await?;
    lab.sim.set_numa_node(free, 7)?;
    tokio::time::sleep((away / 2).saturating_sub(gone.elapsed())).await;

    lab.real_mut()?.plane.kill_apiserver();
    stages.let_go(lab).await?;
    for (name, vf) in [waits, prepared] {
        wait_for(Duration::from_secs(40), "a prepared pod to start", async || {
            lab.check_without_api(name, vf).await
        })
        .await?;
    }
    // The kubelet asks the API server before it makes a new one.
    let first = lab.runtime.sandbox("default", "moves").await?;
    run("kill", &["-KILL", &first.pid.to_string()])?;
    tokio::time::sleep(away.saturating_sub(gone.elapsed())).await;
    println!("    the API server was away for {:.0} s", gone.elapsed().as_secs_f32());

    lab.real_mut()?.plane.start_apiserver().await?;
    let back = Instant::now();
    stages.check_gone(lab).await?;
    ensure!(lab.check_pod("default", "again").await? == again, "pod again has another VF");
    wait_for(Duration::from_secs(60), "a new sandbox", async || {
        let second = lab.runtime.sandbox("default", "moves").await?;
        ensure!(second.id != first.id, "the old one is still there");
        lab.check_without_api("moves", moves[0].pci).await
    })
    .await?;
    ensure!(lab.check_pod("default", "moves").await? == moves, "pod moves has another VF");
    wait_for(Duration::from_secs(60), "the slices to say what changed", async || {
        let now = lab.wait_published().await?;
        let uids = |slices: &[Value]| -> Vec<Value> {
            slices.iter().map(|s| s["metadata"]["uid"].clone()).collect()
        };
        ensure!(uids(&now) == uids(&slices), "the slices are others than before");
        let devices = now.iter().filter_map(|slice| slice["spec"]["devices"].as_array()).flatten();
        let device = devices.clone().find(|device| device["name"] == free.device_name()).context("the VF")?;
        let node = &device["attributes"]["sriov-dra.io/numaNode"];
        ensure!(node["int"] == 7, "{free} is published with {}", device["attributes"]);
        Ok(())
    })
    .await?;
    println!("    slices and status were right {:.1} s after it was back", back.elapsed().as_secs_f32());
    ensure!(
        agents(lab).await? == agents_before,
        "the agent did not live through it: {:?}",
        agents(lab).await?
    );
    lab.create(&pod("after", "vf")).await?;
    lab.check_pod("default", "after").await?;
    lab.sim.set_numa_node(free, u32::from(free.bus == 0x82))
}

pub async fn over_a_restart_of_the_kubelet_pods_keep_their_vfs_and_prepared_pods_start(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&Value::Null).await?;
    let stages = Stages::hold(lab, "kubelet").await?;
    let old = lab.slices().await?;
    lab.stop_kubelet().await?;
    stages.let_go(lab).await?;
    lab.start_kubelet().await?;
    wait_renewed(lab, &old).await?;
    stages.check_gone(lab).await?;
    lab.wait_published().await?;
    stages.end(lab).await
}

pub async fn over_a_death_of_containerd_pods_keep_their_vfs_and_prepared_pods_start(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&Value::Null).await?;
    let stages = Stages::hold(lab, "runtime").await?;
    let agents_before = agents(lab).await?;
    lab.real_mut()?.node.restart_containerd().await?;
    let lab = &*lab;
    let served = async {
        stages.check_held(lab).await?;
        stages.go(lab).await?;
        ensure!(agents(lab).await? == agents_before, "the agent did not live through it");
        lab.create(&pod("after", "vf")).await?;
        lab.check_pod("default", "after").await?;
        stages.end(lab).await?;
        lab.delete_pod("after").await?;
        // A namespace may end long after its pod, and takes the stand-in with it.
        lab.sim.wait_clean(Duration::from_secs(60)).await
    };
    // containerd tells nobody of the end of sandboxes from before its start (its issue 8426).
    tokio::select! {
        served = served => served,
        lost = lab.sim.keep_bringing_home("net1") => lost,
    }
}
