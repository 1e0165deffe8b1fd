//! Pools that could give out the same address.

use std::collections::BTreeMap;

use super::pool::Pool;
use super::span::Span;

/// What a pool has in common with others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Older pools: this one claims no block as long as they overlap.
    pub older: Vec<String>,
    /// Younger pools.
    pub younger: Vec<String>,
    /// What younger pools reach: no new block may touch it, as they may have given it out already.
    pub avoid: Vec<Span>,
    /// One place where they meet: with the oldest of the others.
    pub place: Option<Span>,
}

/// Pools that overlap, by name. `pools` are in the order of their age.
pub fn overlaps(pools: &[Pool]) -> BTreeMap<String, Overlap> {
    let mut found: BTreeMap<String, Overlap> = BTreeMap::new();
    for (at, older) in pools.iter().enumerate() {
        for younger in &pools[at + 1..] {
            let (one, other) = (older.reach(), younger.reach());
            let Some(place) = one.iter().find_map(|span| other.iter().find_map(|other| span.common(other)))
            else {
                continue;
            };
            let first = found.entry(older.name.clone()).or_default();
            first.younger.push(younger.name.clone());
            first.avoid.extend(other);
            first.place.get_or_insert(place);
            let second = found.entry(younger.name.clone()).or_default();
            second.older.push(older.name.clone());
            second.place.get_or_insert(place);
        }
    }
    found
}
