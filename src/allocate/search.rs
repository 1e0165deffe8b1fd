//! Chooses devices: depth first, first fit, in the scheduler's order.
//!
//! The scheduler tries every combination until its time is up. This search finds the same first solution but leaves
//! out what can't lead to one: a device of a kind that has failed at the same place, and a branch in which a bound
//! ([`Search::can_still_work`]) is broken.

use super::Refusal;
use super::constraint::{Chosen, Kind};
use super::judge::Verdict;
use super::problem::Problem;
use super::request::Amount;

/// Devices of one allocation (`AllocationResultsMaxSize` in resource.k8s.io/v1).
pub(super) const MOST_RESULTS: usize = 32;

/// Tries after which there is no answer. The scheduler gives up after ten seconds; this takes about as long at worst.
const MOST_STEPS: usize = 200_000;

/// A device for a request, both as indices into the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub request: usize,
    pub device: usize,
}

/// Devices for every slot, in the order of the slots.
pub(super) fn search(problem: &Problem<'_>) -> Result<Vec<Choice>, Refusal> {
    refuse_unclear_all(problem)?;
    let mut search = Search::fresh(problem);
    match search.slot(0)? {
        true => Ok(search.chosen),
        false => Err(Refusal::NoDevices { node: problem.node.to_owned() }),
    }
}

/// "All devices" is settled before anything is tried, so that its faults are faults of the claim.
fn refuse_unclear_all(problem: &Problem<'_>) -> Result<(), Refusal> {
    for (number, request) in problem.requests.iter().enumerate() {
        if request.amount != Amount::All {
            continue;
        }
        if let Some(pool) = problem.unusable.first() {
            return Err(Refusal::PoolUnusable {
                claim: problem.claim_name(request.claim).to_owned(),
                request: request.full_name(),
                pool: pool.pool.clone(),
                driver: pool.driver.clone(),
                problem: pool.problem.clone(),
            });
        }
        for (device, verdict) in problem.verdicts.get(number).into_iter().flatten().enumerate() {
            if let Verdict::Error(place) = verdict {
                return Err(problem.selector_error(number, *place, device));
            }
        }
    }
    Ok(())
}

pub(super) struct Search<'p, 'a> {
    pub(super) problem: &'p Problem<'a>,
    /// By device: claims of this pod that it is chosen for, a bit each.
    users: Vec<u64>,
    chosen: Vec<Choice>,
    /// By constraint.
    sets: Vec<Chosen>,
    steps: usize,
}

impl<'p, 'a> Search<'p, 'a> {
    /// Nothing chosen yet.
    pub(super) fn fresh(problem: &'p Problem<'a>) -> Self {
        Self {
            problem,
            users: vec![0; problem.candidates.len()],
            chosen: Vec::new(),
            sets: vec![Chosen::default(); problem.constraints.len()],
            steps: 0,
        }
    }

    fn slot(&mut self, slot: usize) -> Result<bool, Refusal> {
        let Some(here) = self.problem.slots.get(slot) else { return Ok(true) };
        for request in &here.alternatives {
            let amount = self.problem.requests.get(*request).map(|request| request.amount);
            let found = match amount {
                Some(Amount::Exactly(count)) => self.some(slot, *request, count, 0)?,
                Some(Amount::All) => self.all(slot, *request)?,
                None => false,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `missing` more devices for a request, from the device `start` on: the order of devices within a request means
    /// nothing, so only ascending ones are tried.
    fn some(&mut self, slot: usize, request: usize, missing: usize, start: usize) -> Result<bool, Refusal> {
        if missing == 0 {
            return self.slot(slot + 1);
        }
        if !self.has_room(request, missing) {
            return Ok(false);
        }
        let hopeless = !self.can_still_work(slot, request, missing, start);
        let mut failed: Vec<(u32, u64)> = Vec::new();
        for device in start..self.problem.candidates.len() {
            if !self.is_free(request, device) {
                continue;
            }
            match self.problem.verdict(request, device) {
                Some(Verdict::Fits) if !hopeless => {}
                // The scheduler would come here, too: it looks at every device before it gives up.
                Some(Verdict::Error(place)) => {
                    return Err(self.problem.selector_error(request, place, device));
                }
                _ => continue,
            }
            let kind = (
                self.problem.kinds.get(device).copied().unwrap_or_default(),
                self.users.get(device).copied().unwrap_or_default(),
            );
            if failed.contains(&kind) || self.blocking(request, device).is_some() {
                continue;
            }
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return Err(Refusal::TooManyTries { steps: MOST_STEPS });
            }
            self.take(request, device);
            if self.some(slot, request, missing - 1, device + 1)? {
                return Ok(true);
            }
            self.give_back(request, device);
            failed.push(kind);
        }
        Ok(false)
    }

    fn all(&mut self, slot: usize, request: usize) -> Result<bool, Refusal> {
        let devices = self.problem.all_devices(request);
        if devices.is_empty() || !self.has_room(request, devices.len()) {
            return Ok(false);
        }
        let before = self.chosen.len();
        for device in devices {
            if !self.is_free(request, device) || self.problem.verdict(request, device) != Some(Verdict::Fits)
            {
                self.back_to(before);
                return Ok(false);
            }
            if let Some(constraint) = self.blocking(request, device) {
                return Err(self.all_constrained(request, device, constraint));
            }
            self.take(request, device);
        }
        if self.slot(slot + 1)? {
            return Ok(true);
        }
        self.back_to(before);
        Ok(false)
    }

    fn all_constrained(&self, request: usize, device: usize, constraint: usize) -> Refusal {
        let problem = self.problem;
        let asked = problem.requests.get(request);
        Refusal::AllConstrained {
            claim: asked.map(|asked| problem.claim_name(asked.claim).to_owned()).unwrap_or_default(),
            request: asked.map(|asked| asked.full_name()).unwrap_or_default(),
            attribute: problem
                .constraints
                .get(constraint)
                .map(|c| c.attribute.to_owned())
                .unwrap_or_default(),
            device: problem.candidates.get(device).map(|c| c.id.to_string()).unwrap_or_default(),
        }
    }

    fn has_room(&self, request: usize, more: usize) -> bool {
        let claim = |number: usize| self.problem.requests.get(number).map(|request| request.claim);
        let used = self.chosen.iter().filter(|choice| claim(choice.request) == claim(request)).count();
        used.saturating_add(more) <= MOST_RESULTS
    }

    /// Admin access shares a device with anybody but its own claim.
    pub(super) fn is_free(&self, request: usize, device: usize) -> bool {
        let Some(asked) = self.problem.requests.get(request) else { return false };
        let users = self.users.get(device).copied().unwrap_or_default();
        match asked.admin_access {
            true => users & bit(asked.claim) == 0,
            false => users == 0 && self.problem.holders.get(device).is_some_and(Option::is_none),
        }
    }

    /// The constraint that keeps the device out.
    fn blocking(&self, request: usize, device: usize) -> Option<usize> {
        let asked = self.problem.requests.get(request)?;
        let mut constraints = self.problem.constraints.iter().zip(&self.sets).enumerate();
        constraints
            .find(|(_, (constraint, set))| {
                constraint.covers(asked) && !set.accepts(constraint.kind, constraint.value(device))
            })
            .map(|(number, _)| number)
    }

    pub(super) fn may_take(&self, request: usize, device: usize) -> bool {
        // What has no answer counts as possible: coming to it is for the search to decide.
        matches!(self.problem.verdict(request, device), Some(Verdict::Fits | Verdict::Error(_)))
            && self.is_free(request, device)
            && self.blocking(request, device).is_none()
    }

    /// The value all devices have to match that is not settled yet.
    pub(super) fn is_open_match(&self, constraint: usize) -> bool {
        self.problem.constraints.get(constraint).is_some_and(|c| c.kind == Kind::Match)
            && self.sets.get(constraint).is_some_and(Chosen::is_open)
    }

    fn take(&mut self, request: usize, device: usize) {
        let Some(asked) = self.problem.requests.get(request) else { return };
        for (constraint, set) in self.problem.constraints.iter().zip(&mut self.sets) {
            if let Some(value) = constraint.value(device).filter(|_| constraint.covers(asked)) {
                set.push(value);
            }
        }
        if let Some(users) = self.users.get_mut(device) {
            *users |= bit(asked.claim);
        }
        self.chosen.push(Choice { request, device });
    }

    fn give_back(&mut self, request: usize, device: usize) {
        let Some(asked) = self.problem.requests.get(request) else { return };
        for (constraint, set) in self.problem.constraints.iter().zip(&mut self.sets) {
            if constraint.covers(asked) && constraint.value(device).is_some() {
                set.pop();
            }
        }
        if let Some(users) = self.users.get_mut(device) {
            *users &= !bit(asked.claim);
        }
        self.chosen.pop();
    }

    fn back_to(&mut self, length: usize) {
        while self.chosen.len() > length
            && let Some(Choice { request, device }) = self.chosen.last().copied()
        {
            self.give_back(request, device);
        }
    }
}

/// A pod has far fewer claims than bits.
fn bit(claim: usize) -> u64 {
    1_u64.checked_shl(u32::try_from(claim).unwrap_or(63)).unwrap_or(1 << 63)
}
