//! `spec` of an AddressPool and of an AddressBlock, field by field as the API has them; manifests/crds.yaml is the same in
//! OpenAPI, which a test holds against these types.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::span::Span;
use crate::device::PciAddress;

/// How addresses are cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// One subnet for all nodes; each PF gets a block of its addresses.
    SharedSubnet,
    /// Each PF gets a prefix of its own, with its own gateway.
    PerNodePrefix,
    /// The prefix that the PF's own address is in.
    FromParent,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SharedSubnet => "sharedSubnet",
            Self::PerNodePrefix => "perNodePrefix",
            Self::FromParent => "fromParent",
        })
    }
}

/// `spec` of an AddressPool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// `mode`
    pub mode: Mode,
    /// `ipv4`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<FamilySpec>,
    /// `ipv6`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<FamilySpec>,
    /// `routes`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// `nodeSelector`: labels that a node must have; none is every node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// `pfs`: none is every PF.
    #[serde(default, skip_serializing_if = "PfSelector::is_empty")]
    pub pfs: PfSelector,
}

/// `ipv4` or `ipv6`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FamilySpec {
    /// The subnet, or what prefixes are cut from.
    pub cidr: String,
    /// `sharedSubnet`: what of it may be given out; none is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<String>,
    /// `sharedSubnet`: addresses in a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u64>,
    /// `perNodePrefix`, `fromParent`: length of a PF's prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<u8>,
    /// `sharedSubnet`: the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The gateway by its place in subnet or prefix: 1 is the first host, -1 the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_index: Option<i64>,
    /// What is never given out: addresses, `first-last`, subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// An item of `routes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    /// The subnet it leads to.
    pub to: String,
    /// A neighbour in the subnet; none is the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// On these PFs only; none is all that the pool has.
    #[serde(default, skip_serializing_if = "PfSelector::is_empty")]
    pub pfs: PfSelector,
}

/// PFs: those that fit every list that is not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PfSelector {
    /// Interface names; a `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// PCI addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci_addresses: Vec<PciAddress>,
    /// Numbers of rails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rails: Vec<u32>,
}

/// A PF as pools see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// Identity.
    pub pci: PciAddress,
    /// Interface name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its rail, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<u32>,
    /// Its own addresses on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
}

impl PfSelector {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The PF fits.
    pub fn matches(&self, pf: &Parent) -> bool {
        let named = |pattern: &String| pf.name.as_ref().is_some_and(|name| is_like(pattern, name));
        (self.names.is_empty() || self.names.iter().any(named))
            && (self.pci_addresses.is_empty() || self.pci_addresses.contains(&pf.pci))
            && (self.rails.is_empty() || pf.rail.is_some_and(|rail| self.rails.contains(&rail)))
    }
}

/// `eno*np1`: each `*` stands for any text.
fn is_like(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| is_like(tail, &rest[at..]))
        }),
    }
}

/// `spec` of an AddressBlock; nothing of it ever changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Name of the pool.
    pub pool: String,
    /// UID of the pool: one that was made anew under the same name is another.
    #[serde(rename = "poolUID")]
    pub pool_uid: String,
    /// Number of the block in the pool.
    pub index: u64,
    /// The block: one subnet a family, IPv4 first.
    pub cidrs: Vec<IpNet>,
    /// What of it was not to be given out when it was claimed. VFs count what is left, so that no later change of the
    /// pool gives a VF the address that another one has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Span>,
    /// Whose it is.
    pub node_name: String,
    /// The PF whose VFs have the addresses.
    pub pf_pci_address: PciAddress,
}

impl Block {
    /// `metadata.name`, which makes it unique.
    pub fn name(&self) -> String {
        format!("{}.{}", self.pool, self.index)
    }

    /// They have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let common = |cidr: &IpNet| {
            other.cidrs.iter().any(|other| Span::of(*cidr).common(&Span::of(*other)).is_some())
        };
        self.cidrs.iter().any(common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_and_lists_that_are_not_empty_must_all_fit() {
        let pf = Parent {
            pci: "0000:3b:00.0".parse().unwrap(),
            name: Some("eno3np2".into()),
            rail: Some(2),
            addresses: vec![],
        };
        for (pattern, fits) in [
            ("eno3np2", true),
            ("eno3np", false),
            ("eno*", true),
            ("*np2", true),
            ("e*3*2", true),
            ("*", true),
            ("ens*", false),
            ("*np3", false),
        ] {
            let selector = PfSelector { names: vec!["other".into(), pattern.into()], ..Default::default() };
            assert_eq!(selector.matches(&pf), fits, "{pattern}");
            let other_rail = PfSelector { rails: vec![1, 3], ..selector };
            assert!(!other_rail.matches(&pf), "{pattern}");
        }
        assert!(PfSelector::default().matches(&pf));
        assert!(!PfSelector { rails: vec![1], ..Default::default() }.matches(&Parent { rail: None, ..pf }));
    }
}
