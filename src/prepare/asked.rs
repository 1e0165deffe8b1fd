//! What is read of VFs because something is wanted for them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::PrepareError;
use super::addressing::{AddressProblem, FromPool, pool_of};
use super::engine::{Engine, POLL, SETTLE};
use super::functions::Facts;
use super::records::Entry;
use super::settings::link_of;
use super::vfio::VfioFacts;
use crate::address::NoAddress;
use crate::claim::ClaimSpec;
use crate::device::{PciAddress, VfSettings};
use crate::host::clock;

/// By VF.
#[derive(Default)]
pub(super) struct AskedFor {
    pub settings: BTreeMap<PciAddress, VfSettings>,
    pub vfio: BTreeMap<PciAddress, VfioFacts>,
    pub pools: BTreeMap<PciAddress, Result<FromPool, AddressProblem>>,
}

impl Engine {
    /// What is read only of VFs that something is wanted for: asking a PF for its VFs takes some NICs milliseconds.
    pub(super) fn asked_for(
        &self,
        spec: &ClaimSpec,
        facts: &BTreeMap<PciAddress, Facts>,
        previous: Option<&Entry>,
        deadline: Instant,
    ) -> Result<AskedFor, PrepareError> {
        let mut asked = AskedFor::default();
        let until = deadline.min(clock::now() + SETTLE);
        for result in spec.results.iter().filter(|result| !result.admin_access) {
            let vf = result.pci;
            let failed = |source| PrepareError::Vf { vf, source };
            let Some(facts) = facts.get(&vf) else { continue };
            if !result.settings.is_empty()
                && let Some((pf, index)) = link_of(&facts.vf, facts.pf.as_ref())
            {
                let told = self.site.functions.settings(vf, &pf, index).map_err(failed)?;
                asked.settings.insert(vf, self.given_by_the_pf(&facts.vf, told));
            }
            if result.bind.vfio {
                asked.vfio.insert(vf, self.site.functions.vfio(vf).map_err(failed)?);
            }
            let has_one = previous.is_some_and(|entry| {
                entry.vfs.iter().any(|known| known.pci == vf && known.address_pool.is_some())
            });
            if let Some(template) = result.address_pool.as_ref().filter(|_| !has_one) {
                asked.pools.insert(vf, self.given_by_pool(template, facts, until));
            }
        }
        Ok(asked)
    }

    /// Nobody is asked for it: the agent has the pools and its blocks on its disk. A pool that is as new as the claim may
    /// need a moment to get there.
    fn given_by_pool(
        &self,
        template: &str,
        facts: &Facts,
        until: Instant,
    ) -> Result<FromPool, AddressProblem> {
        let vf = facts.vf.pci;
        let pool = pool_of(template, facts)?;
        let (Some(pf), Some(index)) = (&facts.pf, facts.vf.index) else {
            return Err(AddressProblem::NoPf { vf });
        };
        loop {
            match self.site.functions.address(&pool, pf, index) {
                Ok(assigned) => return Ok(FromPool { pool, assigned }),
                Err(NoAddress::NoPool { .. } | NoAddress::NoBlock { .. }) if clock::now() < until => {
                    clock::sleep(POLL);
                }
                Err(why) => return Err(AddressProblem::NoAddress { vf, why }),
            }
        }
    }
}
