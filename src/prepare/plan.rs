//! A validated request and the VFs as they are, to a plan. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::addressing::{AddressProblem, FromPool, addressing_of};
use super::cdi::variable_prefix;
use super::functions::Facts;
use super::rdma::{self, RdmaFacts, RdmaProblem};
use super::records::{Entry, Progress, VfEntry};
use super::runtime::Known;
use super::settings::{SettingProblem, settings_of};
use super::steps::{Driver, Step};
use super::vfio::{VfioFacts, VfioProblem, check_vfio};
use crate::claim::{ClaimSpec, NameFacts, NameSpec, ResultSpec};
use crate::device::{IfName, LinkType, PciAddress, Place, VfSettings};

/// The driver that gives a VF to a process (Documentation/driver-api/vfio.rst).
pub const VFIO_PCI: &str = "vfio-pci";

/// Interface numbers of one pod end here; `net{n}` and routing tables count on three digits.
const MAX_INDEX: u16 = 999;

/// What Prepare will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the claim shall have, to be written to the ledger.
    pub entry: Entry,
    /// In this order; undone in reverse.
    pub steps: Vec<Step>,
}

/// Why a claim can't be met on this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Allocated to something that is not here.
    #[error(
        "{claim}: request {request}: device {device} does not exist on this node (no VF at PCI address {vf}); was it removed after it was published?"
    )]
    NoSuchVf {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Device name.
        device: String,
        /// Its address.
        vf: PciAddress,
    },
    /// The VF must not be given away.
    #[error("{claim}: request {request}: VF {vf} can't be given to a pod: {why}")]
    Withheld {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Which VF.
        vf: PciAddress,
        /// The policy's reason.
        why: String,
    },
    /// The interface's MTU can't be had.
    #[error(
        "{claim}: request {request}: interface.mtu {mtu} is above the MTU {limit} of PF {pf}; set at most {limit}, or raise the PF's MTU"
    )]
    MtuAbovePf {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Wanted.
        mtu: u32,
        /// Possible.
        limit: u32,
        /// The PF by name and address.
        pf: String,
    },
    /// The VF's driver has a limit of its own.
    #[error(
        "{claim}: request {request}: interface.mtu {mtu} is above {limit}, the most that driver {driver} takes for VF {vf}; set at most that"
    )]
    MtuAboveDevice {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Wanted.
        mtu: u32,
        /// Possible.
        limit: u32,
        /// The VF's driver.
        driver: String,
        /// Which VF.
        vf: PciAddress,
    },
    /// IPoIB has its own limits.
    #[error("{claim}: request {request}: interface.mtu {mtu} is below 68, the least an interface can have")]
    MtuTooSmall {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Wanted.
        mtu: u32,
    },
    /// Two interfaces of one pod want one name.
    #[error(
        "{claim}: request {request}: interface.name {name} is taken by another VF of the same pod (claim {other}); choose another name"
    )]
    NameTaken {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// The name.
        name: IfName,
        /// Who has it.
        other: String,
    },
    /// Two interfaces of one pod want one address.
    #[error(
        "{claim}: request {request}: address {address} is already given to another VF of the same pod (claim {other})"
    )]
    AddressTaken {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// The address.
        address: IpNet,
        /// Who has it.
        other: String,
    },
    /// A setting that can't be made.
    #[error("{claim}: request {request}: {problem}")]
    Setting {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Which field on which VF, what is in the way, and what would be right.
        problem: SettingProblem,
    },
    /// A VF that can't be given to vfio-pci.
    #[error("{claim}: request {request}: {problem}")]
    Vfio {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// What is in the way.
        problem: VfioProblem,
    },
    /// An RDMA device that can't be had.
    #[error("{claim}: request {request}: {problem}")]
    Rdma {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// What is in the way, and what would be right.
        problem: RdmaProblem,
    },
    /// Two claims of one pod tell containers of their VFs under the same names.
    #[error(
        "{claim}: its request {request} and request {other_request} of claim {other} of the same pod would use the variable \
         {variable} both; rename one of the requests, or one of the claims in the pod"
    )]
    VariableTaken {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// The other claim.
        other: String,
        /// Its request.
        other_request: String,
        /// The variable.
        variable: String,
    },
    /// A pod has one default route.
    #[error(
        "{claim}: request {request}: interface.defaultRoute: request {other_request} of claim {other} gives the pod's default \
         route to another VF; only one can have it"
    )]
    DefaultRouteTaken {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// The other claim.
        other: String,
        /// Its request.
        other_request: String,
    },
    /// No address, or a route that leads nowhere.
    #[error("{claim}: request {request}: {problem}")]
    Address {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Which VF or field, and what is in the way.
        problem: AddressProblem,
    },
    /// No name can be made.
    #[error("{claim}: request {request}: no interface name can be made: {why}")]
    NoName {
        /// `ResourceClaim ns/name`
        claim: String,
        /// Request.
        request: String,
        /// Why.
        why: String,
    },
}

/// What the plan is made from, besides the claim.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The VFs of the claim as they are now; a VF that does not exist is absent.
    pub facts: &'a BTreeMap<PciAddress, Facts>,
    /// VFs that this claim owns already.
    pub own: &'a BTreeSet<PciAddress>,
    /// What the ledger says about this claim.
    pub previous: Option<&'a Entry>,
    /// The other claims of the same pod.
    pub siblings: &'a [Entry],
    /// What the PFs say now of the VFs that settings are wanted for.
    pub settings: &'a BTreeMap<PciAddress, VfSettings>,
    /// IOMMU groups of the VFs that are wanted for vfio-pci.
    pub vfio: &'a BTreeMap<PciAddress, VfioFacts>,
    /// What pools give to the VFs that are to have it.
    pub pools: &'a BTreeMap<PciAddress, Result<FromPool, AddressProblem>>,
    /// RDMA devices of the VFs that are on the host; others are looked at when they are.
    pub rdma: &'a BTreeMap<PciAddress, RdmaFacts>,
    /// What is known of the runtime.
    pub runtime: Known,
    /// The boot the plan is for.
    pub boot_id: &'a str,
}

/// Makes the plan, or says why there is none.
///
/// # Errors
/// The first reason why the claim can't be met.
pub fn plan(spec: &ClaimSpec, situation: &Situation<'_>) -> Result<Plan, PlanError> {
    let claim = format!("ResourceClaim {}/{}", spec.id.namespace, spec.id.name);
    let mut names = Names::of(situation.siblings);
    let mut addresses: BTreeMap<std::net::IpAddr, String> = BTreeMap::new();
    for sibling in situation.siblings {
        for vf in sibling.vfs.iter().filter(|vf| !vf.admin_access) {
            addresses.extend(vf.addresses.iter().map(|a| (a.addr(), sibling.claim.name.clone())));
        }
    }
    // Explicit names first: a default name gives way to them wherever they stand in the claim.
    for result in spec.results.iter().filter(|result| !result.admin_access) {
        if let NameSpec::Explicit(name) = &result.name
            && let Some(other) = names.taken.insert(name.to_string(), spec.id.name.clone())
        {
            return Err(PlanError::NameTaken {
                claim,
                request: result.request.clone(),
                name: name.clone(),
                other,
            });
        }
    }
    check_variables(&claim, spec, situation.siblings)?;
    let mut steps = Vec::new();
    let mut vfs: Vec<VfEntry> = Vec::new();
    for result in &spec.results {
        let request = || result.request.clone();
        let facts = situation.facts.get(&result.pci).ok_or_else(|| PlanError::NoSuchVf {
            claim: claim.clone(),
            request: request(),
            device: result.device.clone(),
            vf: result.pci,
        })?;
        let previous = situation.previous.and_then(|entry| {
            entry.vfs.iter().find(|vf| vf.pci == result.pci && vf.request == result.request)
        });
        let owned = situation.own.contains(&result.pci);
        let addressing = match result.admin_access {
            true => Default::default(),
            false => {
                addressing_of(result, situation.pools.get(&result.pci), previous).map_err(|problem| {
                    PlanError::Address { claim: claim.clone(), request: request(), problem }
                })?
            }
        };
        if !result.admin_access {
            if let Some(why) = facts.withheld.clone().filter(|_| !owned) {
                return Err(PlanError::Withheld { claim, request: request(), vf: result.pci, why });
            }
            check_mtu(&claim, result, facts)?;
            for address in &addressing.addresses {
                if let Some(other) = addresses.insert(address.addr(), spec.id.name.clone()) {
                    return Err(PlanError::AddressTaken {
                        claim,
                        request: request(),
                        address: *address,
                        other,
                    });
                }
            }
        }
        if result.routing.default_route && !result.admin_access {
            let siblings = situation
                .siblings
                .iter()
                .flat_map(|entry| entry.vfs.iter().map(|vf| (&entry.claim.name, vf)));
            let mut others = siblings.chain(vfs.iter().map(|vf| (&spec.id.name, vf)));
            if let Some((other, vf)) = others.find(|(_, vf)| vf.default_route) {
                let (other, other_request) = (other.clone(), vf.request.clone());
                return Err(PlanError::DefaultRouteTaken { claim, request: request(), other, other_request });
            }
        }
        let (index, name, template) = match previous {
            Some(vf) => {
                names.taken.insert(vf.name.to_string(), spec.id.name.clone());
                names.indexes.insert(vf.index);
                (vf.index, vf.name.clone(), vf.template.clone())
            }
            None => names.choose(&spec.id.name, result, facts).map_err(|why| PlanError::NoName {
                claim: claim.clone(),
                request: request(),
                why,
            })?,
        };
        // Before the bind: whoever gets the VF finds it set.
        let wanted = match result.admin_access {
            true => Vec::new(),
            false => settings_of(result, facts, situation.settings.get(&result.pci), &mut steps).map_err(
                |problem| PlanError::Setting { claim: claim.clone(), request: request(), problem },
            )?,
        };
        let vfio = result.bind.vfio && !result.admin_access;
        let from = || facts.vf.driver.clone().map_or(Driver::Unbound, Driver::Named);
        if vfio {
            check_vfio(result, spec, situation.vfio).map_err(|problem| PlanError::Vfio {
                claim: claim.clone(),
                request: request(),
                problem,
            })?;
            if facts.vf.driver.as_deref() != Some(VFIO_PCI) {
                let to = Driver::Named(VFIO_PCI.to_owned());
                steps.push(Step::Bind { vf: result.pci, from: from(), to });
            }
        } else if !result.admin_access && matches!(facts.vf.place, Place::Unbound | Place::Userspace) {
            steps.push(Step::Bind { vf: result.pci, from: from(), to: Driver::Network });
        }
        let rdma =
            situation.rdma.get(&result.pci).map(|facts| rdma::settle(result, facts, situation.runtime));
        let rdma = rdma.transpose().map_err(|problem| PlanError::Rdma {
            claim: claim.clone(),
            request: request(),
            problem,
        })?;
        vfs.push(VfEntry {
            pci: result.pci,
            pf: facts.vf.pf,
            request: request(),
            pool: result.pool.clone(),
            device: result.device.clone(),
            share_id: result.share_id.clone(),
            admin_access: result.admin_access,
            interface_asked: result.interface_asked,
            index,
            name,
            template,
            mtu: result.mtu,
            addresses: addressing.addresses,
            address_pool: addressing.pool,
            routes: addressing.routes,
            source_routing: result.routing.source_routing,
            default_route: result.routing.default_route,
            sysctls: result.routing.sysctls.clone(),
            probe: Some(result.routing.probe).filter(|probe| !probe.is_none()),
            settings: wanted,
            vfio,
            vhost: result.bind.vhost && !result.admin_access,
            vfio_group: None,
            nodes: Vec::new(),
            rdma: rdma.flatten(),
            rdma_left: None,
            clean: None,
        });
    }
    let entry = Entry {
        claim: spec.id.clone(),
        pod_claim_name: spec.pod_claim_name.clone(),
        pod: spec.pod.clone(),
        boot_id: situation.boot_id.to_owned(),
        progress: Progress::Preparing,
        vfs,
    };
    Ok(Plan { entry, steps })
}

/// Variables are called after claim and request, whose dashes and joint are one sign there.
fn check_variables(claim: &str, spec: &ClaimSpec, siblings: &[Entry]) -> Result<(), PlanError> {
    for sibling in siblings {
        for vf in &sibling.vfs {
            let taken = variable_prefix(&sibling.pod_claim_name, vf.top_level_request());
            let clashes = |result: &&ResultSpec| {
                variable_prefix(&spec.pod_claim_name, result.top_level_request()) == taken
            };
            if let Some(result) = spec.results.iter().find(clashes) {
                return Err(PlanError::VariableTaken {
                    claim: claim.to_owned(),
                    request: result.request.clone(),
                    other: sibling.claim.name.clone(),
                    other_request: vf.request.clone(),
                    variable: format!("{taken}_PCI_ADDRESSES"),
                });
            }
        }
    }
    Ok(())
}

fn check_mtu(claim: &str, result: &ResultSpec, facts: &Facts) -> Result<(), PlanError> {
    let Some(mtu) = result.mtu else { return Ok(()) };
    if mtu < 68 {
        return Err(PlanError::MtuTooSmall { claim: claim.to_owned(), request: result.request.clone(), mtu });
    }
    if let Some(limit) =
        facts.vf.netdev.as_ref().and_then(|netdev| netdev.max_mtu).filter(|limit| mtu > *limit)
    {
        return Err(PlanError::MtuAboveDevice {
            claim: claim.to_owned(),
            request: result.request.clone(),
            mtu,
            limit,
            driver: facts.vf.driver.clone().unwrap_or_else(|| "none".to_owned()),
            vf: result.pci,
        });
    }
    // A VF on InfiniBand has limits of its own; the kernel knows them.
    if facts.vf.link_type == Some(LinkType::Infiniband) {
        return Ok(());
    }
    let Some(netdev) = facts.pf.as_ref().and_then(|pf| pf.netdev.as_ref()) else { return Ok(()) };
    match netdev.mtu {
        Some(limit) if mtu > limit => Err(PlanError::MtuAbovePf {
            claim: claim.to_owned(),
            request: result.request.clone(),
            mtu,
            limit,
            pf: match facts.vf.pf {
                Some(pf) => format!("{} ({pf})", netdev.name),
                None => netdev.name.clone(),
            },
        }),
        _ => Ok(()),
    }
}

/// Names and numbers of one pod's interfaces.
struct Names {
    taken: BTreeMap<String, String>,
    indexes: BTreeSet<u16>,
}

impl Names {
    fn of(siblings: &[Entry]) -> Self {
        let mut names = Self { taken: BTreeMap::new(), indexes: BTreeSet::new() };
        for sibling in siblings {
            for vf in sibling.vfs.iter().filter(|vf| !vf.admin_access) {
                names.taken.insert(vf.name.to_string(), sibling.claim.name.clone());
                names.indexes.insert(vf.index);
            }
        }
        names
    }

    fn choose(
        &mut self,
        claim: &str,
        result: &ResultSpec,
        facts: &Facts,
    ) -> Result<(u16, IfName, Option<String>), String> {
        let free = |indexes: &BTreeSet<u16>| (1..=MAX_INDEX).find(|n| !indexes.contains(n));
        let none = || format!("all numbers up to {MAX_INDEX} are taken");
        let pf = facts.pf.as_ref().and_then(|pf| pf.netdev.as_ref()).map(|netdev| netdev.name.as_str());
        let rail = facts.rail.map(|rail| rail.to_string());
        let template = match &result.name {
            NameSpec::Explicit(name) => {
                let index = free(&self.indexes).ok_or_else(none)?;
                self.indexes.insert(index);
                return Ok((index, name.clone(), None));
            }
            // Only {n} is left open: it is what counts on when a name turns out to be taken in the pod.
            NameSpec::Template(template) => {
                let known = [("{pf}", pf), ("{rail}", rail.as_deref())];
                known.into_iter().fold(template.clone(), |template, (placeholder, value)| match value {
                    Some(value) => template.replace(placeholder, value),
                    None => template,
                })
            }
        };
        let spec = NameSpec::Template(template.clone());
        for index in (1..=MAX_INDEX).filter(|n| !self.indexes.contains(n)) {
            let facts = NameFacts { n: index.into(), pf, rail: rail.as_deref() };
            let name = spec.render(facts).map_err(|error| error.to_string())?;
            if self.taken.contains_key(name.as_str()) {
                if spec.counts() {
                    continue;
                }
                return Err(format!("{name} is taken and the template has no {{n}} to count on with"));
            }
            self.indexes.insert(index);
            self.taken.insert(name.to_string(), claim.to_owned());
            return Ok((index, name, Some(template.clone())));
        }
        Err(none())
    }
}
