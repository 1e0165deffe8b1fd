//! The devices a node can use: those of complete pools, in the order in which the scheduler tries them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{self as resource, ResourceSlice};
use serde::Serialize;

use super::DeviceId;
use super::node::{Node, is_for};

/// A device the node can use.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub id: DeviceId,
    pub device: &'a resource::Device,
    pub slice: &'a ResourceSlice,
}

/// A pool nothing is allocated from now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusablePool {
    /// Its driver.
    pub driver: String,
    /// Its name.
    pub pool: String,
    /// A sentence without its subject.
    pub problem: String,
}

/// The devices of all usable pools, and the pools that are not. Pools are in the order of driver and name, those with
/// devices that bind late come last; slices are in the order of their names.
pub(super) fn gather<'a>(
    slices: &'a [ResourceSlice],
    node: &Node,
) -> (Vec<Candidate<'a>>, Vec<UnusablePool>) {
    let mut pools: BTreeMap<(&str, &str), Vec<&ResourceSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| is_relevant(slice, node)) {
        let pool = pools.entry((&slice.spec.driver, &slice.spec.pool.name)).or_default();
        let newest = pool.first().map(|first| first.spec.pool.generation);
        match newest.map(|newest| slice.spec.pool.generation.cmp(&newest)) {
            Some(std::cmp::Ordering::Less) => {}
            Some(std::cmp::Ordering::Greater) => *pool = vec![slice],
            Some(std::cmp::Ordering::Equal) | None => pool.push(slice),
        }
    }

    let (mut first, mut last, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
    for ((driver, pool), mut own) in pools {
        match problem(slices, &own) {
            Completeness::Usable => {
                own.sort_by_key(|slice| slice.metadata.name.as_deref().unwrap_or_default());
                let late = devices(&own).any(|(_, device)| {
                    device.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
                });
                let group = if late { &mut last } else { &mut first };
                group.extend(devices(&own).map(|(slice, device)| Candidate {
                    id: DeviceId {
                        driver: driver.to_owned(),
                        pool: pool.to_owned(),
                        device: device.name.clone(),
                    },
                    device,
                    slice,
                }));
            }
            // A newer generation has nothing for this node.
            Completeness::Obsolete => {}
            Completeness::Unusable(problem) => {
                unusable.push(UnusablePool { driver: driver.to_owned(), pool: pool.to_owned(), problem })
            }
        }
    }
    first.append(&mut last);
    (first, unusable)
}

fn devices<'a>(
    slices: &[&'a ResourceSlice],
) -> impl Iterator<Item = (&'a ResourceSlice, &'a resource::Device)> {
    slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten().map(move |device| (*slice, device)))
}

fn is_relevant(slice: &ResourceSlice, node: &Node) -> bool {
    let spec = &slice.spec;
    if spec.shared_counters.as_ref().is_some_and(|counters| !counters.is_empty()) {
        return true;
    }
    if spec.per_device_node_selection == Some(true) {
        return spec.devices.iter().flatten().any(|device| is_for_node(device, node));
    }
    is_for(node, spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref())
}

/// For a device of a slice with `perDeviceNodeSelection`.
pub(super) fn is_for_node(device: &resource::Device, node: &Node) -> bool {
    is_for(node, device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref())
}

enum Completeness {
    Usable,
    Obsolete,
    Unusable(String),
}

fn problem(all: &[ResourceSlice], own: &[&ResourceSlice]) -> Completeness {
    let Some(first) = own.first() else { return Completeness::Obsolete };
    let pool = &first.spec.pool;
    let wanted = usize::try_from(pool.resource_slice_count).unwrap_or(0);
    if own.len() != wanted {
        let same = |slice: &&ResourceSlice| {
            slice.spec.driver == first.spec.driver && slice.spec.pool.name == pool.name
        };
        let newest = all.iter().filter(same).map(|slice| slice.spec.pool.generation).max();
        if newest > Some(pool.generation) {
            return Completeness::Obsolete;
        }
        let there =
            all.iter().filter(same).filter(|slice| slice.spec.pool.generation == pool.generation).count();
        if there != wanted {
            return Completeness::Unusable(format!(
                "is incomplete: {there} of {wanted} slices of generation {} are there",
                pool.generation
            ));
        }
    }
    let mut names = BTreeSet::new();
    match devices(own).find(|(_, device)| !names.insert(&device.name)) {
        Some((_, twice)) => Completeness::Unusable(format!("has device {} twice", twice.name)),
        None => Completeness::Usable,
    }
}
