//! What a PF says about one of its VFs, and what a claim may want it to say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::HwAddr;

/// Tag protocol of a VF's port VLAN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VlanProtocol {
    /// 802.1Q, 0x8100: a customer's tag.
    #[default]
    #[serde(rename = "802.1Q")]
    Dot1q,
    /// 802.1ad, 0x88a8: a provider's tag, outside of any that the pod sends.
    #[serde(rename = "802.1ad")]
    Dot1ad,
}

/// A VF's port VLAN: tagged and untagged by the PF, not seen by the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// 1 to 4094; 0 is none.
    pub id: u16,
    /// Priority, 0 to 7; 0 without a VLAN.
    pub qos: u8,
    /// Tag protocol; 802.1Q without a VLAN.
    pub protocol: VlanProtocol,
}

/// What a VF's link is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// As the PF's.
    Auto,
    /// Up, whatever the PF's is: VFs of one PF reach each other without a cable.
    Enable,
    /// Down.
    Disable,
}

/// Bandwidth of a VF's transmissions, Mbit/s; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Guaranteed.
    pub min_mbps: u32,
    /// Limit.
    pub max_mbps: u32,
}

/// One setting of a VF that its PF makes: what goes into one message (`IFLA_VF_*`, include/uapi/linux/if_link.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Setting {
    /// Administrative address: the VF's own can't be changed against it. All zero: the VF chooses.
    Mac(HwAddr),
    /// Port VLAN.
    Vlan(Vlan),
    /// Frames with a foreign source address are dropped.
    SpoofCheck(bool),
    /// The VF may become promiscuous and change its address.
    Trust(bool),
    /// What its link is said to be.
    LinkState(LinkState),
    /// Bandwidth.
    Rate(Rate),
}

/// Settings of one VF as its PF tells them. `None`: the driver does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VfSettings {
    /// Administrative address; with some drivers the one that the VF chose, if there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<HwAddr>,
    /// Port VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Spoof check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoof_check: Option<bool>,
    /// Trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// Link state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_state: Option<LinkState>,
    /// Bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// What a claim wants of a VF's settings. `None` is unset: never touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedSettings {
    /// `vf.mac`: unicast Ethernet, not zero.
    pub mac: Option<HwAddr>,
    /// `vf.vlan`, `vf.vlanQos` and `vf.vlanProtocol`, whole.
    pub vlan: Option<Vlan>,
    /// `vf.spoofCheck`
    pub spoof_check: Option<bool>,
    /// `vf.trust`
    pub trust: Option<bool>,
    /// `vf.linkState`
    pub link_state: Option<LinkState>,
    /// `vf.minTxRateMbps`; one message has both rates: what is unset here stays as the VF has it.
    pub min_tx_rate_mbps: Option<u32>,
    /// `vf.maxTxRateMbps`
    pub max_tx_rate_mbps: Option<u32>,
}

impl VfSettings {
    /// What most drivers say of a VF that nobody has set.
    pub fn untouched() -> Self {
        Self {
            mac: Some(HwAddr::new([0; 6])),
            vlan: Some(Vlan::default()),
            spoof_check: Some(true),
            trust: Some(false),
            link_state: Some(LinkState::Auto),
            rate: Some(Rate::default()),
        }
    }

    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every setting there is, in the order in which `sriov-cni` makes them: the tag before the address that it is for,
    /// trust after what it would let the VF change.
    pub fn each(&self) -> Vec<Setting> {
        let Self { mac, vlan, spoof_check, trust, link_state, rate } = self.clone();
        let all = [
            vlan.map(Setting::Vlan),
            mac.map(Setting::Mac),
            rate.map(Setting::Rate),
            spoof_check.map(Setting::SpoofCheck),
            trust.map(Setting::Trust),
            link_state.map(Setting::LinkState),
        ];
        all.into_iter().flatten().collect()
    }

    /// The value of this kind that the VF has, if its driver says.
    pub fn like(&self, setting: &Setting) -> Option<Setting> {
        match setting {
            Setting::Mac(_) => self.mac.clone().map(Setting::Mac),
            Setting::Vlan(_) => self.vlan.map(Setting::Vlan),
            Setting::SpoofCheck(_) => self.spoof_check.map(Setting::SpoofCheck),
            Setting::Trust(_) => self.trust.map(Setting::Trust),
            Setting::LinkState(_) => self.link_state.map(Setting::LinkState),
            Setting::Rate(_) => self.rate.map(Setting::Rate),
        }
    }

    /// Lays one setting over these.
    pub fn put(&mut self, setting: Setting) {
        match setting {
            Setting::Mac(mac) => self.mac = Some(mac),
            Setting::Vlan(vlan) => self.vlan = Some(vlan),
            Setting::SpoofCheck(on) => self.spoof_check = Some(on),
            Setting::Trust(on) => self.trust = Some(on),
            Setting::LinkState(state) => self.link_state = Some(state),
            Setting::Rate(rate) => self.rate = Some(rate),
        }
    }
}

impl WantedSettings {
    /// Wants nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Setting {
    /// The field of a `VfConfig` that asks for it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Mac(_) => "vf.mac",
            Self::Vlan(_) => "vf.vlan",
            Self::SpoofCheck(_) => "vf.spoofCheck",
            Self::Trust(_) => "vf.trust",
            Self::LinkState(_) => "vf.linkState",
            Self::Rate(_) => "vf.minTxRateMbps, vf.maxTxRateMbps",
        }
    }
}

impl fmt::Display for VlanProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dot1q => "802.1Q",
            Self::Dot1ad => "802.1ad",
        })
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Enable => "enable",
            Self::Disable => "disable",
        })
    }
}

/// The value alone, as `ip link set … vf …` takes it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Vlan(Vlan { id: 0, .. }) => f.write_str("none"),
            Self::Vlan(Vlan { id, qos, protocol }) => write!(f, "{id} qos {qos} proto {protocol}"),
            Self::SpoofCheck(on) | Self::Trust(on) => f.write_str(switch(on)),
            Self::LinkState(state) => write!(f, "{state}"),
            Self::Rate(Rate { min_mbps, max_mbps }) => write!(f, "min {min_mbps} max {max_mbps}"),
        }
    }
}

/// A PF's netdev, through which its VFs are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfLink {
    /// Name, for people.
    pub name: String,
    /// Index in the host's namespace.
    pub index: u32,
}
