//! PCI functions of this node: sysfs, the host's links, devlink and RDMA read together, judged by the policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::device::{CleanFacts, EswitchMode, PciAddress, Snapshot};
use crate::host::devlink::Devlink;
use crate::host::sysfs::Sysfs;
use crate::host::{HostError, Kernel, rdma};
use crate::inventory::{self, HostLinks};
use crate::policy::{self, Rules, Verdict};
use crate::prepare::functions::{Facts, Functions};

/// How long a driver may take to show up after a probe.
const BIND_BUDGET: Duration = Duration::from_secs(10);

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

    fn wait_for_driver(&self, vf: PciAddress, wanted: Option<&str>) -> Result<(), HostError> {
        let until = Instant::now() + BIND_BUDGET;
        loop {
            let bound = self.sysfs.driver(vf);
            if bound.is_some() && wanted.is_none_or(|wanted| bound.as_deref() == Some(wanted)) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(HostError::Protocol {
                    what: format!("bind {} to VF {vf}", wanted.unwrap_or("its network driver")),
                    reason: match bound {
                        Some(driver) => format!("driver {driver} is bound instead"),
                        None => "no driver took it (is the driver's module loaded, and is drivers_autoprobe of the PF on?)".to_owned(),
                    },
                });
            }
            thread::sleep(Duration::from_millis(50));
        }
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
        if driver.is_some() && self.sysfs.driver(vf).as_deref() == driver {
            return Ok(());
        }
        self.sysfs.unbind(vf)?;
        match driver {
            // Without override the kernel chooses by the IDs of its drivers, which is the network driver.
            None => self.sysfs.set_driver_override(vf, None)?,
            Some(driver) => self.sysfs.set_driver_override(vf, Some(driver))?,
        }
        self.sysfs.probe(vf)?;
        self.wait_for_driver(vf, driver)
    }

    fn unbind(&self, vf: PciAddress) -> Result<(), HostError> {
        Ok(self.sysfs.unbind(vf)?)
    }
}
