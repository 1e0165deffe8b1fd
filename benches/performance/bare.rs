//! What an attach can't do without: for each VF move and rename, look up, MTU, up, address. One thread, one socket on
//! either side, no check, no record, no undo.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};

use crate::attach::{Device, MTU};

/// How much of an attach is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Netlink,
    /// And `accept_ra` and `autoconf` off, which netlink can't do.
    NetlinkAndSysctls,
}

/// Moves links that the calling thread's namespace has into another one.
pub fn attach(netns: &Path, devices: &[(u32, &Device)], extent: Extent) -> anyhow::Result<()> {
    let target = File::open(netns)?;
    let host = socket()?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&target, CloneFlags::CLONE_NEWNET)?;
            let pod = socket()?;
            devices.iter().try_for_each(|(index, device)| one(&host, &pod, &target, *index, device, extent))
        });
        inside.join().unwrap_or_else(|_| bail!("the thread in the pod panicked"))
    })
}

fn one(
    host: &Socket,
    pod: &Socket,
    target: &File,
    index: u32,
    device: &Device,
    extent: Extent,
) -> anyhow::Result<()> {
    let name = device.pod_name.to_string();
    let link = |index, attributes| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    };
    let moved =
        link(index, vec![LinkAttribute::IfName(name.clone()), LinkAttribute::NetNsFd(target.as_raw_fd())]);
    exchange(host, RouteNetlinkMessage::NewLink(moved), 0)?;

    // It may have another index there.
    let asked = link(0, vec![LinkAttribute::IfName(name.clone())]);
    let index = match exchange(pod, RouteNetlinkMessage::GetLink(asked), 0)? {
        Some(RouteNetlinkMessage::NewLink(found)) => found.header.index,
        _ => bail!("{name} is not in the pod"),
    };
    exchange(pod, RouteNetlinkMessage::SetLink(link(index, vec![LinkAttribute::Mtu(MTU)])), 0)?;
    if extent == Extent::NetlinkAndSysctls {
        for key in ["accept_ra", "autoconf"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), "0")?;
        }
    }
    let mut up = link(index, Vec::new());
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    exchange(pod, RouteNetlinkMessage::SetLink(up), 0)?;

    let mut address = AddressMessage::default();
    address.header.index = index;
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = device.address.prefix_len();
    let own: IpAddr = device.address.addr();
    address.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    exchange(pod, RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_EXCL)?;
    Ok(())
}

fn socket() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// One request to its acknowledgement; the answer in between, if there is one.
fn exchange(
    socket: &Socket,
    message: RouteNetlinkMessage,
    flags: u16,
) -> anyhow::Result<Option<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    let mut answer = None;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
            rest = rest.get((message.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answer),
                NetlinkPayload::Error(error) => return Err(error.to_io()).context("netlink"),
                NetlinkPayload::InnerMessage(inner) => answer = Some(inner),
                _ => {}
            }
        }
    }
}
