//! What an OCI runtime is about to start: the parts of a bundle's `config.json` that RDMA devices need. Pure.
//!
//! Source: OCI runtime specification, config.md ("Process", rlimits) and config-linux.md ("Devices").

use serde::Deserialize;

use super::AttachError;
use crate::device::{CharDevice, PciAddress};

/// The parts of `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// `process.env`
    pub env: Vec<String>,
    /// `linux.devices`, the character devices.
    pub devices: Vec<CharDevice>,
    /// RLIMIT_MEMLOCK of `process.rlimits` in bytes, the lesser of soft and hard: the soft one counts for the kernel
    /// (`ib_umem_get`, drivers/infiniband/core/umem.c).
    pub memlock: Option<u64>,
}

#[derive(Deserialize)]
struct Config {
    process: Option<Process>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Process {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    rlimits: Vec<Rlimit>,
}

#[derive(Deserialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    hard: u64,
    #[serde(default)]
    soft: u64,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    major: i64,
    #[serde(default)]
    minor: i64,
}

impl Bundle {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let Config { process, linux } = serde_json::from_str(text)?;
        let (env, rlimits) = process.map(|process| (process.env, process.rlimits)).unwrap_or_default();
        let devices = linux.map(|linux| linux.devices).unwrap_or_default();
        let devices = devices.into_iter().filter(|device| matches!(device.kind.as_str(), "c" | "u"));
        let number = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Self {
            env,
            devices: devices
                .map(|device| CharDevice {
                    path: device.path,
                    major: number(device.major),
                    minor: number(device.minor),
                })
                .collect(),
            memlock: rlimits
                .iter()
                .find(|limit| limit.kind == "RLIMIT_MEMLOCK")
                .map(|limit| limit.soft.min(limit.hard)),
        })
    }

    /// Whether the container gets exactly this node.
    pub(super) fn check(&self, vf: PciAddress, node: &CharDevice) -> Result<(), AttachError> {
        let there = self.devices.iter().find(|device| device.path == node.path);
        if there == Some(node) {
            return Ok(());
        }
        let found = there.map_or_else(
            || "no such device".to_owned(),
            |other| format!("number {}:{}", other.major, other.minor),
        );
        let CharDevice { path, major, minor } = node.clone();
        Err(AttachError::RdmaNode { vf, path, major, minor, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_to_be_there_under_its_path_with_its_number() {
        let text = r#"{"ociVersion": "1.2.0", "process": {"args": ["sh"], "env": ["A=1"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1}]},
            "linux": {"devices": [{"path": "/dev/infiniband/uverbs1", "type": "c", "major": 231, "minor": 193},
            {"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0}]}}"#;
        let bundle = Bundle::parse(text).unwrap();
        assert_eq!((bundle.env.as_slice(), bundle.memlock), (&["A=1".to_owned()][..], None));
        let vf: PciAddress = "0000:81:00.2".parse().unwrap();
        let node =
            |n: u32, minor| CharDevice { path: format!("/dev/infiniband/uverbs{n}"), major: 231, minor };
        bundle.check(vf, &node(1, 193)).unwrap();
        let other = bundle.check(vf, &node(1, 192)).unwrap_err().to_string();
        assert!(
            other.contains("has number 231:193 where") && other.contains("uverbs1 with number 231:192"),
            "{other}"
        );
        let none = bundle.check(vf, &node(0, 192)).unwrap_err().to_string();
        assert!(none.contains("has no such device where"), "{none}");
        let limited = r#"{"process": {"rlimits": [{"type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 1}]}}"#;
        assert_eq!(Bundle::parse(limited).unwrap().memlock, Some(1));
        assert!(Bundle::parse("{").is_err());
    }
}
