//! What claims ask for: every field, alone and in every combination.

use sriov_dra::claim::{
    Memlock, NameSpec, RdmaMode, ResultSpec, WantedBinding, WantedRdma, WantedRoute, WantedRouting,
};
use sriov_dra::device::{HwAddr, IfName, LinkState, Vlan, WantedSettings};
use sriov_dra::prepare::fake::plain_result;

use super::node::pci;

/// One thing that a claim may ask for a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Mac,
    Vlan,
    SpoofCheck,
    Trust,
    LinkState,
    Rate,
    Vfio,
    Vhost,
    Name,
    Mtu,
    Addresses,
    Pool,
    Routes,
    SourceRouting,
    DefaultRoute,
    Sysctls,
    NoRdma,
    /// `rdma.mode chardev`, of VFs that have an RDMA device.
    CharDevice,
    Umad,
    /// `adminAccess`: the VF is looked at, whoever has it.
    Watch,
    /// The same, by a claim that is reserved for many pods and is no pod's.
    WatchWithOthers,
}

impl Ask {
    pub const ALL: [Self; 19] = [
        Self::Mac,
        Self::Vlan,
        Self::SpoofCheck,
        Self::Trust,
        Self::LinkState,
        Self::Rate,
        Self::Vfio,
        Self::Vhost,
        Self::Name,
        Self::Mtu,
        Self::Addresses,
        Self::Pool,
        Self::Routes,
        Self::SourceRouting,
        Self::DefaultRoute,
        Self::Sysctls,
        Self::NoRdma,
        Self::CharDevice,
        Self::Umad,
    ];

    /// It can't be had on the host's network.
    pub fn is_of_the_pods_network(self) -> bool {
        self >= Self::Name && self < Self::NoRdma
    }

    fn put(self, n: u8, wanted: &mut ResultSpec) {
        let route = |to: &str, via: &str| WantedRoute { to: to.parse().unwrap(), via: via.parse().ok() };
        match self {
            Self::Mac => wanted.settings.mac = Some(HwAddr::new([2, 0xaa, 0, 0, 0, n])),
            Self::Vlan => wanted.settings.vlan = Some(Vlan { id: 100 + u16::from(n), ..Vlan::default() }),
            Self::SpoofCheck => wanted.settings.spoof_check = Some(false),
            Self::Trust => wanted.settings.trust = Some(true),
            Self::LinkState => wanted.settings.link_state = Some(LinkState::Enable),
            Self::Rate => wanted.settings.max_tx_rate_mbps = Some(1000),
            Self::Vfio => wanted.bind.vfio = true,
            Self::Vhost => wanted.bind.vhost = true,
            Self::Name => wanted.name = NameSpec::Explicit(IfName::new(format!("fabric{n}")).unwrap()),
            Self::Mtu => wanted.mtu = Some(9000),
            Self::Addresses => {
                wanted.addresses = vec![
                    format!("172.16.{n}.5/24").parse().unwrap(),
                    format!("fd00:{n}::5/64").parse().unwrap(),
                ];
            }
            Self::Pool => wanted.address_pool = Some("rail".into()),
            Self::Routes => {
                let hop = format!("172.16.{n}.254");
                wanted.routing.routes = vec![route("10.9.0.0/16", &hop), route("0.0.0.0/0", &hop)];
            }
            Self::SourceRouting => wanted.routing.source_routing = true,
            Self::DefaultRoute => wanted.routing.default_route = true,
            Self::Sysctls => {
                wanted.routing.sysctls = [("rp_filter".to_owned(), 2), ("arp_ignore".to_owned(), 1)].into();
            }
            Self::NoRdma => {
                wanted.rdma =
                    WantedRdma { mode: RdmaMode::None, umad: false, memlock: Memlock::None, nccl: None };
            }
            Self::CharDevice => wanted.rdma.mode = RdmaMode::CharDevice,
            Self::Umad => wanted.rdma.umad = true,
            Self::Watch | Self::WatchWithOthers => wanted.admin_access = true,
        }
    }
}

/// Nothing is taken of a VF of which this is asked.
pub fn is_watched(asks: &[Ask]) -> bool {
    asks.iter().any(|ask| matches!(ask, Ask::Watch | Ask::WatchWithOthers))
}

/// What a claim wants of VF `n`; what does not go together, and what needs the other, as the claim's decoder has it.
pub fn wants(n: u8, asks: &[Ask]) -> ResultSpec {
    let has = |ask: Ask| asks.contains(&ask);
    if is_watched(asks) {
        // It is given nothing else, and may be another request's.
        return ResultSpec { request: format!("watch{n}"), admin_access: true, ..plain_result(pci(n)) };
    }
    let mut asks: Vec<Ask> = asks.to_vec();
    if has(Ask::NoRdma) || !n.is_multiple_of(2) {
        asks.retain(|ask| !matches!(ask, Ask::CharDevice | Ask::Umad));
    }
    if has(Ask::Vfio) {
        asks.retain(|ask| *ask <= Ask::Vhost);
    } else if asks.iter().any(|ask| matches!(ask, Ask::Routes | Ask::SourceRouting | Ask::DefaultRoute)) {
        // Addresses and a next hop are needed; a pool has both.
        if !has(Ask::Pool) {
            asks.push(Ask::Addresses);
        }
        if has(Ask::DefaultRoute) && !has(Ask::Pool) {
            asks.push(Ask::Routes);
        }
    }
    let mut wanted = ResultSpec {
        interface_asked: asks.iter().any(|ask| ask.is_of_the_pods_network()),
        settings: WantedSettings::default(),
        bind: WantedBinding::default(),
        routing: WantedRouting::default(),
        ..plain_result(pci(n))
    };
    if asks.contains(&Ask::Pool) {
        // The pool has addresses and next hops of its own.
        asks.retain(|ask| !matches!(ask, Ask::Addresses | Ask::Routes));
    }
    asks.sort();
    asks.dedup();
    asks.iter().for_each(|ask| ask.put(n, &mut wanted));
    wanted
}
