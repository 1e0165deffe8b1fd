//! Settings of a VF, made and read through its PF: one attribute in one message, so that an errno belongs to one field
//! (`do_setvfinfo`, net/core/rtnetlink.c: the first error ends a message, and what came before it stays).
//!
//! By hand, as in `raw`: what a driver does not say has to be told from zero, and one odd entry must not hide the others.

use netlink_sys::protocols::NETLINK_ROUTE;

use super::fate::{self, Kind};
use super::raw::{ask, attribute, each, find};
use super::{HostError, Netns};
use crate::device::{HwAddr, LinkState, PfLink, Rate, Setting, VfSettings, Vlan, VlanProtocol};

// include/uapi/linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`
const IFINFOMSG: usize = 16;
// include/uapi/linux/if_link.h
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_IB_NODE_GUID: u16 = 10;
const IFLA_VF_IB_PORT_GUID: u16 = 11;
const IFLA_VF_VLAN_LIST: u16 = 12;
const IFLA_VF_VLAN_INFO: u16 = 1;
/// `RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS`: counters would double each VF's share of a list whose length has 16 bits.
const WITH_VFS: u32 = 1 | 8;
/// `ETH_P_8021AD`, include/uapi/linux/if_ether.h
const ETH_P_8021AD: u16 = 0x88a8;

/// Why a VF may not be in the answer; the number is for the longest entries, with counters.
const LEFT_OUT: &str = "it says nothing of this VF: the PF's driver could not tell, or the PF has more VFs than one answer \
                        holds (some 220 on kernels before 6.5)";

/// Reads the settings of VF number `vf`.
///
/// # Errors
/// The PF's netdev is gone, or the kernel's list has no such VF: its driver could not tell (it is left out then), or there
/// are more VFs than a list has room for.
pub fn read(host: &Netns, pf: &PfLink, vf: u32) -> Result<VfSettings, HostError> {
    let what = format!("read the settings of VF {vf} of PF {}", pf.name);
    let mut payload = ifinfomsg(pf.index);
    attribute(&mut payload, IFLA_EXT_MASK, &WITH_VFS.to_ne_bytes());
    let answer = ask(host, NETLINK_ROUTE, RTM_GETLINK, &payload, &what)?.unwrap_or_default();
    parse(&answer, vf).ok_or_else(|| HostError::Protocol { what, reason: LEFT_OUT.to_owned() })
}

/// Makes one setting of VF number `vf`.
///
/// # Errors
/// The kernel's or the driver's.
pub fn set(host: &Netns, pf: &PfLink, vf: u32, setting: &Setting) -> Result<(), HostError> {
    let what = format!("set {} {setting} on VF {vf} of PF {}", setting.field(), pf.name);
    fate::effect(Kind::Function, format_args!("{what}"))
        .map_err(|source| HostError::Netlink { what: what.clone(), source })?;
    ask(host, NETLINK_ROUTE, RTM_NEWLINK, &message(pf.index, vf, setting), &what).map(drop)
}

/// Which GUID of a VF on InfiniBand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guid {
    /// Of the node.
    Node,
    /// Of its port.
    Port,
}

/// Gives VF number `vf` a GUID. Takes effect when the VF's driver is bound again.
///
/// # Errors
/// The kernel's or the driver's: EOPNOTSUPP for a PF that is not InfiniBand.
pub fn set_guid(host: &Netns, pf: &PfLink, vf: u32, which: Guid, guid: u64) -> Result<(), HostError> {
    let what = format!("set the {which:?} GUID {guid:016x} on VF {vf} of PF {}", pf.name);
    ask(host, NETLINK_ROUTE, RTM_NEWLINK, &guid_message(pf.index, vf, which, guid), &what).map(drop)
}

/// `struct ifla_vf_guid`: the GUID in the host's order, aligned as a number of 64 bits.
fn guid_message(index: u32, vf: u32, which: Guid, guid: u64) -> Vec<u8> {
    let kind = match which {
        Guid::Node => IFLA_VF_IB_NODE_GUID,
        Guid::Port => IFLA_VF_IB_PORT_GUID,
    };
    let mut value = vf.to_ne_bytes().to_vec();
    value.resize(8, 0);
    value.extend_from_slice(&guid.to_ne_bytes());
    of_one_vf(index, kind, &value)
}

fn ifinfomsg(index: u32) -> Vec<u8> {
    let mut bytes = vec![0; IFINFOMSG];
    if let Some(slot) = bytes.get_mut(4..8) {
        slot.copy_from_slice(&index.to_ne_bytes());
    }
    bytes
}

/// What `ip link set PF vf N …` sends for the same wish.
pub(super) fn message(index: u32, vf: u32, setting: &Setting) -> Vec<u8> {
    let words = |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_ne_bytes()).collect() };
    let (kind, value) = match setting {
        // struct ifla_vf_mac: room for 32 bytes
        Setting::Mac(mac) => {
            let mut value = words(&[vf]);
            value.extend_from_slice(mac.bytes());
            value.resize(4 + 32, 0);
            (IFLA_VF_MAC, value)
        }
        Setting::Vlan(Vlan { id, qos, protocol: VlanProtocol::Dot1q }) => {
            (IFLA_VF_VLAN, words(&[vf, (*id).into(), (*qos).into()]))
        }
        // struct ifla_vf_vlan_info: the protocol in network order, and two bytes of padding, without which kernels since
        // 2024 refuse it
        Setting::Vlan(Vlan { id, qos, protocol: VlanProtocol::Dot1ad }) => {
            let mut info = words(&[vf, (*id).into(), (*qos).into()]);
            info.extend_from_slice(&ETH_P_8021AD.to_be_bytes());
            info.resize(16, 0);
            let mut list = Vec::new();
            attribute(&mut list, IFLA_VF_VLAN_INFO, &info);
            (IFLA_VF_VLAN_LIST, list)
        }
        Setting::SpoofCheck(on) => (IFLA_VF_SPOOFCHK, words(&[vf, (*on).into()])),
        Setting::Trust(on) => (IFLA_VF_TRUST, words(&[vf, (*on).into()])),
        Setting::LinkState(state) => {
            let state = match state {
                LinkState::Auto => 0,
                LinkState::Enable => 1,
                LinkState::Disable => 2,
            };
            (IFLA_VF_LINK_STATE, words(&[vf, state]))
        }
        Setting::Rate(Rate { min_mbps, max_mbps }) => (IFLA_VF_RATE, words(&[vf, *min_mbps, *max_mbps])),
    };
    of_one_vf(index, kind, &value)
}

fn of_one_vf(index: u32, kind: u16, value: &[u8]) -> Vec<u8> {
    let (mut info, mut list) = (Vec::new(), Vec::new());
    attribute(&mut info, kind, value);
    attribute(&mut list, IFLA_VF_INFO, &info);
    let mut message = ifinfomsg(index);
    attribute(&mut message, IFLA_VFINFO_LIST, &list);
    message
}

/// The n-th number of a value.
fn word(value: &[u8], n: usize) -> Option<u32> {
    value.get(n * 4..n * 4 + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn parse(answer: &[u8], vf: u32) -> Option<VfSettings> {
    let list = find(answer.get(IFINFOMSG..)?, IFLA_VFINFO_LIST)?;
    // By the number in it, not by its place: a VF whose driver could not tell is left out.
    let info = each(list, IFLA_VF_INFO)
        .find(|info| find(info, IFLA_VF_MAC).and_then(|mac| word(mac, 0)) == Some(vf))?;
    // The kernel fills these two with -1 before it asks the driver (`rtnl_fill_vfinfo`).
    let switch = |kind| match word(find(info, kind)?, 1)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    let mac = find(info, IFLA_VF_MAC).and_then(|mac| mac.get(4..10)).map(HwAddr::new);
    let rate = find(info, IFLA_VF_RATE)
        .and_then(|rate| Some(Rate { min_mbps: word(rate, 1)?, max_mbps: word(rate, 2)? }));
    let link_state = match find(info, IFLA_VF_LINK_STATE).and_then(|state| word(state, 1)) {
        Some(0) => Some(LinkState::Auto),
        Some(1) => Some(LinkState::Enable),
        Some(2) => Some(LinkState::Disable),
        _ => None,
    };
    Some(VfSettings {
        mac,
        vlan: vlan(info),
        spoof_check: switch(IFLA_VF_SPOOFCHK),
        trust: switch(IFLA_VF_TRUST),
        link_state,
        rate,
    })
}

fn vlan(info: &[u8]) -> Option<Vlan> {
    let plain = find(info, IFLA_VF_VLAN)?;
    let listed = find(info, IFLA_VF_VLAN_LIST).and_then(|list| find(list, IFLA_VF_VLAN_INFO));
    let protocol = listed.and_then(|info| info.get(12..14)?.try_into().ok()).map(u16::from_be_bytes);
    let id = u16::try_from(word(plain, 1)?).ok()?;
    let qos = u8::try_from(word(plain, 2)?).ok()?;
    // Some drivers keep a protocol without a VLAN, others don't fill it: none is none.
    let protocol = match protocol {
        Some(ETH_P_8021AD) if id != 0 => VlanProtocol::Dot1ad,
        _ => VlanProtocol::Dot1q,
    };
    Some(Vlan { id, qos, protocol })
}

#[cfg(test)]
#[path = "tests/vf_admin.rs"]
mod tests;
