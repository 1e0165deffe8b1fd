//! The `host-device` CNI plugin with `static` addresses, run as a container runtime runs it: one process for each
//! device, its configuration on standard input (CNI specification 1.0).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::json;

use crate::attach::Device;

/// An installed plugin.
#[derive(Debug)]
pub struct HostDevice {
    folder: PathBuf,
}

impl HostDevice {
    /// Debian's package `containernetworking-plugins`, and where everybody else puts them.
    pub const PLACES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

    pub fn find() -> Option<Self> {
        let mut folders = Self::PLACES.iter().map(PathBuf::from);
        let folder =
            folders.find(|folder| ["host-device", "static"].iter().all(|p| folder.join(p).is_file()))?;
        Some(Self { folder })
    }

    /// `ADD` or `DEL` of one device.
    pub fn run(&self, command: &str, device: &Device, netns: &Path) -> anyhow::Result<()> {
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "host-device",
            "device": device.host_name.as_str(),
            "ipam": {"type": "static", "addresses": [{"address": device.address.to_string()}]},
        });
        let mut plugin = Command::new(self.folder.join("host-device"))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "bench")
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", device.pod_name.as_str())
            .env("CNI_PATH", &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("host-device can't be run")?;
        plugin.stdin.take().context("a pipe")?.write_all(config.to_string().as_bytes())?;
        let done = plugin.wait_with_output()?;
        anyhow::ensure!(
            done.status.success(),
            "host-device {command} of {}: {}",
            device.host_name,
            String::from_utf8_lossy(&done.stdout)
        );
        Ok(())
    }
}
