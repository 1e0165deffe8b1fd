//! What a node stands on: the kernel that holds state, or one that runs.

pub mod double;
pub mod running;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use sriov_dra::device::{HwAddr, InstalledRoute, PciAddress, Rule, VfSettings};
use sriov_dra::host::{Link, NetnsId};
use sriov_dra::prepare::functions::Life;
use sriov_dra::prepare::site::Site;

use super::asks::Ask;
use super::ops::{Bound, Op};

/// Routes and rules that somebody made in a namespace: none of the kernel's own.
pub type Routing = (Vec<InstalledRoute>, Vec<Rule>);

/// A VF as it was made last, for whoever gets it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Born {
    pub driver: Option<String>,
    pub name: String,
    /// None where each driver that is bound chooses one.
    pub hw_addr: Option<HwAddr>,
    pub alias: String,
    pub alt_names: Vec<String>,
    pub settings: VfSettings,
}

/// What a pod does to a VF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meddling {
    Promisc,
    Mtu(u32),
    Down,
    Name(String),
    AltName(String),
    Alias(String),
    /// Of `ip`, with `{}` for the interface; the double knows no such thing.
    Other(String),
}

impl Meddling {
    /// Of `ip`, where the interface is.
    pub fn command(&self, dev: &str) -> String {
        match self {
            Self::Promisc => format!("link set dev {dev} promisc on"),
            Self::Mtu(mtu) => format!("link set dev {dev} mtu {mtu}"),
            Self::Down => format!("link set dev {dev} down"),
            Self::Name(name) => format!("link set dev {dev} down\nlink set dev {dev} name {name}"),
            Self::AltName(name) => format!("link property add dev {dev} altname {name}"),
            Self::Other(command) => command.replace("{}", dev),
            Self::Alias(alias) => format!("link set dev {dev} alias {alias}"),
        }
    }
}

/// Something that can't happen on a ground, and why. Lives there are drawn without it.
pub struct Lack {
    pub what: &'static str,
    pub op: fn(&Op) -> bool,
    pub ask: fn(u8, Ask) -> bool,
}

impl Lack {
    /// Some ops.
    pub fn op(what: &'static str, op: fn(&Op) -> bool) -> Self {
        Self { what, op, ask: |_, _| false }
    }

    /// Something that claims ask of some VFs.
    pub fn ask(what: &'static str, ask: fn(u8, Ask) -> bool) -> Self {
        Self { what, op: |_| false, ask }
    }

    /// Nothing is drawn differently, but less is shown.
    pub fn shown(what: &'static str) -> Self {
        Self { what, op: |_| false, ask: |_, _| false }
    }
}

/// Everything here is looked at by witnesses of the ground's own, not by the driver.
pub trait Ground {
    fn lacks(&self) -> Vec<Lack>;
    /// The ledger and all other files are below it.
    fn dir(&self) -> &Path;
    /// What a process of the driver works on, in the boot of this number.
    fn site(&self, boot: u32) -> Result<Site, String>;
    /// As processes know that boot.
    fn boot_id(&self, boot: u32) -> String;
    /// Waiting that is shorter is real; longer waiting takes no time.
    fn real_waits(&self) -> Duration {
        Duration::ZERO
    }
    /// What calls of kubelet and runtime are given.
    fn patience(&self) -> Duration;
    fn host(&self) -> NetnsId;
    /// Addresses of the VFs, by number; the first is 1.
    fn places(&self) -> Vec<PciAddress>;
    fn pfs(&self) -> Vec<PciAddress>;

    fn born(&self, n: u8) -> Born;
    fn life(&self, n: u8) -> Option<Life>;
    fn settings_of(&self, n: u8) -> VfSettings;
    /// The name of its RDMA device, where it is to have one.
    fn rdma_of(&self, n: u8) -> Option<String>;
    /// With the number of its device nodes there.
    fn rdma_place(&self, name: &str) -> Option<(NetnsId, u32)>;
    /// Each RDMA device is in one namespace.
    fn rdma_is_exclusive(&self) -> bool {
        true
    }
    /// Where its interface is, and what it is there.
    fn vf(&self, n: u8) -> Option<(NetnsId, Link, Vec<IpNet>)>;
    /// By hand, on the host.
    fn rename(&self, n: u8, name: &str);
    /// By hand, wherever it is.
    fn meddle(&self, n: u8, what: &Meddling);
    /// By hand: without force, as `echo … > bind` does it.
    fn rebind(&self, n: u8, driver: Bound);
    /// It is removed and made again. These are new then.
    fn make_anew(&self, n: u8) -> Vec<u8>;
    /// The power is lost, and comes again: no namespace is left, and the VFs are new. From now on RDMA devices may be shared
    /// by all namespaces.
    fn lose_power(&self, rdma_is_shared: bool);

    /// A namespace with one process in it, and the network that the cluster gives it.
    fn add_namespace(&self, number: u32) -> (PathBuf, NetnsId, i32);
    /// Its processes end; the namespace stays.
    fn kill_users(&self, id: NetnsId);
    /// Its processes end, and no path leads to it any more. It is there as long as somebody has it open.
    fn let_go(&self, id: NetnsId);
    /// It ends: its VFs come back to the host.
    fn destroy(&self, id: NetnsId);
    fn exists(&self, id: NetnsId) -> bool;
    fn links_of(&self, id: NetnsId) -> BTreeMap<String, (Link, Vec<IpNet>)>;
    fn routing_of(&self, id: NetnsId) -> Routing;
    /// The driver was at work: what was seen before is old.
    fn look_anew(&self);
}
