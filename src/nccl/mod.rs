//! How NCCL and UCX find exactly a container's VFs, at their real place beside its GPUs. Pure.
//!
//! In: the VFs with their RDMA devices as the pod names them, and the node's PCI tree. Out: environment variables, and the text
//! of a topology file. Never here: reading, writing, what a claim asked for. Facts of NCCL are from its sources
//! (src/graph/xml.cc, src/graph/topo.cc, src/transport/net_ib/ of 2.18 to 2.29).

mod topology;
mod variables;

pub use topology::topology;
pub use variables::{TOPOLOGY_FILE, variables};

use ipnet::IpNet;

use crate::device::{LinkType, PciAddress};

/// A VF's RDMA device in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// Its name in the pod.
    pub name: String,
    /// Where it is in the PCI tree: its PF, whose link it shares; inside a VM the VF itself.
    pub place: PciAddress,
    /// Of the port; `None` where nobody knows.
    pub link_type: Option<LinkType>,
    /// Addresses of its interface in the pod.
    pub addresses: Vec<IpNet>,
}
