//! Pods of the demonstration: a process in a network namespace of its own, as a runtime's pause container is one.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::device::PciAddress;
use crate::host::{Kernel, Linux, Netns};

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

/// A link as it was seen.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenLink {
    /// Name.
    pub name: String,
    /// Link-layer address.
    pub hw_addr: String,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// With prefix length.
    pub addresses: Vec<String>,
}

/// The links of a pod.
///
/// # Errors
/// When its namespace can't be entered.
pub fn links_in(netns: &Path) -> anyhow::Result<Vec<SeenLink>> {
    let kernel = Linux::new("/sys")?;
    let netns = kernel.open(netns)?;
    seen(&kernel, &netns)
}

/// The links of a VF on the host; none while it is lent.
///
/// # Errors
/// When the host's links can't be listed.
pub fn links_on_host(sysfs: &Path, vf: PciAddress) -> anyhow::Result<Vec<SeenLink>> {
    let kernel = Linux::new(sysfs)?;
    let names = kernel.netdev_names(vf);
    let links = seen(&kernel, kernel.host())?;
    Ok(links.into_iter().filter(|link| names.contains(&link.name)).collect())
}

fn seen(kernel: &Linux, netns: &Netns) -> anyhow::Result<Vec<SeenLink>> {
    let mut session = kernel.enter(netns)?;
    let addresses = session.all_addresses()?;
    let of =
        |index: u32| addresses.iter().filter(move |(owner, _)| *owner == index).map(|(_, a)| a.to_string());
    let links = session.all()?.into_iter().map(|link| SeenLink {
        addresses: of(link.index).collect(),
        name: link.name,
        hw_addr: link.hw_addr.map(|address| address.to_string()).unwrap_or_default(),
        mtu: link.mtu,
        up: link.up,
    });
    Ok(links.collect())
}

/// The other half of [`Process`]: gets a namespace, says so, waits until its input ends.
///
/// # Errors
/// When the kernel gives no namespace.
pub fn pause() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace for a pod")?;
    // Whoever started this may be gone already.
    writeln!(std::io::stdout(), "ready")?;
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}
