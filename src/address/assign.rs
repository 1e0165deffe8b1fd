//! The address of a VF: the address of its number in the block of its PF.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::pool::Pool;
use super::span::{self, Span};
use super::spec::{Block, Parent};
use crate::device::PciAddress;

/// What a VF gets of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    /// One a family, IPv4 first, with the prefix length of its subnet.
    pub addresses: Vec<IpNet>,
    /// One for each family that has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The pool's routes on this PF.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<PoolRoute>,
}

/// A route of the pool, as it holds for one VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRoute {
    /// Where it leads to.
    pub to: IpNet,
    /// The neighbour it leads over.
    pub via: IpAddr,
}

/// Why a VF has no address of a pool. Every sentence begins with the pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// Nobody has heard of it.
    #[error("AddressPool {pool}: the agent of this node knows no pool of that name")]
    NoPool {
        /// Its name.
        pool: String,
    },
    /// It is there, but can't be used.
    #[error("{0}")]
    Unusable(String),
    /// The VF's PF has no block.
    #[error("AddressPool {pool}: PF {pf} has no block of addresses: {why}")]
    NoBlock {
        /// Its name.
        pool: String,
        /// The PF.
        pf: PciAddress,
        /// Why.
        why: String,
    },
    /// The block was cut by other rules than the pool has now.
    #[error(
        "AddressPool {pool}: block {block} of PF {pf} was claimed before mode, blockSize, prefixLength or cidr of the pool \
         were changed, which they must not be; put them back"
    )]
    Changed {
        /// Its name.
        pool: String,
        /// Name of the block.
        block: String,
        /// The PF.
        pf: PciAddress,
    },
    /// The block has fewer addresses.
    #[error(
        "AddressPool {pool}: VF {vf} of PF {pf} has no address: {block} has {holds}, for VF 0 and the {} after it; larger \
         blocks or fewer VFs would do",
        holds.saturating_sub(1)
    )]
    Beyond {
        /// Its name.
        pool: String,
        /// The PF.
        pf: PciAddress,
        /// Number of the VF.
        vf: u32,
        /// The block.
        block: IpNet,
        /// Addresses in it.
        holds: u128,
    },
    /// Somebody else has the address now.
    #[error("AddressPool {pool}: the address of VF {vf} of PF {pf} would be {address}, but {by}")]
    Taken {
        /// Its name.
        pool: String,
        /// The PF.
        pf: PciAddress,
        /// Number of the VF.
        vf: u32,
        /// The address.
        address: IpAddr,
        /// Who has it, since when.
        by: &'static str,
    },
}

/// What the VF of this number gets: a function of the block alone, as far as the address goes, so that no change of the
/// pool, the PF or other VFs ever moves it. What is excluded later is withheld.
///
/// # Errors
/// When there is no address for it in every family of the pool.
pub fn assign(pool: &Pool, block: &Block, pf: &Parent, vf_index: u32) -> Result<Assigned, NoAddress> {
    let (name, pci) = (pool.name.clone(), pf.pci);
    if !pool.still_has(block) {
        return Err(NoAddress::Changed { pool: name, block: block.name(), pf: pci });
    }
    let mut assigned = Assigned::default();
    for (cidr, family) in block.cidrs.iter().zip(&pool.families) {
        let left = Span::of(*cidr).without(&block.reserved);
        let Some(address) = span::nth(&left, u128::from(vf_index)) else {
            let holds = span::count(&left);
            return Err(NoAddress::Beyond { pool: name, pf: pci, vf: vf_index, block: *cidr, holds });
        };
        let gateway = family.gateway_of(pool.mode, cidr);
        let by = match () {
            () if gateway == Some(address) => Some("that is the gateway now"),
            () if pf.addresses.iter().any(|own| own.addr() == address) => {
                Some("the PF has it on the host now")
            }
            () if family.never_given(pool.mode, cidr).iter().any(|taken| taken.contains(address)) => {
                Some("the pool excludes it now")
            }
            () => None,
        };
        if let Some(by) = by {
            return Err(NoAddress::Taken { pool: name, pf: pci, vf: vf_index, address, by });
        }
        let length = family.subnet(pool.mode, cidr).prefix_len();
        assigned.addresses.extend(IpNet::new(address, length).ok());
        assigned.gateways.extend(gateway);
        let routes = pool.routes.iter().filter(|rule| rule.pfs.matches(pf));
        let routes = routes.filter(|rule| rule.to.addr().is_ipv4() == address.is_ipv4());
        assigned
            .routes
            .extend(routes.filter_map(|rule| Some(PoolRoute { to: rule.to, via: rule.via.or(gateway)? })));
    }
    Ok(assigned)
}
