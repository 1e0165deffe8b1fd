//! The addresses and routes that a VF gets, from its claim or from a pool. Pure.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::functions::Facts;
use super::records::VfEntry;
use crate::address::{Assigned, NoAddress};
use crate::claim::{ResultSpec, WantedRoute, pool_name, reachable};
use crate::device::{PciAddress, covers_half};

/// Why a VF can't have the addresses or routes that are wanted. Printed after the request's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressProblem {
    /// The pool's name can't be made.
    #[error(
        "interface.addressPool {template:?} asks for {placeholder}, which VF {vf} does not have{}",
        if *placeholder == "{rail}" { "; say with the agent's --rails which PF is on which rail" } else { "" }
    )]
    NoName {
        /// The template.
        template: String,
        /// With braces.
        placeholder: &'static str,
        /// Which VF.
        vf: PciAddress,
    },
    /// Pools number the VFs of PFs.
    #[error(
        "interface.addressPool can't be had for VF {vf}: it has no PF on this node, as inside a virtual machine"
    )]
    NoPf {
        /// Which VF.
        vf: PciAddress,
    },
    /// The pool has none for it.
    #[error("VF {vf} gets no address: {why}")]
    NoAddress {
        /// Which VF.
        vf: PciAddress,
        /// Why.
        why: NoAddress,
    },
    /// A next hop that can't be reached with the pool's address.
    #[error("interface.routes: {why}")]
    Route {
        /// Which route, which next hop, what would be right.
        why: String,
    },
    /// The address would be refused by the kernel.
    #[error(
        "interface.sysctls.disable_ipv6: {address} of AddressPool {pool} is an IPv6 address; leave the one or the other out"
    )]
    NoIpv6 {
        /// The address.
        address: IpNet,
        /// The pool.
        pool: String,
    },
    /// Nothing to lead to.
    #[error(
        "interface.defaultRoute: AddressPool {pool} has no gateway; set ipv4.gateway or ipv4.gatewayIndex of the pool, or add a \
         route to 0.0.0.0/0 to interface.routes"
    )]
    NoGateway {
        /// The pool.
        pool: String,
    },
}

/// The pool that a VF's address is from, its placeholders filled in.
///
/// # Errors
/// A placeholder that the VF has no value for.
pub fn pool_of(template: &str, facts: &Facts) -> Result<String, AddressProblem> {
    let pf = facts.pf.as_ref().and_then(|pf| pf.netdev.as_ref()).map(|netdev| netdev.name.as_str());
    let rail = facts.rail.map(|rail| rail.to_string());
    pool_name(template, pf, rail.as_deref()).map_err(|placeholder| AddressProblem::NoName {
        template: template.to_owned(),
        placeholder,
        vf: facts.vf.pci,
    })
}

/// What a pool gives to a VF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromPool {
    /// Name of the pool.
    pub pool: String,
    /// What it gives.
    pub assigned: Assigned,
}

/// What a VF gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addressing {
    pub pool: Option<String>,
    pub addresses: Vec<IpNet>,
    pub routes: Vec<WantedRoute>,
}

/// A claim that has its address keeps it, whatever became of the pool since: its pod may be using it.
pub(super) fn addressing_of(
    result: &ResultSpec,
    from_pool: Option<&Result<FromPool, AddressProblem>>,
    previous: Option<&VfEntry>,
) -> Result<Addressing, AddressProblem> {
    if let Some(kept) = previous.filter(|entry| result.address_pool.is_some() && entry.address_pool.is_some())
    {
        return Ok(Addressing {
            pool: kept.address_pool.clone(),
            addresses: kept.addresses.clone(),
            routes: kept.routes.clone(),
        });
    }
    let mut routes = result.routing.routes.clone();
    let Some(from_pool) = from_pool else {
        return Ok(Addressing { pool: None, addresses: result.addresses.clone(), routes });
    };
    let FromPool { pool, assigned } = from_pool.clone()?;
    let addresses = assigned.addresses;
    let off = result.routing.sysctls.get("disable_ipv6").is_some_and(|value| *value != 0);
    if let Some(address) = addresses.iter().find(|address| off && address.addr().is_ipv6()) {
        return Err(AddressProblem::NoIpv6 { address: *address, pool });
    }
    for route in &routes {
        reachable(route, &addresses).map_err(|why| AddressProblem::Route { why })?;
    }
    // What the claim says of a destination counts over the pool.
    let given: Vec<IpNet> = routes.iter().map(|route| route.to).collect();
    let of_pool = assigned.routes.into_iter().map(|route| WantedRoute { to: route.to, via: Some(route.via) });
    let gateways = assigned.gateways.into_iter().map(|via| WantedRoute { to: all_of(via), via: Some(via) });
    // Without a table of its own a default route would be the pod's.
    let leads = result.routing.source_routing || result.routing.default_route;
    let gateways = gateways.filter(|_| leads);
    // A pool's routes may name the prefixes of all nodes, this one's among them.
    let own: Vec<IpNet> = addresses.iter().map(IpNet::trunc).collect();
    let of_pool = of_pool.filter(|route| !own.contains(&route.to));
    routes.extend(of_pool.chain(gateways).filter(|route| !given.contains(&route.to)));
    if result.routing.default_route && !routes.iter().any(|route| covers_half(&route.to)) {
        return Err(AddressProblem::NoGateway { pool });
    }
    Ok(Addressing { pool: Some(pool), addresses, routes })
}

fn all_of(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}
