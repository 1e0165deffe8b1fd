//! Routes and rules over rtnetlink (net/ipv4/fib_frontend.c, net/ipv6/route.c, net/core/fib_rules.c).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Session;
use super::{HostError, Link};
use crate::device::{InstalledRoute, MAIN_TABLE, Route, Rule};

/// Longest number that the header's one byte holds; larger tables stand in an attribute only (`RT_TABLE_COMPAT`).
const COMPAT: u8 = 252;

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

pub(super) fn message(link: u32, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.to.addr());
    header.destination_prefix_length = route.to.prefix_len();
    header.table = u8::try_from(route.table).unwrap_or(COMPAT);
    header.protocol = RouteProtocol::Static;
    header.kind = RouteType::Unicast;
    header.scope = match (route.via, route.to) {
        (None, IpNet::V4(_)) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.on_link {
        header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(address(route.to.network())));
    }
    message.attributes.push(RouteAttribute::Oif(link));
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(address(via))));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

/// `None` for what is no unicast route through interfaces; one for each of several next hops.
pub(super) fn parse(message: &RouteMessage) -> Vec<InstalledRoute> {
    let header = &message.header;
    if header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut route = Route {
        to: match header.address_family {
            AddressFamily::Inet => IpNet::V4(Default::default()),
            _ => IpNet::V6(Default::default()),
        },
        via: None,
        on_link: header.flags.contains(RouteFlags::Onlink),
        table: header.table.into(),
        source: None,
        metric: 0,
    };
    let mut links = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(to) => {
                let to = plain(to).and_then(|to| IpNet::new(to, header.destination_prefix_length).ok());
                route.to = to.unwrap_or(route.to);
            }
            RouteAttribute::Gateway(via) => route.via = plain(via),
            RouteAttribute::PrefSource(source) => route.source = plain(source),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(link) => links.push((*link, None)),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| {
                let via = hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(via) => plain(via),
                    _ => None,
                });
                (hop.interface_index, via)
            })),
            _ => {}
        }
    }
    let of_hop = |(link, via): (u32, Option<IpAddr>)| InstalledRoute {
        link,
        route: Route { via: via.or(route.via), ..route.clone() },
    };
    links.into_iter().map(of_hop).collect()
}

pub(super) fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = family(rule.from);
    header.src_len = if rule.from.is_ipv4() { 32 } else { 128 };
    header.table = u8::try_from(rule.table).unwrap_or(COMPAT);
    header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Source(rule.from),
        RuleAttribute::Protocol(RouteProtocol::Static),
    ];
    message
}

/// `None` for what is no rule from one whole address to a table.
pub(super) fn parse_rule(message: &RuleMessage) -> Option<Rule> {
    let (mut from, mut table, mut priority) = (None, u32::from(message.header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(source) => from = Some(*source),
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            _ => {}
        }
    }
    let whole = matches!(message.header.src_len, 32 | 128);
    from.filter(|_| whole).map(|from| Rule { from, table, priority })
}

impl Session {
    /// Every unicast route of the namespace, of all tables and both families.
    pub(super) fn list_routes(&mut self) -> Result<Vec<InstalledRoute>, HostError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for answer in self.dump("list routes", RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(message) = answer {
                    routes.extend(parse(&message));
                }
            }
        }
        Ok(routes)
    }

    pub(super) fn make_route(&mut self, link: &Link, route: &Route) -> Result<(), HostError> {
        let what = format!("add route {route} through link {}", link.name);
        let message = RouteNetlinkMessage::NewRoute(message(link.index, route));
        self.act(what, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(super) fn drop_route(&mut self, link: u32, route: &Route) -> Result<(), HostError> {
        let what = format!("remove route {route} through link number {link}");
        let message = RouteNetlinkMessage::DelRoute(message(link, route));
        match self.act(what, message, 0) {
            Err(error) if error.errno() == Some(nix::libc::ESRCH) => Ok(()),
            done => done,
        }
    }

    /// Rules from one whole address to a table.
    pub(super) fn list_rules(&mut self) -> Result<Vec<Rule>, HostError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            for answer in self.dump("list rules", RouteNetlinkMessage::GetRule(message))? {
                if let RouteNetlinkMessage::NewRule(message) = answer {
                    rules.extend(parse_rule(&message));
                }
            }
        }
        Ok(rules)
    }

    pub(super) fn make_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        match self.act(format!("add rule {rule}"), message, NLM_F_CREATE | NLM_F_EXCL) {
            // The kernel compares all of it: the very rule is there.
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => Ok(()),
            done => done,
        }
    }

    pub(super) fn drop_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        let message = RouteNetlinkMessage::DelRule(rule_message(rule));
        match self.act(format!("remove rule {rule}"), message, 0) {
            Err(error) if error.errno() == Some(nix::libc::ENOENT) => Ok(()),
            done => done,
        }
    }
}

/// Routes of main that carry what nothing else does.
pub fn defaults_of(routes: &[InstalledRoute]) -> Vec<InstalledRoute> {
    let mut defaults: Vec<InstalledRoute> = routes
        .iter()
        .filter(|installed| installed.route.table == MAIN_TABLE && installed.route.to.prefix_len() == 0)
        .cloned()
        .collect();
    defaults.sort_by(|a, b| (a.link, &a.route).cmp(&(b.link, &b.route)));
    defaults
}
