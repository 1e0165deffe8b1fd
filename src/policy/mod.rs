//! Which VFs are offered, with which attributes, and which are withheld and why. Pure.
//!
//! In: a snapshot, the clean facts of VFs that claims own, the `--devices` expression. Out: one verdict for each VF, in
//! publishing order. Never here: I/O, Kubernetes objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::PciAddress;

/// A value of a device attribute (ResourceSlice `DeviceAttribute`: exactly one of the fields).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttributeValue {
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `string`, at most 64 bytes
    String(String),
    /// `version`, full semver 2.0.0
    Version(String),
}

/// A VF as it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferedDevice {
    /// DRA device name, [`PciAddress::device_name`].
    pub name: String,
    /// Identity.
    pub pci: PciAddress,
    /// Keys are `domain/name`; at most 32 with capacities.
    pub attributes: BTreeMap<String, AttributeValue>,
}
