//! Everything the search needs, worked out once.

use std::collections::HashMap;

use super::constraint::Constraint;
use super::judge::{Judge, Verdict};
use super::pools::{Candidate, UnusablePool, gather};
use super::request::{Amount, Request, Slot, requests};
use super::{Cluster, Node, Refusal, Wanted};
use crate::policy::cel::CelError;

/// One pod's claims on one node.
#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub node: &'a str,
    pub claims: &'a [Wanted<'a>],
    pub candidates: Vec<Candidate<'a>>,
    pub unusable: Vec<UnusablePool>,
    pub requests: Vec<Request<'a>>,
    pub slots: Vec<Slot>,
    pub constraints: Vec<Constraint<'a>>,
    pub judge: Judge<'a>,
    /// By request: its selectors, those of its class first.
    pub selectors: Vec<Vec<usize>>,
    /// By request and device.
    pub verdicts: Vec<Vec<Verdict>>,
    /// By device: who has it.
    pub holders: Vec<Option<&'a str>>,
    /// By device: devices of one kind can stand in for each other everywhere.
    pub kinds: Vec<u32>,
}

impl<'a> Problem<'a> {
    pub fn new(cluster: &Cluster<'a>, claims: &'a [Wanted<'a>], node: &'a Node) -> Result<Self, Refusal> {
        let (candidates, unusable) = gather(cluster.slices, node);
        let (requests, slots) = requests(claims, cluster.classes)?;
        let mut judge = Judge::new(&candidates);
        let mut selectors = Vec::new();
        for request in &requests {
            let claim = claims.get(request.claim).map_or("", |claim| claim.name);
            selectors.push(judge.compile(claim, request)?);
        }
        let mut constraints = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            let list = claim.spec.devices.as_ref().and_then(|devices| devices.constraints.as_ref());
            for constraint in list.into_iter().flatten() {
                constraints.push(Constraint::new(index, claim, constraint, &candidates)?);
            }
        }
        let mut verdicts: Vec<Vec<Verdict>> = Vec::new();
        for (request, selectors) in requests.iter().zip(&selectors) {
            let each = candidates.iter().enumerate();
            verdicts.push(
                each.map(|(number, candidate)| judge.verdict(selectors, request, number, candidate, node))
                    .collect(),
            );
        }
        let holders: Vec<Option<&str>> = candidates
            .iter()
            .map(|candidate| cluster.taken.0.get(&candidate.id).map(String::as_str))
            .collect();
        let kinds = kinds(&verdicts, &constraints, &holders);
        Ok(Self {
            node: &node.name,
            claims,
            candidates,
            unusable,
            requests,
            slots,
            constraints,
            judge,
            selectors,
            verdicts,
            holders,
            kinds,
        })
    }

    pub fn verdict(&self, request: usize, device: usize) -> Option<Verdict> {
        self.verdicts.get(request)?.get(device).copied()
    }

    /// What a request for all devices means here: all that its selectors are true for, held or not.
    pub fn all_devices(&self, request: usize) -> Vec<usize> {
        let verdicts = self.verdicts.get(request).into_iter().flatten().enumerate();
        verdicts.filter(|(_, verdict)| verdict.is_selected()).map(|(device, _)| device).collect()
    }

    /// How many devices a request needs.
    pub fn needs(&self, request: usize) -> usize {
        match self.requests.get(request).map(|request| request.amount) {
            Some(Amount::Exactly(count)) => count,
            Some(Amount::All) => self.all_devices(request).len().max(1),
            None => 0,
        }
    }

    pub fn claim_name(&self, claim: usize) -> &str {
        self.claims.get(claim).map_or("", |claim| claim.name)
    }

    /// The refusal of a claim because selector `place` of `request` has no answer for `device`.
    pub fn selector_error(&self, request: usize, place: usize, device: usize) -> Refusal {
        let Some(asked) = self.requests.get(request) else {
            return Refusal::NoDevices { node: self.node.to_owned() };
        };
        let of_class = asked.class_selectors().len();
        let (source_of, index) = match place.checked_sub(of_class) {
            None => (format!("DeviceClass {}", asked.class_name()), place),
            Some(index) => {
                (format!("claim {}, request {}", self.claim_name(asked.claim), asked.full_name()), index)
            }
        };
        Refusal::SelectorError {
            source_of,
            index,
            device: self.candidates.get(device).map(|c| c.id.to_string()).unwrap_or_default(),
            problem: self.error_of(request, place, device).map(|error| error.to_string()).unwrap_or_default(),
        }
    }

    fn error_of(&self, request: usize, place: usize, device: usize) -> Option<CelError> {
        let number = *self.selectors.get(request)?.get(place)?;
        self.judge.known_answer(number, device)?.as_ref().err().cloned()
    }
}

/// Numbers devices by what the search can tell of them.
fn kinds(verdicts: &[Vec<Verdict>], constraints: &[Constraint<'_>], holders: &[Option<&str>]) -> Vec<u32> {
    let mut known = HashMap::new();
    let mut kinds = Vec::with_capacity(holders.len());
    for (device, holder) in holders.iter().enumerate() {
        let judged: Vec<Option<Verdict>> = verdicts.iter().map(|row| row.get(device).copied()).collect();
        let values: Vec<Option<u32>> = constraints.iter().map(|c| c.value(device)).collect();
        let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
        kinds.push(*known.entry((judged, values, holder.is_some())).or_insert(next));
    }
    kinds
}
