//! What NCCL and UCX in a container are told of its RDMA devices.

use std::path::PathBuf;

use super::nri::Container;
use super::{AttachError, Attacher, variables};
use crate::device::{LinkType, PciAddress, is_label};
use crate::nccl::{self, Net, TOPOLOGY_FILE};
use crate::prepare::records::{Entry, RdmaEntry, VfEntry};

/// Variables, and files of the node with their paths in the container.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub env: Vec<(String, String)>,
    pub files: Vec<(PathBuf, String)>,
}

impl Attacher {
    /// For a container of a pod. Where one of its VFs asks for it, all its RDMA devices are told of, whatever claims they are of:
    /// NCCL uses no other than those in its list. What the user set stays.
    pub(super) fn nccl_for_container(
        &self,
        entries: &[Entry],
        pod_uid: &str,
        container: &Container,
    ) -> Result<Told, AttachError> {
        let listed = entries.iter().flat_map(|entry| variables::listed(entry, &container.env));
        let mut vfs: Vec<(&VfEntry, &RdmaEntry)> =
            listed.filter(|vf| vf.has_interface()).filter_map(|vf| Some((vf, vf.rdma.as_ref()?))).collect();
        if vfs.iter().all(|(_, rdma)| rdma.nccl.is_none()) {
            return Ok(Told::default());
        }
        vfs.sort_by_key(|(vf, _)| vf.index);
        let nets: Vec<Net> = vfs.iter().flat_map(|(vf, rdma)| self.nets(vf, rdma)).collect();
        let is_set = |key: &str| variables::value_of(&container.env, key).is_some();
        let wanted = vfs.iter().any(|(_, rdma)| rdma.nccl == Some(true)) && !is_set("NCCL_TOPO_FILE");
        let mut files = Vec::new();
        if wanted {
            let places: Vec<PciAddress> = nets.iter().map(|net| net.place).collect();
            match nccl::topology(&self.site.functions.topology(&places), &nets) {
                Some(text) => {
                    let name = if is_label(&container.name) { &container.name } else { "container" };
                    let path =
                        self.site.ledger.put_container_file(pod_uid, &format!("{name}.nccl.xml"), &text)?;
                    files.push((path, TOPOLOGY_FILE.to_owned()));
                }
                None => tracing::warn!(
                    pod = %pod_uid, container = %container.name,
                    "no topology file for NCCL: nothing of the VFs is to be seen below this node's processors"
                ),
            }
        }
        let env = nccl::variables(&nets, !files.is_empty());
        Ok(Told { env: env.into_iter().filter(|(key, _)| !is_set(key)).collect(), files })
    }

    fn nets(&self, vf: &VfEntry, rdma: &RdmaEntry) -> Vec<Net> {
        let clean = vf.clean.as_ref();
        let link_type = clean.and_then(|clean| {
            let by_address = || match clean.hw_addr.as_ref()?.is_ethernet() {
                true => Some(LinkType::Ethernet),
                false => Some(LinkType::Infiniband),
            };
            clean.rdma.iter().find_map(|device| device.link_type).or_else(by_address)
        });
        let net =
            |name| Net { name, place: vf.pf.unwrap_or(vf.pci), link_type, addresses: vf.addresses.clone() };
        self.rdma_names(vf.pci, &rdma.devices).unwrap_or_default().into_iter().map(net).collect()
    }
}
