//! The first half: starts the second in namespaces of its own, and removes what only it can see the end of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::INSIDE_ENV;

/// Written by the second half: IDs of containers that may have left a control group behind.
pub const LEFT: &str = "containers";

/// Runs the second half with the same filter, hands on its exit code.
///
/// # Errors
/// When it can't be started.
pub fn run(filter: &[String]) -> Result<ExitCode> {
    let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
    if logs.exists() {
        fs::remove_dir_all(&logs)?;
    }
    fs::create_dir_all(&logs)?;
    let status = Command::new("unshare")
        // With the child's end as PID 1, the kernel ends all that it started.
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ])
        .arg(std::env::current_exe()?)
        .args(filter)
        .env(INSIDE_ENV, &logs)
        .stdin(Stdio::null())
        .status()
        .context("can't run unshare")?;
    remove_cgroups(&logs);
    if !status.success() {
        println!("logs: {}", logs.display());
        return Ok(ExitCode::FAILURE);
    }
    fs::remove_dir_all(&logs)?;
    Ok(ExitCode::SUCCESS)
}

/// Control groups are in no namespace. Only empty ones can be removed, so that an ID of somebody else would not hurt.
fn remove_cgroups(logs: &Path) {
    let left = fs::read_to_string(logs.join(LEFT)).unwrap_or_default();
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.clone()]) {
        for id in left.lines() {
            // Not there: the runtime removed it, which is the rule.
            let _ = fs::remove_dir(hierarchy.join("k8s.io").join(id));
        }
        let _ = fs::remove_dir(hierarchy.join("k8s.io"));
    }
}
