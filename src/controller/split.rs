//! Which device goes into which slice. Pure.
//!
//! Devices keep the slice they are in while that is possible: a VF that is withheld for a while then rewrites one slice
//! and not every slice after it.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::Device;

/// How many devices fit into one slice (`ResourceSliceMaxDevices` and its smaller twin in the API's types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Devices with nothing but single attributes and capacities.
    pub plain: usize,
    /// As soon as any device has taints, counters or list attributes.
    pub rich: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { plain: 128, rich: 64 }
    }
}

impl Limits {
    fn of(self, devices: &[Device]) -> usize {
        if devices.iter().any(is_rich) { self.rich.max(1) } else { self.plain.max(1) }
    }
}

fn is_rich(device: &Device) -> bool {
    let filled = |list: usize| list > 0;
    filled(device.taints.as_deref().map_or(0, <[_]>::len))
        || filled(device.consumes_counters.as_deref().map_or(0, <[_]>::len))
        || device.attributes.iter().flat_map(BTreeMap::values).any(|attribute| {
            attribute.bools.is_some()
                || attribute.ints.is_some()
                || attribute.strings.is_some()
                || attribute.versions.is_some()
        })
}

/// The devices of each slice, in the order given, at least one slice and never more than needed.
///
/// `places` says in which slice a device is now.
pub fn split<'a>(
    devices: &'a [Device],
    places: &BTreeMap<&str, usize>,
    limits: Limits,
) -> Vec<Vec<&'a Device>> {
    let limit = limits.of(devices);
    let needed = devices.len().div_ceil(limit).max(1);
    if let Some(chunks) = in_place(devices, places, limit, needed) {
        return chunks;
    }
    let chunks: Vec<Vec<&Device>> = devices.chunks(limit).map(|chunk| chunk.iter().collect()).collect();
    if chunks.is_empty() { vec![Vec::new()] } else { chunks }
}

/// The split that leaves each device in its slice; `None` where order, room or the number of slices forbid it.
fn in_place<'a>(
    devices: &'a [Device],
    places: &BTreeMap<&str, usize>,
    limit: usize,
    needed: usize,
) -> Option<Vec<Vec<&'a Device>>> {
    let mut chunks = vec![Vec::new(); needed];
    let mut at = 0;
    for device in devices {
        match places.get(device.name.as_str()) {
            Some(place) if *place < at => return None,
            Some(place) => at = *place,
            // A new device joins the one before it, or opens the next slice where that one is full.
            None if chunks.get(at).is_some_and(|chunk: &Vec<&Device>| chunk.len() >= limit) => at += 1,
            None => {}
        }
        let chunk = chunks.get_mut(at).filter(|chunk| chunk.len() < limit)?;
        chunk.push(device);
    }
    let full = devices.is_empty() || chunks.iter().all(|chunk| !chunk.is_empty());
    full.then_some(chunks)
}
