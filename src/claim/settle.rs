//! What config entries mean for the VFs of a claim: whether the claim may ask for it, whether it can hold, for each VF and
//! for all together.

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::resource::v1::{DeviceAllocationConfiguration, ResourceClaimSpec};

use super::config::{Entries, Wanted, top_level};
use super::decode::Source;
use super::error::{EntryPlace, Fault, Faults};
use super::fields::{Driver, IPV6_MIN_MTU, InterfaceConfig, VFIO, VfConfig, Who, fields};
use super::grant::refusal;
use super::routes::reachable;
use super::{DEFAULT_NAME_TEMPLATE, NameSpec, WantedBinding, WantedProbe, WantedRdma, WantedRouting, rdma};
use crate::device::{Vlan, VlanProtocol, WantedSettings, covers_half};

/// A VF that a claim got, or would get.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// `req` or `req/sub`
    pub request: &'a str,
    /// `0000-81-00-2 of request main`
    pub shown: String,
    /// What the class says is among the entries. Else it is not known what it grants.
    pub class_is_known: bool,
}

/// What one VF shall be.
pub(super) struct Settled {
    pub interface_asked: bool,
    pub name: NameSpec,
    pub mtu: Option<u32>,
    pub addresses: Vec<IpNet>,
    pub address_pool: Option<String>,
    pub settings: WantedSettings,
    pub bind: WantedBinding,
    pub routing: WantedRouting,
    pub rdma: WantedRdma,
}

/// What is wrong with the config entries of an allocation, or of what a scheduler would make one of.
pub fn check_config(
    config: &[DeviceAllocationConfiguration],
    spec: &ResourceClaimSpec,
    driver: &str,
    namespace: &str,
    asked: &[Asked<'_>],
) -> Faults {
    let mut faults = Faults::default();
    let entries = Entries::decode(config, Some(spec), driver, &mut faults);
    settle(&entries, namespace, asked, &mut faults);
    faults
}

/// What each VF shall be, in their order; faults are noted.
pub(super) fn settle(
    entries: &Entries<'_>,
    namespace: &str,
    asked: &[Asked<'_>],
    faults: &mut Faults,
) -> Vec<Settled> {
    let mut shared = Shared::default();
    let settled = asked.iter().map(|asked| {
        let wanted = entries.of(asked.request);
        if asked.class_is_known && !wanted.faulty.contains(&Source::Class) {
            check_grants(&wanted, namespace, faults);
            rdma::check_narrower(&wanted, faults);
        }
        // What follows from a fault is none of its own.
        let mut ignored = Faults::default();
        let faults = if wanted.faulty.is_empty() { &mut *faults } else { &mut ignored };
        let settled = Settled {
            interface_asked: asks_something(&wanted.config.interface),
            name: name(&wanted, asked.request, faults),
            mtu: wanted.config.interface.mtu,
            addresses: wanted.config.interface.addresses.clone().unwrap_or_default(),
            address_pool: wanted.config.interface.address_pool.clone(),
            settings: settings(&wanted, faults),
            bind: bind(&wanted, faults),
            routing: routing(&wanted, faults),
            rdma: rdma::settle(&wanted, faults),
        };
        check_mtu(&wanted, &settled, faults);
        shared.note(&wanted, &settled, asked);
        settled
    });
    let settled = settled.collect();
    shared.report(faults);
    settled
}

/// Notes a fault of the entry that had the last word on a field.
fn blame(wanted: &Wanted<'_>, path: &str, problem: impl Into<String>, faults: &mut Faults) {
    faults.add(Fault { entry: wanted.last(path).cloned(), path: path.to_owned(), problem: problem.into() });
}

/// Each value that the claim sets must be one that every claim may set, or its class's own, or one that the class grants.
/// An entry that a later one overrides is judged all the same: whether a claim is good doesn't depend on its order.
fn check_grants(wanted: &Wanted<'_>, namespace: &str, faults: &mut Faults) {
    for (place, config) in &wanted.claim {
        for field in fields().iter().filter(|field| field.leaf.who != Who::Anyone) {
            let Some(value) = field.leaf.value.of(config) else { continue };
            if field.leaf.value.of(&wanted.by_class).as_ref() == Some(&value) {
                continue;
            }
            if let Some(problem) = refusal(&wanted.grants, &wanted.class, namespace, &field.path, &value) {
                faults.add(Fault { entry: Some((*place).clone()), path: field.path.clone(), problem });
            }
        }
    }
}

fn name(wanted: &Wanted<'_>, request: &str, faults: &mut Faults) -> NameSpec {
    let default = NameSpec::Template(DEFAULT_NAME_TEMPLATE.to_owned());
    let name = wanted.config.interface.name.as_ref().unwrap_or(&default);
    name.for_request(top_level(request)).unwrap_or_else(|problem| {
        blame(wanted, "interface.name", problem, faults);
        default
    })
}

/// An empty list asks for nothing: it takes away what a class gave.
fn asks_something(interface: &InterfaceConfig) -> bool {
    let InterfaceConfig {
        name,
        mtu,
        addresses,
        address_pool,
        routes,
        source_routing,
        default_route,
        sysctls,
        // Without addresses there is nothing to ask for.
        probe: _,
    } = interface;
    let listed = addresses.as_ref().is_some_and(|list| !list.is_empty())
        || routes.as_ref().is_some_and(|list| !list.is_empty());
    let switched = *source_routing == Some(true) || *default_route == Some(true);
    name.is_some()
        || mtu.is_some()
        || address_pool.is_some()
        || listed
        || switched
        || !sysctls.values().is_empty()
}

fn check_mtu(wanted: &Wanted<'_>, settled: &Settled, faults: &mut Faults) {
    let ipv6 = settled.addresses.iter().find(|address| address.addr().is_ipv6());
    if let (Some(mtu @ 0..IPV6_MIN_MTU), Some(address)) = (settled.mtu, ipv6) {
        let problem = format!("{mtu} is too small for {address}: IPv6 needs at least {IPV6_MIN_MTU} bytes");
        blame(wanted, "interface.mtu", problem, faults);
    }
}

fn settings(wanted: &Wanted<'_>, faults: &mut Faults) -> WantedSettings {
    let vf = &wanted.config.vf;
    if vf.vlan.unwrap_or_default() == 0 {
        // Without a VLAN there is no tag that could carry either; with one unset, nobody is told.
        let so = if vf.vlan.is_none() { "vf.vlan is not set" } else { "vf.vlan is 0" };
        let tells_nothing = vf.vlan.is_some();
        if let Some(qos) = vf.vlan_qos.filter(|qos| !(tells_nothing && *qos == 0)) {
            let problem = format!("{qos} needs a VLAN, but {so}; set it to 1 to 4094, or leave this out");
            blame(wanted, "vf.vlanQos", problem, faults);
        }
        let tag = vf.vlan_protocol.filter(|tag| !(tells_nothing && *tag == VlanProtocol::Dot1q));
        if let Some(tag) = tag {
            let problem = format!("{tag} needs a VLAN, but {so}; set it to 1 to 4094, or leave this out");
            blame(wanted, "vf.vlanProtocol", problem, faults);
        }
    }
    // A maximum of 0 is none.
    if let (Some(min), Some(max @ 1..)) = (vf.min_tx_rate_mbps, vf.max_tx_rate_mbps)
        && min > max
    {
        let problem = format!("{min} is above vf.maxTxRateMbps, which is {max}; it must be at most that");
        blame(wanted, "vf.minTxRateMbps", problem, faults);
    }
    WantedSettings {
        mac: vf.mac.clone(),
        vlan: vf.vlan.map(|id| match id {
            0 => Vlan::default(),
            id => Vlan {
                id,
                qos: vf.vlan_qos.unwrap_or_default(),
                protocol: vf.vlan_protocol.unwrap_or_default(),
            },
        }),
        spoof_check: vf.spoof_check,
        trust: vf.trust,
        link_state: vf.link_state,
        min_tx_rate_mbps: vf.min_tx_rate_mbps,
        max_tx_rate_mbps: vf.max_tx_rate_mbps,
    }
}

fn routing(wanted: &Wanted<'_>, faults: &mut Faults) -> WantedRouting {
    let interface = &wanted.config.interface;
    let addresses = interface.addresses.as_deref().unwrap_or_default();
    let pool = interface.address_pool.as_deref();
    let has_address = pool.is_some() || !addresses.is_empty();
    let source_routing = interface.source_routing.unwrap_or(has_address);
    let default_route = interface.default_route.unwrap_or_default();
    let routes = interface.routes.clone().unwrap_or_default();
    if let Some(pool) = pool.filter(|_| !addresses.is_empty()) {
        let problem = format!(
            "interface.addressPool is set to {pool}, too, which gives the VF its address; leave one of them out"
        );
        blame(wanted, "interface.addresses", problem, faults);
    }
    let off = interface.sysctls.disable_ipv6.is_some_and(|value| value != 0);
    if let Some(address) = addresses.iter().find(|address| off && address.addr().is_ipv6()) {
        let problem = format!("the interface has the IPv6 address {address}; leave the one or the other out");
        blame(wanted, "interface.sysctls.disable_ipv6", problem, faults);
    }
    for route in &routes {
        // What a pool gives is known when the VF is prepared.
        if pool.is_none()
            && let Err(problem) = reachable(route, addresses)
        {
            blame(wanted, "interface.routes", problem, faults);
        }
        if covers_half(&route.to) && !source_routing && !default_route {
            let problem = format!(
                "{route}: the pod's default route is not this interface's, and with interface.sourceRouting false it has no table \
                 of its own; leave either out"
            );
            blame(wanted, "interface.routes", problem, faults);
        }
    }
    if default_route && pool.is_none() && !routes.iter().any(|route| covers_half(&route.to)) {
        let problem = "there is no next hop for it; add a route to 0.0.0.0/0 or ::/0 to interface.routes";
        blame(wanted, "interface.defaultRoute", problem, faults);
    }
    let probe = &interface.probe;
    let default = WantedProbe::default();
    let probe = WantedProbe {
        duplicate_address: probe.duplicate_address,
        gateway: probe.gateway,
        budget_ms: probe.budget_ms.unwrap_or(default.budget_ms),
    };
    for (path, asked) in [
        ("interface.probe.duplicateAddress", probe.duplicate_address),
        ("interface.probe.gateway", probe.gateway),
    ] {
        if asked.is_some() && !has_address {
            let problem =
                "the interface has no address to ask with; set interface.addresses or interface.addressPool";
            blame(wanted, path, problem, faults);
        }
    }
    WantedRouting { routes, source_routing, default_route, sysctls: interface.sysctls.values(), probe }
}

fn bind(wanted: &Wanted<'_>, faults: &mut Faults) -> WantedBinding {
    let VfConfig { interface, bind, .. } = &wanted.config;
    let vfio = bind.driver == Some(Driver::Vfio);
    if vfio {
        let asks = fields().into_iter().map(|field| (field.leaf.value.of(&wanted.config), field.path));
        let asks = asks.filter(|(value, path)| value.is_some() && path.starts_with("interface."));
        // An empty list asks for nothing.
        let no_addresses = interface.addresses.as_ref().is_some_and(Vec::is_empty);
        let asks = asks.map(|(_, path)| path).filter(|path| !(no_addresses && path == "interface.addresses"));
        let asks: Vec<String> = asks.collect();
        if let Some(first) = asks.first() {
            let by = wanted.last(first).map_or("class", |place| place.source.as_str());
            let list = asks.join(", ");
            let problem = format!(
                "{VFIO} leaves the VF without network interface, but the {by} sets {list}; leave one of them out"
            );
            blame(wanted, "bind.driver", problem, faults);
        }
    }
    WantedBinding {
        vfio,
        vhost: bind.vhost.unwrap_or_default(),
        allow_no_iommu: bind.allow_no_iommu.unwrap_or_default(),
    }
}

/// What can't be had by two VFs at once: what, by value, with the entry that asked for it, the request and the VF.
#[derive(Default)]
struct Shared(BTreeMap<(Kind, String), Vec<Use>>);

#[derive(PartialEq, Eq)]
struct Use {
    place: Option<EntryPlace>,
    request: String,
    shown: String,
}

/// In the order in which faults are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Name,
    Address,
    Mac,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Name => "interface.name",
            Self::Address => "interface.addresses",
            Self::Mac => "vf.mac",
        }
    }
}

impl Shared {
    fn note(&mut self, wanted: &Wanted<'_>, settled: &Settled, asked: &Asked<'_>) {
        let mut note = |kind: Kind, value: String| {
            let place = wanted.last(kind.path()).cloned();
            let of_vf = Use { place, request: asked.request.to_owned(), shown: asked.shown.clone() };
            self.0.entry((kind, value)).or_default().push(of_vf);
        };
        if let NameSpec::Explicit(name) = &settled.name {
            note(Kind::Name, name.to_string());
        }
        settled.addresses.iter().for_each(|address| note(Kind::Address, address.addr().to_string()));
        if let Some(mac) = &settled.settings.mac {
            note(Kind::Mac, mac.to_string());
        }
    }

    fn report(self, faults: &mut Faults) {
        // A list that reaches two VFs repeats every address of it; one sentence is enough.
        let mut reported: Vec<(Kind, Vec<Use>)> = Vec::new();
        for ((kind, value), uses) in self.0 {
            let Some(first) = uses.first() else { continue };
            if !uses.iter().enumerate().any(|(i, one)| uses.iter().skip(i + 1).any(|other| one.meets(other)))
            {
                continue;
            }
            let vfs: Vec<&str> = uses.iter().map(|of_vf| of_vf.shown.as_str()).collect();
            let (count, vfs) = (uses.len(), vfs.join(", "));
            let problem = match kind {
                Kind::Name => format!(
                    "one name {value:?} for {count} VFs ({vfs}); write it with {{n}}, or set it for one request only"
                ),
                Kind::Address => format!(
                    "address {value} for {count} VFs ({vfs}); an address is for one VF, set it for one request only"
                ),
                Kind::Mac => format!(
                    "MAC {value} for {count} VFs ({vfs}); a MAC is for one VF, set it for one request only"
                ),
            };
            let fault = Fault { entry: first.place.clone(), path: kind.path().to_owned(), problem };
            let of_kind = (kind, uses);
            if !(kind == Kind::Address && reported.contains(&of_kind)) {
                faults.add(fault);
                reported.push(of_kind);
            }
        }
    }
}

impl Use {
    /// Both VFs are there at once: no alternatives of one request.
    fn meets(&self, other: &Self) -> bool {
        self.request == other.request || top_level(&self.request) != top_level(&other.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_of_addresses_asks_for_no_interface() {
        let asks = |addresses| asks_something(&InterfaceConfig { addresses, ..Default::default() });
        assert!(!asks(None) && !asks(Some(Vec::new())));
        assert!(asks(Some(vec!["10.0.0.1/24".parse().unwrap()])));
    }
}
