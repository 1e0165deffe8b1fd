//! Wanted settings of a VF to steps: what its PF shall say of it, and whether that could be taken back. Pure.

use super::functions::Facts;
use super::steps::Step;
use crate::claim::ResultSpec;
use crate::device::{LinkType, PciAddress, Pf, PfLink, Place, Rate, Setting, Vf, VfSettings, WantedSettings};

/// Why a setting can't be made. Printed after the request's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingProblem {
    /// Nobody to ask.
    #[error(
        "{field} can't be set on VF {vf}: it has no PF on this node, as inside a virtual machine; leave {field} unset here"
    )]
    NoPf {
        /// First field asked for.
        field: &'static str,
        /// Which VF.
        vf: PciAddress,
    },
    /// The PF has no netdev to talk to.
    #[error(
        "{field} can't be set on VF {vf}: its PF {pf} has no network interface on the host ({driver}), and only through \
         that are VFs set; bind the PF to its network driver, or leave {field} unset"
    )]
    NoPfLink {
        /// First field asked for.
        field: &'static str,
        /// Which VF.
        vf: PciAddress,
        /// Its PF.
        pf: PciAddress,
        /// The PF's driver.
        driver: String,
    },
    /// InfiniBand has no such thing.
    #[error("{field} can't be set on VF {vf}: it is InfiniBand, which has only vf.linkState of these")]
    NotEthernet {
        /// Field.
        field: &'static str,
        /// Which VF.
        vf: PciAddress,
    },
    /// It could not be put back.
    #[error(
        "{field} can't be set on VF {vf}: driver {driver} of PF {pf} does not say what it is now, so it could not be put back; \
         leave {field} unset"
    )]
    Unreadable {
        /// Field.
        field: &'static str,
        /// Which VF.
        vf: PciAddress,
        /// The PF's name.
        pf: String,
        /// The PF's driver.
        driver: String,
    },
    /// More than the port has.
    #[error(
        "vf.{which}TxRateMbps {rate} is above the {speed} Mbit/s of PF {pf}, where VF {vf} is; ask for at most that"
    )]
    AboveSpeed {
        /// `min` or `max`
        which: &'static str,
        /// Wanted, Mbit/s.
        rate: u32,
        /// Of the link, Mbit/s.
        speed: u32,
        /// The PF's name.
        pf: String,
        /// Which VF.
        vf: PciAddress,
    },
    /// The other rate is there already.
    #[error(
        "vf.minTxRateMbps {min} would be above the {max} Mbit/s that VF {vf} is limited to; set both rates"
    )]
    MinAboveMax {
        /// Mbit/s.
        min: u32,
        /// Mbit/s.
        max: u32,
        /// Which VF.
        vf: PciAddress,
    },
}

/// What the VF shall have, and the steps to it from what it has. A setting that is as wanted needs none; it is kept all
/// the same, so that the next Prepare finds out when somebody changed it.
pub(super) fn settings_of(
    result: &ResultSpec,
    facts: &Facts,
    now: Option<&VfSettings>,
    steps: &mut Vec<Step>,
) -> Result<Vec<Setting>, SettingProblem> {
    let asked = asked(&result.settings);
    let Some(first) = asked.first() else { return Ok(Vec::new()) };
    let vf = &facts.vf;
    let (pf, link, index) = through(vf, facts.pf.as_ref(), first)?;
    let field = |wrong: &&&'static str| !wrong.starts_with("vf.linkState");
    if let (Some(LinkType::Infiniband), Some(field)) = (vf.link_type, asked.iter().find(field)) {
        return Err(SettingProblem::NotEthernet { field, vf: vf.pci });
    }
    let now = now.cloned().unwrap_or_default();
    let wanted = complete(&result.settings, &now);
    check_rate(vf.pci, pf, &link, &wanted)?;
    let wanted = wanted.each();
    for to in &wanted {
        let Some(from) = now.like(to) else {
            let driver = pf.driver.clone().unwrap_or_else(|| "none".to_owned());
            return Err(SettingProblem::Unreadable { field: to.field(), vf: vf.pci, pf: link.name, driver });
        };
        // Another address would cut a pod off that is running with the VF.
        let in_use = vf.place == Place::Elsewhere && matches!(to, Setting::Mac(_));
        if from != *to && !in_use {
            steps.push(Step::Set { vf: vf.pci, pf: link.clone(), index, from, to: to.clone() });
        }
    }
    Ok(wanted)
}

/// The PF's link and the VF's number there.
pub(super) fn link_of(vf: &Vf, pf: Option<&Pf>) -> Option<(PfLink, u32)> {
    let netdev = pf?.netdev.as_ref()?;
    Some((PfLink { name: netdev.name.clone(), index: netdev.ifindex }, vf.index?))
}

fn through<'a>(
    vf: &Vf,
    pf: Option<&'a Pf>,
    field: &'static str,
) -> Result<(&'a Pf, PfLink, u32), SettingProblem> {
    let pf = pf.filter(|_| vf.index.is_some()).ok_or(SettingProblem::NoPf { field, vf: vf.pci })?;
    match link_of(vf, Some(pf)) {
        Some((link, index)) => Ok((pf, link, index)),
        None => Err(SettingProblem::NoPfLink {
            field,
            vf: vf.pci,
            pf: pf.pci,
            driver: pf.driver.as_ref().map_or("no driver".to_owned(), |driver| format!("driver {driver}")),
        }),
    }
}

/// Fields that are set.
fn asked(wanted: &WantedSettings) -> Vec<&'static str> {
    let WantedSettings { mac, vlan, spoof_check, trust, link_state, min_tx_rate_mbps, max_tx_rate_mbps } =
        wanted;
    let all = [
        (vlan.is_some(), "vf.vlan"),
        (mac.is_some(), "vf.mac"),
        (min_tx_rate_mbps.is_some(), "vf.minTxRateMbps"),
        (max_tx_rate_mbps.is_some(), "vf.maxTxRateMbps"),
        (spoof_check.is_some(), "vf.spoofCheck"),
        (trust.is_some(), "vf.trust"),
        (link_state.is_some(), "vf.linkState"),
    ];
    all.into_iter().filter_map(|(set, field)| set.then_some(field)).collect()
}

/// One message has both rates: the one that is not asked for stays as it is.
fn complete(wanted: &WantedSettings, now: &VfSettings) -> VfSettings {
    let WantedSettings { mac, vlan, spoof_check, trust, link_state, min_tx_rate_mbps, max_tx_rate_mbps } =
        wanted.clone();
    let rate = (min_tx_rate_mbps.is_some() || max_tx_rate_mbps.is_some()).then(|| {
        let now = now.rate.unwrap_or_default();
        Rate {
            min_mbps: min_tx_rate_mbps.unwrap_or(now.min_mbps),
            max_mbps: max_tx_rate_mbps.unwrap_or(now.max_mbps),
        }
    });
    VfSettings { mac, vlan, spoof_check, trust, link_state, rate }
}

fn check_rate(vf: PciAddress, pf: &Pf, link: &PfLink, wanted: &VfSettings) -> Result<(), SettingProblem> {
    let Some(Rate { min_mbps: min, max_mbps: max }) = wanted.rate else { return Ok(()) };
    if max != 0 && min > max {
        return Err(SettingProblem::MinAboveMax { min, max, vf });
    }
    let Some(speed) = pf.netdev.as_ref().and_then(|netdev| netdev.speed_mbps) else { return Ok(()) };
    for (which, rate) in [("max", max), ("min", min)] {
        if rate > speed {
            return Err(SettingProblem::AboveSpeed { which, rate, speed, pf: link.name.clone(), vf });
        }
    }
    Ok(())
}
