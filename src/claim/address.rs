//! Addresses a claim gives to an interface: written `address/prefix`, and fit to be a host's.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::decode::At;
use super::fields::VfConfig;
use super::value::{Datum, Form, Slot, TextForm, Value};
use crate::device::parse_ip;

/// Most addresses of one interface: `status.devices[].networkData.ips` holds no more.
const MAX_ADDRESSES: usize = 16;

/// Shortest prefix. The route that comes with an address covers its whole prefix; one shorter than any private
/// network's would draw traffic of the pod's default route to the VF.
const MIN_PREFIX: u8 = 8;

const WHAT: &str = "an address with its prefix length such as \"172.16.11.10/24\"";

/// A list of addresses, each once.
pub(super) struct Addresses(pub Slot<Vec<IpNet>>);

impl Value for Addresses {
    fn form(&self) -> Form {
        let octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
        let v4 = format!("{octet}([.]{octet}){{3}}/([12]?[0-9]|3[0-2])");
        let v6 = "[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/([1-9]?[0-9]|1[01][0-9]|12[0-8])";
        let of = TextForm {
            what: WHAT,
            pattern: format!("({v4}|{v6})"),
            except: Vec::new(),
            is_cidr: true,
            ranges: false,
        };
        Form::List { of, most: MAX_ADDRESSES }
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) = read_list(at, given);
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        let list: Vec<String> = (self.0.get)(config).as_ref()?.iter().map(IpNet::to_string).collect();
        Some(Datum::Text(format!("[{}]", list.join(", "))))
    }
}

fn read_list(at: &mut At<'_>, given: &Json) -> Option<Vec<IpNet>> {
    let list = at.list(given, "a list of addresses such as [172.16.11.10/24]")?;
    if list.len() > MAX_ADDRESSES {
        return at.fault(format!("{} addresses, at most {MAX_ADDRESSES} are possible", list.len()));
    }
    let mut seen = BTreeSet::new();
    let mut addresses = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let mut at = at.item(index);
        let parsed = at.text(item, WHAT).map(parse);
        match parsed {
            Some(Ok(address)) if !seen.insert(address.addr()) => {
                at.fault::<()>(format!("{} is given twice", address.addr()));
            }
            Some(Ok(address)) => addresses.push(address),
            Some(Err(problem)) => {
                at.fault::<()>(problem);
            }
            None => {}
        }
    }
    Some(addresses)
}

/// One address with its prefix length, host bits kept. Errors: one sentence that begins with the text.
fn parse(text: &str) -> Result<IpNet, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (parse_ip(address).map_err(|why| format!("{text:?}: {why}"))?, prefix),
        None => {
            let address = parse_ip(text).map_err(|why| format!("{text:?}: {why}"))?;
            let usual = if address.is_ipv4() { 24 } else { 64 };
            return Err(format!("{text:?} has no prefix length, write it as {text}/{usual}"));
        }
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty()
        && prefix.bytes().all(|b| b.is_ascii_digit())
        && (prefix == "0" || !prefix.starts_with('0'));
    let prefix = digits
        .then(|| prefix.parse::<u8>().ok())
        .flatten()
        .filter(|prefix| (MIN_PREFIX..=longest).contains(prefix))
        .ok_or_else(|| format!("{text:?}: prefix length {prefix:?} is not {MIN_PREFIX} to {longest}"))?;
    let net = IpNet::new(address, prefix).map_err(|error| format!("{text:?}: {error}"))?;
    match unfit(&net) {
        Some(why) => Err(format!("{text:?} can't be an interface's address: {why}")),
        None => Ok(net),
    }
}

/// Why no host can have this address, if so.
fn unfit(net: &IpNet) -> Option<String> {
    let why = match net {
        IpNet::V4(net) => {
            let address = net.addr();
            if net.prefix_len() <= 30 && (address == net.network() || address == net.broadcast()) {
                let which = if address == net.network() { "the network" } else { "the broadcast" };
                // Both exist at 30 bits and less.
                let (first, last) = (u32::from(net.network()) + 1, u32::from(net.broadcast()) - 1);
                let (first, last) = (std::net::Ipv4Addr::from(first), std::net::Ipv4Addr::from(last));
                return Some(format!(
                    "it is {which} address of {}, hosts are {first} to {last}",
                    net.trunc()
                ));
            }
            match address.octets() {
                [0, ..] => "0.0.0.0/8 is unspecified",
                [127, ..] => "it is a loopback address",
                [169, 254, ..] => "it is a link-local address",
                [224..=239, ..] => "it is a multicast address",
                [240..=255, ..] => "240.0.0.0/4 is reserved",
                _ => return None,
            }
        }
        IpNet::V6(net) => {
            let address = net.addr();
            if address.is_unspecified() {
                "it is unspecified"
            } else if address.is_loopback() {
                "it is the loopback address"
            } else if address.is_multicast() {
                "it is a multicast address"
            } else if address.is_unicast_link_local() {
                "it is a link-local address, which the kernel gives by itself"
            } else if address.to_ipv4_mapped().is_some() {
                "it is an IPv4-mapped address, write the IPv4 address"
            } else if net.prefix_len() <= 126 && address == net.network() {
                return Some(format!(
                    "it is the address of the subnet {} (anycast to its routers)",
                    net.trunc()
                ));
            } else {
                return None;
            }
        }
    };
    Some(why.to_owned())
}
