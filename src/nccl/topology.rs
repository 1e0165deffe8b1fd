//! The topology file (`NCCL_TOPO_FILE`), as NCCL's own parser reads it and as its own detection would have made it.
//!
//! Facts of that parser and of what follows it, each the reason for something below:
//! - It is no XML parser: no declaration, no entities, one space between attributes, values of at most 254 bytes, no tab
//!   between elements; 256 elements until 2.19.
//! - Devices that are found at run time are looked for by name (`net`) or by bus ID (`pci`) anywhere in the file and keep their
//!   place there; others are put where sysfs says. For a VF that is the address with its device and function made 0,
//!   which for VFs with another device number, or on the next bus, is some other card.
//! - What nobody finds at run time is taken away again, with the bridges and processors above it. So all GPUs stand here,
//!   whichever the container has.
//! - `gpu`, and of `net` what is not said (`dev`, `port`, `guid`, `maxconn`, `gdr`, `latency`) it fills in from the driver. What is
//!   said counts: a wrong `gdr` would make it use GPUDirect that is not there, and `keep` a device that it can't open.
//! - `class`, `link_speed` and `link_width` of a `pci`, and of a `cpu` the `arch`, for Intel also family and model, are
//!   looked for without a second try where only NICs hang below. An empty speed is PCIe 3, a width of 0 is 16 lanes.
//! - A `cpu` that it adds itself gets the hash of the host name, and counts as another machine beside those of a file:
//!   every NUMA node stands here.
//! - Of bridges it takes every second: the upstream port of a switch stands for the switch, root ports are left out.
//! - `name`s with characters that no RDMA device of a kernel driver or udev has are left out here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Net;
use crate::device::PciAddress;
use crate::host::topology::{Function, Processor, Topology};

/// Elements that NCCL until 2.19 takes (`MAX_NODES`).
const MOST_ELEMENTS: usize = 256;

/// Who is below whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Parent {
    Numa(i32),
    Bridge(PciAddress),
}

/// The file's text; `None` where it would be of no use: nothing of the VFs is to be seen, or NCCL could not read it.
pub fn topology(node: &Topology, nets: &[Net]) -> Option<String> {
    let plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let mut at: BTreeMap<PciAddress, Vec<&Net>> = BTreeMap::new();
    for net in nets.iter().filter(|net| plain(&net.name) && node.functions.contains_key(&net.place)) {
        at.entry(net.place).or_default().push(net);
    }
    if at.is_empty() {
        return None;
    }
    let mut below: BTreeMap<Parent, BTreeSet<PciAddress>> = BTreeMap::new();
    for leaf in node.gpus.iter().chain(at.keys()) {
        let mut child = *leaf;
        while let Some(function) = node.functions.get(&child) {
            let parent = match function.above.get(1) {
                Some(bridge) if node.functions.contains_key(bridge) => Parent::Bridge(*bridge),
                _ => Parent::Numa(function.numa_node),
            };
            let is_new = below.entry(parent).or_default().insert(child);
            match parent {
                Parent::Bridge(bridge) if is_new => child = bridge,
                _ => break,
            }
        }
    }
    let numa_nodes: BTreeSet<i32> = below
        .keys()
        .filter_map(|parent| match parent {
            Parent::Numa(number) => Some(*number),
            Parent::Bridge(_) => None,
        })
        .chain(node.numa_nodes.keys().copied())
        .collect();
    let mut page = Page { node, at: &at, below: &below, text: String::new(), elements: 1 };
    page.text.push_str("<system version=\"1\">\n");
    for number in numa_nodes {
        page.cpu(number);
    }
    page.text.push_str("</system>\n");
    (page.elements <= MOST_ELEMENTS).then_some(page.text)
}

struct Page<'a> {
    node: &'a Topology,
    at: &'a BTreeMap<PciAddress, Vec<&'a Net>>,
    below: &'a BTreeMap<Parent, BTreeSet<PciAddress>>,
    text: String,
    elements: usize,
}

impl Page<'_> {
    /// One element's start; attributes that are not known are left out.
    fn open(&mut self, depth: usize, name: &str, attributes: &[(&str, Option<String>)], is_empty: bool) {
        self.elements += 1;
        let _ = write!(self.text, "{:width$}<{name}", "", width = depth * 2);
        for (key, value) in attributes {
            if let Some(value) = value {
                let _ = write!(self.text, " {key}=\"{}\"", bare(value));
            }
        }
        self.text.push_str(if is_empty { "/>\n" } else { ">\n" });
    }

    fn close(&mut self, depth: usize, name: &str) {
        let _ = writeln!(self.text, "{:width$}</{name}>", "", width = depth * 2);
    }

    fn cpu(&mut self, number: i32) {
        let Processor { architecture, vendor, family, model } = &self.node.processor;
        let arch = if *architecture == "aarch64" { "arm64" } else { architecture };
        let affinity = self.node.numa_nodes.get(&number).cloned();
        // AMD's family is counted in another way than the kernel's, and asked for by nobody.
        let is_intel = vendor.as_deref() == Some("GenuineIntel");
        let number_of = |value: &Option<u32>| value.filter(|_| is_intel).map(|value| value.to_string());
        let attributes = [
            ("numaid", Some(number.to_string())),
            ("affinity", affinity),
            ("arch", Some(arch.to_owned())),
            ("vendor", vendor.clone()),
            ("familyid", number_of(family)),
            ("modelid", number_of(model)),
        ];
        let children = self.children(Parent::Numa(number));
        self.open(1, "cpu", &attributes, children.is_empty());
        if !children.is_empty() {
            children.into_iter().for_each(|child| self.pci(2, child));
            self.close(1, "cpu");
        }
    }

    fn children(&self, parent: Parent) -> Vec<PciAddress> {
        self.below.get(&parent).into_iter().flatten().copied().collect()
    }

    fn pci(&mut self, depth: usize, address: PciAddress) {
        let Some(function) = self.node.functions.get(&address) else { return };
        let Function {
            class,
            vendor,
            device,
            subsystem_vendor,
            subsystem_device,
            speed,
            width,
            port_mbps,
            ..
        } = function;
        let attributes = [
            ("busid", Some(address.to_string())),
            ("class", Some(class.clone())),
            ("vendor", vendor.clone()),
            ("device", device.clone()),
            ("subsystem_vendor", subsystem_vendor.clone()),
            ("subsystem_device", subsystem_device.clone()),
            ("link_speed", Some(speed.clone().unwrap_or_default())),
            ("link_width", Some(width.unwrap_or_default().to_string())),
        ];
        let nets = self.at.get(&address).cloned().unwrap_or_default();
        let children = self.children(Parent::Bridge(address));
        let is_empty = nets.is_empty() && children.is_empty();
        self.open(depth, "pci", &attributes, is_empty);
        children.into_iter().for_each(|child| self.pci(depth + 1, child));
        if !nets.is_empty() {
            self.open(depth + 1, "nic", &[], false);
            for net in nets {
                let speed = port_mbps.map(|speed| speed.to_string());
                self.open(depth + 2, "net", &[("name", Some(net.name.clone())), ("speed", speed)], true);
            }
            self.close(depth + 1, "nic");
        }
        if !is_empty {
            self.close(depth, "pci");
        }
    }
}

/// Values come from the kernel and have none of these; a file that could not be read would be worse than a value less.
fn bare(value: &str) -> String {
    value.chars().filter(|c| !matches!(c, '"' | '<' | '>' | '&') && !c.is_control()).take(254).collect()
}
