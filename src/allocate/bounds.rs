//! Necessary conditions: when one is broken, no choice of the remaining devices can work.

use std::collections::{BTreeMap, BTreeSet};

use super::constraint::Kind;
use super::search::Search;

/// A slot that is still to be filled.
struct Open {
    /// Request, how many devices it still needs, and from which device on.
    alternatives: Vec<(usize, usize, usize)>,
}

impl Search<'_, '_> {
    /// Whether `missing` devices from `start` on for `request`, and everything after it, can still be had as far as
    /// these bounds tell:
    /// - every slot has enough devices;
    /// - every `matchAttribute` that is still open has a value that is enough for every slot it covers;
    /// - every `distinctAttribute` has enough values, and they can be spread over the slots it covers.
    pub(super) fn can_still_work(&self, slot: usize, request: usize, missing: usize, start: usize) -> bool {
        let mut open = vec![Open { alternatives: vec![(request, missing, start)] }];
        open.extend(self.problem.slots.iter().skip(slot + 1).map(|later| Open {
            alternatives: later.alternatives.iter().map(|r| (*r, self.problem.needs(*r), 0)).collect(),
        }));
        let enough = open.iter().all(|slot| {
            let mut alternatives = slot.alternatives.iter();
            alternatives.any(|(request, need, start)| self.count(*request, *start, *need) >= *need)
        });
        enough && (0..self.problem.constraints.len()).all(|constraint| self.can_hold(constraint, &open))
    }

    /// Whether one constraint can hold by itself when nothing is chosen yet.
    pub(super) fn can_hold_alone(&self, constraint: usize) -> bool {
        let open: Vec<Open> = self
            .problem
            .slots
            .iter()
            .map(|slot| Open {
                alternatives: slot.alternatives.iter().map(|r| (*r, self.problem.needs(*r), 0)).collect(),
            })
            .collect();
        self.can_hold(constraint, &open)
    }

    fn devices(&self, request: usize, start: usize) -> impl Iterator<Item = usize> {
        (start..self.problem.candidates.len()).filter(move |device| self.may_take(request, *device))
    }

    /// How many devices the request could take; counting ends at `limit`.
    fn count(&self, request: usize, start: usize, limit: usize) -> usize {
        self.devices(request, start).take(limit).count()
    }

    fn can_hold(&self, constraint: usize, open: &[Open]) -> bool {
        let Some(the) = self.problem.constraints.get(constraint) else { return true };
        let covers = |request: usize| self.problem.requests.get(request).is_some_and(|r| the.covers(r));
        // A slot with an alternative that is not covered may get around the constraint.
        let covered: Vec<&Open> = open
            .iter()
            .filter(|slot| slot.alternatives.iter().all(|(request, ..)| covers(*request)))
            .collect();
        if covered.is_empty() {
            return true;
        }
        let mut values = covered.iter().map(|slot| {
            let mut counts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (number, (request, _, start)) in slot.alternatives.iter().enumerate() {
                for device in self.devices(*request, *start) {
                    if let Some(value) = the.value(device) {
                        let of_value =
                            counts.entry(value).or_insert_with(|| vec![0; slot.alternatives.len()]);
                        if let Some(count) = of_value.get_mut(number) {
                            *count += 1;
                        }
                    }
                }
            }
            (*slot, counts)
        });
        match the.kind {
            // Once it is settled, only devices of its value were counted above.
            Kind::Match if !self.is_open_match(constraint) => true,
            Kind::Match => {
                let mut good: Option<BTreeSet<u32>> = None;
                for (slot, counts) in values {
                    let enough = counts.iter().filter(|(_, counts)| {
                        counts.iter().zip(&slot.alternatives).any(|(count, (_, need, _))| count >= need)
                    });
                    let enough: BTreeSet<u32> = enough.map(|(value, _)| *value).collect();
                    good = Some(match good {
                        Some(good) => good.intersection(&enough).copied().collect(),
                        None => enough,
                    });
                }
                good.is_none_or(|good| !good.is_empty())
            }
            Kind::Distinct => {
                let mut units: Vec<Vec<u32>> = Vec::new();
                values.all(|(slot, counts)| {
                    let values: Vec<u32> = counts.into_keys().collect();
                    let need = slot.alternatives.iter().map(|(_, need, _)| *need).min().unwrap_or(0);
                    units.extend(std::iter::repeat_n(values.clone(), need.min(values.len() + 1)));
                    need <= values.len()
                }) && is_matching_possible(&units)
            }
        }
    }
}

/// Whether every unit can have a value of its own out of its list (augmenting paths in a bipartite graph).
fn is_matching_possible(units: &[Vec<u32>]) -> bool {
    let mut owner: BTreeMap<u32, usize> = BTreeMap::new();
    (0..units.len()).all(|unit| augment(unit, units, &mut owner, &mut BTreeSet::new()))
}

fn augment(
    unit: usize,
    units: &[Vec<u32>],
    owner: &mut BTreeMap<u32, usize>,
    visited: &mut BTreeSet<u32>,
) -> bool {
    let Some(values) = units.get(unit) else { return false };
    if let Some(free) = values.iter().find(|value| !owner.contains_key(*value)) {
        owner.insert(*free, unit);
        return true;
    }
    for value in values {
        if visited.insert(*value)
            && let Some(other) = owner.get(value).copied()
            && augment(other, units, owner, visited)
        {
            owner.insert(*value, unit);
            return true;
        }
    }
    false
}
