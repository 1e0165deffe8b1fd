//! The attributes of a VF.
//!
//! Unknown is left out: never empty, never -1. What changes while a VF is lent (driver, MTU, RDMA) comes from the
//! clean facts then, everything else from the PF or from files that stay.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{AttributeValue, Rules, Verdict};
use crate::device::{
    CleanFacts, EswitchMode, LinkType, PciAddress, Place, RdmaDevice, RdmaNetnsMode, Snapshot, Vf,
};

/// Attributes and capacities of a device (resource.k8s.io/v1, `ResourceSliceMaxAttributesAndCapacitiesPerDevice`).
const MOST: usize = 32;
/// Bytes of a string (`DeviceAttributeMaxValueLength`).
const LONGEST: usize = 64;

/// Domain of the attributes that Kubernetes defines.
const STANDARD: &str = "resource.kubernetes.io";
/// Domain under which other network drivers publish the NUMA node.
const DRANET: &str = "dra.net";

/// Attributes in order of worth: what does not fit is dropped from the end. And the names of what was dropped.
pub(super) fn of(
    snapshot: &Snapshot,
    vf: &Vf,
    facts: Option<&CleanFacts>,
    rules: &Rules,
) -> (BTreeMap<String, AttributeValue>, Vec<String>) {
    let pf = snapshot.pf_of(vf);
    let pf_netdev = pf.and_then(|pf| pf.netdev.as_ref());
    let driver = facts.map_or(vf.driver.as_ref(), |facts| facts.driver.as_ref());
    let mtu = facts.map_or(vf.netdev.as_ref().and_then(|netdev| netdev.mtu), |facts| facts.mtu);
    let rdma = rdma(vf, facts);
    let text = |value: String| AttributeValue::String(value);
    let number = |value: u32| AttributeValue::Int(i64::from(value));
    let address = |value: PciAddress| AttributeValue::String(value.to_string());

    let own = rules.driver_name.as_str();
    let wanted: Vec<(&str, &str, Option<AttributeValue>)> = vec![
        (own, "pciAddress", Some(address(vf.pci))),
        (own, "pfPciAddress", vf.pf.map(address)),
        (own, "pfName", pf_netdev.map(|netdev| text(netdev.name.clone()))),
        (own, "vfIndex", vf.index.map(number)),
        (own, "linkType", link_type(vf, facts).map(|link| text(link.to_owned()))),
        (own, "rdma", rdma.map(AttributeValue::Bool)),
        (own, "rail", pf.and_then(|pf| rules.rails.of(pf)).map(number)),
        (own, "numaNode", vf.numa_node.map(number)),
        (STANDARD, "pciBusID", Some(address(vf.pci))),
        (STANDARD, "pcieRoot", vf.pcie_root.clone().map(text)),
        (STANDARD, "numaNode", vf.numa_node.map(number)),
        (DRANET, "numaNode", vf.numa_node.map(number)),
        (own, "pcieSwitch", vf.pcie_switch.map(address)),
        // Four hexadecimal digits without 0x, as the SR-IOV drivers before this one publish them: selectors carry over.
        (own, "vendor", Some(text(format!("{:04x}", vf.vendor)))),
        (own, "device", Some(text(format!("{:04x}", vf.device)))),
        (own, "driver", driver.cloned().map(text)),
        (own, "mtu", mtu.map(number)),
        (own, "linkSpeedMbps", pf_netdev.and_then(|netdev| netdev.speed_mbps).map(number)),
        (own, "eswitchMode", pf.and_then(|pf| pf.eswitch_mode).map(|mode| text(eswitch(mode).to_owned()))),
        (own, "rdmaNetns", netns(snapshot, rdma).map(|mode| text(mode.to_owned()))),
        (own, "nodeGuid", node_guid(vf, facts).map(text)),
        (own, "portGuid", port_guid(vf, facts).map(text)),
        (own, "attach", rules.attach.clone().map(text)),
    ];

    let mut attributes = BTreeMap::new();
    let mut dropped = Vec::new();
    for (domain, name, value) in wanted {
        let Some(value) = value else { continue };
        let key = format!("{domain}/{name}");
        if fits(&value) && attributes.len() < MOST {
            attributes.insert(key, value);
        } else if value != AttributeValue::String(String::new()) {
            dropped.push(key);
        }
    }
    (attributes, dropped)
}

/// Adds the addresses that a VF gets of the one pool that has a block for its PF. They are no part of what `--devices`
/// sees: which VFs are offered must not hang on what was claimed of an API server.
pub fn add_addresses(verdict: &mut Verdict, addresses: &[IpNet], rules: &Rules) {
    for address in addresses {
        let name = if address.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let key = format!("{}/{name}", rules.driver_name);
        match verdict.device.attributes.len() < MOST {
            true => drop(
                verdict.device.attributes.insert(key, AttributeValue::String(address.addr().to_string())),
            ),
            false => verdict.dropped.push(key),
        }
    }
}

fn fits(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::String(text) | AttributeValue::Version(text) => (1..=LONGEST).contains(&text.len()),
        AttributeValue::Bool(_) | AttributeValue::Int(_) => true,
    }
}

fn link_type(vf: &Vf, facts: Option<&CleanFacts>) -> Option<&'static str> {
    // Without PF nothing but the address tells a lent VF's link: 20 bytes are IPoIB's.
    let by_address =
        facts.and_then(|facts| facts.hw_addr.as_ref()).and_then(|address| match address.bytes().len() {
            6 => Some(LinkType::Ethernet),
            20 => Some(LinkType::Infiniband),
            _ => None,
        });
    Some(match by_address.or(vf.link_type)? {
        LinkType::Ethernet => "ethernet",
        LinkType::Infiniband => "infiniband",
    })
}

/// Whether the VF has an RDMA device. Without a network driver it can't be told: the driver makes it.
fn rdma(vf: &Vf, facts: Option<&CleanFacts>) -> Option<bool> {
    match facts {
        Some(facts) if facts.name.is_some() || !facts.rdma.is_empty() => Some(!facts.rdma.is_empty()),
        Some(_) => None,
        None if vf.place == Place::Host => Some(!vf.rdma.is_empty()),
        None => None,
    }
}

/// The first RDMA device, as it was while nobody owned the VF.
fn device<'a>(vf: &'a Vf, facts: Option<&'a CleanFacts>) -> Option<&'a RdmaDevice> {
    facts.map_or(&vf.rdma, |facts| &facts.rdma).first()
}

/// Zero is none: that of a VF that nobody gave an address.
fn node_guid(vf: &Vf, facts: Option<&CleanFacts>) -> Option<String> {
    let guid = device(vf, facts)?.node_guid.clone()?;
    guid.bytes().any(|b| !matches!(b, b'0' | b':')).then_some(guid)
}

/// What a subnet manager knows a port by. That of RoCE follows the interface's address, and comes and goes with it.
fn port_guid(vf: &Vf, facts: Option<&CleanFacts>) -> Option<String> {
    let device = device(vf, facts)?;
    device.port_guid.clone().filter(|_| device.link_type == Some(LinkType::Infiniband))
}

fn netns(snapshot: &Snapshot, rdma: Option<bool>) -> Option<&'static str> {
    rdma.filter(|rdma| *rdma)?;
    Some(match snapshot.rdma_netns? {
        RdmaNetnsMode::Shared => "shared",
        RdmaNetnsMode::Exclusive => "exclusive",
    })
}

fn eswitch(mode: EswitchMode) -> &'static str {
    match mode {
        EswitchMode::Legacy => "legacy",
        EswitchMode::Switchdev => "switchdev",
    }
}
