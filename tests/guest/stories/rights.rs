//! What a user without rights gets of a real sysfs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

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
