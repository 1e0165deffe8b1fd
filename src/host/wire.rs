//! Stand-ins for VFs and their wires: veth pairs, and bridges that join their far ends. For machines without SR-IOV.

use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::netlink::Session;
use super::{HostError, Link, Links, Netns};
use crate::device::{HwAddr, IfName};

/// One end of a pair.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Name.
    pub name: &'a IfName,
    /// Link-layer address; the kernel's choice if none.
    pub hw_addr: Option<&'a HwAddr>,
}

fn end(end: &End<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.to_string()));
    message.attributes.extend(end.hw_addr.map(|address| LinkAttribute::Address(address.bytes().to_vec())));
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

/// Makes a link administratively up. (An end of a pair can't be made so: its peer is not there yet.)
///
/// # Errors
/// The kernel refuses, or has no such link.
pub fn raise(netns: &Netns, name: &IfName) -> Result<(), HostError> {
    let mut session = Session::open(netns)?;
    let link = existing(&mut session, name)?;
    session.set_up(&link, true)
}

/// Makes a bridge that is up.
///
/// # Errors
/// The kernel refuses: the name is taken, or it has no bridges.
pub fn bridge(netns: &Netns, name: &IfName, mtu: u32) -> Result<(), HostError> {
    let mut message = end(&End { name, hw_addr: None });
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
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
    let mut session = Session::open(netns)?;
    let upper = existing(&mut session, bridge)?;
    let link = existing(&mut session, port)?;
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.attributes = vec![LinkAttribute::Controller(upper.index)];
    session.act(format!("join {port} to {bridge}"), RouteNetlinkMessage::SetLink(message), 0)
}

fn existing(session: &mut Session, name: &IfName) -> Result<Link, HostError> {
    session.by_name(name.as_str())?.ok_or_else(|| HostError::Netlink {
        what: format!("look up link {name}"),
        source: nix::errno::Errno::ENODEV.into(),
    })
}
