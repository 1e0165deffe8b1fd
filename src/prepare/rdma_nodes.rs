//! RDMA devices of a claim's VFs as they are once the VFs have their drivers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::PrepareError;
use super::engine::Engine;
use super::functions::Facts;
use super::plan::PlanError;
use super::rdma::{self, RdmaFacts};
use super::records::{Entry, RdmaEntry, RdmaWay, VfEntry};
use crate::claim::{ClaimSpec, RdmaMode, ResultSpec};
use crate::device::{CharDevice, PciAddress, Place};
use crate::host::{HostError, VfHandle, clock, find_vf_on_host};

/// How long the RDMA device of a VF that was bound anew may take: its driver may be a module of its own.
const LATE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

impl Engine {
    /// What there is now, of VFs that are on the host.
    pub(super) fn rdma_of(
        &self,
        results: &[ResultSpec],
        facts: &BTreeMap<PciAddress, Facts>,
    ) -> BTreeMap<PciAddress, RdmaFacts> {
        let on_host = |vf: &PciAddress| facts.get(vf).is_some_and(|facts| facts.vf.place == Place::Host);
        let vfs = results.iter().filter(|result| !result.admin_access).map(|result| result.pci);
        vfs.filter(on_host).map(|vf| (vf, self.rdma_facts(vf))).collect()
    }

    fn rdma_facts(&self, vf: PciAddress) -> RdmaFacts {
        let rdma = self.site.kernel.rdma();
        let devices = rdma.names_of(vf);
        // Not asked where there is nothing to be known.
        let mode = if devices.is_empty() { None } else { rdma.mode() };
        RdmaFacts { devices, mode }
    }

    /// Notes what containers get; `true` when something was not noted yet.
    pub(super) fn name_rdma(
        &self,
        spec: &ClaimSpec,
        entry: &mut Entry,
        deadline: Instant,
    ) -> Result<bool, PrepareError> {
        let mut changed = false;
        for vf in entry.vfs.iter_mut().filter(|vf| vf.has_interface()) {
            let asks = |result: &&ResultSpec| result.pci == vf.pci && result.request == vf.request;
            let Some(result) = spec.results.iter().find(asks) else { continue };
            let facts = self.wait_for_rdma(vf, result, deadline);
            let nothing = facts.devices.is_empty() && vf.rdma.is_none();
            if nothing && matches!(result.rdma.mode, RdmaMode::Auto | RdmaMode::None) {
                continue;
            }
            // In a pod it stays as it was noted.
            if result.rdma.mode != RdmaMode::None && !self.is_on_host(vf)? {
                continue;
            }
            let found = rdma::settle(result, &facts, self.site.runtime.now());
            let mut found = found.map_err(|problem| PlanError::Rdma {
                claim: format!("ResourceClaim {}/{}", spec.id.namespace, spec.id.name),
                request: result.request.clone(),
                problem,
            })?;
            if let Some(found) = &mut found {
                self.check_not_shared(vf.pci, found, &entry.claim.uid)?;
                if found.way == RdmaWay::CharDevice {
                    let nodes = self.rdma_nodes(found);
                    found.nodes = nodes.map_err(|source| PrepareError::Vf { vf: vf.pci, source })?;
                }
            }
            changed |= vf.rdma != found || vf.rdma_left.is_some();
            // Whether it can be moved is found out anew.
            (vf.rdma, vf.rdma_left) = (found, None);
        }
        Ok(changed)
    }

    fn is_on_host(&self, vf: &VfEntry) -> Result<bool, PrepareError> {
        let hw_addr = vf.clean.as_ref().and_then(|clean| clean.hw_addr.as_ref());
        let handle = VfHandle { pci: vf.pci, hw_addr, stand_in: self.site.kernel.has_stand_ins() };
        let found = find_vf_on_host(self.site.kernel.as_ref(), &handle);
        Ok(found.map_err(|source| PrepareError::Vf { vf: vf.pci, source })?.is_some())
    }

    fn wait_for_rdma(&self, vf: &VfEntry, result: &ResultSpec, deadline: Instant) -> RdmaFacts {
        let had_one = vf.clean.as_ref().is_some_and(|clean| !clean.rdma.is_empty());
        let asked = matches!(result.rdma.mode, RdmaMode::Namespace | RdmaMode::CharDevice);
        let waits = !self.site.kernel.has_stand_ins() && result.rdma.mode != RdmaMode::None;
        let until = deadline.min(clock::now() + LATE);
        loop {
            let facts = self.rdma_facts(vf.pci);
            let expected = facts.devices.is_empty() && waits && (had_one || asked);
            if !expected || clock::now() >= until {
                return facts;
            }
            clock::sleep(POLL);
        }
    }

    /// Devices of two ports may be those of two functions.
    fn check_not_shared(&self, vf: PciAddress, found: &RdmaEntry, claim: &str) -> Result<(), PrepareError> {
        for (other, owner) in self.site.ledger.owned()? {
            if owner.claim.uid == claim || other == vf {
                continue;
            }
            let shared =
                self.site.kernel.rdma().names_of(other).into_iter().find(|n| found.devices.contains(n));
            if let Some(device) = shared {
                return Err(PrepareError::RdmaShared { vf, device, other, holder: owner.claim });
            }
        }
        Ok(())
    }

    fn rdma_nodes(&self, found: &RdmaEntry) -> Result<Vec<CharDevice>, HostError> {
        let (kernel, mut nodes) = (self.site.kernel.as_ref(), Vec::new());
        for name in &found.devices {
            if let Some(device) = kernel.rdma().find(kernel.host(), name)? {
                nodes.extend(kernel.rdma().char_devices(kernel.host(), &device, found.umad)?);
            }
        }
        nodes.sort();
        nodes.dedup();
        Ok(nodes)
    }
}
