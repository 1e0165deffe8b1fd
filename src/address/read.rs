//! An AddressPool's `spec` to a pool, with a sentence for everything that is wrong.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::pool::{Family, Gateway, Pool, RouteRule, host, hosts, usable};
use super::span::Span;
use super::spec::{FamilySpec, Mode, Parent, PoolSpec, RouteSpec};
use crate::device::{PciAddress, parse_ip, parse_subnet};

/// Shortest prefix of a pool, as for an address in a claim: the route that comes with a shorter one would draw the pod's
/// other traffic to the VF.
const SHORTEST: u8 = 8;
/// Most addresses of a block in a shared subnet.
const LARGEST: u64 = 65536;
/// Longest name: blocks are called after the pool, with a number behind.
const LONGEST_NAME: usize = 240;

/// Everything that is wrong with a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("AddressPool {pool}: {}", list(faults))]
pub struct PoolFaults {
    /// Its name.
    pub pool: String,
    /// At least one.
    pub faults: Vec<PoolFault>,
}

/// One thing that is wrong: where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFault {
    /// `spec.ipv4.cidr`
    pub field: String,
    /// Without a full stop.
    pub problem: String,
}

impl fmt::Display for PoolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

fn list(faults: &[PoolFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Reads `spec` of the pool with this name and UID.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(name: &str, uid: &str, spec: &Value) -> Result<Pool, PoolFaults> {
    let mut faults = Faults(Vec::new());
    if name.len() > LONGEST_NAME {
        faults.add("metadata.name", format!("{} bytes, at most {LONGEST_NAME} are possible", name.len()));
    }
    let pool = match serde_json::from_value::<PoolSpec>(spec.clone()) {
        Ok(spec) => pool(name, uid, spec, &mut faults),
        Err(error) => {
            faults.add("spec", error.to_string());
            None
        }
    };
    match pool.filter(|_| faults.0.is_empty()) {
        Some(pool) => Ok(pool),
        None => Err(PoolFaults { pool: name.to_owned(), faults: faults.0 }),
    }
}

struct Faults(Vec<PoolFault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(PoolFault { field: field.into(), problem: problem.into() });
    }

    fn take<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error.to_string())).ok()
    }
}

fn pool(name: &str, uid: &str, spec: PoolSpec, faults: &mut Faults) -> Option<Pool> {
    let PoolSpec { mode, ipv4, ipv6, routes, node_selector, pfs } = spec;
    let given = [("spec.ipv4", false, ipv4), ("spec.ipv6", true, ipv6)];
    let mut families = Vec::new();
    let mut asked = 0;
    for (field, v6, family) in given {
        let Some(spec) = family else { continue };
        asked += 1;
        families.extend(self::family(field, v6, mode, &spec, faults));
    }
    if asked == 0 {
        faults.add("spec", "neither ipv4 nor ipv6 is there; a pool has one of them or both");
    }
    if families.len() < asked {
        return None;
    }
    let mut pool = Pool {
        name: name.to_owned(),
        uid: uid.to_owned(),
        mode,
        families,
        routes: Vec::new(),
        node_selector,
        pfs,
    };
    for (index, spec) in routes.iter().enumerate() {
        let route = route(&format!("spec.routes[{index}]"), &pool, spec, faults);
        pool.routes.extend(route);
    }
    Some(pool)
}

fn family(field: &str, v6: bool, mode: Mode, spec: &FamilySpec, faults: &mut Faults) -> Option<Family> {
    let before = faults.0.len();
    let cidr = cidr(&format!("{field}.cidr"), v6, &spec.cidr, faults)?;
    let block_length = match mode {
        Mode::SharedSubnet => block_size(field, &cidr, spec, faults),
        _ => prefix_length(field, mode, &cidr, spec, faults),
    };
    if mode == Mode::SharedSubnet && hosts(&cidr) == [Span::of(cidr)] {
        faults.add(
            format!("{field}.cidr"),
            format!("{cidr} is too small to be shared: it has no network address"),
        );
    }
    let only_shared = |present: bool, name: &str, instead: &str, faults: &mut Faults| {
        if present && mode != Mode::SharedSubnet {
            faults.add(
                format!("{field}.{name}"),
                format!("mode {mode} has a gateway and addresses in each prefix; {instead}"),
            );
        }
    };
    only_shared(!spec.ranges.is_empty(), "ranges", "use exclude", faults);
    only_shared(spec.gateway.is_some(), "gateway", "use gatewayIndex", faults);
    let ranges = ranges(field, &cidr, spec, faults);
    let exclude = spec.exclude.iter().enumerate().filter_map(|(index, text)| {
        let field = format!("{field}.exclude[{index}]");
        let span = faults.take(&field, text.parse::<Span>())?;
        if !Span::of(cidr).covers(&span) {
            faults.add(field, format!("{text} is not all in {cidr}"));
        }
        Some(span)
    });
    let exclude = exclude.collect();
    let gateway = gateway(field, mode, &cidr, block_length, spec, faults);
    let family = Family { cidr, ranges, block_length: block_length?, gateway, exclude };
    (faults.0.len() == before).then_some(family)
}

fn cidr(field: &str, v6: bool, text: &str, faults: &mut Faults) -> Option<IpNet> {
    let net = faults.take(field, parse_subnet(text))?;
    let wanted = if v6 { "IPv6" } else { "IPv4" };
    let problem = match net.addr() {
        address if address.is_ipv6() != v6 => Some(format!("{net} is no {wanted} subnet")),
        _ if net.prefix_len() < SHORTEST => {
            Some(format!("{net} is wider than any network; the prefix length is at least {SHORTEST}"))
        }
        address if address.is_loopback() => Some(format!("{net} is for loopback")),
        address if address.is_multicast() => Some(format!("{net} is for multicast")),
        address if address.is_unspecified() => Some(format!("{net} holds the unspecified address")),
        IpAddr::V4(address) if address.is_link_local() || address.octets()[0] >= 240 => {
            Some(format!("{net} is reserved"))
        }
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Some(format!("{net} is for link-local addresses"))
        }
        _ => None,
    };
    match problem {
        Some(problem) => {
            faults.add(field, problem);
            None
        }
        None => Some(net),
    }
}

fn block_size(field: &str, cidr: &IpNet, spec: &FamilySpec, faults: &mut Faults) -> Option<u8> {
    if spec.prefix_length.is_some() {
        faults.add(format!("{field}.prefixLength"), "mode sharedSubnet has no prefixes; use blockSize");
    }
    let field = format!("{field}.blockSize");
    let Some(size) = spec.block_size else {
        faults.add(field, "it is missing: how many addresses each PF gets, such as 16");
        return None;
    };
    if size == 0 || size > LARGEST {
        faults.add(field, format!("{size} is not 1 to {LARGEST}"));
        return None;
    }
    if !size.is_power_of_two() {
        let (less, more) = (size.next_power_of_two() / 2, size.next_power_of_two());
        faults.add(field, format!("{size} is no power of two; write {less} or {more}"));
        return None;
    }
    let bits = u8::try_from(size.trailing_zeros()).unwrap_or(u8::MAX);
    let length = cidr.max_prefix_len().saturating_sub(bits);
    if length < cidr.prefix_len() {
        faults.add(field, format!("{size} addresses are more than {cidr} has"));
        return None;
    }
    Some(length)
}

fn prefix_length(
    field: &str,
    mode: Mode,
    cidr: &IpNet,
    spec: &FamilySpec,
    faults: &mut Faults,
) -> Option<u8> {
    if spec.block_size.is_some() {
        faults.add(
            format!("{field}.blockSize"),
            format!("mode {mode} gives a prefix to each PF; use prefixLength"),
        );
    }
    let field = format!("{field}.prefixLength");
    let Some(length) = spec.prefix_length else {
        faults.add(field, "it is missing: the length of each PF's prefix, such as 27");
        return None;
    };
    if length < cidr.prefix_len() || length > cidr.max_prefix_len() {
        faults.add(field, format!("{length} is not {} to {}", cidr.prefix_len(), cidr.max_prefix_len()));
        return None;
    }
    Some(length)
}

fn ranges(field: &str, cidr: &IpNet, spec: &FamilySpec, faults: &mut Faults) -> Vec<Span> {
    let mut ranges: Vec<Span> = Vec::new();
    for (index, text) in spec.ranges.iter().enumerate() {
        let field = format!("{field}.ranges[{index}]");
        let Some(range) = faults.take(&field, text.parse::<Span>()) else { continue };
        let fits = hosts(cidr).iter().any(|hosts| hosts.covers(&range));
        if !fits {
            let hosts = hosts(cidr).iter().map(ToString::to_string).collect::<String>();
            let why = match range.first() == cidr.network() || range.last() == cidr.broadcast() {
                true if Span::of(*cidr).covers(&range) => "holds the network or broadcast address",
                _ => "is not all",
            };
            faults.add(&field, format!("{text} {why} of {cidr}, whose hosts are {hosts}"));
        }
        if let Some(other) = ranges.iter().find(|other| other.common(&range).is_some()) {
            faults.add(&field, format!("{text} overlaps {other}"));
        }
        ranges.push(range);
    }
    ranges
}

fn gateway(
    field: &str,
    mode: Mode,
    cidr: &IpNet,
    block_length: Option<u8>,
    spec: &FamilySpec,
    faults: &mut Faults,
) -> Option<Gateway> {
    if spec.gateway.is_some() && spec.gateway_index.is_some() {
        faults.add(format!("{field}.gatewayIndex"), "gateway is given too; only one of them can hold");
        return None;
    }
    if let Some(text) = &spec.gateway {
        let field = format!("{field}.gateway");
        let address = faults.take(&field, parse_ip(text).map_err(|why| format!("{text:?}: {why}")))?;
        if !hosts(cidr).iter().any(|hosts| hosts.contains(address)) {
            let why = match cidr.contains(&address) {
                true if address == cidr.network() => "is the network address",
                true => "is the broadcast address",
                false => "is outside",
            };
            faults.add(field, format!("{address} {why} of {cidr}, where no neighbour can have it"));
        }
        return Some(Gateway::Address(address));
    }
    let index = spec.gateway_index?;
    let subnet = match mode {
        Mode::SharedSubnet => *cidr,
        _ => IpNet::new(cidr.network(), block_length?).ok()?,
    };
    if host(&subnet, index).is_none() {
        let problem = format!("{index} is no host of {subnet}; 1 is the first, -1 the last");
        faults.add(format!("{field}.gatewayIndex"), problem);
    }
    Some(Gateway::Index(index))
}

fn route(field: &str, pool: &Pool, spec: &RouteSpec, faults: &mut Faults) -> Option<RouteRule> {
    let to = faults.take(&format!("{field}.to"), parse_subnet(&spec.to))?;
    if to.prefix_len() < SHORTEST {
        let problem = format!(
            "{to} would be, or replace, the pod's default route; the prefix length is at least {SHORTEST}, and a claim's \
             interface.defaultRoute is what makes a VF the way to everywhere"
        );
        faults.add(format!("{field}.to"), problem);
        return None;
    }
    let Some(family) =
        pool.families.iter().find(|family| family.cidr.addr().is_ipv4() == to.addr().is_ipv4())
    else {
        faults.add(format!("{field}.to"), format!("{to} is of a family that the pool has no addresses of"));
        return None;
    };
    let via = match &spec.via {
        None if family.gateway.is_none() => {
            faults.add(
                field,
                format!("via is missing, and spec.{} has no gateway to lead it to", family.field()),
            );
            return None;
        }
        None => None,
        Some(_) if pool.mode != Mode::SharedSubnet => {
            let problem = format!("mode {} has a gateway in each prefix; leave via out", pool.mode);
            faults.add(format!("{field}.via"), problem);
            return None;
        }
        Some(text) => {
            let field = format!("{field}.via");
            let via = faults.take(&field, parse_ip(text).map_err(|why| format!("{text:?}: {why}")))?;
            if !hosts(&family.cidr).iter().any(|hosts| hosts.contains(via)) {
                faults.add(field, format!("{via} is no host of {}, so it can't be a neighbour", family.cidr));
                return None;
            }
            Some(via)
        }
    };
    Some(RouteRule { to, via, pfs: spec.pfs.clone() })
}

/// Whether the pool has any address to give: looked for in its first blocks.
pub fn gives_any(pool: &Pool) -> bool {
    let nobody = PciAddress { domain: 0, bus: 0, device: 0, function: 0 };
    let nobody = Parent { pci: nobody, name: None, rail: None, addresses: Vec::new() };
    const LOOKED_AT: u64 = 65536;
    let blocks = pool.blocks().min(LOOKED_AT);
    (0..blocks).filter_map(|index| pool.block(index, "", &nobody)).any(|block| usable(&block) > 0)
}
