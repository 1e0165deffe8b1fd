//! VFs that are in a pod and up get their addresses, routes and rules; the network is asked first, and told then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::AttachError;
use super::report::{Check, CheckKind};
use super::routing::{DEMOTED, network_metric, next_hops, routes_of, rules_of};
use crate::claim::Probe;
use crate::device::{InstalledRoute, MAIN_TABLE, PciAddress, Route};
use crate::host::probe::Question;
use crate::host::routes::defaults_of;
use crate::host::{HostError, Link, Links, clock};
use crate::prepare::records::VfEntry;

/// How long a link that was set up may need until frames get out (a VF hears of it from its PF).
const CARRIER_WAIT: Duration = Duration::from_millis(200);
const CARRIER_POLL: Duration = Duration::from_millis(5);

/// A VF, and its link in the pod.
pub(super) type Arrived<'a> = (&'a VfEntry, Link);

/// Addresses all of them. What probes found, by VF.
///
/// # Errors
/// When the kernel refuses, or a probe that the claim wants to fail has failed.
pub(super) fn address(
    pod: &mut dyn Links,
    arrived: &[Arrived<'_>],
    deadline: Instant,
) -> Result<BTreeMap<PciAddress, Vec<Check>>, AttachError> {
    let mut checks: BTreeMap<PciAddress, Vec<Check>> = BTreeMap::new();
    let mut present = BTreeMap::new();
    for (vf, link) in arrived.iter().filter(|(vf, _)| !vf.addresses.is_empty()) {
        let failed = |source| AttachError::Vf { vf: vf.pci, source };
        present.insert(vf.pci, pod.addresses(link.index).map_err(failed)?);
    }
    let is_new = |vf: &VfEntry, address: &ipnet::IpNet| {
        present.get(&vf.pci).is_none_or(|there| !there.contains(address))
    };
    let arrived = &with_carrier(pod, arrived, deadline)?;
    let asked = arrived.iter().filter_map(|(vf, link)| {
        let how = vf.probe?.duplicate_address?;
        let new = vf.addresses.iter().filter(|address| is_new(vf, address));
        Some((*vf, link, how, new.map(|address| (address.addr(), None)).collect()))
    });
    probe(pod, CheckKind::AddressUnique, asked.collect(), deadline, &mut checks)?;
    for (vf, link) in arrived {
        let failed = |source| AttachError::Vf { vf: vf.pci, source };
        let new = vf.addresses.iter().filter(|address| is_new(vf, address)).collect::<Vec<_>>();
        let metric = network_metric(vf);
        for address in &new {
            pod.add_address_with_metric(link, **address, metric).map_err(failed)?;
        }
        route(pod, link, vf).map_err(failed)?;
        for address in new {
            // Neighbours that hear nothing find out by themselves, later.
            if let Err(error) = pod.announce(link, address.addr()) {
                tracing::debug!(vf = %vf.pci, %address, error = %error.sentence(), "an address was not announced");
            }
        }
    }
    let asked = arrived.iter().filter_map(|(vf, link)| {
        let how = vf.probe?.gateway?;
        Some((*vf, link, how, next_hops(vf)))
    });
    probe(pod, CheckKind::GatewayReachable, asked.collect(), deadline, &mut checks)?;
    Ok(checks)
}

/// The links once frames get out of them: before that, what is announced or asked is thrown away unseen. One that has no
/// cable is not waited for longer.
fn with_carrier<'a>(
    pod: &mut dyn Links,
    arrived: &[Arrived<'a>],
    deadline: Instant,
) -> Result<Vec<Arrived<'a>>, AttachError> {
    let until = deadline.min(clock::now() + CARRIER_WAIT);
    let mut links: Vec<Arrived<'a>> = arrived.to_vec();
    loop {
        for (vf, link) in links.iter_mut().filter(|(vf, link)| !vf.addresses.is_empty() && !link.carrier) {
            let now = pod.by_name(&link.name).map_err(|source| AttachError::Vf { vf: vf.pci, source })?;
            link.carrier = now.is_some_and(|now| now.carrier);
        }
        let waits = links.iter().any(|(vf, link)| !vf.addresses.is_empty() && !link.carrier);
        if !waits || clock::now() >= until {
            return Ok(links);
        }
        clock::sleep(CARRIER_POLL);
    }
}

/// One VF's part in a probe: what becomes of a bad end, whose owner is looked for and who asks.
type Asked<'a> = (&'a VfEntry, &'a Link, Probe, Vec<(IpAddr, Option<IpAddr>)>);

/// Asks for all VFs at once.
fn probe(
    pod: &mut dyn Links,
    kind: CheckKind,
    asked: Vec<Asked<'_>>,
    deadline: Instant,
    checks: &mut BTreeMap<PciAddress, Vec<Check>>,
) -> Result<(), AttachError> {
    // Half of it for each kind. A deadline that is near leaves time for the rest of the work, and for other claims.
    let wanted = asked.iter().filter_map(|(vf, ..)| vf.probe).map(|probe| probe.budget_ms).max();
    let wanted = Duration::from_millis(wanted.unwrap_or_default().into()) / 2;
    let budget = wanted.min(deadline.saturating_duration_since(clock::now()) / 4);
    let Some((first, ..)) = asked.first() else { return Ok(()) };
    let first = first.pci;
    let questions: Vec<Question> = asked
        .iter()
        .flat_map(|(_, link, _, whom)| {
            let whom = whom.iter().filter(|_| link.carrier);
            whom.map(|(address, from)| Question { link: (*link).clone(), address: *address, from: *from })
        })
        .collect();
    let answers = match questions.is_empty() {
        true => Ok(Vec::new()),
        false => pod.ask(&questions, budget),
    };
    let (answers, unasked) = match answers {
        Ok(answers) => (answers, None),
        // Somebody relies on the answer.
        Err(source) if asked.iter().any(|(_, _, how, _)| *how == Probe::Fail) => {
            return Err(AttachError::Vf { vf: first, source });
        }
        Err(error) => (Vec::new(), Some(error.sentence())),
    };
    let mut answers = answers.into_iter();
    for (vf, link, how, whom) in asked {
        let check = match &unasked {
            _ if !link.carrier => Check::not_asked(kind, "the link has no carrier, nothing gets out"),
            Some(why) => Check::not_asked(kind, why),
            None => {
                let answers = whom.into_iter().map(|(address, _)| address).zip(answers.by_ref());
                Check::of(kind, link, &answers.collect::<Vec<_>>(), budget)
            }
        };
        if how == Probe::Fail && (check.passed == Some(false) || !link.carrier) {
            return Err(AttachError::Probe { vf: vf.pci, name: vf.name.clone(), found: check.message });
        }
        checks.entry(vf.pci).or_default().push(check);
    }
    Ok(())
}

/// Routes and rules, as far as they are not there. The pod's default route in main is there afterwards as it was before.
fn route(pod: &mut dyn Links, link: &Link, vf: &VfEntry) -> Result<(), HostError> {
    let (wanted, rules) = (routes_of(vf), rules_of(vf));
    if wanted.is_empty() && rules.is_empty() {
        return Ok(());
    }
    let before = pod.routes()?;
    let is_there = |route: &Route| {
        let same = |is: &InstalledRoute| {
            (is.link, is.route.to, is.route.via, is.route.table)
                == (link.index, route.to, route.via, route.table)
        };
        before.iter().any(same)
    };
    for route in wanted.iter().filter(|route| !is_there(route)) {
        if route.table == MAIN_TABLE && route.is_default() {
            demote(pod, link, route, &before)?;
        }
        pod.add_route(link, route)?;
    }
    for rule in &rules {
        pod.add_rule(rule)?;
    }
    let lost = |now: &[InstalledRoute]| {
        let defaults = defaults_of(&before).into_iter().filter(|default| default.link != link.index);
        let still = |default: &InstalledRoute| {
            now.iter().any(|is| {
                (is.link, is.route.via) == (default.link, default.route.via) && is.route.is_default()
            })
        };
        defaults.filter(|default| !still(default)).collect::<Vec<_>>()
    };
    let now = defaults_of(&pod.routes()?);
    for default in lost(&now) {
        let name = pod.all()?.into_iter().find(|other| other.index == default.link);
        let Some(other) = name else { continue };
        pod.add_route(&other, &default.route)?;
    }
    Ok(())
}

/// The pod's default routes stay, behind the one that takes their place: should the VF go, they are there.
fn demote(pod: &mut dyn Links, link: &Link, by: &Route, before: &[InstalledRoute]) -> Result<(), HostError> {
    let others = defaults_of(before).into_iter().filter(|default| {
        default.link != link.index
            && default.route.metric < DEMOTED
            && default.route.to.addr().is_ipv4() == by.to.addr().is_ipv4()
    });
    for default in others {
        let Some(other) = pod.all()?.into_iter().find(|other| other.index == default.link) else { continue };
        let behind = Route { metric: DEMOTED, ..default.route.clone() };
        match pod.add_route(&other, &behind) {
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {}
            done => done?,
        }
        pod.remove_route(default.link, &default.route)?;
    }
    Ok(())
}

/// Takes back what does not go with the VF: its rules, and the place that its default route took.
pub(super) fn leave(pod: &mut dyn Links, vf: &VfEntry) -> Result<(), HostError> {
    for rule in rules_of(vf) {
        pod.remove_rule(&rule)?;
    }
    if !vf.default_route {
        return Ok(());
    }
    let routes = pod.routes()?;
    if let Some(own) = pod.by_name(vf.name.as_str())? {
        for default in defaults_of(&routes).into_iter().filter(|default| default.link == own.index) {
            pod.remove_route(own.index, &default.route)?;
        }
    }
    for default in defaults_of(&routes).into_iter().filter(|default| default.route.metric == DEMOTED) {
        let Some(other) = pod.all()?.into_iter().find(|other| other.index == default.link) else { continue };
        let ahead = Route { metric: 0, ..default.route.clone() };
        match pod.add_route(&other, &ahead) {
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {}
            done => done?,
        }
        pod.remove_route(default.link, &default.route)?;
    }
    Ok(())
}
