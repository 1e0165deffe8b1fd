//! PCI functions of this node: sysfs, the host's links, devlink and RDMA read together, judged by the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::{CleanFacts, EswitchMode, PciAddress, Snapshot};
use crate::host::boot::boot_id;
use crate::host::devlink::Devlink;
use crate::host::sysfs::Sysfs;
use crate::host::{HostError, Kernel, rdma};
use crate::inventory::{self, HostLinks};
use crate::policy::{self, Rules, Verdict, WithheldReason};
use crate::prepare::functions::{Facts, Functions, Life};
use crate::prepare::ledger::Ledger;

/// Reads the node.
#[derive(Debug, Clone)]
pub struct NodeFunctions {
    sysfs: Sysfs,
    kernel: Arc<dyn Kernel>,
    devlink: Option<Devlink>,
    rules: Arc<Rules>,
    /// Knows the VFs that could not be cleaned.
    ledger: Option<Ledger>,
    /// devlink was asked for an eswitch mode and told only root.
    mode_refused: Arc<AtomicBool>,
}

impl NodeFunctions {
    /// Reads below `sysfs` and in the kernel's host namespace.
    pub fn new(sysfs: Sysfs, kernel: Arc<dyn Kernel>, rules: Arc<Rules>, ledger: Option<Ledger>) -> Self {
        let devlink = Devlink::open(kernel.host());
        Self { sysfs, kernel, devlink, rules, ledger, mode_refused: Arc::default() }
    }

    /// The kernel has not told this process the eswitch mode of some PF, and would tell root.
    pub fn mode_was_refused(&self) -> bool {
        self.mode_refused.load(Ordering::Relaxed)
    }

    fn links(&self) -> Result<HostLinks, HostError> {
        HostLinks::read(self.kernel.enter(self.kernel.host())?.as_mut())
    }

    fn eswitch(&self, pf: PciAddress) -> Option<EswitchMode> {
        self.devlink.as_ref()?.eswitch_mode(pf).unwrap_or_else(|error| {
            if matches!(error.errno(), Some(nix::libc::EPERM | nix::libc::EACCES)) {
                self.mode_refused.store(true, Ordering::Relaxed);
            }
            tracing::debug!(%pf, error = %error.sentence(), "eswitch mode not known");
            None
        })
    }

    /// The whole node.
    ///
    /// # Errors
    /// When sysfs or netlink can't be read; never because of one function.
    pub fn snapshot(&self) -> Result<Snapshot, HostError> {
        let mode = rdma::netns_mode(self.kernel.host());
        Ok(inventory::scan(&self.sysfs, &self.links()?, mode, &|pf| self.eswitch(pf))?)
    }

    /// What the policy says of a snapshot.
    pub fn judge(&self, snapshot: &Snapshot, owned: &BTreeMap<PciAddress, CleanFacts>) -> Vec<Verdict> {
        let mut verdicts = policy::judge(snapshot, owned, &self.rules);
        let (Some(ledger), Ok(boot)) = (&self.ledger, boot_id()) else { return verdicts };
        for (vf, unclean) in ledger.unclean().unwrap_or_default() {
            let same_life = snapshot.vf(vf).is_some_and(|found| found.incarnation == unclean.incarnation);
            let verdict = verdicts.iter_mut().find(|verdict| verdict.device.pci == vf && !verdict.owned);
            if let Some(verdict) = verdict.filter(|_| same_life && unclean.boot_id == boot) {
                verdict.withheld.push(WithheldReason::Unclean { reason: unclean.reason });
            }
        }
        verdicts
    }
}

impl Functions for NodeFunctions {
    fn facts(&self, vfs: &BTreeSet<PciAddress>) -> Result<BTreeMap<PciAddress, Facts>, HostError> {
        let mode = rdma::netns_mode(self.kernel.host());
        let snapshot = inventory::scan_only(&self.sysfs, &self.links()?, mode, &|pf| self.eswitch(pf), vfs)?;
        let verdicts = self.judge(&snapshot, &BTreeMap::new());
        let withheld: BTreeMap<PciAddress, String> = verdicts
            .iter()
            .filter(|verdict| !verdict.is_offered())
            .map(|verdict| {
                let reasons: Vec<String> = verdict.withheld.iter().map(ToString::to_string).collect();
                (verdict.device.pci, reasons.join("; "))
            })
            .collect();
        let facts = snapshot.vfs.iter().map(|vf| {
            let (pf, withheld) = (snapshot.pf_of(vf).cloned(), withheld.get(&vf.pci).cloned());
            (vf.pci, Facts { vf: vf.clone(), pf, withheld })
        });
        Ok(facts.collect())
    }

    fn life(&self, vf: PciAddress) -> Option<Life> {
        Some(Life { incarnation: self.sysfs.incarnation(vf)?, driver: self.sysfs.driver(vf) })
    }

    fn bind(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError> {
        Ok(self.sysfs.rebind(vf, driver)?)
    }

    fn unbind(&self, vf: PciAddress) -> Result<(), HostError> {
        Ok(self.sysfs.unbind(vf)?)
    }
}
