//! The explanation: what became of every device in every request, and which constraint can't hold.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::AllocationResult;
use serde::Serialize;

use super::constraint::Kind;
use super::judge::{Verdict, capacity_problem, untolerated};
use super::pools::UnusablePool;
use super::problem::Problem;
use super::reasons::{Dissected, one_line, shown};
use super::request::Amount;
use super::search::{Search, search};
use super::{Cluster, Node, Refusal, Wanted, result};

/// What [`explain`] found, for people (`sriov-dra explain`) and programs; fields are added, never renamed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The node looked at.
    pub node: String,
    /// All claims can be allocated there together.
    pub allocatable: bool,
    /// The fault lies in a claim, a class or a slice, and the scheduler tries no other node either.
    pub fatal: bool,
    /// Why not, a sentence each, the most telling first; empty if they can be.
    pub reasons: Vec<String>,
    /// Devices of usable pools that the node can reach.
    pub devices: usize,
    /// Pools nothing is taken from now.
    pub unusable_pools: Vec<UnusablePool>,
    /// In the order given.
    pub claims: Vec<ClaimReport>,
}

/// One claim.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReport {
    /// `namespace/name`
    pub claim: String,
    /// As the scheduler would write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<AllocationResult>,
    /// Requests and subrequests in order.
    pub requests: Vec<RequestReport>,
    /// In order.
    pub constraints: Vec<ConstraintReport>,
}

/// One request or subrequest.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestReport {
    /// `req` or `req/sub`
    pub request: String,
    /// Its DeviceClass.
    pub class: String,
    /// How many devices it needs here.
    pub needs: usize,
    /// It asks for all that match.
    pub all: bool,
    /// It shares devices with their holders.
    pub admin_access: bool,
    /// A funnel: each selector sees what the ones before it left.
    pub selectors: Vec<SelectorReport>,
    /// Devices that all selectors are true for but that can't be had anyway.
    pub set_aside: Vec<Group>,
    /// Devices that could be had if nobody held them.
    pub eligible: usize,
    /// Who holds how many of them.
    pub taken: Vec<Group>,
    /// Eligible and free.
    pub free: usize,
}

/// One selector.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SelectorReport {
    /// Of the DeviceClass, not of the request.
    pub of_class: bool,
    /// Place in its list, from 0.
    pub index: usize,
    /// On one line.
    pub expression: String,
    /// Devices that it saw.
    pub tested: usize,
    /// Devices that it is true for.
    pub matched: usize,
    /// Devices that it has no answer for; each makes the scheduler give the claim up when it comes to it.
    pub errors: usize,
    /// The rest, by reason, largest first.
    pub failed: Vec<Group>,
}

/// Devices with one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Without a full stop.
    pub reason: String,
    /// `pool/device`, in order.
    pub devices: Vec<String>,
}

/// One constraint.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConstraintReport {
    /// `matchAttribute` or `distinctAttribute`
    pub kind: &'static str,
    /// `domain/name`
    pub attribute: String,
    /// As in the claim; empty is all.
    pub requests: Vec<String>,
    /// Whether it can hold by itself with the free devices there are.
    pub can_hold: bool,
    /// Free devices of its requests by value, the largest share first.
    pub values: Vec<Share>,
    /// Those of them that don't publish the attribute (or as a list) and so can't be taken.
    pub without: usize,
}

/// How many devices have a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// As a selector would write it.
    pub value: String,
    /// Free devices that have it.
    pub devices: usize,
}

/// Explains what the scheduler finds for the claims of one pod on `node`, or why it finds nothing.
///
/// # Errors
/// What keeps anybody from looking at devices: a class that does not exist, a selector that is no CEL.
pub fn explain(cluster: &Cluster<'_>, claims: &[Wanted<'_>], node: &Node) -> Result<Explanation, Refusal> {
    let problem = Problem::new(cluster, claims, node)?;
    let found = search(&problem);
    let mut reports: Vec<ClaimReport> =
        (0..claims.len()).map(|claim| claim_report(&problem, claim)).collect();
    let reasons = match &found {
        Ok(chosen) => {
            for (report, allocation) in reports.iter_mut().zip(result::results(&problem, chosen, node)) {
                report.allocation = Some(allocation);
            }
            Vec::new()
        }
        Err(refusal) => reasons(&problem, &reports, refusal),
    };
    Ok(Explanation {
        node: node.name.clone(),
        allocatable: found.is_ok(),
        fatal: found.as_ref().is_err_and(Refusal::is_fatal),
        reasons,
        devices: problem.candidates.len(),
        unusable_pools: problem.unusable.clone(),
        claims: reports,
    })
}

fn claim_report(problem: &Problem<'_>, claim: usize) -> ClaimReport {
    let requests = problem.requests.iter().enumerate().filter(|(_, request)| request.claim == claim);
    let constraints = problem.constraints.iter().enumerate().filter(|(_, c)| c.claim == claim);
    ClaimReport {
        claim: problem.claim_name(claim).to_owned(),
        allocation: None,
        requests: requests.map(|(number, _)| request_report(problem, number)).flatten().collect(),
        constraints: constraints.map(|(number, _)| constraint_report(problem, number)).flatten().collect(),
    }
}

fn request_report(problem: &Problem<'_>, number: usize) -> Option<RequestReport> {
    let request = problem.requests.get(number)?;
    let verdicts = problem.verdicts.get(number)?;
    let of_class = request.class_selectors().len();
    let name = |device: usize| problem.candidates.get(device).map(|c| c.id.to_string()).unwrap_or_default();

    let mut selectors = Vec::new();
    let mut left: Vec<usize> = (0..verdicts.len()).collect();
    for (place, selector) in problem.selectors.get(number)?.iter().enumerate() {
        let expression = problem.judge.selector(*selector)?.expression();
        let fails = |device: &usize| matches!(verdicts.get(*device), Some(Verdict::Rejected(at) | Verdict::Error(at)) if *at == place);
        let (failed, passed): (Vec<usize>, Vec<usize>) = left.iter().copied().partition(fails);
        let dissected = if failed.is_empty() { None } else { Dissected::new(expression) };
        let mut groups = Groups::default();
        let mut errors = 0;
        for device in failed {
            let error =
                problem.judge.known_answer(*selector, device).and_then(|answer| answer.as_ref().err());
            errors += usize::from(error.is_some());
            let reason = dissected.as_ref().zip(problem.candidates.get(device));
            let reason =
                reason.map(|(parts, candidate)| parts.reason(candidate, problem.judge.facts(device), error));
            groups.add(reason.unwrap_or_default(), name(device));
        }
        selectors.push(SelectorReport {
            of_class: place < of_class,
            index: place.checked_sub(of_class).unwrap_or(place),
            expression: one_line(expression),
            tested: left.len(),
            matched: passed.len(),
            errors,
            failed: groups.sorted(),
        });
        left = passed;
    }

    let (mut set_aside, mut taken) = (Groups::default(), Groups::default());
    let (mut eligible, mut free) = (0, 0);
    for device in left {
        let candidate = problem.candidates.get(device)?;
        let reason = match verdicts.get(device)? {
            Verdict::Fits => {
                eligible += 1;
                match problem.holders.get(device).copied().flatten().filter(|_| !request.admin_access) {
                    Some(holder) => taken.add(holder.to_owned(), name(device)),
                    None => free += 1,
                }
                continue;
            }
            Verdict::Rejected(_) | Verdict::Error(_) => continue,
            Verdict::OtherNode => "it is for other nodes".to_owned(),
            Verdict::Capacity => capacity_problem(request, candidate.device).unwrap_or_default(),
            Verdict::Shared => {
                "it is shared or partitioned, and what is left of it is not counted here".to_owned()
            }
            Verdict::Tainted => untolerated(request, candidate.device)
                .map(|taint| {
                    let value = taint.value.as_deref().map(|value| format!("={value}")).unwrap_or_default();
                    format!("taint {}{value}:{} is not tolerated", taint.key, taint.effect)
                })
                .unwrap_or_default(),
        };
        set_aside.add(reason, name(device));
    }
    Some(RequestReport {
        request: request.full_name(),
        class: request.class_name().to_owned(),
        needs: problem.needs(number),
        all: request.amount == Amount::All,
        admin_access: request.admin_access,
        selectors,
        set_aside: set_aside.sorted(),
        eligible,
        taken: taken.sorted(),
        free,
    })
}

fn constraint_report(problem: &Problem<'_>, number: usize) -> Option<ConstraintReport> {
    let constraint = problem.constraints.get(number)?;
    let search = Search::fresh(problem);
    let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
    let mut without = 0;
    for device in 0..problem.candidates.len() {
        let mut requests = problem.requests.iter().enumerate();
        let wanted = requests.any(|(number, request)| {
            constraint.covers(request)
                && problem.verdict(number, device) == Some(Verdict::Fits)
                && search.is_free(number, device)
        });
        match constraint.value(device).filter(|_| wanted) {
            Some(value) => *shares.entry(value).or_default() += 1,
            None => without += usize::from(wanted),
        }
    }
    let value = |number: u32| constraint.values.get(usize::try_from(number).ok()?).map(shown);
    let mut values: Vec<Share> = shares
        .into_iter()
        .map(|(number, devices)| Share { value: value(number).unwrap_or_default(), devices })
        .collect();
    values.sort_by(|a, b| b.devices.cmp(&a.devices).then_with(|| a.value.cmp(&b.value)));
    Some(ConstraintReport {
        kind: match constraint.kind {
            Kind::Match => "matchAttribute",
            Kind::Distinct => "distinctAttribute",
        },
        attribute: constraint.attribute.to_owned(),
        requests: constraint.requests.to_vec(),
        can_hold: search.can_hold_alone(number),
        values,
        without,
    })
}

/// Sentences for a claim that can't be allocated, out of what was found.
fn reasons(problem: &Problem<'_>, reports: &[ClaimReport], refusal: &Refusal) -> Vec<String> {
    if !matches!(refusal, Refusal::NoDevices { .. }) {
        return vec![refusal.to_string()];
    }
    let mut reasons = Vec::new();
    for slot in &problem.slots {
        let own: Vec<&RequestReport> = slot
            .alternatives
            .iter()
            .filter_map(|number| {
                let request = problem.requests.get(*number)?;
                let report = reports.get(slot.claim)?;
                report.requests.iter().find(|report| report.request == request.full_name())
            })
            .collect();
        let short = |report: &&RequestReport| {
            report.free < report.needs || (report.all && !report.set_aside.is_empty())
        };
        if own.iter().all(short) {
            reasons
                .extend(own.iter().map(|report| shortage(problem.claim_name(slot.claim), report, problem)));
        }
    }
    for report in reports {
        for constraint in report.constraints.iter().filter(|constraint| !constraint.can_hold) {
            let most = constraint.values.first().map_or(0, |share| share.devices);
            let what = match constraint.kind {
                "matchAttribute" => format!("the most free devices with one value of it are {most}"),
                _ => format!(
                    "the free devices have {} different value{} of it",
                    constraint.values.len(),
                    if constraint.values.len() == 1 { "" } else { "s" }
                ),
            };
            reasons.push(format!(
                "claim {}: {} {} can't hold: {what}",
                report.claim, constraint.kind, constraint.attribute
            ));
        }
    }
    if reasons.is_empty() {
        reasons.push(
            "each request and each constraint could be satisfied by itself, but no choice of free devices satisfies \
             all of them together"
                .to_owned(),
        );
    }
    reasons
}

fn shortage(claim: &str, report: &RequestReport, problem: &Problem<'_>) -> String {
    let RequestReport { request, needs, eligible, free, all, .. } = report;
    let whose = format!("claim {claim}, request {request}");
    if problem.candidates.is_empty() {
        return match problem.unusable.first() {
            Some(pool) => format!("{whose}: there are no devices: pool {} {}", pool.pool, pool.problem),
            None => format!("{whose}: node {} has no devices", problem.node),
        };
    }
    let held: usize = report.taken.iter().map(|group| group.devices.len()).sum();
    let aside: usize = report.set_aside.iter().map(|group| group.devices.len()).sum();
    if *eligible == 0 && aside == 0 {
        let worst = report.selectors.iter().find(|selector| selector.matched == 0);
        let because = worst.map(|selector| {
            let of = if selector.of_class {
                format!("DeviceClass {}", report.class)
            } else {
                "the request".to_owned()
            };
            format!(": selector {} of {of} is true for none of {}", selector.index, selector.tested)
        });
        return format!("{whose}: no device matches{}", because.unwrap_or_default());
    }
    let matching = eligible + aside;
    let wants = match (*all, *needs) {
        (true, _) => format!("all {matching} devices that match"),
        (false, 1) => format!("1 device, {matching} match"),
        (false, needs) => format!("{needs} devices, {matching} match"),
    };
    let mut parts = vec![format!("{free} free")];
    if held > 0 {
        parts.push(format!("{held} held by claims"));
    }
    if aside > 0 {
        parts.push(format!("{aside} set aside"));
    }
    format!("{whose} needs {wants}: {}", parts.join(", "))
}

/// Devices by reason.
#[derive(Debug, Default)]
struct Groups(BTreeMap<String, Vec<String>>);

impl Groups {
    fn add(&mut self, reason: String, device: String) {
        self.0.entry(reason).or_default().push(device);
    }

    fn sorted(self) -> Vec<Group> {
        let mut groups: Vec<Group> =
            self.0.into_iter().map(|(reason, devices)| Group { reason, devices }).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.devices.len()));
        groups
    }
}
