//! Netlink by hand, header and attributes: generic netlink (devlink), RDMA, and settings of VFs.

use netlink_sys::{Socket, SocketAddr};

use super::{HostError, Netns};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Nested and byte-order bits of an attribute type (`NLA_TYPE_MASK`, include/uapi/linux/netlink.h).
const TYPE_MASK: u16 = 0x3fff;

/// Appends one attribute.
pub(super) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The first attribute of a kind.
pub(super) fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    each(attributes, wanted).next()
}

/// Every attribute of a kind, in order; what can't be read ends the list.
pub(super) fn each(mut attributes: &[u8], wanted: u16) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while let [l0, l1, k0, k1, ..] = *attributes {
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = attributes.get(4..length)?;
            // The last one may lack its padding.
            attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
            if u16::from_ne_bytes([k0, k1]) & TYPE_MASK == wanted {
                return Some(value);
            }
        }
        None
    })
}

/// One request without dump; the payload of the first answer, `None` for a bare acknowledgement.
pub(super) fn ask(
    netns: &Netns,
    protocol: isize,
    kind: u16,
    payload: &[u8],
    what: &str,
) -> Result<Option<Vec<u8>>, HostError> {
    let message = message(kind, NLM_F_REQUEST | NLM_F_ACK, payload);
    Ok(exchange(netns, protocol, &message, what)?.into_iter().next())
}

/// The payload of each part of a dump.
pub(super) fn dump(netns: &Netns, protocol: isize, kind: u16, what: &str) -> Result<Vec<Vec<u8>>, HostError> {
    exchange(netns, protocol, &message(kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP, &[]), what)
}

/// Header (`struct nlmsghdr`) and payload.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + payload.len());
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(payload);
    message
}

fn exchange(netns: &Netns, protocol: isize, message: &[u8], what: &str) -> Result<Vec<Vec<u8>>, HostError> {
    let failed = |source| HostError::Netlink { what: what.to_owned(), source };
    netns.run(|| {
        let mut socket = Socket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        super::netlink::patience(&socket).map_err(failed)?;
        socket.send(message, 0).map_err(failed)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = socket.recv_from_full().map_err(failed)?;
            if take(&datagram, &mut answers, what)? {
                return Ok(answers);
            }
        }
    })
}

/// Takes the messages of a datagram. `true`: the acknowledgement or the end of the dump was among them.
pub(super) fn take(datagram: &[u8], answers: &mut Vec<Vec<u8>>, what: &str) -> Result<bool, HostError> {
    let mut rest = datagram;
    while let [l0, l1, l2, l3, k0, k1, ..] = *rest {
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = rest.get(HEADER..length) else {
            return Err(HostError::Protocol {
                what: what.to_owned(),
                reason: format!("a message of {length} bytes"),
            });
        };
        // The end of a dump has an error's form.
        if matches!(u16::from_ne_bytes([k0, k1]), NLMSG_ERROR | NLMSG_DONE) {
            let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
            return match code {
                0.. => Ok(true),
                errno => {
                    Err(HostError::Netlink { what: what.to_owned(), source: super::netlink::refusal(errno) })
                }
            };
        }
        answers.push(body.to_vec());
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again_and_garbage_ends_the_search() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 1, b"pci\0");
        attribute(&mut bytes, 0x8000 | 2, &[7]);
        attribute(&mut bytes, 3, &[8, 9]);
        assert_eq!(bytes.len(), 8 + 8 + 8);
        assert_eq!(find(&bytes, 1), Some(&b"pci\0"[..]));
        assert_eq!(find(&bytes, 2), Some(&[7][..]));
        assert_eq!(find(&bytes, 3), Some(&[8, 9][..]));
        assert_eq!(find(&bytes, 4), None);
        assert_eq!(find(&[3, 0, 1, 0, 5], 1), None);
        assert_eq!(find(&[200, 0, 1, 0], 1), None);
    }
}
