//! RDMA netlink: RDMA devices, the network namespaces that have them, and their character devices.
//!
//! In exclusive mode a device is in one namespace: it is listed there, moved from there, and opened from there. In shared
//! mode it is in all of them. A move takes the device from its users and gives its character devices other numbers.

#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod linux;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use super::raw::{ask, attribute, find};
use super::{HostError, Netns};
use crate::device::{CharDevice, PciAddress, RdmaNetnsMode};

// include/uapi/rdma/rdma_netlink.h
const NETLINK_RDMA: isize = 20;
const RDMA_NL_NLDEV: u16 = 5;
const RDMA_NLDEV_CMD_GET: u16 = 1;
const RDMA_NLDEV_CMD_SET: u16 = 2;
const RDMA_NLDEV_CMD_SYS_GET: u16 = 6;
const RDMA_NLDEV_CMD_GET_CHARDEV: u16 = 15;
const RDMA_NLDEV_ATTR_DEV_INDEX: u16 = 1;
const RDMA_NLDEV_ATTR_DEV_NAME: u16 = 2;
const RDMA_NLDEV_ATTR_PORT_INDEX: u16 = 3;
const RDMA_NLDEV_SYS_ATTR_NETNS_MODE: u16 = 66;
const RDMA_NLDEV_NET_NS_FD: u16 = 68;
const RDMA_NLDEV_ATTR_CHARDEV_TYPE: u16 = 69;
const RDMA_NLDEV_ATTR_CHARDEV_NAME: u16 = 70;
const RDMA_NLDEV_ATTR_CHARDEV: u16 = 72;

/// An RDMA device as a namespace lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaLink {
    /// The kernel's number for it, the same wherever it is moved; not given to another soon.
    pub index: u32,
    /// `mlx5_3`; udev may rename it.
    pub name: String,
    /// Its last port; the first is 1.
    pub ports: u32,
}

/// RDMA devices of the node.
pub trait Rdma: Debug + Send + Sync {
    /// How devices relate to namespaces; `None` on a kernel without RDMA, and where VFs are played by stand-ins.
    fn mode(&self) -> Option<RdmaNetnsMode>;
    /// Names of a function's devices, in whatever namespace they are. One that nobody can open by uverbs is left out while
    /// it is in another one.
    fn names_of(&self, function: PciAddress) -> Vec<String>;
    /// A device by name, if the namespace has it.
    ///
    /// # Errors
    /// When the kernel does not list devices there.
    fn find(&self, netns: &Netns, name: &str) -> Result<Option<RdmaLink>, HostError>;
    /// Moves a device out of the namespace that has it.
    ///
    /// # Errors
    /// EOPNOTSUPP in shared mode, and for drivers that can't let go of their users.
    fn move_to(&self, from: &Netns, device: &RdmaLink, to: &Netns) -> Result<(), HostError>;
    /// What a process opens to use a device: uverbs, the connection manager where the kernel has it, and umad of each
    /// port if that is wanted. Never issm, which is for subnet managers.
    ///
    /// # Errors
    /// When the namespace does not have the device, or the kernel no uverbs for it.
    fn char_devices(
        &self,
        netns: &Netns,
        device: &RdmaLink,
        umad: bool,
    ) -> Result<Vec<CharDevice>, HostError>;
}

const fn kind(command: u16) -> u16 {
    (RDMA_NL_NLDEV << 10) | command
}

/// The mode; `None` on a kernel without RDMA.
pub fn netns_mode(netns: &Netns) -> Option<RdmaNetnsMode> {
    let answer = ask(netns, NETLINK_RDMA, kind(RDMA_NLDEV_CMD_SYS_GET), &[], "read the RDMA namespace mode")
        .ok()??;
    mode_of(&answer)
}

pub(super) fn mode_of(answer: &[u8]) -> Option<RdmaNetnsMode> {
    match find(answer, RDMA_NLDEV_SYS_ATTR_NETNS_MODE)? {
        [0] => Some(RdmaNetnsMode::Exclusive),
        [_] => Some(RdmaNetnsMode::Shared),
        _ => None,
    }
}

/// Of one part of a dump of devices.
pub(super) fn link_of(answer: &[u8]) -> Option<RdmaLink> {
    let name = find(answer, RDMA_NLDEV_ATTR_DEV_NAME)?;
    Some(RdmaLink {
        index: number(answer, RDMA_NLDEV_ATTR_DEV_INDEX)?,
        name: text(name),
        ports: number(answer, RDMA_NLDEV_ATTR_PORT_INDEX).unwrap_or(1),
    })
}

/// The request by which a device is moved (`nldev_set_doit`).
fn move_request(index: u32, target: i32) -> Vec<u8> {
    let mut payload = Vec::new();
    attribute(&mut payload, RDMA_NLDEV_ATTR_DEV_INDEX, &index.to_ne_bytes());
    attribute(&mut payload, RDMA_NLDEV_NET_NS_FD, &target.to_ne_bytes());
    payload
}

/// The request for a character device (`nldev_get_chardev`).
fn char_device_request(client: &str, device: Option<u32>, port: Option<u32>) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(index) = device {
        attribute(&mut payload, RDMA_NLDEV_ATTR_DEV_INDEX, &index.to_ne_bytes());
    }
    attribute(&mut payload, RDMA_NLDEV_ATTR_CHARDEV_TYPE, format!("{client}\0").as_bytes());
    if let Some(port) = port {
        attribute(&mut payload, RDMA_NLDEV_ATTR_PORT_INDEX, &port.to_ne_bytes());
    }
    payload
}

/// Its answer. The number is `huge_encode_dev`'s, include/linux/kdev_t.h.
pub(super) fn char_device_of(answer: &[u8]) -> Option<CharDevice> {
    let name = text(find(answer, RDMA_NLDEV_ATTR_CHARDEV_NAME)?);
    // Only the low half is used.
    let device = find(answer, RDMA_NLDEV_ATTR_CHARDEV)?.get(..8)?.try_into().ok().map(u64::from_ne_bytes)?;
    let device = u32::try_from(device).ok()?;
    Some(CharDevice {
        path: format!("/dev/infiniband/{name}"),
        major: (device >> 8) & 0xfff,
        minor: (device & 0xff) | ((device >> 12) & 0xf_ff00),
    })
}

fn number(answer: &[u8], kind: u16) -> Option<u32> {
    find(answer, kind)?.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}
