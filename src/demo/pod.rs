//! Pods of the demonstration: a process in a network namespace of its own, as a runtime's pause container is one.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};

/// The hidden command that [`Process`] runs.
pub const PAUSE: &str = "pause-in-netns";

/// A process that does nothing in a network namespace of its own; both end with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it with this program's executable and waits until it is in its namespace.
    ///
    /// # Errors
    /// When it can't be started, or may not have a namespace.
    pub fn start(executable: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(executable)
            .arg(PAUSE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a pod's process can't be started")?;
        let mut line = String::new();
        let output = child.stdout.take().context("a pod's process without output")?;
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "ready" {
            let _ = child.kill();
            bail!("a pod's process did not get its network namespace");
        }
        Ok(Self { child })
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Path of its network namespace.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its input closes with this process even if nobody gets here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other half of [`Process`]: gets a namespace, says so, waits until its input ends.
///
/// # Errors
/// When the kernel gives no namespace.
pub fn pause() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace for a pod")?;
    println!("ready");
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}
