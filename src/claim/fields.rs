//! The fields of a `VfConfig`: the one place where a field is added.
//!
//! A new field is an entry in the table below, a place in [`VfConfig`], a line in `overlay` (the compiler asks for
//! it) and a function that reads its value. Fields that the API names already and a later version will honour stand
//! in the table as [`Shape::Later`], so that a claim which needs them fails by name instead of being half served.

use ipnet::IpNet;
use serde_json::Value;

use super::NameSpec;
use super::decode::At;
use super::{address, name};

/// Parameters of one config entry, or what several of them add up to. `None` is unset: the field is never touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VfConfig {
    /// `interface`
    pub interface: InterfaceConfig,
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
}

impl VfConfig {
    /// Lays a later entry over this one: field by field, and a list replaces a list.
    pub fn overlay(&mut self, later: &Self) {
        fn over<T: Clone>(field: &mut Option<T>, later: &Option<T>) {
            if later.is_some() {
                field.clone_from(later);
            }
        }
        // Taken apart without `..`: a field that is added must be laid over too.
        let Self { interface: InterfaceConfig { name, mtu, addresses } } = later;
        over(&mut self.interface.name, name);
        over(&mut self.interface.mtu, mtu);
        over(&mut self.interface.addresses, addresses);
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
    /// A value, and the function that reads it into the config or notes what is wrong with it.
    Value(fn(&mut At<'_>, &Value, &mut VfConfig)),
    /// Part of the API, not of this version.
    Later,
}

const fn section(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::Section(fields) }
}

const fn value(name: &'static str, read: fn(&mut At<'_>, &Value, &mut VfConfig)) -> Field {
    Field { name, shape: Shape::Value(read) }
}

const fn later(name: &'static str) -> Field {
    Field { name, shape: Shape::Later }
}

/// `VfConfig` beside `apiVersion` and `kind`.
pub(super) const FIELDS: &[Field] = &[
    section(
        "interface",
        &[
            value("addresses", |at, given, config| {
                config.interface.addresses = address::read_list(at, given)
            }),
            value("mtu", |at, given, config| config.interface.mtu = read_mtu(at, given)),
            value("name", |at, given, config| config.interface.name = name::read(at, given)),
            later("addressPool"),
            later("defaultRoute"),
            later("routes"),
            later("sourceRouting"),
            later("sysctls"),
        ],
    ),
    later("vf"),
    later("rdma"),
    later("infiniband"),
    later("bind"),
];

/// Kinds of the same API group that a later version will honour.
pub(super) const LATER_KINDS: &[&str] = &["VfGrant"];

/// Smallest and largest MTU of an interface in a pod, bytes. 68 is what IPv4 needs (RFC 791 section 3.2, `ETH_MIN_MTU`
/// of the kernel); 65535 is `ETH_MAX_MTU`. Whether the PF can do it is known only on the node.
const MTU: std::ops::RangeInclusive<u64> = 68..=65535;

/// Smallest MTU with IPv6, bytes (RFC 8200 section 5; below it the kernel switches IPv6 off on the link).
pub(super) const IPV6_MIN_MTU: u32 = 1280;

fn read_mtu(at: &mut At<'_>, given: &Value) -> Option<u32> {
    let bytes = at.whole_number(given, "a whole number of bytes such as 1500")?;
    match u32::try_from(bytes) {
        Ok(mtu) if MTU.contains(&bytes) => Some(mtu),
        _ => {
            at.fault(format!("{bytes} is no possible MTU, it must be {} to {} bytes", MTU.start(), MTU.end()))
        }
    }
}
