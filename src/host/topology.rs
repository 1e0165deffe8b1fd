//! How GPUs and NICs hang below this node's processors: the part of the PCI tree above some functions, with its links.
//!
//! In: where `/sys` and `/proc` are, functions of interest. Out: a [`Topology`]; what can't be read is absent. Never here: what
//! a program makes of it (`nccl`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::survey::{Kernel, gpus};
use crate::device::PciAddress;

/// The node as programs see it that pair GPUs and NICs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Of the first processor; the others are the same.
    pub processor: Processor,
    /// NUMA nodes and the processors of each, as a mask in hexadecimal groups (`cpumap`).
    pub numa_nodes: BTreeMap<i32, String>,
    /// GPUs, by address.
    pub gpus: Vec<PciAddress>,
    /// GPUs, functions that were asked for, and the bridges above them.
    pub functions: BTreeMap<PciAddress, Function>,
}

/// A processor by its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processor {
    /// `x86_64`, `aarch64`
    pub architecture: &'static str,
    /// `GenuineIntel`; x86 only.
    pub vendor: Option<String>,
    /// `cpu family`
    pub family: Option<u32>,
    /// `model`
    pub model: Option<u32>,
}

/// A PCI function or bridge and the link above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Function {
    /// As sysfs prints it: `0x020000`.
    pub class: String,
    /// `0x15b3`
    pub vendor: Option<String>,
    /// `0x1021`
    pub device: Option<String>,
    /// `subsystem_vendor`
    pub subsystem_vendor: Option<String>,
    /// `subsystem_device`
    pub subsystem_device: Option<String>,
    /// Of its link: the slower of its own and its port's maximum, as sysfs prints it (`32.0 GT/s PCIe`).
    pub speed: Option<String>,
    /// Lanes of its link: the fewer of both.
    pub width: Option<u32>,
    /// Mbit/s of a NIC's port (`speed` of its netdev), while its link is up.
    pub port_mbps: Option<u32>,
    /// NUMA node; -1 is unknown.
    pub numa_node: i32,
    /// Bridges above it, nearest first, the root port last.
    pub above: Vec<PciAddress>,
}

/// Reads the GPUs, these functions, and what is above them.
pub fn read(sys: &Path, proc: &Path, wanted: &[PciAddress]) -> Topology {
    let gpus: Vec<PciAddress> = gpus(sys).into_iter().map(|gpu| gpu.pci).collect();
    let mut functions = BTreeMap::new();
    for pci in gpus.iter().chain(wanted) {
        let Some(function) = function(sys, *pci) else { continue };
        for bridge in &function.above {
            if !functions.contains_key(bridge) {
                functions.extend(self::function(sys, *bridge).map(|function| (*bridge, function)));
            }
        }
        functions.insert(*pci, function);
    }
    Topology { processor: processor(sys, proc), numa_nodes: numa_nodes(sys), gpus, functions }
}

fn function(sys: &Path, pci: PciAddress) -> Option<Function> {
    let path = fs::canonicalize(sys.join("bus/pci/devices").join(pci.to_string())).ok()?;
    let text = |file: &str| {
        let text = fs::read_to_string(path.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // The port at the other end of its link is the folder above; on the root bus there is none.
    let slower = |file: &str| {
        let all = [text(file), text(&format!("../{file}"))];
        let known = all.into_iter().flatten().filter(|value| number(value).is_some());
        known.min_by(|a, b| number(a).partial_cmp(&number(b)).unwrap_or(std::cmp::Ordering::Equal))
    };
    let above =
        path.ancestors().skip(1).map_while(|folder| folder.file_name()?.to_str()?.parse().ok()).collect();
    Some(Function {
        class: text("class")?,
        vendor: text("vendor"),
        device: text("device"),
        subsystem_vendor: text("subsystem_vendor"),
        subsystem_device: text("subsystem_device"),
        speed: slower("max_link_speed"),
        width: slower("max_link_width").and_then(|width| width.parse().ok()),
        port_mbps: port_speed(&path),
        numa_node: text("numa_node").and_then(|node| node.parse().ok()).unwrap_or(-1),
        above,
    })
}

/// A PF's own netdev and its representors are of one port; one that is down says -1.
fn port_speed(path: &Path) -> Option<u32> {
    let netdevs = fs::read_dir(path.join("net")).ok()?.flatten();
    let speed =
        |netdev: fs::DirEntry| fs::read_to_string(netdev.path().join("speed")).ok()?.trim().parse().ok();
    netdevs.filter_map(speed).find(|speed| *speed > 0)
}

/// `32.0 GT/s PCIe` and `16`; `Unknown` is none, and 255 lanes are what a function says that does not know (VFs).
fn number(text: &str) -> Option<f32> {
    let number: f32 = text.split(' ').next()?.parse().ok()?;
    (number > 0.0 && number < 255.0).then_some(number)
}

fn processor(sys: &Path, proc: &Path) -> Processor {
    let kernel = Kernel::read(sys, proc);
    Processor {
        architecture: std::env::consts::ARCH,
        vendor: kernel.cpu,
        family: kernel.cpu_family,
        model: kernel.cpu_model,
    }
}

fn numa_nodes(sys: &Path) -> BTreeMap<i32, String> {
    let entries = fs::read_dir(sys.join("devices/system/node")).into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let mask = fs::read_to_string(entry.path().join("cpumap")).ok()?;
        Some((number, mask.trim().to_owned()))
    };
    entries.filter_map(node).collect()
}
