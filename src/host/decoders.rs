//! The decoders of this room for tests that feed them anything: what the kernel or the network may send, without a kernel.

use ipnet::IpNet;
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::probe::Question;
use super::{HostError, Link, RdmaLink, devlink, linux, netlink, probe, raw, rdma, routes, uevent, vf_admin};
use crate::device::{
    CharDevice, EswitchMode, HwAddr, InstalledRoute, RdmaNetnsMode, Route, Rule, Setting, VfSettings,
};

/// What rtnetlink said.
#[derive(Debug, Default)]
pub struct Heard {
    /// The acknowledgement or the end of a dump was there.
    pub over: bool,
    /// RTM_NEWLINK.
    pub links: Vec<Link>,
    /// RTM_NEWADDR, with the index of the link.
    pub addresses: Vec<(u32, IpNet)>,
    /// RTM_NEWROUTE.
    pub routes: Vec<InstalledRoute>,
    /// RTM_NEWRULE.
    pub rules: Vec<Rule>,
}

/// One datagram of rtnetlink, in answer to request number `sequence`.
///
/// # Errors
/// As of a session.
pub fn rtnetlink(sequence: u32, datagram: &[u8]) -> Result<Heard, HostError> {
    let mut answers = netlink::Answers { sequence, ..netlink::Answers::default() };
    let mut heard = Heard { over: answers.take("listen", datagram)?, ..Heard::default() };
    for message in answers.messages {
        match message {
            RouteNetlinkMessage::NewLink(message) => heard.links.push(netlink::parse_link(message)),
            RouteNetlinkMessage::NewAddress(message) => {
                heard.addresses.extend(netlink::parse_address(&message));
            }
            RouteNetlinkMessage::NewRoute(message) => heard.routes.extend(routes::parse(&message)),
            RouteNetlinkMessage::NewRule(message) => heard.rules.extend(routes::parse_rule(&message)),
            _ => {}
        }
    }
    Ok(heard)
}

fn bytes(sequence: u32, message: RouteNetlinkMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// A route as it is sent to the kernel.
pub fn route_bytes(sequence: u32, link: u32, route: &Route) -> Vec<u8> {
    bytes(sequence, RouteNetlinkMessage::NewRoute(routes::message(link, route)))
}

/// A rule as it is sent to the kernel.
pub fn rule_bytes(sequence: u32, rule: &Rule) -> Vec<u8> {
    bytes(sequence, RouteNetlinkMessage::NewRule(routes::rule_message(rule)))
}

/// The bodies of one datagram of any other netlink, and whether it was the last.
///
/// # Errors
/// As of an exchange.
pub fn netlink(datagram: &[u8]) -> Result<(Vec<Vec<u8>>, bool), HostError> {
    let mut answers = Vec::new();
    let over = raw::take(datagram, &mut answers, "listen")?;
    Ok((answers, over))
}

/// Values of every attribute of a kind.
pub fn attributes(bytes: &[u8], kind: u16) -> Vec<&[u8]> {
    raw::each(bytes, kind).collect()
}

/// Appends an attribute.
pub fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    raw::attribute(out, kind, value);
}

/// Settings of a VF in a body of rtnetlink.
pub fn vf_settings(body: &[u8], vf: u32) -> Option<VfSettings> {
    vf_admin::parse(body, vf)
}

/// A setting of a VF as it is sent to the kernel: the body of a message, which has the form of an answer.
pub fn vf_setting_bytes(link: u32, vf: u32, setting: &Setting) -> Vec<u8> {
    vf_admin::message(link, vf, setting)
}

/// What a body of RDMA netlink says: a device, a character device, the mode.
pub fn rdma_netlink(body: &[u8]) -> (Option<RdmaLink>, Option<CharDevice>, Option<RdmaNetnsMode>) {
    (rdma::link_of(body), rdma::char_device_of(body), rdma::mode_of(body))
}

/// What a body of generic netlink says: a family's number, the mode of an eswitch.
pub fn generic_netlink(body: &[u8]) -> (Option<u16>, Option<EswitchMode>) {
    (devlink::family_of(body), devlink::mode_of(body))
}

/// A field of `struct ethtool_drvinfo`.
pub fn ethtool_text(field: &[u8]) -> String {
    linux::until_zero(field)
}

/// A kernel event is about devices of this driver.
pub fn uevent(event: &[u8]) -> bool {
    uevent::concerns_us(event)
}

/// The link-layer address of who answers a question with this frame.
pub fn neighbour(question: &Question, frame: &[u8]) -> Option<HwAddr> {
    probe::answer_in(question, frame)
}
