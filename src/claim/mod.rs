//! An allocated ResourceClaim and its `VfConfig` to a validated request. Pure.
//!
//! In: a ResourceClaim as the API server holds it, this driver's and node's name. Out: [`ClaimSpec`], or one sentence
//! that names object, field, what is wrong and what would be right. Never here: the kernel, whether a device exists
//! on this node, files.
//!
//! [`compile`] is the front door, [`check_config`] the same for claims without an allocation;
//! [`ClaimSpec::check_by_hook`] asks the pod where there is no NRI. Behind it: `fields`
//! lists the fields there are, `value`, `name`, `address` and `mac` know what a good value is, `decode` reads an entry
//! strictly, `config` says which entries count for which VF and what they add up to, `grant` what a claim may set,
//! `settle` what can't be. `schema` and `admission` tell the table to others.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::device::{IfName, PciAddress, WantedSettings};

mod address;
mod admission;
mod by_hook;
mod compile;
mod config;
mod decode;
mod error;
mod fields;
mod grant;
mod mac;
mod name;
mod pool;
mod rdma;
mod routes;
mod schema;
mod settle;
mod value;

pub use admission::{Policy, policy};
pub use by_hook::ByHookError;
pub use compile::compile;
pub use config::FROM_CLASS;
pub use decode::{API_VERSION, GRANT_KIND, KIND, Parameters, Source, WHOLE, decode_parameters, edits};
pub use error::{ClaimError, EntryPlace, Fault, Faults, some};
pub use fields::{
    BindConfig, Driver, FieldFacts, InterfaceConfig, NcclConfig, RdmaConfig, SettingsConfig, VfConfig, Who,
    field_facts,
};
pub use grant::{Allowance, VfGrant};
pub use name::{DEFAULT_NAME_TEMPLATE, NameError, NameFacts};
pub use pool::pool_name;
pub use rdma::{Memlock, RdmaMode, WantedRdma};
pub use routes::{WantedRoute, reachable};
pub use schema::json_schema;
pub use settle::{Asked, check_config};
pub use value::{Datum, Form, Span, TextForm};

/// A claim's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClaimId {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

/// The pod a claim is reserved for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.name`
    pub name: String,
}

/// What this driver has to do for one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSpec {
    /// Which claim.
    pub id: ClaimId,
    /// The claim's name inside the pod (`resource.kubernetes.io/pod-claim-name`), else its own.
    pub pod_claim_name: String,
    /// The one pod it is reserved for; `None` only where every result is for admin access.
    pub pod: Option<PodRef>,
    /// This driver's results, in the order of the allocation.
    pub results: Vec<ResultSpec>,
}

/// One allocated VF and what the claim wants of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultSpec {
    /// `req` or `req/sub`.
    pub request: String,
    /// Pool name.
    pub pool: String,
    /// Device name.
    pub device: String,
    /// The device's address.
    pub pci: PciAddress,
    /// `shareID`
    pub share_id: Option<String>,
    /// Metadata only: no ownership, no move, no settings.
    pub admin_access: bool,
    /// Some `interface.*` field was set by class or claim; never true of a result for admin access.
    pub interface_asked: bool,
    /// Wanted name of the interface in the pod.
    pub name: NameSpec,
    /// Bytes.
    pub mtu: Option<u32>,
    /// With prefix length, in the order given.
    pub addresses: Vec<IpNet>,
    /// `vf.*`
    pub settings: WantedSettings,
    /// `bind.*`
    pub bind: WantedBinding,
    /// `interface.addressPool`, whose placeholders are to be filled in.
    pub address_pool: Option<String>,
    /// `interface.routes`, `.sourceRouting`, `.defaultRoute`, `.sysctls`, `.probe`
    pub routing: WantedRouting,
    /// `rdma.*`
    pub rdma: WantedRdma,
}

/// How packets of the pod get to a VF and leave by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedRouting {
    /// In the order given.
    pub routes: Vec<WantedRoute>,
    /// A table and rules of its own.
    pub source_routing: bool,
    /// The pod's default route goes through it.
    pub default_route: bool,
    /// Name below `net.ipv4.conf.<interface>` or `net.ipv6.conf.<interface>`, and the value that shall be in effect.
    pub sysctls: BTreeMap<String, u32>,
    /// What is asked of the network first.
    pub probe: WantedProbe,
}

/// What becomes of an answer that should not be there, or of one that does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// It is a condition in the claim's status.
    Report,
    /// That, and the pod does not start.
    Fail,
}

/// What is asked of the network before a pod runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WantedProbe {
    /// Whether somebody has the address already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_address: Option<Probe>,
    /// Whether the next hops answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Probe>,
    /// Milliseconds for all of a claim.
    pub budget_ms: u32,
}

/// `interface.probe.budgetMs` where nothing is said: neighbours in one network answer within a few.
const PROBE_BUDGET_MS: u32 = 300;

impl Default for WantedProbe {
    fn default() -> Self {
        Self { duplicate_address: None, gateway: None, budget_ms: PROBE_BUDGET_MS }
    }
}

impl WantedProbe {
    /// Nothing is asked.
    pub fn is_none(&self) -> bool {
        self.duplicate_address.is_none() && self.gateway.is_none()
    }
}

/// Which driver a VF gets, and what comes with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WantedBinding {
    /// `bind.driver: vfio-pci`; else the kernel's network driver.
    pub vfio: bool,
    /// `bind.vhost`: `/dev/vhost-net` and `/dev/net/tun` too.
    pub vhost: bool,
    /// `bind.allowNoIommu`: without an IOMMU too, where the kernel allows it. Only a class sets it.
    pub allow_no_iommu: bool,
}

/// How the interface in the pod gets its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameSpec {
    /// Exactly this; taken is an error.
    Explicit(IfName),
    /// With `{n}`, `{pf}` or `{rail}` left to fill in (`{request}` is filled in already). With `{n}` a name that is
    /// taken gives way to the next free one ([`NameSpec::counts`]); without, taken is an error.
    Template(String),
}

impl ResultSpec {
    fn take(&mut self, settled: settle::Settled) {
        let settle::Settled {
            interface_asked,
            name,
            mtu,
            addresses,
            address_pool,
            settings,
            bind,
            routing,
            rdma,
        } = settled;
        *self = Self {
            interface_asked,
            name,
            mtu,
            addresses,
            address_pool,
            settings,
            bind,
            routing,
            rdma,
            ..self.clone()
        };
    }

    /// `req` of `req/sub`: what the kubelet and containers call the request.
    pub fn top_level_request(&self) -> &str {
        config::top_level(&self.request)
    }
}
