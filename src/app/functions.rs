//! PCI functions of this node: sysfs, the host's links, devlink and RDMA read together, judged by the policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::{CleanFacts, EswitchMode, PciAddress, Snapshot};
use crate::host::devlink::Devlink;
use crate::host::sysfs::Sysfs;
use crate::host::{HostError, Kernel, rdma};
use crate::inventory::{self, HostLinks};
use crate::policy::{self, Rules, Verdict};
use crate::prepare::functions::{Facts, Functions};

/// Reads the node.
#[derive(Debug, Clone)]
pub struct NodeFunctions {
    sysfs: Sysfs,
    kernel: Arc<dyn Kernel>,
    devlink: Option<Devlink>,
    rules: Arc<Rules>,
}

impl NodeFunctions {
    /// Reads below `sysfs` and in the kernel's host namespace.
    pub fn new(sysfs: Sysfs, kernel: Arc<dyn Kernel>, rules: Arc<Rules>) -> Self {
        let devlink = Devlink::open(kernel.host());
        Self { sysfs, kernel, devlink, rules }
    }

    fn links(&self) -> Result<HostLinks, HostError> {
        HostLinks::read(self.kernel.enter(self.kernel.host())?.as_mut())
    }

    fn eswitch(&self, pf: PciAddress) -> Option<EswitchMode> {
        self.devlink.as_ref()?.eswitch_mode(pf).unwrap_or_else(|error| {
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
        policy::judge(snapshot, owned, &self.rules)
    }
}

impl Functions for NodeFunctions {
    fn facts(&self, vf: PciAddress) -> Result<Option<Facts>, HostError> {
        let mode = rdma::netns_mode(self.kernel.host());
        let snapshot = inventory::scan_one(&self.sysfs, &self.links()?, mode, &|pf| self.eswitch(pf), vf)?;
        let verdicts = self.judge(&snapshot, &BTreeMap::new());
        let withheld =
            verdicts.iter().find(|verdict| verdict.device.pci == vf).filter(|verdict| !verdict.is_offered());
        let withheld = withheld
            .map(|verdict| verdict.withheld.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        Ok(snapshot.vf(vf).map(|found| Facts {
            vf: found.clone(),
            pf: snapshot.pf_of(found).cloned(),
            withheld,
        }))
    }

    fn bind(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError> {
        Ok(self.sysfs.rebind(vf, driver)?)
    }

    fn unbind(&self, vf: PciAddress) -> Result<(), HostError> {
        Ok(self.sysfs.unbind(vf)?)
    }
}
