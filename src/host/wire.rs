//! Stand-ins for VFs and their wires: veth pairs, and bridges that join their far ends. For machines without SR-IOV.

use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::netlink::Session;
use super::{HostError, Netns};
use crate::device::{HwAddr, IfName};

/// One end of a pair.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Name.
    pub name: &'a IfName,
    /// Link-layer address; the kernel's choice if none.
    pub hw_addr: Option<&'a HwAddr>,
    /// Administratively up.
    pub up: bool,
}

fn end(end: &End<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.to_string()));
    message.attributes.extend(end.hw_addr.map(|address| LinkAttribute::Address(address.bytes().to_vec())));
    if end.up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message
}

/// Makes a veth pair: `near` in `netns`, `far` in `far_netns`.
///
/// # Errors
/// The kernel refuses: a name is taken, or it has no veth.
pub fn veth(
    netns: &Netns,
    near: &End<'_>,
    far_netns: &Netns,
    far: &End<'_>,
    mtu: u32,
) -> Result<(), HostError> {
    let mut message = end(near);
    let mut peer = end(far);
    peer.attributes.push(LinkAttribute::NetNsFd(far_netns.fd()?.as_raw_fd()));
    peer.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let what = format!("make the veth pair {}, {}", near.name, far.name);
    Session::open(netns)?.act(what, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes a bridge that is up.
///
/// # Errors
/// The kernel refuses: the name is taken, or it has no bridges.
pub fn bridge(netns: &Netns, name: &IfName, mtu: u32) -> Result<(), HostError> {
    let mut message = end(&End { name, hw_addr: None, up: true });
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    let what = format!("make the bridge {name}");
    Session::open(netns)?.act(what, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes a link a port of a bridge.
///
/// # Errors
/// The kernel refuses, or has no such link.
pub fn join(netns: &Netns, port: &IfName, bridge: &IfName) -> Result<(), HostError> {
    use super::Links;
    let mut session = Session::open(netns)?;
    let missing = |name: &IfName| HostError::Netlink {
        what: format!("join {port} to {bridge}: no link {name}"),
        source: nix::errno::Errno::ENODEV.into(),
    };
    let upper = session.by_name(bridge.as_str())?.ok_or_else(|| missing(bridge))?;
    let link = session.by_name(port.as_str())?.ok_or_else(|| missing(port))?;
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.attributes = vec![LinkAttribute::Controller(upper.index)];
    session.act(format!("join {port} to {bridge}"), RouteNetlinkMessage::SetLink(message), 0)
}
