//! The two kinds as the API server keeps them (manifests/crds.yaml).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::spec::Block;

/// API group of the kinds: a constant of the API, whatever the driver is called. Two drivers on one node share the blocks,
/// as they share the PFs.
pub const GROUP: &str = crate::DEFAULT_DRIVER_NAME;
/// Their version.
pub const VERSION: &str = "v1alpha1";

/// `addresspools.sriov-dra.io`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressPool {
    /// `apiVersion`
    #[serde(default)]
    pub api_version: String,
    /// `kind`
    #[serde(default)]
    pub kind: String,
    /// `metadata`
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec` as it came, for [`read`](super::read): one bad pool must not hide the others.
    #[serde(default)]
    pub spec: Value,
    /// `status`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PoolStatus>,
}

/// `status` of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// `conditions`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// `addressblocks.sriov-dra.io`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressBlock {
    /// `apiVersion`
    #[serde(default)]
    pub api_version: String,
    /// `kind`
    #[serde(default)]
    pub kind: String,
    /// `metadata`
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`
    pub spec: Block,
    /// `status`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<BlockStatus>,
}

/// `status` of a block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockStatus {
    /// Since when an agent that looks for a free block has missed the block's Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_gone_since: Option<Time>,
}

impl AddressBlock {
    /// The object of a block that is to be claimed.
    pub fn new(block: Block) -> Self {
        let metadata = ObjectMeta { name: Some(block.name()), ..ObjectMeta::default() };
        let api_version = format!("{GROUP}/{VERSION}");
        Self { api_version, kind: "AddressBlock".to_owned(), metadata, spec: block, status: None }
    }
}

macro_rules! kind {
    ($type:ty, $kind:literal, $plural:literal) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = "sriov-dra.io/v1alpha1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = VERSION;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::ClusterResourceScope;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

kind!(AddressPool, "AddressPool", "addresspools");
kind!(AddressBlock, "AddressBlock", "addressblocks");
