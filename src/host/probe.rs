//! Asks the network of a link who has an address: ARP (RFC 826, and RFC 5227 section 2.1.1 before the address is used) or
//! neighbour solicitation (RFC 4861 section 7.2.2, RFC 4862 section 5.4.2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::announce::{ETH_P_ARP, ETH_P_IPV6, arp_request, ethernet, icmpv6, send};
use super::{HostError, Link, Netns};
use crate::device::HwAddr;

/// A frame may be lost, and a port that has just come up passes none for a while.
const AGAIN: Duration = Duration::from_millis(50);
/// More than any frame that is asked for (an Ethernet frame's usual MTU, and its header).
const FRAME: usize = 1514;

/// Who has `address`?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The link that is asked through, which is up.
    pub link: Link,
    /// Whose owner is looked for.
    pub address: IpAddr,
    /// Who asks; without one nobody does yet, and anybody who answers has the address that is about to be given out.
    pub from: Option<IpAddr>,
}

/// Asks all at once and waits until each has an answer, at most `budget`. The answers are in the order of the questions:
/// the link-layer address of who has it; none where nobody says so, and for links that are not Ethernet.
///
/// # Errors
/// When the kernel refuses, as where a link goes down.
pub fn ask(
    netns: &Netns,
    questions: &[Question],
    budget: Duration,
) -> Result<Vec<Option<HwAddr>>, HostError> {
    let failed = |source: io::Error| {
        let of = questions.iter().map(|question| format!("{} on {}", question.address, question.link.name));
        let of = of.collect::<Vec<_>>().join(", ");
        HostError::Netlink { what: format!("ask who has {of}"), source }
    };
    netns.run(|| exchange(questions, budget).map_err(failed))
}

fn exchange(questions: &[Question], budget: Duration) -> io::Result<Vec<Option<HwAddr>>> {
    let mut answers = vec![None; questions.len()];
    let frames: Vec<Option<(Vec<u8>, u16)>> = questions.iter().map(frame).collect();
    let open = |protocol: u16| -> io::Result<OwnedFd> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        listen(&fd, protocol)?;
        Ok(fd)
    };
    let sockets = [open(ETH_P_ARP)?, open(ETH_P_IPV6)?];
    let until = Instant::now() + budget;
    let mut next = Instant::now();
    loop {
        let waits = |answers: &[Option<HwAddr>], index: usize| {
            answers.get(index).is_some_and(Option::is_none) && frames.get(index).is_some_and(Option::is_some)
        };
        if Instant::now() >= next {
            for (index, question) in questions.iter().enumerate().filter(|(index, _)| waits(&answers, *index))
            {
                if let Some(Some((frame, protocol))) = frames.get(index) {
                    send(&sockets[0], question.link.index, *protocol, frame)?;
                }
            }
            next = Instant::now() + AGAIN;
        }
        if !(0..questions.len()).any(|index| waits(&answers, index)) || Instant::now() >= until {
            return Ok(answers);
        }
        let wait = next.min(until).saturating_duration_since(Instant::now());
        let mut polled = sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let timeout = PollTimeout::try_from(wait.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for socket in &sockets {
            while let Some((index, frame)) = receive(socket)? {
                for (question, answer) in questions.iter().zip(&mut answers) {
                    if question.link.index == index && answer.is_none() {
                        *answer = answer_in(question, &frame);
                    }
                }
            }
        }
    }
}

/// With its protocol; none for links that are not Ethernet.
fn frame(question: &Question) -> Option<(Vec<u8>, u16)> {
    let mac = question.link.hw_addr.as_ref().and_then(ethernet)?;
    match question.address {
        IpAddr::V4(address) => {
            let sender = match question.from {
                Some(IpAddr::V4(from)) => from,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            Some((arp_request(mac, sender, address), ETH_P_ARP))
        }
        IpAddr::V6(address) => {
            let sender = match question.from {
                Some(IpAddr::V6(from)) => from,
                _ => Ipv6Addr::UNSPECIFIED,
            };
            Some((solicitation(mac, sender, address), ETH_P_IPV6))
        }
    }
}

/// To the group of everybody whose address ends in the same 24 bits (RFC 4291 section 2.7.1).
fn solicitation(mac: [u8; 6], sender: Ipv6Addr, address: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(address.octets());
    // Who has no address yet must not say where it is (RFC 4861 section 4.3).
    if !sender.is_unspecified() {
        body.extend([1, 1]);
        body.extend(mac);
    }
    icmpv6(mac, [0x33, 0x33, 0xff, a, b, c], sender, group, body)
}

/// The link-layer address of who says that the address is its own.
pub(super) fn answer_in(question: &Question, frame: &[u8]) -> Option<HwAddr> {
    let own = question.link.hw_addr.as_ref().and_then(ethernet)?;
    let part = |from: usize, length: usize| frame.get(from..from + length);
    let sender = match (question.address, part(12, 2)?) {
        (IpAddr::V4(address), [0x08, 0x06]) => {
            let sender_ip = part(28, 4)?;
            let others_probe = question.from.is_none()
                && sender_ip == Ipv4Addr::UNSPECIFIED.octets()
                && part(38, 4)? == address.octets();
            if sender_ip != address.octets() && !others_probe {
                return None;
            }
            part(22, 6)?
        }
        (IpAddr::V6(address), [0x86, 0xdd]) => {
            // An advertisement right after the header, of that target; the option, if there, says where it is.
            if part(20, 1)? != [58] || part(54, 1)? != [136] || part(62, 16)? != address.octets() {
                return None;
            }
            match part(78, 8) {
                Some([2, 1, target @ ..]) => target,
                _ => part(6, 6)?,
            }
        }
        _ => return None,
    };
    (sender != own).then(|| HwAddr::new(sender.to_vec()))
}

fn listen(fd: &OwnedFd, protocol: u16) -> io::Result<()> {
    let address = super::announce::packet_address(0, protocol);
    let length = u32::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: the address outlives the call, and the length is its own.
    #[allow(unsafe_code)]
    let bound = unsafe {
        nix::libc::bind(fd.as_raw_fd(), (&raw const address).cast::<nix::libc::sockaddr>(), length)
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A frame that came in, with the index of its link; none when there is none.
fn receive(fd: &OwnedFd) -> io::Result<Option<(u32, Vec<u8>)>> {
    let mut frame = vec![0; FRAME];
    loop {
        let mut address = super::announce::packet_address(0, 0);
        let mut length = u32::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: buffer and address outlive the call, and their lengths are theirs.
        #[allow(unsafe_code)]
        let got = unsafe {
            nix::libc::recvfrom(
                fd.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
                (&raw mut address).cast::<nix::libc::sockaddr>(),
                &raw mut length,
            )
        };
        match usize::try_from(got) {
            // What this host sends is shown to it, too.
            Ok(_) if address.sll_pkttype == nix::libc::PACKET_OUTGOING => {}
            Ok(got) => {
                frame.truncate(got);
                return Ok(Some((address.sll_ifindex.cast_unsigned(), frame)));
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // A link of the namespace went down: told to every socket, of no meaning for the others.
                error if error.raw_os_error() == Some(nix::libc::ENETDOWN) => {}
                error => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(address: &str, from: Option<&str>) -> Question {
        let hw_addr = Some("02:11:22:33:44:55".parse().unwrap());
        Question {
            link: Link { index: 7, name: "net1".to_owned(), hw_addr, ..Link::default() },
            address: address.parse().unwrap(),
            from: from.map(|from| from.parse().unwrap()),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn questions_are_those_that_arping_and_the_kernel_ask() {
        // As `arping -D` of iputils sends it: sender 0.0.0.0.
        let (frame_of_probe, _) = frame(&question("172.16.11.10", None)).unwrap();
        assert_eq!(
            hex(&frame_of_probe),
            "ffffffffffff02112233445508060001080006040001\
             021122334455000000000000000000 00ac100b0a"
                .replace(' ', "")
        );
        let (asked, _) = frame(&question("fd00:11::fe", Some("fd00:11::10"))).unwrap();
        assert_eq!(hex(&asked[..6]), "3333ff0000fe");
        assert_eq!(asked.len(), 86);
        let (probe, _) = frame(&question("fd00:11::10", None)).unwrap();
        assert_eq!(probe.len(), 78, "without the option that says where the asker is");
        assert!(probe[22..38].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn answers_of_others_count_and_ones_own_and_those_about_other_addresses_do_not() {
        let mut reply =
            arp_request([2, 0, 0, 0, 0, 9], "172.16.11.10".parse().unwrap(), "172.16.11.99".parse().unwrap());
        reply[21] = 2;
        let by = Some("02:00:00:00:00:09".parse::<HwAddr>().unwrap());
        assert_eq!(answer_in(&question("172.16.11.10", None), &reply), by);
        assert_eq!(answer_in(&question("172.16.11.11", None), &reply), None);
        let own = arp_request(
            [2, 0x11, 0x22, 0x33, 0x44, 0x55],
            "172.16.11.10".parse().unwrap(),
            Ipv4Addr::UNSPECIFIED,
        );
        assert_eq!(answer_in(&question("172.16.11.10", None), &own), None);
        // Somebody else is about to take it at the same time.
        let probe = arp_request([2, 0, 0, 0, 0, 9], Ipv4Addr::UNSPECIFIED, "172.16.11.10".parse().unwrap());
        assert_eq!(answer_in(&question("172.16.11.10", None), &probe), by);
        assert_eq!(answer_in(&question("172.16.11.10", Some("172.16.11.1")), &probe), None);
        for length in 0..reply.len() {
            let cut = answer_in(&question("172.16.11.10", None), &reply[..length]);
            assert!(cut.is_none() || length >= 42 || cut == by);
        }
    }
}
