//! The resources served, and how an object of each is decoded.

use k8s_openapi::api::{core::v1 as core, events::v1 as events, resource::v1 as resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::address;

/// One kind of object.
#[derive(Debug)]
pub struct Resource {
    /// API group; empty is the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// `kind`
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name of one, for kubectl.
    pub singular: &'static str,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Has a `/status` subresource.
    pub has_status: bool,
    round_trip: fn(Value) -> Result<Value, serde_json::Error>,
}

impl Resource {
    /// `v1`, `resource.k8s.io/v1`
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `resourceclaims.resource.k8s.io`: what messages say.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The object as a server keeps it: fields of the wrong type are an error, unknown fields are dropped.
    pub fn typed(&self, object: Value) -> Result<Value, serde_json::Error> {
        (self.round_trip)(object)
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object)?)
}

macro_rules! resources {
    ($($group:literal $version:literal $kind:literal $plural:literal $singular:literal $namespaced:literal $status:literal $type:ty;)*) => {
        /// Every resource, in the order of discovery.
        pub static RESOURCES: &[Resource] = &[$(Resource {
            group: $group, version: $version, kind: $kind, plural: $plural, singular: $singular,
            namespaced: $namespaced, has_status: $status, round_trip: round_trip::<$type>,
        }),*];
    };
}

resources! {
    "" "v1" "Namespace" "namespaces" "namespace" false true core::Namespace;
    "" "v1" "Node" "nodes" "node" false true core::Node;
    "" "v1" "Pod" "pods" "pod" true true core::Pod;
    "" "v1" "Event" "events" "event" true false core::Event;
    "events.k8s.io" "v1" "Event" "events" "event" true false events::Event;
    "resource.k8s.io" "v1" "DeviceClass" "deviceclasses" "deviceclass" false false resource::DeviceClass;
    "resource.k8s.io" "v1" "ResourceClaim" "resourceclaims" "resourceclaim" true true resource::ResourceClaim;
    "resource.k8s.io" "v1" "ResourceClaimTemplate" "resourceclaimtemplates" "resourceclaimtemplate" true false resource::ResourceClaimTemplate;
    "resource.k8s.io" "v1" "ResourceSlice" "resourceslices" "resourceslice" false false resource::ResourceSlice;
    "sriov-dra.io" "v1alpha1" "AddressPool" "addresspools" "addresspool" false true address::AddressPool;
    "sriov-dra.io" "v1alpha1" "AddressBlock" "addressblocks" "addressblock" false true address::AddressBlock;
}

/// The resource of a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}
