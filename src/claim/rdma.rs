//! `rdma.*`: what a container gets of a VF's RDMA device, and how much memory it may lock.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::config::Wanted;
use super::decode::At;
use super::error::{Fault, Faults};
use super::fields::{Driver, VFIO, VfConfig};
use super::value::{Datum, Form, Slot, TextForm, Value};

/// `rdma.mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RdmaMode {
    /// What the node can do, if the VF has an RDMA device.
    #[default]
    Auto,
    /// The RDMA device is in the pod's network namespace.
    Namespace,
    /// The device nodes only.
    CharDevice,
    /// Nothing.
    None,
}

impl RdmaMode {
    /// In the order of the docs.
    pub(super) const WORDS: &[(&str, Self)] = &[
        ("auto", Self::Auto),
        ("namespace", Self::Namespace),
        ("chardev", Self::CharDevice),
        ("none", Self::None),
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, mode)| *mode == self).map_or("", |(word, _)| word)
    }
}

/// `rdma.memlock`: what the containers of an RDMA device may lock (`RLIMIT_MEMLOCK`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Memlock {
    /// The limit stays as the runtime has it.
    None,
    /// Bytes.
    Bytes(u64),
    /// As much as the runtime can give.
    #[default]
    Auto,
    /// No limit, or no pod.
    Unlimited,
}

/// `rdma.*` for one VF.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WantedRdma {
    /// `rdma.mode`
    pub mode: RdmaMode,
    /// `rdma.umad`
    pub umad: bool,
    /// `rdma.memlock`
    pub memlock: Memlock,
    /// `rdma.nccl`: variables for NCCL and UCX; `true`: with a topology file.
    pub nccl: Option<bool>,
}

const WHAT: &str = "auto, unlimited, none, or an amount such as \"64Gi\"";
const UNITS: [(&str, u32); 4] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];

/// An amount of memory in bytes, or a word.
pub(super) struct Amount(pub Slot<Memlock>);

impl Value for Amount {
    fn form(&self) -> Form {
        Form::Text(TextForm {
            what: WHAT,
            // Six digits of Ti are within 64 bits.
            pattern: "(auto|unlimited|none|[1-9][0-9]{0,5}(Ki|Mi|Gi|Ti)?|[1-9][0-9]{6,17})".to_owned(),
            except: Vec::new(),
            is_cidr: false,
            ranges: false,
        })
    }

    fn read(&self, at: &mut At<'_>, given: &Json, config: &mut VfConfig) {
        *(self.0.put)(config) =
            at.text(given, WHAT).and_then(|text| parse(text).map_or_else(|why| at.fault(why), Some));
    }

    fn overlay(&self, config: &mut VfConfig, later: &VfConfig) {
        self.0.overlay(config, later);
    }

    fn of(&self, config: &VfConfig) -> Option<Datum> {
        (self.0.get)(config).map(|memlock| Datum::Text(memlock.to_string()))
    }
}

impl std::fmt::Display for Memlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Unlimited => f.write_str("unlimited"),
            Self::Bytes(bytes) => {
                let whole = UNITS.iter().rev().find(|(_, shift)| bytes.trailing_zeros() >= *shift);
                match whole.filter(|_| *bytes > 0) {
                    Some((unit, shift)) => write!(f, "{}{unit}", bytes >> shift),
                    None => write!(f, "{bytes}"),
                }
            }
        }
    }
}

fn parse(text: &str) -> Result<Memlock, String> {
    match text {
        "auto" => return Ok(Memlock::Auto),
        "unlimited" => return Ok(Memlock::Unlimited),
        "none" => return Ok(Memlock::None),
        _ => {}
    }
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let longest = if shift == 0 { 18 } else { 6 };
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    let number = Some(digits).filter(|digits| plain && (1..=longest).contains(&digits.len()));
    match number.and_then(|digits| digits.parse::<u64>().ok()) {
        Some(number) => Ok(Memlock::Bytes(number << shift)),
        None => Err(format!("{text:?} is no amount of memory, it must be {WHAT}")),
    }
}

/// What the entries add up to.
pub(super) fn settle(wanted: &Wanted<'_>, faults: &mut Faults) -> WantedRdma {
    let VfConfig { rdma, bind, .. } = &wanted.config;
    let asked = rdma.mode.filter(|mode| matches!(mode, RdmaMode::Namespace | RdmaMode::CharDevice));
    if let (Some(Driver::Vfio), Some(mode)) = (bind.driver, asked) {
        let problem = format!(
            "{VFIO} leaves the VF without RDMA device, but rdma.mode is {}; leave one of them out",
            mode.as_str()
        );
        let entry = wanted.last("bind.driver").cloned();
        faults.add(Fault { entry, path: "bind.driver".to_owned(), problem });
    }
    if rdma.umad == Some(true) && rdma.mode == Some(RdmaMode::None) {
        let problem =
            "true needs the RDMA device, but rdma.mode is none; set another mode, or leave this out";
        let entry = wanted.last("rdma.umad").cloned();
        faults.add(Fault { entry, path: "rdma.umad".to_owned(), problem: problem.to_owned() });
    }
    let without = match (rdma.mode, bind.driver) {
        (Some(RdmaMode::None), _) => Some("rdma.mode is none; set another mode"),
        (_, Some(Driver::Vfio)) => {
            Some("bind.driver is vfio-pci, which leaves the VF without; leave that out")
        }
        _ => None,
    };
    if let (Some(topology), Some(why)) = (rdma.nccl.topology, without) {
        let problem = format!("{topology} needs the RDMA device, but {why}, or leave this out");
        let entry = wanted.last("rdma.nccl.topology").cloned();
        faults.add(Fault { entry, path: "rdma.nccl.topology".to_owned(), problem });
    }
    WantedRdma {
        mode: rdma.mode.unwrap_or_default(),
        umad: rdma.umad.unwrap_or_default(),
        memlock: rdma.memlock.unwrap_or_default(),
        nccl: rdma.nccl.topology,
    }
}

/// A claim may ask for less than its class says, never for more: a class that says namespace means the isolation, one that
/// says an amount means the limit.
pub(super) fn check_narrower(wanted: &Wanted<'_>, faults: &mut Faults) {
    let by_class = &wanted.by_class.rdma;
    for (place, config) in &wanted.claim {
        let mut add = |field: &str, asked: &str, said: &str, may: &str| {
            let problem =
                format!("{asked} is more than {}, which says {said}; a claim may set {may}", wanted.class);
            faults.add(Fault { entry: Some((*place).clone()), path: format!("rdma.{field}"), problem });
        };
        if let (Some(said), Some(asked)) =
            (by_class.mode.filter(|mode| *mode != RdmaMode::Auto), config.rdma.mode)
            && asked != said
            && asked != RdmaMode::None
        {
            let may = if said == RdmaMode::None { "none" } else { &format!("{} or none", said.as_str()) };
            add("mode", asked.as_str(), said.as_str(), may);
        }
        // Whatever auto comes to, unlimited is no more.
        let counts = |memlock: Memlock| if memlock == Memlock::Unlimited { Memlock::Auto } else { memlock };
        if let (Some(said), Some(asked)) = (by_class.memlock, config.rdma.memlock)
            && counts(asked) > counts(said)
        {
            add("memlock", &asked.to_string(), &said.to_string(), "at most that");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_shown_as_they_are_written_and_what_is_none_is_refused() {
        for (text, memlock) in [
            ("auto", Memlock::Auto),
            ("unlimited", Memlock::Unlimited),
            ("none", Memlock::None),
            ("1", Memlock::Bytes(1)),
            ("64Gi", Memlock::Bytes(64 << 30)),
            ("999999Ti", Memlock::Bytes(999_999 << 40)),
            ("999999999999999999", Memlock::Bytes(999_999_999_999_999_999)),
        ] {
            assert_eq!(parse(text), Ok(memlock));
            assert_eq!(memlock.to_string(), text);
        }
        for text in ["", "0", "07", "64G", "64 Gi", "-1", "1.5Gi", "1000000Ki", "1000000000000000000", "Gi"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
