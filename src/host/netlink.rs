//! rtnetlink, synchronous: one socket that belongs to the namespace it was opened in.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp, Prop, XdpAttached,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::fate::{self, Kind};
use super::link::Link;
use super::probe::Question;
use super::{HostError, Links, Netns};
use crate::device::{HwAddr, IfName, InstalledRoute, PciAddress, Route, Rule};

/// A dump that a concurrent change interrupts is void (NLM_F_DUMP_INTR); after this many in a row something is wrong.
const DUMP_TRIES: u32 = 20;
/// Below are the control messages (include/uapi/linux/netlink.h).
const NLMSG_MIN_TYPE: u16 = 0x10;

/// A session in one namespace.
#[derive(Debug)]
pub(super) struct Session {
    netns: Netns,
    socket: Socket,
    sequence: u32,
}

/// What the kernel has answered to one request so far.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) sequence: u32,
    pub(super) messages: Vec<RouteNetlinkMessage>,
    /// The dump is void: something changed meanwhile.
    pub(super) interrupted: bool,
}

/// Of the negative number in an answer, whatever number that is.
pub(super) fn refusal(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_abs())
}

impl Answers {
    /// Takes the messages of a datagram. `true`: the acknowledgement or the end of the dump was among them.
    pub(super) fn take(&mut self, what: &str, datagram: &[u8]) -> Result<bool, HostError> {
        let protocol = |reason: String| HostError::Protocol { what: what.to_owned(), reason };
        let mut rest = datagram;
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(one) = rest.get(..length).filter(|one| one.len() >= 16) else {
                return Err(protocol(format!("a message of {length} bytes in {} bytes", rest.len())));
            };
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                Ok(message) => message,
                // A link with an attribute nobody here understands must not hide all the others; a control
                // message that can't be read is the end of nothing.
                Err(error) if u16::from_ne_bytes([one[4], one[5]]) >= NLMSG_MIN_TYPE => {
                    tracing::debug!(what, %error, "skipped a netlink message");
                    continue;
                }
                Err(error) => return Err(protocol(error.to_string())),
            };
            if message.header.sequence_number != self.sequence {
                continue;
            }
            self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => {
                            self.interrupted = false;
                            Ok(true)
                        }
                        Some(code) => {
                            Err(HostError::Netlink { what: what.to_owned(), source: refusal(code.get()) })
                        }
                    };
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(HostError::Netlink { what: what.to_owned(), source: refusal(done.code) });
                }
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::InnerMessage(inner) => self.messages.push(inner),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// The kernel always answers; should it not, a caller must not hang with its locks.
pub(super) fn patience(socket: &Socket) -> io::Result<()> {
    let limit = nix::sys::time::TimeVal::new(10, 0);
    Ok(nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::ReceiveTimeout, &limit)?)
}

impl Session {
    /// Opens a socket inside `netns`; the socket stays there, the calling thread does not move.
    pub(super) fn open(netns: &Netns) -> Result<Self, HostError> {
        let socket = netns.run(|| {
            let fail = |source| HostError::Netlink { what: "open a netlink socket".to_owned(), source };
            let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
            socket.bind_auto().map_err(fail)?;
            socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
            patience(&socket).map_err(fail)?;
            Ok(socket)
        })?;
        Ok(Self { netns: netns.clone(), socket, sequence: 0 })
    }

    fn send(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), HostError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket
            .send(&buffer, 0)
            .map(drop)
            .map_err(|source| HostError::Netlink { what: what.to_owned(), source })
    }

    /// Sends a request and gathers answers until the acknowledgement or the end of the dump. `Ok(None)`: the dump was
    /// interrupted by a change.
    fn exchange(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, HostError> {
        self.send(what, message, flags)?;
        let mut answers = Answers { sequence: self.sequence, ..Answers::default() };
        loop {
            let (datagram, _) = self
                .socket
                .recv_from_full()
                .map_err(|source| HostError::Netlink { what: what.to_owned(), source })?;
            if answers.take(what, &datagram)? {
                return Ok((!answers.interrupted).then_some(answers.messages));
            }
        }
    }

    pub(super) fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        for _ in 0..DUMP_TRIES {
            if let Some(answers) = self.exchange(what, message.clone(), NLM_F_DUMP)? {
                return Ok(answers);
            }
        }
        Err(HostError::Protocol {
            what: what.to_owned(),
            reason: format!("{DUMP_TRIES} dumps in a row were interrupted by changes"),
        })
    }

    pub(super) fn act(
        &mut self,
        what: String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), HostError> {
        fate::effect(Kind::Kernel, format_args!("{what}"))
            .map_err(|source| HostError::Netlink { what: what.clone(), source })?;
        self.exchange(&what, message, flags | NLM_F_ACK).map(drop)
    }

    fn change(&mut self, what: String, link: &Link, attributes: Vec<LinkAttribute>) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes = attributes;
        self.act(what, RouteNetlinkMessage::SetLink(message), 0)
    }

    fn flags(
        &mut self,
        what: String,
        link: &Link,
        mask: LinkFlags,
        value: LinkFlags,
    ) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = value;
        message.header.change_mask = mask;
        self.act(what, RouteNetlinkMessage::SetLink(message), 0)
    }

    fn alt_name(&mut self, what: String, link: &Link, name: &str, add: bool) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes = vec![LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())])];
        if add {
            self.act(what, RouteNetlinkMessage::NewLinkProp(message), NLM_F_CREATE | NLM_F_EXCL)
        } else {
            self.act(what, RouteNetlinkMessage::DelLinkProp(message), 0)
        }
    }

    fn address_message(link: &Link, address: IpNet) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = link.index;
        message.header.prefix_len = address.prefix_len();
        message.header.family = match address {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        if let IpNet::V4(v4) = address
            && v4.prefix_len() < 31
        {
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        message
    }

    /// Kernels before 5.14 do not say which device a link belongs to; the driver does, through ethtool.
    fn add_bus_info(&self, link: &mut Link) {
        if link.pci.is_none() && link.kind.is_none() && link.name != "lo" {
            link.pci =
                super::linux::ethtool_bus_info(&self.netns, &link.name).and_then(|bus| bus.parse().ok());
        }
    }
}

pub(super) fn parse_link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        promisc: flags.contains(LinkFlags::Promisc),
        allmulti: flags.contains(LinkFlags::Allmulti),
        noarp: flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    let mut on_pci = false;
    let mut lower_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.hw_addr = Some(HwAddr::new(bytes)),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::TxQueueLen(packets) => link.queue_length = packets,
            LinkAttribute::Xdp(xdp) => {
                link.xdp = xdp.iter().any(|x| matches!(x, LinkXdp::Attached(a) if *a != XdpAttached::None));
            }
            LinkAttribute::Link(index) => link.lower = Some(index),
            LinkAttribute::LinkNetNsId(_) => lower_elsewhere = true,
            LinkAttribute::ParentDevName(name) => link.pci = name.parse::<PciAddress>().ok(),
            LinkAttribute::ParentDevBusName(bus) => on_pci = bus == "pci",
            LinkAttribute::PropList(list) => {
                link.alt_names.extend(list.into_iter().filter_map(|prop| match prop {
                    Prop::AltIfName(name) => Some(name),
                    _ => None,
                }));
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = Some(match kind {
                            InfoKind::Veth => "veth".to_owned(),
                            other => other.to_string(),
                        });
                    }
                }
            }
            _ => {}
        }
    }
    if !on_pci {
        link.pci = None;
    }
    // An index of another namespace says nothing here; a veth's "lower" is its peer.
    if lower_elsewhere || link.kind.as_deref() == Some("veth") {
        link.lower = None;
    }
    link
}

/// With the index of its link.
pub(super) fn parse_address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    // On point-to-point links ADDRESS is the peer and LOCAL is ours; IPv6 has no LOCAL.
    let mut local: Option<IpAddr> = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) if local.is_none() => local = Some(*address),
            _ => {}
        }
    }
    Some((message.header.index, IpNet::new(local?, message.header.prefix_len).ok()?))
}

fn link_messages(answers: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(parse_link(message)),
        _ => None,
    })
}

impl Links for Session {
    fn all(&mut self) -> Result<Vec<Link>, HostError> {
        let mut message = LinkMessage::default();
        // Counters are a third of each answer.
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let answers = self.dump("list links", RouteNetlinkMessage::GetLink(message))?;
        let mut links: Vec<Link> = link_messages(answers).collect();
        links.iter_mut().for_each(|link| self.add_bus_info(link));
        Ok(links)
    }

    fn by_name(&mut self, name: &str) -> Result<Option<Link>, HostError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        match self.exchange(&format!("look up link {name}"), RouteNetlinkMessage::GetLink(message), NLM_F_ACK)
        {
            Ok(answers) => Ok(link_messages(answers.unwrap_or_default()).next().map(|mut link| {
                self.add_bus_info(&mut link);
                link
            })),
            Err(error) if error.errno() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, HostError> {
        Ok(self
            .all_addresses()?
            .into_iter()
            .filter(|(link, _)| *link == index)
            .map(|(_, address)| address)
            .collect())
    }

    fn move_to(&mut self, link: &Link, target: &Netns, name: &IfName) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes =
            vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::NetNsFd(target.fd()?.as_raw_fd())];
        let what = format!("move link {} to namespace {} as {name}", link.name, target.id());
        self.act(what, RouteNetlinkMessage::NewLink(message), 0)
    }

    fn set_up(&mut self, link: &Link, up: bool) -> Result<(), HostError> {
        let what = format!("set link {} {}", link.name, if up { "up" } else { "down" });
        self.flags(what, link, LinkFlags::Up, if up { LinkFlags::Up } else { LinkFlags::empty() })
    }

    fn set_mtu(&mut self, link: &Link, mtu: u32) -> Result<(), HostError> {
        self.change(format!("set MTU {mtu} on link {}", link.name), link, vec![LinkAttribute::Mtu(mtu)])
    }

    fn set_hw_addr(&mut self, link: &Link, address: &HwAddr) -> Result<(), HostError> {
        let what = format!("set address {address} on link {}", link.name);
        self.change(what, link, vec![LinkAttribute::Address(address.bytes().to_vec())])
    }

    fn rename(&mut self, link: &Link, name: &IfName) -> Result<(), HostError> {
        let what = format!("rename link {} to {name}", link.name);
        self.change(what, link, vec![LinkAttribute::IfName(name.to_string())])
    }

    fn set_alias(&mut self, link: &Link, alias: &str) -> Result<(), HostError> {
        let what = format!("set alias {alias:?} on link {}", link.name);
        self.change(what, link, vec![LinkAttribute::IfAlias(alias.to_owned())])
    }

    fn scrub(&mut self, link: &Link) -> Result<(), HostError> {
        if link.promisc || link.allmulti || link.noarp {
            let what = format!("take promiscuity and NOARP from link {}", link.name);
            let mask = LinkFlags::Promisc | LinkFlags::Allmulti | LinkFlags::Noarp;
            self.flags(what, link, mask, LinkFlags::empty())?;
        }
        if link.xdp {
            let what = format!("take the XDP program from link {}", link.name);
            self.change(what, link, vec![LinkAttribute::Xdp(vec![LinkXdp::Fd(-1)])])?;
        }
        if link.group != 0 {
            let what = format!("put link {} back into group 0", link.name);
            self.change(what, link, vec![LinkAttribute::Group(0)])?;
        }
        Ok(())
    }

    fn set_queue_length(&mut self, link: &Link, packets: u32) -> Result<(), HostError> {
        let what = format!("set transmit queue length {packets} on link {}", link.name);
        self.change(what, link, vec![LinkAttribute::TxQueueLen(packets)])
    }

    fn add_alt_name(&mut self, link: &Link, name: &str) -> Result<(), HostError> {
        self.alt_name(format!("add alternative name {name} to link {}", link.name), link, name, true)
    }

    fn remove_alt_name(&mut self, link: &Link, name: &str) -> Result<(), HostError> {
        self.alt_name(format!("remove alternative name {name} from link {}", link.name), link, name, false)
    }

    fn add_address_with_metric(&mut self, link: &Link, address: IpNet, metric: u32) -> Result<(), HostError> {
        let mut message = Self::address_message(link, address);
        if matches!(address, IpNet::V6(_)) {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        if metric != 0 {
            message.attributes.push(AddressAttribute::RoutePriority(metric));
        }
        let what = format!("add address {address} to link {}", link.name);
        match self.act(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    fn remove_address(&mut self, link: &Link, address: IpNet) -> Result<(), HostError> {
        let what = format!("remove address {address} from link {}", link.name);
        self.act(what, RouteNetlinkMessage::DelAddress(Self::address_message(link, address)), 0)
    }

    fn routes(&mut self) -> Result<Vec<InstalledRoute>, HostError> {
        self.list_routes()
    }

    fn add_route(&mut self, link: &Link, route: &Route) -> Result<(), HostError> {
        self.make_route(link, route)
    }

    fn remove_route(&mut self, link: u32, route: &Route) -> Result<(), HostError> {
        self.drop_route(link, route)
    }

    fn rules(&mut self) -> Result<Vec<Rule>, HostError> {
        self.list_rules()
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        self.make_rule(rule)
    }

    fn remove_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        self.drop_rule(rule)
    }

    fn announce(&mut self, link: &Link, address: IpAddr) -> Result<(), HostError> {
        super::announce::announce(&self.netns, link, address)
    }

    fn ask(&mut self, questions: &[Question], budget: Duration) -> Result<Vec<Option<HwAddr>>, HostError> {
        super::probe::ask(&self.netns, questions, budget)
    }

    fn read_sysctl(&mut self, key: &str) -> Result<Option<String>, HostError> {
        self.netns.run(|| {
            let path = std::path::Path::new("/proc/sys/net").join(key);
            match std::fs::read_to_string(&path) {
                Ok(value) => Ok(Some(value.trim().to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(HostError::File { what: "read", path, source }),
            }
        })
    }

    fn sysctl(&mut self, key: &str, value: &str) -> Result<bool, HostError> {
        match self.read_sysctl(key) {
            Ok(Some(now)) if now == value => return Ok(true),
            Ok(None) => return Ok(false),
            _ => {}
        }
        let path = std::path::Path::new("/proc/sys/net").join(key);
        let failed = |source| HostError::File { what: "write", path: path.clone(), source };
        // Before the namespace is entered: that is another thread, which has no fate.
        fate::effect(Kind::Kernel, format_args!("write {value} to {key}")).map_err(failed)?;
        // /proc/sys/net is resolved by the namespace of the thread that opens it.
        self.netns.run(|| std::fs::write(&path, value).map_err(failed))?;
        Ok(true)
    }

    fn default_route_links(&mut self) -> Result<Vec<u32>, HostError> {
        let routes = self.list_routes()?.into_iter().filter(|installed| installed.route.to.prefix_len() == 0);
        let mut links: Vec<u32> = routes.map(|installed| installed.link).collect();
        links.sort_unstable();
        links.dedup();
        Ok(links)
    }

    fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, HostError> {
        let answers =
            self.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => parse_address(&message),
                _ => None,
            })
            .collect())
    }
}
