//! CNI plugins: `host-device` with `static` addresses, alone or with `tuning` and `sbr` behind it, run as a container runtime runs it: one process for each
//! device, its configuration on standard input (CNI specification 1.0).

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::{Value, json};

use crate::attach::{Device, MTU};
use crate::rails::SYSCTLS;

/// An installed plugin.
#[derive(Debug)]
pub struct HostDevice {
    folder: PathBuf,
}

impl HostDevice {
    /// Debian's package `containernetworking-plugins`, and where everybody else puts them.
    pub const PLACES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

    /// With what a chain of them needs, too.
    pub fn find_chain() -> Option<Self> {
        Self::find().filter(|found| ["tuning", "sbr"].iter().all(|p| found.folder.join(p).is_file()))
    }

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
        self.plugin("host-device", command, &config, device, netns).map(drop)
    }

    /// The plugins that a device with rules and sysctls needs, as a list of a network configuration: each is told the
    /// result of the one before.
    pub fn chain(&self, command: &str, device: &Device, gateway: IpAddr, netns: &Path) -> anyhow::Result<()> {
        let head = json!({"cniVersion": "1.0.0", "name": "bench"});
        let sysctls: serde_json::Map<String, Value> = SYSCTLS
            .iter()
            .map(|(name, value)| (format!("net.ipv4.conf.IFNAME.{name}"), value.to_string().into()))
            .collect();
        let address = json!({"address": device.address.to_string(), "gateway": gateway});
        let mut plugins = [
            json!({"type": "host-device", "device": device.host_name.as_str(),
                "ipam": {"type": "static", "addresses": [address], "routes": [{"dst": "10.0.0.0/8", "gw": gateway}]}}),
            json!({"type": "tuning", "mtu": MTU, "sysctl": sysctls}),
            json!({"type": "sbr"}),
        ];
        if command == "DEL" {
            plugins.reverse();
        }
        let mut result = Value::Null;
        for plugin in plugins {
            let name = plugin["type"].as_str().context("a name")?.to_owned();
            let mut config = head.clone();
            let members = config.as_object_mut().context("an object")?;
            members.extend(plugin.as_object().cloned().unwrap_or_default());
            if !result.is_null() {
                members.insert("prevResult".to_owned(), result.clone());
            }
            let said = self.plugin(&name, command, &config, device, netns)?;
            if command == "ADD" {
                result = serde_json::from_slice(&said).with_context(|| format!("result of {name}"))?;
            }
        }
        Ok(())
    }

    /// What the plugin says.
    fn plugin(
        &self,
        name: &str,
        command: &str,
        config: &Value,
        device: &Device,
        netns: &Path,
    ) -> anyhow::Result<Vec<u8>> {
        let mut plugin = Command::new(self.folder.join(name))
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
            .with_context(|| format!("{name} can't be run"))?;
        plugin.stdin.take().context("a pipe")?.write_all(config.to_string().as_bytes())?;
        let done = plugin.wait_with_output()?;
        anyhow::ensure!(
            done.status.success(),
            "{name} {command} of {}: {}",
            device.host_name,
            String::from_utf8_lossy(&done.stdout)
        );
        Ok(done.stdout)
    }
}
