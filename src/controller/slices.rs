//! Offered devices to ResourceSlices, and the difference to what exists. Pure.
//!
//! The rules are those of the kubelet-plugin helper's slice controller (k8s.io/dynamic-resource-allocation,
//! KEP-4381): a pool is usable only while all slices of its highest generation are visible, so one changed slice is
//! updated in place and everything else moves the whole pool to a new generation.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    Device, DeviceAttribute, DeviceTaint, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::split::{Limits, split};
use crate::policy::{AttributeValue, OfferedDevice};

/// Whose slices these are. The pool is named after the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolIdentity {
    /// `spec.driver`
    pub driver: String,
    /// `spec.nodeName` and `spec.pool.name`
    pub node: String,
    /// `metadata.uid` of the Node, which owns the slices: they go when it goes.
    pub node_uid: String,
}

/// A slice to delete, and the state it must still be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obsolete {
    /// `metadata.name`
    pub name: String,
    /// Precondition `uid`.
    pub uid: Option<String>,
    /// Precondition `resourceVersion`.
    pub resource_version: Option<String>,
}

/// What to write, in this order: deletes, updates, creates.
#[derive(Debug, Clone, PartialEq)]
pub struct Actions {
    /// Undecodable, duplicate and surplus slices, and those of another pool name.
    pub delete: Vec<Obsolete>,
    /// Whole objects with the resourceVersion they were read at.
    pub update: Vec<ResourceSlice>,
    /// Objects with `generateName`.
    pub create: Vec<ResourceSlice>,
    /// The pool's generation when all of it is done.
    pub generation: i64,
    /// The pool's number of slices when all of it is done.
    pub slices: usize,
}

impl Actions {
    /// Nothing differs, so nothing is written.
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.update.is_empty() && self.create.is_empty()
    }
}

/// The devices as the API has them.
pub fn devices(offered: &[OfferedDevice]) -> Vec<Device> {
    offered.iter().map(device).collect()
}

fn device(offered: &OfferedDevice) -> Device {
    let attributes = offered.attributes.iter().map(|(key, value)| (key.clone(), attribute(value)));
    Device {
        name: offered.name.clone(),
        // An empty map comes back from the server as no map.
        attributes: (!offered.attributes.is_empty()).then(|| attributes.collect()),
        ..Device::default()
    }
}

fn attribute(value: &AttributeValue) -> DeviceAttribute {
    let mut attribute = DeviceAttribute::default();
    match value {
        AttributeValue::Bool(value) => attribute.bool = Some(*value),
        AttributeValue::Int(value) => attribute.int = Some(*value),
        AttributeValue::String(value) => attribute.string = Some(value.clone()),
        AttributeValue::Version(value) => attribute.version = Some(value.clone()),
    }
    attribute
}

/// What turns `existing` into the pool that offers `desired`, in that order.
///
/// - Slices are matched by the index in their name. One without an index of ours, a second one for an index, and those
///   past the last are deleted.
/// - At most one slice differs, none is new and their number stays: updated at its generation. The same goes for slices
///   that were left behind by a rewrite that broke off: the generation they lack was never complete, so nobody used it.
/// - Anything else: the highest generation that exists plus one, and every slice is written.
/// - No devices is one empty slice, so that "no devices" is a known state and not a missing one.
pub fn plan(existing: &[ResourceSlice], desired: &[Device], pool: &PoolIdentity, limits: Limits) -> Actions {
    let existing: Vec<&ResourceSlice> = existing.iter().filter(|slice| belongs(slice, pool)).collect();
    let in_pool = existing.iter().filter(|slice| slice.spec.pool.name == pool.node);
    let highest = in_pool.map(|slice| slice.spec.pool.generation).max().unwrap_or(0);
    if highest == i64::MAX {
        // Somebody wrote the last generation there is; the pool can only start afresh once it is gone.
        return start_afresh(&existing);
    }

    let (mut current, mut delete) = sort_out(&existing, pool);
    let places = current
        .iter()
        .flat_map(|(index, slice)| slice.spec.devices.iter().flatten().map(|d| (d.name.as_str(), *index)))
        .collect::<BTreeMap<_, _>>();
    let chunks = split(desired, &places, limits);
    delete.extend(current.split_off(&chunks.len()).values().map(|slice| obsolete(slice)));

    let mut changed = 0;
    let mut behind = 0;
    for (index, slice) in &current {
        let same = is_same(slice, pool, &chunks[*index], slice.spec.pool.generation, chunks.len());
        match slice.spec.pool.generation < highest {
            true => behind += 1,
            false if !same => changed += 1,
            false => {}
        }
    }
    let missing = chunks.len() - current.len();
    let recount =
        current.values().any(|s| s.spec.pool.generation == highest && slice_count(s) != chunks.len());
    let renew = missing > 0 || recount || changed > 1 || (changed > 0 && behind > 0);
    let generation = if renew { highest + 1 } else { highest };

    let mut actions =
        Actions { delete, update: Vec::new(), create: Vec::new(), generation, slices: chunks.len() };
    for (index, chunk) in chunks.iter().enumerate() {
        let spec = || slice_spec(pool, chunk, generation, chunks.len());
        match current.get(&index) {
            None => actions.create.push(new_slice(pool, index, spec())),
            Some(slice) if is_same(slice, pool, chunk, generation, chunks.len()) && is_owned(slice, pool) => {
            }
            Some(slice) => actions.update.push(rewritten(slice, pool, spec())),
        }
    }
    actions
}

fn belongs(slice: &ResourceSlice, pool: &PoolIdentity) -> bool {
    slice.spec.driver == pool.driver && slice.spec.node_name.as_deref() == Some(pool.node.as_str())
}

fn start_afresh(existing: &[&ResourceSlice]) -> Actions {
    let delete = existing.iter().map(|slice| obsolete(slice)).collect();
    Actions { delete, update: Vec::new(), create: Vec::new(), generation: 0, slices: 0 }
}

/// One slice for each index, and the rest. Two agents beside each other (an upgrade) must choose the same one of two,
/// hence newest generation first, then the name.
fn sort_out<'a>(
    existing: &[&'a ResourceSlice],
    pool: &PoolIdentity,
) -> (BTreeMap<usize, &'a ResourceSlice>, Vec<Obsolete>) {
    let mut sorted = existing.to_vec();
    sorted.sort_by_key(|slice| (-slice.spec.pool.generation, slice.metadata.name.clone()));
    let mut current = BTreeMap::new();
    let mut rest = Vec::new();
    for slice in sorted {
        let index = slice.metadata.name.as_deref().and_then(index_of);
        match index.filter(|index| slice.spec.pool.name == pool.node && !current.contains_key(index)) {
            Some(index) => {
                current.insert(index, slice);
            }
            None => rest.push(obsolete(slice)),
        }
    }
    (current, rest)
}

fn obsolete(slice: &ResourceSlice) -> Obsolete {
    Obsolete {
        name: slice.metadata.name.clone().unwrap_or_default(),
        uid: slice.metadata.uid.clone(),
        resource_version: slice.metadata.resource_version.clone(),
    }
}

/// Digits of the index that starts a slice's name, as Kubernetes 1.36 names them. The scheduler takes slices in the
/// order of their names.
const INDEX_DIGITS: usize = 5;

/// `00000-sriov-dra.io-node-1-`
pub fn name_prefix(index: usize, pool: &PoolIdentity) -> String {
    // A driver's name may have capitals, an object's may not.
    let driver = pool.driver.to_ascii_lowercase();
    format!("{index:0INDEX_DIGITS$x}-{driver}-{}-", pool.node)
}

/// The index in a slice's name; `None` for a name that this driver doesn't give.
pub fn index_of(name: &str) -> Option<usize> {
    let (digits, _) = name.split_once('-')?;
    let ours = digits.len() == INDEX_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ours.then(|| usize::from_str_radix(digits, 16).ok()).flatten()
}

fn slice_spec(pool: &PoolIdentity, chunk: &[&Device], generation: i64, count: usize) -> ResourceSliceSpec {
    ResourceSliceSpec {
        driver: pool.driver.clone(),
        node_name: Some(pool.node.clone()),
        pool: ResourcePool {
            name: pool.node.clone(),
            generation,
            resource_slice_count: i64::try_from(count).unwrap_or(i64::MAX),
        },
        devices: (!chunk.is_empty()).then(|| chunk.iter().copied().cloned().collect()),
        ..ResourceSliceSpec::default()
    }
}

fn slice_count(slice: &ResourceSlice) -> usize {
    usize::try_from(slice.spec.pool.resource_slice_count).unwrap_or(0)
}

fn new_slice(pool: &PoolIdentity, index: usize, spec: ResourceSliceSpec) -> ResourceSlice {
    let metadata = ObjectMeta {
        generate_name: Some(name_prefix(index, pool)),
        owner_references: Some(vec![owner(pool)]),
        ..ObjectMeta::default()
    };
    ResourceSlice { metadata, spec }
}

fn owner(pool: &PoolIdentity) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: pool.node.clone(),
        uid: pool.node_uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn is_owned(slice: &ResourceSlice, pool: &PoolIdentity) -> bool {
    slice.metadata.owner_references.iter().flatten().any(|reference| *reference == owner(pool))
}

/// `slice` with our spec and owner; labels and annotations of others stay.
fn rewritten(slice: &ResourceSlice, pool: &PoolIdentity, mut spec: ResourceSliceSpec) -> ResourceSlice {
    for device in spec.devices.iter_mut().flatten() {
        let before = slice.spec.devices.iter().flatten().find(|before| before.name == device.name);
        keep_taint_times(device, before);
    }
    let mut metadata = slice.metadata.clone();
    metadata.managed_fields = None;
    let mut owners = metadata.owner_references.take().unwrap_or_default();
    // An object has one controller, and a Node of the same name with another UID is a former one.
    owners.retain(|reference| reference.kind != "Node" && reference.controller != Some(true));
    owners.push(owner(pool));
    metadata.owner_references = Some(owners);
    ResourceSlice { metadata, spec }
}

fn keep_taint_times(device: &mut Device, before: Option<&Device>) {
    let before: Vec<&DeviceTaint> = before.iter().flat_map(|d| d.taints.iter().flatten()).collect();
    for taint in device.taints.iter_mut().flatten().filter(|taint| taint.time_added.is_none()) {
        let same = before.iter().find(|old| (&old.key, &old.effect) == (&taint.key, &taint.effect));
        taint.time_added = same.and_then(|old| old.time_added.clone());
    }
}

/// Equal as the API server sees it: it fills in the time of a taint and leaves out what is empty.
fn is_same(
    slice: &ResourceSlice,
    pool: &PoolIdentity,
    chunk: &[&Device],
    generation: i64,
    count: usize,
) -> bool {
    let have = slice.spec.devices.as_deref().unwrap_or_default();
    if chunk.len() != have.len() || !chunk.iter().zip(have).all(|(want, have)| same_device(want, have)) {
        return false;
    }
    let wanted = slice_spec(pool, &[], generation, count);
    // Every field by its name: one that a new version of the API adds has to be thought of here.
    let ResourceSliceSpec {
        driver,
        node_name,
        pool: in_pool,
        devices: _,
        shared_counters,
        skip_node_operations,
        all_nodes,
        per_device_node_selection,
        node_selector,
        partition_type_attribute,
    } = &slice.spec;
    *driver == wanted.driver
        && *node_name == wanted.node_name
        && *in_pool == wanted.pool
        && shared_counters.iter().flatten().next().is_none()
        && skip_node_operations.iter().flatten().next().is_none()
        && *all_nodes != Some(true)
        && *per_device_node_selection != Some(true)
        && node_selector.is_none()
        && partition_type_attribute.is_none()
}

/// Equal but for what the server fills in.
pub fn same_device(want: &Device, have: &Device) -> bool {
    if want == have {
        return true;
    }
    let mut filled = want.clone();
    keep_taint_times(&mut filled, Some(have));
    let normal = |mut device: Device| {
        device.attributes = device.attributes.filter(|map| !map.is_empty());
        device.capacity = device.capacity.filter(|map| !map.is_empty());
        device.taints = device.taints.filter(|list| !list.is_empty());
        device.consumes_counters = device.consumes_counters.filter(|list| !list.is_empty());
        device
    };
    normal(filled) == normal(have.clone())
}

#[cfg(test)]
#[path = "tests/slices.rs"]
mod tests;
