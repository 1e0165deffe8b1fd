//! Tells the neighbours of an address that came: a gratuitous ARP request (RFC 5227 section 3) or an unsolicited neighbour
//! advertisement (RFC 4861 section 7.2.6), as one frame each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{HostError, Link, Netns};
use crate::device::HwAddr;

/// include/uapi/linux/if_ether.h
pub(super) const ETH_P_ARP: u16 = 0x0806;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;
/// `ff02::1`, all nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Its Ethernet group (RFC 2464 section 7).
const ALL_NODES_GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends one frame out of a link. Nothing is sent for links that are not Ethernet: IPoIB's broadcast address is the
/// fabric's.
///
/// # Errors
/// The kernel refuses: the link went down, say.
pub fn announce(netns: &Netns, link: &Link, address: IpAddr) -> Result<(), HostError> {
    let Some(mac) = link.hw_addr.as_ref().and_then(ethernet) else { return Ok(()) };
    let (frame, protocol) = match address {
        IpAddr::V4(v4) => (arp_request(mac, v4, v4), ETH_P_ARP),
        IpAddr::V6(v6) => (unsolicited_advertisement(mac, v6), ETH_P_IPV6),
    };
    let failed =
        |source| HostError::Netlink { what: format!("announce {address} on link {}", link.name), source };
    netns.run(|| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)
            .map_err(|errno| failed(errno.into()))?;
        send(&fd, link.index, protocol, &frame).map_err(failed)
    })
}

pub(super) fn ethernet(address: &HwAddr) -> Option<[u8; 6]> {
    address.bytes().try_into().ok()
}

pub(super) fn send(fd: &OwnedFd, index: u32, protocol: u16, frame: &[u8]) -> std::io::Result<()> {
    let target = packet_address(index, protocol);
    let length = u32::try_from(size_of_val(&target)).unwrap_or_default();
    // SAFETY: frame and target outlive the call, and their lengths are theirs.
    #[allow(unsafe_code)]
    let sent = unsafe {
        nix::libc::sendto(
            fd.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const target).cast::<nix::libc::sockaddr>(),
            length,
        )
    };
    if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// A link, and a protocol of its frames.
pub(super) fn packet_address(index: u32, protocol: u16) -> nix::libc::sockaddr_ll {
    // SAFETY: all-zero is a valid `struct sockaddr_ll`: plain numbers.
    #[allow(unsafe_code)]
    let mut address: nix::libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(nix::libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    address.sll_halen = 6;
    address
}

pub(super) fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETH_P_ARP.to_be_bytes());
    // Ethernet, IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    // Type 136, code 0, checksum, flags (override), target, option 2: target's link-layer address, length 1 × 8.
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(address.octets());
    body.extend([2, 1]);
    body.extend(mac);
    icmpv6(mac, ALL_NODES_GROUP, address, ALL_NODES, body)
}

/// A frame with an ICMPv6 message, whose checksum is filled in.
pub(super) fn icmpv6(
    mac: [u8; 6],
    group: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let sum = checksum(source, destination, &body);
    body.splice(2..4, sum.to_be_bytes());
    let mut frame = Vec::with_capacity(54 + body.len());
    frame.extend(group);
    frame.extend(mac);
    frame.extend(ETH_P_IPV6.to_be_bytes());
    // Version 6; payload's length; ICMPv6; hop limit 255, without which nobody believes it.
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(body.len()).unwrap_or_default().to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(body);
    frame
}

/// With the pseudo-header (RFC 8200 section 8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(40 + body.len());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(body);
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair.first().copied().unwrap_or_default()) << 8;
        sum += u32::from(pair.get(1).copied().unwrap_or_default());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn frames_are_those_that_arping_and_ndsend_send() {
        let mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
        assert_eq!(
            hex(&arp_request(mac, [172, 16, 11, 10].into(), [172, 16, 11, 10].into())),
            "ffffffffffff021122334455080600010800060400010211223344\
             55ac100b0a000000000000ac100b0a"
        );
        let frame = unsolicited_advertisement(mac, "fd00:11::10".parse().unwrap());
        assert_eq!(frame.len(), 86);
        // A sum over all of it, checksum included, is all ones.
        let mut whole = Vec::new();
        whole.extend(&frame[22..54]);
        whole.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        whole.extend(&frame[54..]);
        let mut sum: u32 =
            whole.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
        assert_eq!(frame[20..22], [58, 255], "ICMPv6, hop limit 255");
    }
}
