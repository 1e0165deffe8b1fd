//! What the ledger's files say. Plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::claim::{ClaimId, Memlock, PodRef, WantedProbe, WantedRoute};
use crate::device::{CharDevice, CleanFacts, HwAddr, IfName, Incarnation, PciAddress, Setting};
use crate::host::NetnsId;

/// How far a claim got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Progress {
    /// Effects may have happened; a crash here is undone or continued by the next call.
    Preparing,
    /// Everything is in place.
    Prepared,
}

/// `claims/<uid>.json`: what a claim shall have. Durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Which claim.
    pub claim: ClaimId,
    /// Its name inside the pod.
    pub pod_claim_name: String,
    /// The pod it belongs to; none for admin access.
    pub pod: Option<PodRef>,
    /// The boot it was prepared in.
    pub boot_id: String,
    /// How far it got.
    pub progress: Progress,
    /// In the order of the allocation.
    pub vfs: Vec<VfEntry>,
}

/// One VF of a claim: what it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VfEntry {
    /// Which VF.
    pub pci: PciAddress,
    /// Its PF; none inside a VM.
    pub pf: Option<PciAddress>,
    /// `req` or `req/sub`.
    pub request: String,
    /// Pool of the result.
    pub pool: String,
    /// Device of the result.
    pub device: String,
    /// `shareID` of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// Metadata only: never owned, never moved.
    #[serde(default)]
    pub admin_access: bool,
    /// The user asked for something inside the pod, which the host's network namespace can't give.
    #[serde(default)]
    pub interface_asked: bool,
    /// n of `net{n}`: counts per pod, never changes while the claim lives.
    pub index: u16,
    /// Name in the pod.
    pub name: IfName,
    /// The template `name` came from; none for an explicit name, which never gives way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Bytes; none leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// In the order given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// The AddressPool that its addresses and some of its routes are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_pool: Option<String>,
    /// Routes through it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<WantedRoute>,
    /// It has a table and rules of its own.
    #[serde(default)]
    pub source_routing: bool,
    /// The pod's default route goes through it.
    #[serde(default)]
    pub default_route: bool,
    /// What shall be in effect for it, by the kernel's names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, u32>,
    /// What is asked of the network before its pod runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<WantedProbe>,
    /// What its PF says of it, in the order it was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    /// It is on vfio-pci: no interface, nothing to move.
    #[serde(default)]
    pub vfio: bool,
    /// Containers get vhost-net with it.
    #[serde(default)]
    pub vhost: bool,
    /// The name of its group below `/dev/vfio`, once it is bound: a number, or `noiommu-` and a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfio_group: Option<String>,
    /// Device nodes that containers get with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<PathBuf>,
    /// What containers get of its RDMA device; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma: Option<RdmaEntry>,
    /// Its RDMA device that stays on the host, because its driver can't move it and nobody insisted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma_left: Option<String>,
    /// What the VF was, once it was taken: a second copy, for when the file of ownership is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<CleanFacts>,
}

impl VfEntry {
    /// The request as the kubelet and containers call it.
    pub fn top_level_request(&self) -> &str {
        self.request.split('/').next().unwrap_or(&self.request)
    }

    /// It is moved into the pod: not so a VF that is only watched, nor one on vfio-pci.
    pub fn has_interface(&self) -> bool {
        !self.admin_access && !self.vfio
    }

    /// The link-layer address that its PF holds it to.
    pub fn mac(&self) -> Option<&HwAddr> {
        self.settings.iter().find_map(|setting| match setting {
            Setting::Mac(mac) => Some(mac),
            _ => None,
        })
    }
}

/// An RDMA device of a claim's VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RdmaEntry {
    /// Names when it was prepared; nearly always one.
    pub devices: Vec<String>,
    /// How containers get it.
    pub way: RdmaWay,
    /// Exactly this way was asked for.
    #[serde(default)]
    pub asked: bool,
    /// With umad.
    #[serde(default)]
    pub umad: bool,
    /// What containers may lock.
    pub memlock: Memlock,
    /// NCCL and UCX are told of it; `true`: with a topology file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nccl: Option<bool>,
    /// Device nodes, where they are known before the pod is: those of [`RdmaWay::CharDevice`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<CharDevice>,
}

/// How containers get an RDMA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RdmaWay {
    /// It is moved into the pod's network namespace, and then has other device nodes.
    Namespace,
    /// It stays, and its device nodes are given out.
    CharDevice,
}

/// `vf/<pci>.json`: who has a VF, and what it was before. Made exclusively, before the first effect; survives the
/// process, not the loss of power: a new boot makes the facts void anyway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ownership {
    /// The claim that has it.
    pub claim: ClaimId,
    /// The boot `clean` is about.
    pub boot_id: String,
    /// What the VF was when nobody owned it.
    pub clean: CleanFacts,
}

/// `/run/<driver>/pods/<pod uid>.json`: the pod's current sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentSandbox {
    /// Sandbox ID.
    pub sandbox: String,
    /// Goes up with every new sandbox of the pod.
    pub epoch: u64,
    /// Sandboxes that stopped, latest last: a late task for one of them must not make it current.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<String>,
}

impl CurrentSandbox {
    /// How many stopped sandboxes are remembered; the kubelet keeps one or two.
    const REMEMBERED: usize = 8;

    /// The record after a sandbox stopped.
    pub fn retire(mut self, sandbox: &str) -> Self {
        if self.sandbox == sandbox {
            self.sandbox.clear();
            self.epoch += 1;
        }
        if !self.retired.iter().any(|known| known == sandbox) {
            self.retired.push(sandbox.to_owned());
            let surplus = self.retired.len().saturating_sub(Self::REMEMBERED);
            self.retired.drain(..surplus);
        }
        self
    }
}

/// `unclean/<pci>.json`: a VF that came back and could not be made what it was. Withheld until it is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unclean {
    /// The boot it happened in.
    pub boot_id: String,
    /// The life of the VF it happened to.
    pub incarnation: Incarnation,
    /// What could not be undone.
    pub reason: String,
}

/// `/run/<driver>/attach/<claim uid>.json`: where a claim's VFs were moved. Written before the first move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Pod UID.
    pub pod_uid: String,
    /// Sandbox ID.
    pub sandbox: String,
    /// The epoch it was made in.
    pub epoch: u64,
    /// Path the runtime gave.
    pub netns_path: PathBuf,
    /// Device and inode of the namespace.
    pub netns: NetnsId,
    /// Every VF was named, addressed and up: from here on what happens inside is the pod's affair.
    #[serde(default)]
    pub complete: bool,
}
