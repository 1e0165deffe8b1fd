//! What commands without agent and cluster show of real VFs.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::{facts, wait_as_before};
use crate::inside::Ground;
use crate::node::AGENT;

/// `nobody`
const NOBODY: u32 = 65534;

fn inventory(command: &mut Command) -> Result<(Value, String)> {
    let output = command.args(["inventory", "-o", "json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "inventory ends with {}: {said}", output.status);
    Ok((serde_json::from_slice(&output.stdout)?, said))
}

pub async fn a_user_without_rights_sees_the_same_inventory_as_root(ground: Ground) -> Result<()> {
    let (of_root, _) = inventory(&mut Command::new(AGENT))?;
    let (of_nobody, said) = inventory(Command::new(AGENT).uid(NOBODY).gid(NOBODY))?;
    let vfs = of_root["vfs"].as_array().map_or(0, Vec::len);
    ensure!(vfs == ground.vfs.len(), "root sees {vfs} VFs of {}", ground.vfs.len());
    ensure!(of_nobody == of_root, "nobody sees {of_nobody:#}\nroot sees {of_root:#}\nit was said: {said}");
    Ok(())
}

pub async fn the_demonstration_takes_this_machines_own_vfs_and_gives_them_back(ground: Ground) -> Result<()> {
    let before = facts(&ground.vfs)?;
    let output = Command::new(AGENT).args(["demo", "--real", "-o", "json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Value = serde_json::from_slice(&output.stdout).with_context(|| said.clone())?;
    ensure!(told["node"]["vfs"] == ground.vfs.len(), "{:#}", told["node"]);
    let pods: Vec<&Value> = told["runs"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|run| run["pods"].as_array())
        .flatten()
        .collect();
    let started =
        pods.iter().filter(|pod| pod["returned"].as_array().is_some_and(|vfs| !vfs.is_empty())).count();
    // Some examples ask for more, or other, than two ports with three VFs each have.
    ensure!(started >= 1, "no pod got a VF: {told:#}\n{said}");
    ensure!(told["end"]["left"] == serde_json::json!([]), "{:#}", told["end"]);
    wait_as_before(&before, Duration::from_secs(20))
}
