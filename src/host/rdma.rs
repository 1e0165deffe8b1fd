//! RDMA netlink: how RDMA devices relate to network namespaces on this node.

use super::Netns;
use super::raw::{ask, find};
use crate::device::RdmaNetnsMode;

// include/uapi/rdma/rdma_netlink.h
const NETLINK_RDMA: isize = 20;
const RDMA_NL_NLDEV: u16 = 5;
const RDMA_NLDEV_CMD_SYS_GET: u16 = 6;
const RDMA_NLDEV_SYS_ATTR_NETNS_MODE: u16 = 66;

/// The mode; `None` on a kernel without RDMA.
pub fn netns_mode(netns: &Netns) -> Option<RdmaNetnsMode> {
    let kind = (RDMA_NL_NLDEV << 10) | RDMA_NLDEV_CMD_SYS_GET;
    let answer = ask(netns, NETLINK_RDMA, kind, &[], "read the RDMA namespace mode").ok()??;
    match find(&answer, RDMA_NLDEV_SYS_ATTR_NETNS_MODE)? {
        [0] => Some(RdmaNetnsMode::Exclusive),
        [_] => Some(RdmaNetnsMode::Shared),
        _ => None,
    }
}
