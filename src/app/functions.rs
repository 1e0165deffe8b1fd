//! PCI functions of this node: sysfs, the host's links, devlink and RDMA read together, judged by the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::addresses::{self, parent};
use crate::address::{Assigned, Book, NoAddress, OfPf};
use crate::controller::blocks::NodePf;
use crate::device::{CleanFacts, EswitchMode, PciAddress, Pf, PfLink, Setting, Snapshot, VfSettings};
use crate::host::boot::boot_id;
use crate::host::devlink::Devlink;
use crate::host::sysfs::Sysfs;
use crate::host::topology::{self, Topology};
use crate::host::{HostError, Kernel, modules, rdma, vf_admin};
use crate::inventory::{self, HostLinks};
use crate::policy::{self, Rules, Verdict, WithheldReason};
use crate::prepare::functions::{Facts, Functions, Life, VfioNodes};
use crate::prepare::ledger::Ledger;
use crate::prepare::plan::VFIO_PCI;
use crate::prepare::vfio::VfioFacts;

/// Reads the node.
#[derive(Debug, Clone)]
pub struct NodeFunctions {
    sysfs: Sysfs,
    kernel: Arc<dyn Kernel>,
    devlink: Option<Devlink>,
    rules: Arc<Rules>,
    /// Knows the VFs that could not be cleaned.
    ledger: Option<Ledger>,
    /// Knows the addresses of pools.
    book: Option<watch::Receiver<Arc<Book>>>,
    /// devlink was asked for an eswitch mode and told only root.
    mode_refused: Arc<AtomicBool>,
}

impl NodeFunctions {
    /// Reads below `sysfs` and in the kernel's host namespace.
    pub fn new(sysfs: Sysfs, kernel: Arc<dyn Kernel>, rules: Arc<Rules>, ledger: Option<Ledger>) -> Self {
        let devlink = Devlink::open(kernel.host());
        Self { sysfs, kernel, devlink, rules, ledger, book: None, mode_refused: Arc::default() }
    }

    /// With what is known of pools of addresses, now and from now on.
    pub fn with_book(self, book: watch::Receiver<Arc<Book>>) -> Self {
        Self { book: Some(book), ..self }
    }

    /// With what an agent on this node wrote down of pools of addresses.
    pub fn with_book_of(self, ledger: &Ledger) -> Self {
        let book = ledger.book().unwrap_or_else(|error| {
            tracing::warn!(error = %error.sentence(), "addresses of pools are not known");
            Book::default()
        });
        let (_, book) = watch::channel(Arc::new(book));
        self.with_book(book)
    }

    /// The PFs of a snapshot as pools see them.
    pub fn pfs(&self, snapshot: &Snapshot, owned: &BTreeMap<PciAddress, CleanFacts>) -> Vec<NodePf> {
        addresses::pfs(snapshot, owned, &self.rules)
    }

    fn add_addresses(&self, snapshot: &Snapshot, verdicts: &mut [Verdict]) {
        let Some(book) = self.book.as_ref().map(|book| book.borrow().clone()) else { return };
        let known: BTreeMap<PciAddress, OfPf> = snapshot
            .pfs
            .iter()
            .filter_map(|pf| Some((pf.pci, book.known(parent(pf, &self.rules))?)))
            .collect();
        for verdict in verdicts {
            let place = snapshot.vf(verdict.device.pci).and_then(|vf| Some((vf.pf?, vf.index?)));
            let assigned = place.and_then(|(pf, index)| known.get(&pf)?.assign(index).ok());
            policy::add_addresses(verdict, &assigned.unwrap_or_default().addresses, &self.rules);
        }
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
        self.add_addresses(snapshot, &mut verdicts);
        let (Some(ledger), Ok(boot)) = (&self.ledger, boot_id()) else { return verdicts };
        for (vf, unclean) in ledger.unclean().unwrap_or_default() {
            let same_life = snapshot.vf(vf).is_some_and(|found| found.incarnation == unclean.incarnation);
            let verdict = verdicts.iter_mut().find(|verdict| verdict.device.pci == vf && !verdict.owned);
            if let Some(verdict) = verdict.filter(|_| same_life && unclean.boot_id == boot) {
                verdict.withheld.push(WithheldReason::Unclean { reason: unclean.reason });
            }
        }
        // The scheduler takes such a VF for free as soon as the claim is over, while nobody here can give it back.
        for vf in ledger.kept_by_newer().unwrap_or_default() {
            if let Some(verdict) = verdicts.iter_mut().find(|verdict| verdict.device.pci == vf) {
                verdict.withheld.push(WithheldReason::NewerVersion);
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
            let rail = pf.as_ref().and_then(|pf| self.rules.rails.of(pf));
            (vf.pci, Facts { vf: vf.clone(), pf, rail, withheld })
        });
        Ok(facts.collect())
    }

    fn life(&self, vf: PciAddress) -> Option<Life> {
        let incarnation = self.sysfs.incarnation(vf)?;
        Some(Life { incarnation, driver: self.sysfs.driver(vf), forced: self.sysfs.driver_override(vf) })
    }

    fn bind(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError> {
        if self.kernel.has_stand_ins() {
            let network = self.sysfs.driver_of_siblings(vf);
            return Ok(self.sysfs.pretend_bound(vf, driver.or(network.as_deref()))?);
        }
        if driver == Some(VFIO_PCI) && !self.sysfs.has_vfio_pci() {
            modules::load(VFIO_PCI)?;
        }
        Ok(self.sysfs.rebind(vf, driver)?)
    }

    fn unbind(&self, vf: PciAddress) -> Result<(), HostError> {
        if self.kernel.has_stand_ins() {
            return Ok(self.sysfs.pretend_bound(vf, None)?);
        }
        Ok(self.sysfs.unbind(vf)?)
    }

    fn force(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError> {
        Ok(self.sysfs.set_driver_override(vf, driver)?)
    }

    fn settings(&self, vf: PciAddress, pf: &PfLink, index: u32) -> Result<VfSettings, HostError> {
        if !self.kernel.has_stand_ins() {
            return vf_admin::read(self.kernel.host(), pf, index);
        }
        let told = self.sysfs.pretended_settings(vf);
        Ok(told.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(VfSettings::untouched))
    }

    fn chose_its_address(&self, vf: PciAddress) -> bool {
        !self.kernel.has_stand_ins() && self.sysfs.chose_its_address(vf)
    }

    fn set(&self, vf: PciAddress, pf: &PfLink, index: u32, setting: &Setting) -> Result<(), HostError> {
        if !self.kernel.has_stand_ins() {
            return vf_admin::set(self.kernel.host(), pf, index, setting);
        }
        let mut settings = self.settings(vf, pf, index)?;
        settings.put(setting.clone());
        let text = serde_json::to_string(&settings).unwrap_or_default();
        Ok(self.sysfs.pretend_settings(vf, &text)?)
    }

    fn vfio(&self, vf: PciAddress) -> Result<VfioFacts, HostError> {
        let stand_in = self.kernel.has_stand_ins();
        if !stand_in && !self.sysfs.has_vfio_pci() {
            modules::load(VFIO_PCI)?;
        }
        // A VF that somebody bound to vfio-pci without IOMMU has a group all the same.
        let group = self.sysfs.iommu_group(vf).filter(|_| !self.sysfs.is_without_iommu(vf));
        Ok(VfioFacts {
            group,
            blockers: if group.is_some() { self.sysfs.group_blockers(vf)? } else { Vec::new() },
            no_iommu: self.sysfs.allows_no_iommu(),
            driver: stand_in || self.sysfs.has_vfio_pci(),
        })
    }

    fn group_others(&self, vf: PciAddress) -> Result<Vec<PciAddress>, HostError> {
        Ok(self.sysfs.group_others(vf)?)
    }

    fn vfio_nodes(&self, vf: PciAddress) -> Result<VfioNodes, HostError> {
        let mut nodes = VfioNodes { group: self.sysfs.vfio_group(vf), paths: Vec::new() };
        if self.kernel.has_stand_ins() {
            nodes.group = self.sysfs.iommu_group(vf).map(|group| group.to_string());
        }
        if let Some(group) = &nodes.group {
            nodes.paths.extend(["/dev/vfio/vfio".into(), Path::new("/dev/vfio").join(group)]);
        }
        if let Some(device) = self.sysfs.vfio_device(vf).filter(|_| self.sysfs.has_misc("iommu")) {
            nodes.paths.extend(["/dev/iommu".into(), Path::new("/dev/vfio/devices").join(device)]);
        }
        if nodes.paths.is_empty() {
            let reason = "vfio made no device node for it".to_owned();
            return Err(HostError::Protocol { what: format!("look for the vfio group of VF {vf}"), reason });
        }
        Ok(nodes)
    }

    fn topology(&self, functions: &[PciAddress]) -> Topology {
        topology::read(self.sysfs.root(), Path::new("/proc"), functions)
    }

    fn address(&self, pool: &str, pf: &Pf, vf_index: u32) -> Result<Assigned, NoAddress> {
        let book = self.book.as_ref().map(|book| book.borrow().clone()).unwrap_or_default();
        book.assign(pool, &parent(pf, &self.rules), vf_index)
    }

    fn vhost_nodes(&self) -> Result<Vec<PathBuf>, HostError> {
        // Class name, module, node (drivers/vhost/net.c, drivers/net/tun.c).
        let wanted = [("vhost-net", "vhost_net", "/dev/vhost-net"), ("tun", "tun", "/dev/net/tun")];
        for (class, module, _) in wanted.iter().filter(|_| !self.kernel.has_stand_ins()) {
            if !self.sysfs.has_misc(class) {
                modules::load(module)?;
            }
            if !self.sysfs.has_misc(class) {
                let reason = format!("the node's kernel has no module {module}");
                return Err(HostError::Protocol {
                    what: "give out vhost-net (bind.vhost)".to_owned(),
                    reason,
                });
            }
        }
        Ok(wanted.iter().map(|(.., node)| PathBuf::from(node)).collect())
    }
}
