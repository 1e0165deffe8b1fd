//! The fields of a `VfConfig`: the one place where a field is added.
//!
//! A new field is a place in [`VfConfig`] and an entry in the table below: its kind of value with its bounds, who may
//! set it, what it is for. Reader, precedence, grants, JSON Schema, admission policy and the table in docs/vfconfig.md
//! follow from that. Fields that the API names already and a later version will honour stand in the table as
//! [`Shape::Later`], so that a claim which needs them fails by name instead of being half served.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::address::Addresses;
use super::mac::Mac;
use super::name::Name;
use super::pool::PoolName;
use super::rdma::{Amount, Memlock, RdmaMode};
use super::routes::{Routes, WantedRoute};
use super::value::{Form, Number, Slot, Switch, Value, Word, slot};
use super::{NameSpec, Probe};
use crate::device::{HwAddr, LinkState, VlanProtocol};

/// Parameters of one config entry, or what several of them add up to. `None` is unset: the field is never touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VfConfig {
    /// `interface`
    pub interface: InterfaceConfig,
    /// `vf`
    pub vf: SettingsConfig,
    /// `bind`
    pub bind: BindConfig,
    /// `rdma`
    pub rdma: RdmaConfig,
}

/// `rdma`: the VF's RDMA device in containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RdmaConfig {
    /// `rdma.mode`
    pub mode: Option<RdmaMode>,
    /// `rdma.umad`
    pub umad: Option<bool>,
    /// `rdma.memlock`
    pub memlock: Option<Memlock>,
    /// `rdma.nccl`
    pub nccl: NcclConfig,
}

/// `rdma.nccl`: what NCCL and UCX are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NcclConfig {
    /// `rdma.nccl.topology`
    pub topology: Option<bool>,
}

/// `interface`: what the pod sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceConfig {
    /// `interface.name`, `{request}` not yet filled in.
    pub name: Option<NameSpec>,
    /// `interface.mtu`, bytes.
    pub mtu: Option<u32>,
    /// `interface.addresses`; an empty list takes away what an earlier entry gave.
    pub addresses: Option<Vec<IpNet>>,
    /// `interface.addressPool`: name of an AddressPool, or a template of one.
    pub address_pool: Option<String>,
    /// `interface.routes`; an empty list takes away what an earlier entry gave.
    pub routes: Option<Vec<WantedRoute>>,
    /// `interface.sourceRouting`
    pub source_routing: Option<bool>,
    /// `interface.defaultRoute`
    pub default_route: Option<bool>,
    /// `interface.sysctls`
    pub sysctls: SysctlsConfig,
    /// `interface.probe`
    pub probe: ProbeConfig,
}

/// `interface.probe`: what is asked of the network before the pod runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbeConfig {
    /// `duplicateAddress`
    pub duplicate_address: Option<Probe>,
    /// `gateway`
    pub gateway: Option<Probe>,
    /// `budgetMs`, milliseconds.
    pub budget_ms: Option<u32>,
}

/// `interface.sysctls`: what is in effect for the interface, the kernel's name for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SysctlsConfig {
    /// `preset`
    pub preset: Option<Preset>,
    /// `rp_filter`
    pub rp_filter: Option<u32>,
    /// `arp_ignore`
    pub arp_ignore: Option<u32>,
    /// `arp_announce`
    pub arp_announce: Option<u32>,
    /// `arp_filter`
    pub arp_filter: Option<u32>,
    /// `arp_notify`
    pub arp_notify: Option<u32>,
    /// `accept_local`
    pub accept_local: Option<u32>,
    /// `disable_ipv6`
    pub disable_ipv6: Option<u32>,
}

/// Sysctls that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Several interfaces in one subnet: each answers for itself.
    Multirail,
}

impl SysctlsConfig {
    /// Names and values; what is set by name counts over the preset.
    pub(super) fn values(&self) -> BTreeMap<String, u32> {
        // Loose: a reply to what came in by another rail has its route there (Documentation/networking/ip-sysctl.rst).
        let multirail = [
            ("rp_filter", 2),
            ("arp_ignore", 1),
            ("arp_announce", 2),
            ("arp_filter", 1),
            ("accept_local", 1),
        ];
        let mut values = BTreeMap::new();
        if self.preset == Some(Preset::Multirail) {
            values.extend(multirail.map(|(name, value)| (name.to_owned(), value)));
        }
        let Self {
            preset: _,
            rp_filter,
            arp_ignore,
            arp_announce,
            arp_filter,
            arp_notify,
            accept_local,
            disable_ipv6,
        } = self;
        for (name, value) in [
            ("rp_filter", rp_filter),
            ("arp_ignore", arp_ignore),
            ("arp_announce", arp_announce),
            ("arp_filter", arp_filter),
            ("arp_notify", arp_notify),
            ("accept_local", accept_local),
            ("disable_ipv6", disable_ipv6),
        ] {
            values.extend(value.map(|value| (name.to_owned(), value)));
        }
        values
    }
}

/// `vf`: what the PF does with the VF.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingsConfig {
    /// `vf.mac`
    pub mac: Option<HwAddr>,
    /// `vf.vlan`; 0 is none.
    pub vlan: Option<u16>,
    /// `vf.vlanQos`
    pub vlan_qos: Option<u8>,
    /// `vf.vlanProtocol`
    pub vlan_protocol: Option<VlanProtocol>,
    /// `vf.trust`
    pub trust: Option<bool>,
    /// `vf.spoofCheck`
    pub spoof_check: Option<bool>,
    /// `vf.linkState`
    pub link_state: Option<LinkState>,
    /// `vf.minTxRateMbps`; 0 is none.
    pub min_tx_rate_mbps: Option<u32>,
    /// `vf.maxTxRateMbps`; 0 is none.
    pub max_tx_rate_mbps: Option<u32>,
}

/// `bind`: the VF's driver on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BindConfig {
    /// `bind.driver`
    pub driver: Option<Driver>,
    /// `bind.vhost`
    pub vhost: Option<bool>,
    /// `bind.allowNoIommu`
    pub allow_no_iommu: Option<bool>,
}

/// Drivers that a VF may be bound to on request; unset is the kernel's network driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `vfio-pci`
    Vfio,
}

impl VfConfig {
    /// Lays a later entry over this one: field by field, and a list replaces a list.
    pub fn overlay(&mut self, later: &Self) {
        for field in fields() {
            field.leaf.value.overlay(self, later);
        }
    }
}

/// One field of the API.
pub(super) struct Field {
    pub name: &'static str,
    pub shape: Shape,
}

/// What stands behind a field's name.
pub(super) enum Shape {
    /// An object with these fields.
    Section(&'static [Field]),
    /// A value.
    Value(Leaf),
    /// Part of the API, not of this version.
    Later,
}

/// What is known of a field with a value.
pub(super) struct Leaf {
    pub value: &'static dyn Value,
    pub who: Who,
    /// What it is, for schema and docs.
    pub about: &'static str,
}

/// Who may set a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Every claim.
    Anyone,
    /// A class; a claim where a `VfGrant` of its class allows the value.
    Granted,
    /// A class only.
    Class,
}

/// A field with its full name.
pub(super) struct Full {
    /// `vf.vlan`
    pub path: String,
    pub leaf: &'static Leaf,
}

/// Every field that has a value, in the table's order.
pub(super) fn fields() -> Vec<Full> {
    fn walk(prefix: &str, fields: &'static [Field], found: &mut Vec<Full>) {
        for Field { name, shape } in fields {
            let path = format!("{prefix}{name}");
            match shape {
                Shape::Section(inner) => walk(&format!("{path}."), inner, found),
                Shape::Value(leaf) => found.push(Full { path, leaf }),
                Shape::Later => {}
            }
        }
    }
    let mut found = Vec::new();
    walk("", FIELDS, &mut found);
    found
}

/// A field as docs show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFacts {
    /// `vf.vlan`
    pub path: String,
    /// What its value looks like.
    pub form: Form,
    /// Who may set it.
    pub who: Who,
    /// What it is.
    pub about: &'static str,
}

/// What is known of every field.
pub fn field_facts() -> Vec<FieldFacts> {
    let facts =
        |Full { path, leaf }| FieldFacts { path, form: leaf.value.form(), who: leaf.who, about: leaf.about };
    fields().into_iter().map(facts).collect()
}

const fn section(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::Section(fields) }
}

const fn value(name: &'static str, who: Who, value: &'static dyn Value, about: &'static str) -> Field {
    Field { name, shape: Shape::Value(Leaf { value, who, about }) }
}

const fn later(name: &'static str) -> Field {
    Field { name, shape: Shape::Later }
}

/// `VfConfig` beside `apiVersion` and `kind`.
pub(super) const FIELDS: &[Field] = &[
    section("interface", INTERFACE),
    section("vf", VF),
    section("bind", BIND),
    section("rdma", RDMA),
    later("infiniband"),
];

const INTERFACE: &[Field] = &[
    value(
        "addresses",
        Who::Anyone,
        &Addresses(slot!(interface.addresses)),
        "addresses of the interface in the pod, each with the prefix length of its network; for one VF only",
    ),
    value(
        "addressPool",
        Who::Granted,
        &PoolName(slot!(interface.address_pool)),
        "addresses, gateway and routes are those of the VF in this AddressPool; {rail} and {pf} stand for those of its PF",
    ),
    value(
        "mtu",
        Who::Anyone,
        // 68 is what IPv4 needs (RFC 791 section 3.2, `ETH_MIN_MTU` of the kernel); 65535 is `ETH_MAX_MTU`. Whether the
        // PF can do it is known only on the node.
        &Number {
            slot: slot!(interface.mtu),
            what: "MTU",
            unit: "bytes",
            range: 68..=65535,
            zero: None,
            example: 1500,
        },
        "MTU in the pod, at most the PF's",
    ),
    value("name", Who::Anyone, &Name(slot!(interface.name)), "name in the pod; without it net{n}"),
    value(
        "routes",
        Who::Anyone,
        &Routes(slot!(interface.routes)),
        "routes through the interface, in the main table and its own; a default route in its own only",
    ),
    value(
        "sourceRouting",
        Who::Anyone,
        &Switch(slot!(interface.source_routing)),
        "what has an address of the interface as its source leaves by it: a table of its own (100 + n) and a rule for each \
         address; on, unless false, where the interface has an address",
    ),
    value(
        "defaultRoute",
        Who::Class,
        &Switch(slot!(interface.default_route)),
        "the pod's default route goes through the interface; the one there was stays behind it with a higher metric",
    ),
    section("sysctls", SYSCTLS),
    section("probe", PROBE),
];

const PROBES: &[(&str, Probe)] = &[("report", Probe::Report), ("fail", Probe::Fail)];

const PROBE: &[Field] = &[
    value(
        "duplicateAddress",
        Who::Anyone,
        &Word { slot: slot!(interface.probe.duplicate_address), words: PROBES },
        "ask whether somebody has the address already, before it is used: whoever answers is reported in the claim's status, \
         or fails the pod's start",
    ),
    value(
        "gateway",
        Who::Anyone,
        &Word { slot: slot!(interface.probe.gateway), words: PROBES },
        "ask whether the next hops answer: one that does not is reported, or fails the pod's start",
    ),
    value(
        "budgetMs",
        Who::Anyone,
        &Number {
            slot: slot!(interface.probe.budget_ms),
            what: "time",
            unit: "ms",
            range: 20..=1000,
            zero: None,
            example: 300,
        },
        "most that the probes of a claim take, together; 300 if nothing else is said",
    ),
];

/// Documentation/networking/ip-sysctl.rst; the bounds are the kernel's.
const SYSCTLS: &[Field] = &[
    value(
        "preset",
        Who::Granted,
        &Word { slot: slot!(interface.sysctls.preset), words: &[("multirail", Preset::Multirail)] },
        "values that go together: multirail is for several interfaces in one subnet",
    ),
    sysctl("rp_filter", &number(slot!(interface.sysctls.rp_filter), 2), "0 off, 1 strict, 2 loose"),
    sysctl("arp_ignore", &number(slot!(interface.sysctls.arp_ignore), 8), "which ARP requests are answered"),
    sysctl(
        "arp_announce",
        &number(slot!(interface.sysctls.arp_announce), 2),
        "which address ARP requests have",
    ),
    sysctl(
        "arp_filter",
        &number(slot!(interface.sysctls.arp_filter), 1),
        "answer only where the reply would leave",
    ),
    sysctl(
        "arp_notify",
        &number(slot!(interface.sysctls.arp_notify), 1),
        "the kernel announces addresses itself",
    ),
    sysctl(
        "accept_local",
        &number(slot!(interface.sysctls.accept_local), 1),
        "take packets with a local source",
    ),
    sysctl("disable_ipv6", &number(slot!(interface.sysctls.disable_ipv6), 1), "no IPv6 on the interface"),
];

const fn sysctl(name: &'static str, number: &'static Number<u32>, about: &'static str) -> Field {
    value(name, Who::Granted, number, about)
}

const fn number(slot: Slot<u32>, most: u32) -> Number<u32> {
    Number { slot, what: "value", unit: "", range: 0..=most, zero: None, example: 1 }
}

/// `include/uapi/linux/if_link.h`, `IFLA_VF_*`; bounds as `do_setvfinfo` and the drivers have them.
const VF: &[Field] = &[
    value(
        "mac",
        Who::Granted,
        &Mac(slot!(vf.mac)),
        "administrative MAC address, which the VF then has and can't change unless it is trusted; for one VF only",
    ),
    value(
        "vlan",
        Who::Granted,
        &Number {
            slot: slot!(vf.vlan),
            what: "VLAN",
            unit: "",
            range: 0..=4094,
            zero: Some("none"),
            example: 100,
        },
        "VLAN that the PF tags and untags; the pod does not see it",
    ),
    value(
        "vlanQos",
        Who::Granted,
        &Number {
            slot: slot!(vf.vlan_qos),
            what: "VLAN priority",
            unit: "",
            range: 0..=7,
            zero: None,
            example: 3,
        },
        "priority in the VLAN's tag; 0 if only vf.vlan is set",
    ),
    value(
        "vlanProtocol",
        Who::Granted,
        &Word {
            slot: slot!(vf.vlan_protocol),
            words: &[("802.1Q", VlanProtocol::Dot1q), ("802.1ad", VlanProtocol::Dot1ad)],
        },
        "protocol of the VLAN's tag; 802.1Q if only vf.vlan is set",
    ),
    value(
        "trust",
        Who::Granted,
        &Switch(slot!(vf.trust)),
        "the VF may become promiscuous, change its MAC, and have more MACs and VLANs",
    ),
    value(
        "spoofCheck",
        Who::Granted,
        &Switch(slot!(vf.spoof_check)),
        "frames with a foreign source MAC (or VLAN) are dropped",
    ),
    value(
        "linkState",
        Who::Granted,
        &Word {
            slot: slot!(vf.link_state),
            words: &[
                ("auto", LinkState::Auto),
                ("enable", LinkState::Enable),
                ("disable", LinkState::Disable),
            ],
        },
        "the VF's link is as the PF's, always up, or always down",
    ),
    value(
        "minTxRateMbps",
        Who::Granted,
        &rate(slot!(vf.min_tx_rate_mbps)),
        "bandwidth that the VF can count on",
    ),
    value(
        "maxTxRateMbps",
        Who::Granted,
        &rate(slot!(vf.max_tx_rate_mbps)),
        "most bandwidth that the VF gets",
    ),
];

const BIND: &[Field] = &[
    value(
        "driver",
        Who::Granted,
        &Word { slot: slot!(bind.driver), words: &[(VFIO, Driver::Vfio)] },
        "driver on the host; without it the kernel's network driver. With vfio-pci there is no network interface, and \
         containers get the VF's /dev/vfio files",
    ),
    value(
        "vhost",
        Who::Granted,
        &Switch(slot!(bind.vhost)),
        "containers get /dev/vhost-net and /dev/net/tun, too, whatever the driver",
    ),
    value(
        "allowNoIommu",
        Who::Class,
        &Switch(slot!(bind.allow_no_iommu)),
        "vfio-pci without IOMMU is allowed, where the kernel allows it: the VF can then read and write all memory of \
         the node",
    ),
];

const RDMA: &[Field] = &[
    value(
        "mode",
        // What is wider than the class's is refused where the entries are put together.
        Who::Anyone,
        &Word { slot: slot!(rdma.mode), words: RdmaMode::WORDS },
        "the VF's RDMA device: moved into the pod's network namespace, its device nodes only, or not at all; auto, which is \
         the default, is namespace on a node whose RDMA devices are in one namespace each, else chardev, and nothing for a VF \
         without RDMA device; where the class names a mode, a claim may only repeat it, or say none",
    ),
    value(
        "umad",
        Who::Granted,
        &Switch(slot!(rdma.umad)),
        "containers get /dev/infiniband/umad* of the VF, too, by which management datagrams are sent",
    ),
    value(
        "memlock",
        Who::Anyone,
        &Amount(slot!(rdma.memlock)),
        "memory that containers with the RDMA device may lock (RLIMIT_MEMLOCK); auto, which is the default, is unlimited, or \
         what the container runtime can give; none leaves the limit alone. At most what the class says",
    ),
    section(
        "nccl",
        &[value(
            "topology",
            Who::Anyone,
            &Switch(slot!(rdma.nccl.topology)),
            "NCCL and UCX are told exactly the container's RDMA devices (NCCL_IB_HCA, UCX_NET_DEVICES); with true NCCL gets a \
             file of where these and the node's GPUs are, too (NCCL_TOPO_FILE)",
        )],
    ),
];

/// `bind.driver`
pub(super) const VFIO: &str = "vfio-pci";

const fn rate(slot: super::value::Slot<u32>) -> Number<u32> {
    // The kernel's message has 32 bits for it (`struct ifla_vf_rate`). What the link can do is known only on the node.
    Number { slot, what: "rate", unit: "Mbit/s", range: 0..=u32::MAX, zero: Some("none"), example: 1000 }
}

/// Smallest MTU with IPv6, bytes (RFC 8200 section 5; below it the kernel switches IPv6 off on the link).
pub(super) const IPV6_MIN_MTU: u32 = 1280;
