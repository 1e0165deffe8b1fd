//! What goes over the pods' interfaces: connections from a certain address, and every packet of them, with its interface.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, recv,
    recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::nodes::OnNode;

/// Nobody listens there.
const PORT: u16 = 9;
const SYN: u8 = 2;
const RST: u8 = 4;
/// `PACKET_OUTGOING`
const OUTGOING: u8 = 4;

/// Works in a network namespace; what sockets are made there stay there.
fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A packet of a connection: on which interface, and whether it left by it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    interface: String,
    out: bool,
    flags: u8,
}

/// Hears every packet of a pod.
struct Ear {
    socket: OwnedFd,
    names: BTreeMap<usize, String>,
}

impl Ear {
    fn at(pod: &OnNode) -> Self {
        let protocol = SockProtocol::EthAll;
        // Without the frame's header.
        let open = || socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_NONBLOCK, protocol);
        let socket = within(pod.netns(), || open().unwrap());
        let names = pod.says("ip -o link").into_iter().filter_map(|line| {
            let (index, rest) = line.split_once(": ")?;
            Some((index.parse().ok()?, rest.split([':', '@']).next()?.to_owned()))
        });
        Self { socket, names: names.collect() }
    }

    /// Forgets what was said so far.
    fn empty(&self) {
        let mut buffer = [0; 64];
        while recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok() {}
    }

    /// The question and the answer of a connection between these two, each with its interface.
    fn hears(&self, from: Ipv4Addr, to: Ipv4Addr) -> (Seen, Seen) {
        let until = Instant::now() + Duration::from_secs(2);
        let (mut asked, mut answered) = (None, None);
        loop {
            let mut buffer = [0; 64];
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(place))) => {
                    let Some((source, target, flags)) = tcp(&buffer[..length.min(64)]) else { continue };
                    let interface = self.names[&place.ifindex()].clone();
                    let seen = Seen { interface, out: place.pkttype() == OUTGOING, flags };
                    match (source, target) {
                        ends if ends == (from, to) && flags & SYN != 0 => asked = Some(seen),
                        ends if ends == (to, from) && flags & RST != 0 => answered = Some(seen),
                        other => panic!("nobody else talks here: {other:?} {seen:?}"),
                    }
                }
                Ok(_) => panic!("a packet from nowhere"),
                Err(Errno::EAGAIN) => {
                    if let (Some(asked), Some(answered)) = (&asked, &answered) {
                        return (asked.clone(), answered.clone());
                    }
                    assert!(Instant::now() < until, "{from} to {to}: {asked:?}, {answered:?}");
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Source, destination and flags of a TCP packet over IPv4.
fn tcp(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, u8)> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let is_tcp = packet.first()? >> 4 == 4 && *packet.get(9)? == 6;
    let header = usize::from(packet.first()? & 15) * 4;
    is_tcp.then_some((address(12)?, address(16)?, *packet.get(header + 13)?))
}

/// Connects from an address of the pod. The answer of a port that nobody listens at, or silence.
fn knock(pod: &OnNode, from: Ipv4Addr, to: Ipv4Addr) -> Errno {
    let open = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None);
    let socket = within(pod.netns(), || open().unwrap());
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(3, 0)).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, PORT))).unwrap_err()
}

/// Each of these pairs reaches the other, from the first pod and from the second: what is asked leaves by the interface
/// that has the source, comes in by the one that has the destination, and the answer goes the same way back.
pub fn assert_reach(pods: &[OnNode; 2], pairs: impl Fn(u32, u32) -> bool) -> usize {
    let ears = [Ear::at(&pods[0]), Ear::at(&pods[1])];
    let addresses = [pods[0].addresses(), pods[1].addresses()];
    let mut reached = 0;
    for (here, there) in [(0, 1), (1, 0)] {
        for (n, from) in &addresses[here] {
            for (m, to) in addresses[there].iter().filter(|(m, _)| pairs(*n, **m)) {
                ears.iter().for_each(Ear::empty);
                let said = knock(&pods[here], *from, *to);
                assert_eq!(said, Errno::ECONNREFUSED, "{from} (net{n}) does not reach {to} (net{m})");
                for (ear, interface, asks) in [(&ears[here], n, true), (&ears[there], m, false)] {
                    let (asked, answered) = ear.hears(*from, *to);
                    let place = |seen: Seen| (seen.interface, seen.out);
                    let own = format!("net{interface}");
                    assert_eq!(place(asked), (own.clone(), asks), "the question of {from} to {to}");
                    assert_eq!(place(answered), (own, !asks), "the answer of {to} to {from}");
                }
                reached += 1;
            }
        }
    }
    reached
}
