//! Two versions of the driver on one node, one after the other and for a moment both, and the way back.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::{try_join, try_join_all};
use serde_json::{Value, json};
use sriov_dra::prepare::next_version::{self, FIELD, ONLY_NEXT};

use super::agent::{DAEMONSET, roll, wait_replaced};
use crate::lab::Lab;
use crate::next::{self, NEXT};
use crate::node::{AGENT, KUBELET_DIR};
use crate::pods::pod;
use crate::process::{run, wait_for};
use crate::stages::Stages;

/// A strategic merge patch, as `kubectl rollout undo` sends it.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// How long pods start and end before the agent is replaced, for comparison.
const BEFORE: Duration = Duration::from_secs(4);

/// What the hook on the host says of its version: it is the agent's own program.
fn hook_version() -> Result<String> {
    let hook = Path::new(KUBELET_DIR).join("plugins/sriov-dra.io/bin/hook");
    Ok(run(&hook.display().to_string(), &["--version"])?.trim().trim_start_matches("sriov-dra ").to_owned())
}

/// The ledger's entry of a claim, envelope and all.
fn entry(claim_uid: &str) -> Result<Value> {
    let path = Path::new(KUBELET_DIR).join(format!("plugins/sriov-dra.io/claims/{claim_uid}.json"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// `kubectl rollout undo`: the template of the revision before the newest.
async fn undo(lab: &Lab) -> Result<()> {
    let old: Vec<String> = lab.agents().await?.into_keys().collect();
    let mut revisions = lab.api.list("/apis/apps/v1/namespaces/sriov-dra/controllerrevisions").await?;
    revisions.sort_by_key(|revision| revision["revision"].as_i64());
    let before = revisions.iter().rev().nth(1).context("a revision to go back to")?;
    let (code, answer) = lab.api.ask("PATCH", DAEMONSET, STRATEGIC, &before["data"]).await?;
    ensure!(code == 200, "rollout undo: {code}: {answer}");
    wait_replaced(lab, &old).await
}

/// For the stories that follow, whatever became of this one.
async fn back_to_this_version(lab: &Lab) -> Result<()> {
    let daemonset = lab.api.get(DAEMONSET).await?;
    if daemonset["spec"]["template"]["spec"]["containers"][0]["image"] != AGENT {
        roll(lab, "image", json!(AGENT)).await?;
    }
    ensure!(hook_version()? == env!("CARGO_PKG_VERSION"), "the hook is still {}", hook_version()?);
    Ok(())
}

/// Before and as long as the agent is replaced pods start and end, in so many rows; every one of them has to get its VF.
/// Prints how many that were.
async fn while_pods_come_and_go(
    lab: &Lab,
    tag: &str,
    rows: usize,
    change: impl Future<Output = Result<()>>,
) -> Result<()> {
    let began = Instant::now();
    let started = RefCell::new(Vec::new());
    let tried_again = RefCell::new(Vec::new());
    let over = Cell::new(false);
    let row = |row: usize| {
        let (started, tried_again, over) = (&started, &tried_again, &over);
        async move {
            for number in 1.. {
                let name = format!("{tag}-{row}-{number}");
                lab.create(&pod(&name, "vf")).await?;
                lab.check_pod("default", &name).await.with_context(|| format!("pod {name} failed"))?;
                started.borrow_mut().push(began.elapsed());
                let events = lab.events("default", &name).await?;
                tried_again.borrow_mut().extend(events.into_iter().filter(|e| e.starts_with("Failed")));
                lab.delete_pod(&name).await?;
                if over.get() {
                    break;
                }
            }
            Ok::<(), anyhow::Error>(())
        }
    };
    let change = async {
        tokio::time::sleep(BEFORE).await;
        let from = began.elapsed();
        change.await?;
        over.set(true);
        Ok((from, began.elapsed()))
    };
    let ((from, until), _) = try_join(change, try_join_all((1..=rows).map(row))).await?;
    let (started, tried_again) = (started.into_inner(), tried_again.into_inner());
    let per_second = |from: Duration, until: Duration| {
        let those = started.iter().filter(|at| (from..until).contains(at)).count();
        (those, those as f32 / (until - from).as_secs_f32())
    };
    let (before, (while_rolling, rate)) = (per_second(Duration::ZERO, from).1, per_second(from, until));
    ensure!(while_rolling > 0, "no pod started while the agent was replaced");
    println!(
        "    {tag}: the DaemonSet rolled for {:.1} s; {while_rolling} pods started meanwhile, {rate:.1} per second \
         ({before:.1} before), 0 failed, {} tried again {tried_again:?}",
        (until - from).as_secs_f32(),
        tried_again.len(),
    );
    Ok(())
}

pub async fn a_next_version_and_rollout_undo_find_running_and_prepared_pods_and_serve_them(
    lab: &mut Lab,
) -> Result<()> {
    let told = there_and_back(lab).await;
    back_to_this_version(lab).await?;
    told
}

async fn there_and_back(lab: &Lab) -> Result<()> {
    lab.real()?.node.add_next_version()?;
    lab.template(&Value::Null).await?;
    let old = Stages::hold(lab, "old").await?;
    while_pods_come_and_go(lab, "up", 4, roll(lab, "image", json!(NEXT))).await?;
    ensure!(hook_version()? == next::VERSION, "the hook is {}", hook_version()?);
    old.check_held(lab).await?;
    old.go(lab).await?;
    lab.restart_container(&old.runs).await?;
    ensure!(lab.check_pod("default", &old.runs).await? == old.given, "{} after a restart", old.runs);

    let new = Stages::hold(lab, "new").await?;
    let written = entry(&lab.vf_of(&new.runs).await?.0)?;
    ensure!(written["version"] == next_version::VERSION && written["minReader"] == 1, "{written}");
    ensure!(written["body"][FIELD].is_object(), "it has nothing that is new: {written}");
    while_pods_come_and_go(lab, "undo", 2, undo(lab)).await?;
    ensure!(hook_version()? == env!("CARGO_PKG_VERSION"), "the hook is {}", hook_version()?);
    new.check_held(lab).await?;
    new.go(lab).await?;
    lab.restart_container(&new.runs).await?;
    ensure!(lab.check_pod("default", &new.runs).await? == new.given, "{} after a restart", new.runs);
    new.end(lab).await?;
    old.end(lab).await
}

pub async fn a_claim_that_only_the_next_version_understands_waits_for_it_and_the_rest_is_served(
    lab: &mut Lab,
) -> Result<()> {
    let told = only_next(lab).await;
    back_to_this_version(lab).await?;
    told
}

async fn only_next(lab: &Lab) -> Result<()> {
    lab.real()?.node.add_next_version()?;
    lab.template(&Value::Null).await?;
    roll(lab, "image", json!(NEXT)).await?;
    let mut kept = pod("kept", "vf");
    // Else the API server forgets the pod before the kubelet is done with it.
    kept["spec"]["terminationGracePeriodSeconds"] = json!(1);
    kept["spec"]["resourceClaims"][0]["name"] = json!(ONLY_NEXT);
    kept["spec"]["containers"][0]["resources"]["claims"][0]["name"] = json!(ONLY_NEXT);
    lab.create(&kept).await?;
    let given = lab.check_pod("default", "kept").await?;
    let (claim, vf) = lab.vf_of("kept").await?;
    let written = entry(&claim)?;
    ensure!(written["minReader"] == next_version::VERSION, "{written}");

    undo(lab).await?;
    ensure!(lab.check_pod("default", "kept").await? == given, "the pod has other VFs than before");
    // Its sandbox ends; the claim is not given back, by the version that does not understand it.
    let sandbox = lab.runtime.sandbox("default", "kept").await?;
    lab.api.delete("/api/v1/namespaces/default/pods/kept").await?;
    lab.sim.come_home(vf, &given[0].interface).await?;
    for name in ["other", "another"] {
        lab.create(&pod(name, "vf")).await?;
        let others = lab.check_pod("default", name).await?;
        ensure!(others.iter().all(|other| other.pci != vf), "{others:?} of pod {name} are not free");
        lab.delete_pod(name).await?;
    }
    let (code, left) = lab.api.ask("GET", "/api/v1/namespaces/default/pods/kept", "", &Value::Null).await?;
    ensure!(code == 200 && !left["metadata"]["deletionTimestamp"].is_null(), "{code}: {left}");
    ensure!(lab.runtime.sandbox("default", "kept").await.is_err(), "sandbox {} still lives", sandbox.id);
    ensure!(entry(&claim)? == written, "the entry was changed: {}", entry(&claim)?);

    roll(lab, "image", json!(NEXT)).await?;
    wait_for(Duration::from_secs(90), "the pod to go", async || {
        let (code, pod) =
            lab.api.ask("GET", "/api/v1/namespaces/default/pods/kept", "", &Value::Null).await?;
        ensure!(code == 404, "it is {}", pod["status"]["phase"]);
        Ok(())
    })
    .await?;
    ensure!(entry(&claim).is_err(), "its entry is left");
    lab.sim.wait_clean(Duration::from_secs(20)).await
}
