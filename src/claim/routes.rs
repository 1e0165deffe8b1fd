//! Routes that a claim gives to an interface: destination and next hop, fit for each other.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::decode::At;
use super::fields::VfConfig;
use super::value::{Datum, Form, Slot, TextForm, Value};
use crate::device::{covers_half, parse_ip, parse_subnet};

/// Most routes of one interface.
const MAX_ROUTES: usize = 32;

/// Shortest prefix besides a default route: several of a shorter one are a default route by another name.
const SHORTEST: u8 = 8;

const WHAT: &str = "a list of routes such as [{to: 172.16.0.0/16, via: 172.16.1.1}]";
const TO: &str = "a network such as \"172.16.0.0/16\"";
const VIA: &str = "an address such as \"172.16.1.1\"";

/// One route as the claim has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedRoute {
    /// Destination, host bits zero.
    pub to: IpNet,
    /// Next hop; none where the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

impl std::fmt::Display for WantedRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.via {
            Some(via) => write!(f, "{} via {via}", self.to),
            None => write!(f, "{}", self.to),
        }
    }
}

/// A list of routes, each destination once.
pub(super) struct Routes(pub Slot<Vec<WantedRoute>>);

impl Value for Routes {
    fn form(&self) -> Form {
        let network = "[0-9a-fA-F:.]+/[0-9]{1,3}".to_owned();
        let address = "[0-9a-fA-F:.]+".to_owned();
        Form::Objects {
            fields: vec![
                (
                    "to",
                    TextForm { what: TO, pattern: network, except: Vec::new(), is_cidr: true, ranges: false },
                    true,
                ),
                (
                    "via",
                    TextForm {
                        what: VIA,
                        pattern: address,
                        except: Vec::new(),
                        is_cidr: false,
                        ranges: false,
                    },
                    false,
                ),
            ],
            most: MAX_ROUTES,
        }
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) = read_list(at, given);
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        let list: Vec<String> = (self.0.get)(config).as_ref()?.iter().map(ToString::to_string).collect();
        Some(Datum::Text(format!("[{}]", list.join(", "))))
    }
}

fn read_list(at: &mut At<'_>, given: &Json) -> Option<Vec<WantedRoute>> {
    let list = at.list(given, WHAT)?;
    if list.len() > MAX_ROUTES {
        return at.fault(format!("{} routes, at most {MAX_ROUTES} are possible", list.len()));
    }
    let mut routes: Vec<WantedRoute> = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let mut at = at.item(index);
        let Some(route) = read_one(&mut at, item) else { continue };
        if routes.iter().any(|known| known.to == route.to) {
            at.fault::<()>(format!("{} is given twice", route.to));
        }
        routes.push(route);
    }
    Some(routes)
}

fn read_one(at: &mut At<'_>, given: &Json) -> Option<WantedRoute> {
    let Some(object) = given.as_object() else {
        return at.wrong_type(given, "an object such as {to: 172.16.0.0/16, via: 172.16.1.1}");
    };
    at.only(object, &["to", "via"]);
    let given = |name: &str| object.get(name).filter(|given| !given.is_null());
    let Some(to) = given("to") else {
        return at.child("to").fault("is missing; say what the route leads to, as in 172.16.0.0/16");
    };
    let to = at
        .child("to")
        .text(to, TO)
        .map(str::to_owned)
        .and_then(|to| destination(&to).map_or_else(|why| at.child("to").fault(why), Some))?;
    let via = match given("via") {
        None => None,
        Some(via) => {
            let mut at = at.child("via");
            let text = at.text(via, VIA)?;
            let via = parse_ip(text).map_err(|why| format!("{text:?}: {why}"));
            Some(via.and_then(|via| next_hop(via, &to)).map_or_else(|why| at.fault(why), Some)?)
        }
    };
    Some(WantedRoute { to, via })
}

fn destination(text: &str) -> Result<IpNet, String> {
    let net = parse_subnet(text)?;
    let (address, prefix) = (net.addr(), net.prefix_len());
    if covers_half(&net) && prefix == 1 {
        let all = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        return Err(format!(
            "{text:?} is half of a default route; write {all}, which sourceRouting keeps in the VF's own table"
        ));
    }
    if (1..SHORTEST).contains(&prefix) {
        return Err(format!(
            "{text:?} is a large part of all there is, which belongs to the pod's default route; write prefixes of {SHORTEST} \
             bits or more, or {}, which sourceRouting keeps in the VF's own table",
            if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
        ));
    }
    if prefix > 0 && (address.is_multicast() || address.is_loopback()) {
        return Err(format!("{text:?} is no destination that a VF leads to"));
    }
    Ok(net)
}

fn next_hop(via: IpAddr, to: &IpNet) -> Result<IpAddr, String> {
    if via.is_ipv4() != to.addr().is_ipv4() {
        return Err(format!("{via} is not of the same family as {to}"));
    }
    if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
        return Err(format!("{via} can be no next hop"));
    }
    Ok(via)
}

/// Whether an interface reaches the next hop with these addresses: it is in a network of one of them, or one of them has
/// no network at all (`/32`, `/128`), and the hop is on the link.
///
/// # Errors
/// One sentence.
pub fn reachable(route: &WantedRoute, addresses: &[IpNet]) -> Result<(), String> {
    let Some(via) = route.via else { return Ok(()) };
    let mut own = addresses.iter().filter(|address| address.addr().is_ipv4() == via.is_ipv4()).peekable();
    if own.peek().is_none() {
        return Err(format!("{route}: the interface has no address of the family of {via}"));
    }
    if addresses.iter().any(|address| address.trunc() == route.to) {
        return Err(format!(
            "{route}: {} is the interface's own network, which it leads to anyway; leave the route out",
            route.to
        ));
    }
    if addresses.iter().any(|address| address.addr() == via) {
        return Err(format!("{route}: {via} is the interface's own address"));
    }
    let mut networks = Vec::new();
    for address in own {
        if address.contains(&via) || address.prefix_len() == address.max_prefix_len() {
            return Ok(());
        }
        networks.push(address.trunc().to_string());
    }
    Err(format!(
        "{route}: {via} is not on the interface's networks {}; name a next hop on one",
        networks.join(", ")
    ))
}
