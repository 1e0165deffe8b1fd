//! The slices as the watch shows them, with this controller's own writes already in. Pure.
//!
//! A write is known here before the watch tells of it: the next round must not create the same slice twice, nor raise
//! the generation because of a slice it has just deleted.
//!
//! Slices rest here as JSON, a fifth of what they are as objects: an agent looks at them once a change, and waits for
//! days in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1::ResourceSlice;

/// How long an event with a resourceVersion that can't be compared may contradict an own write.
const UNSEEN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct View {
    live: BTreeMap<String, Packed>,
    own: BTreeMap<String, Own>,
    listing: Option<Listing>,
    complete: bool,
}

/// A slice at rest.
#[derive(Debug, Clone)]
struct Packed {
    uid: Option<String>,
    version: String,
    json: Box<[u8]>,
}

#[derive(Debug)]
struct Listing {
    since: Instant,
    found: BTreeMap<String, Packed>,
}

#[derive(Debug)]
enum Own {
    Wrote { version: String, at: Instant },
    Deleted { uid: Option<String>, at: Instant },
}

impl View {
    /// A first list was complete; before that, absence means nothing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// All slices, in the order of their names.
    pub fn slices(&self) -> Vec<ResourceSlice> {
        self.live.values().filter_map(|packed| serde_json::from_slice(&packed.json).ok()).collect()
    }

    /// A list begins.
    pub fn list_begins(&mut self, now: Instant) {
        self.listing = Some(Listing { since: now, found: BTreeMap::new() });
    }

    /// The list holds this slice.
    pub fn listed(&mut self, slice: ResourceSlice) {
        if let Some(listing) = &mut self.listing {
            listing.found.insert(name(&slice), Packed::new(slice));
        }
    }

    /// The list is complete and replaces all but own writes that are younger than its beginning.
    pub fn list_ends(&mut self, now: Instant) {
        let Some(Listing { since, mut found }) = self.listing.take() else {
            return;
        };
        self.own.retain(|_, own| own.at() >= since);
        for (name, own) in &self.own {
            match own {
                Own::Deleted { uid, .. } => {
                    found.retain(|listed, slice| listed != name || slice.uid != *uid);
                }
                Own::Wrote { version, at } => {
                    let stale = found.get(name).is_none_or(|s| older(&s.version, version, *at, now));
                    if let Some(ours) = self.live.get(name).filter(|_| stale) {
                        found.insert(name.clone(), ours.clone());
                    }
                }
            }
        }
        self.live = found;
        self.complete = true;
    }

    /// The watch says that the slice was added or changed.
    pub fn seen(&mut self, slice: ResourceSlice, now: Instant) {
        let name = name(&slice);
        match self.own.get(&name) {
            Some(Own::Deleted { uid, at }) if *uid == slice.metadata.uid && now < *at + UNSEEN => return,
            Some(Own::Wrote { version, at }) if older(&version_of(&slice), version, *at, now) => return,
            _ => {}
        }
        self.own.remove(&name);
        self.live.insert(name, Packed::new(slice));
    }

    /// The watch says that the slice is gone.
    pub fn gone(&mut self, slice: &ResourceSlice) {
        let name = name(slice);
        if self.live.get(&name).is_some_and(|live| live.uid == slice.metadata.uid) {
            self.live.remove(&name);
        }
        self.own.remove(&name);
    }

    /// This controller wrote the slice; the server answered with it.
    pub fn wrote(&mut self, slice: ResourceSlice, now: Instant) {
        let name = name(&slice);
        self.own.insert(name.clone(), Own::Wrote { version: version_of(&slice), at: now });
        self.live.insert(name, Packed::new(slice));
    }

    /// This controller deleted the slice, or the server said that it doesn't exist.
    pub fn deleted(&mut self, name: &str, now: Instant) {
        if let Some(slice) = self.live.remove(name) {
            self.own.insert(name.to_owned(), Own::Deleted { uid: slice.uid, at: now });
        }
    }
}

impl Packed {
    fn new(mut slice: ResourceSlice) -> Self {
        // Longer than the slice, and nothing reads it.
        slice.metadata.managed_fields = None;
        // Into memory, with strings for keys: there is nothing that could fail.
        let json = serde_json::to_vec(&slice).unwrap_or_default().into_boxed_slice();
        Self { version: version_of(&slice), uid: slice.metadata.uid, json }
    }
}

impl Own {
    fn at(&self) -> Instant {
        match self {
            Own::Wrote { at, .. } | Own::Deleted { at, .. } => *at,
        }
    }
}

fn name(slice: &ResourceSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

fn version_of(slice: &ResourceSlice) -> String {
    slice.metadata.resource_version.clone().unwrap_or_default()
}

/// Numbers in every server so far, and by KEP-5504 for good; any other text is old until it equals the own one.
fn older(seen: &str, own: &str, at: Instant, now: Instant) -> bool {
    match (seen.parse::<u64>(), own.parse::<u64>()) {
        (Ok(seen), Ok(own)) => seen < own,
        _ => seen != own && now < at + UNSEEN,
    }
}

#[cfg(test)]
#[path = "tests/view.rs"]
mod tests;
