//! What a node knows of pools and its own blocks: enough to answer for every VF without asking anybody.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::assign::{Assigned, NoAddress, assign};
use super::pool::Pool;
use super::read::read;
use super::spec::{Block, Parent};
use crate::device::PciAddress;

/// Pools by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// All there are.
    pub pools: BTreeMap<String, Page>,
}

/// One pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// `metadata.uid`
    pub uid: String,
    /// `spec`
    pub spec: Value,
    /// Blocks of this node by PF.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<PciAddress, Block>,
    /// Why PFs that the pool selects have no block.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without: BTreeMap<PciAddress, String>,
}

impl Book {
    /// What the VF of this number of a PF gets of a pool.
    ///
    /// # Errors
    /// Why it gets nothing.
    pub fn assign(&self, pool: &str, pf: &Parent, vf_index: u32) -> Result<Assigned, NoAddress> {
        let page = self.pools.get(pool).ok_or_else(|| NoAddress::NoPool { pool: pool.to_owned() })?;
        let read = page.read(pool)?;
        match page.blocks.get(&pf.pci) {
            Some(block) => assign(&read, block, pf, vf_index),
            None => {
                let none = || "the pool does not select this PF or this node".to_owned();
                let why = page.without.get(&pf.pci).cloned().unwrap_or_else(none);
                Err(NoAddress::NoBlock { pool: pool.to_owned(), pf: pf.pci, why })
            }
        }
    }

    /// The block of a PF where only one pool has one for it; of several it is for the claim to choose.
    pub fn known(&self, pf: Parent) -> Option<OfPf> {
        let mut with_block = self.pools.iter().filter(|(_, page)| page.blocks.contains_key(&pf.pci));
        let (name, page) = with_block.next().filter(|_| with_block.next().is_none())?;
        let (pool, block) = (page.read(name).ok()?, page.blocks.get(&pf.pci)?.clone());
        Some(OfPf { pool, block, pf })
    }
}

/// A PF's only block, for all its VFs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfPf {
    pool: Pool,
    block: Block,
    pf: Parent,
}

impl OfPf {
    /// What the VF of this number gets.
    ///
    /// # Errors
    /// Why it gets nothing.
    pub fn assign(&self, vf_index: u32) -> Result<Assigned, NoAddress> {
        assign(&self.pool, &self.block, &self.pf, vf_index)
    }
}

impl Page {
    fn read(&self, name: &str) -> Result<Pool, NoAddress> {
        read(name, &self.uid, &self.spec).map_err(|faults| NoAddress::Unusable(faults.to_string()))
    }
}
