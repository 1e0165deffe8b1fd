//! One step at a time: what it takes until the kernel has what was wanted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::PrepareError;
use super::engine::Engine;
use super::functions::Life;
use super::plan::VFIO_PCI;
use super::records::Entry;
use super::restore::{RestoreError, restore};
use super::steps::{Driver, Step};
use crate::device::{CleanFacts, HwAddr, PciAddress, PfLink, Setting, Vf, VfSettings};
use crate::host::{HostError, VfHandle, clock, find_vf_on_host};

/// How long a driver gets that is busy (a VF that resets), or that takes a setting and shows it later (i40e).
pub(super) const LATE: Duration = Duration::from_secs(2);
/// How often it is asked again.
const POLL: Duration = Duration::from_millis(50);
/// Network drivers that lose their VF when its PF gives it an address, until they are bound again. Seen with igb; its VF
/// driver has no way to hear of it.
const BOUND_AGAIN: [&str; 1] = ["igbvf"];
/// Network drivers whose PF says the address that the VF chose where none was given. Giving that one back would bind the
/// VF to it: it could choose no other any more. Seen with igb.
const SAYS_THE_CHOSEN: [&str; 1] = ["igbvf"];

impl Engine {
    pub(super) fn apply(&self, step: &Step, deadline: Instant) -> Result<(), PrepareError> {
        match step {
            Step::Set { vf, pf, index, to, .. } => self.set(*vf, pf, *index, to, deadline),
            Step::Bind { vf, to, .. } => {
                self.wait_until_closed(*vf, clock::now())?;
                let bound = match to {
                    Driver::Unbound => self.site.functions.unbind(*vf),
                    Driver::Network => self.site.functions.bind(*vf, None),
                    Driver::Named(driver) => self.site.functions.bind(*vf, Some(driver)),
                };
                bound.map_err(|source| PrepareError::Vf { vf: *vf, source })?;
                if *to == Driver::Network {
                    self.wait_for_netdev(*vf, None, deadline)?;
                }
                Ok(())
            }
        }
    }

    /// Unbinding from vfio-pci would block in the kernel, with every lock that is held, until its user lets go.
    pub(super) fn wait_until_closed(&self, vf: PciAddress, until: Instant) -> Result<(), PrepareError> {
        let on_vfio = |life: Life| life.driver.as_deref() == Some(VFIO_PCI);
        while self.site.functions.life(vf).is_some_and(on_vfio) {
            let facts = self.site.functions.facts(&BTreeSet::from([vf]))?;
            if !facts.get(&vf).is_some_and(|facts| facts.vf.vfio_open) {
                return Ok(());
            }
            if clock::now() >= until {
                return Err(PrepareError::VfioOpen { vf });
            }
            clock::sleep(POLL);
        }
        Ok(())
    }

    /// A group goes to one claim: each of two that share one would have the other's VF, or keep it from its driver. Looked
    /// at when the VFs are owned: of two Prepares at least one sees the other.
    pub(super) fn check_groups(&self, planned: &Entry, steps: &[Step]) -> Result<(), PrepareError> {
        for vf in planned.vfs.iter().filter(|vf| !vf.admin_access) {
            let binds = |step: &Step| matches!(step, Step::Bind { vf: bound, .. } if *bound == vf.pci);
            if !vf.vfio && !steps.iter().any(binds) {
                continue;
            }
            let failed = |source| PrepareError::Vf { vf: vf.pci, source };
            for other in self.site.functions.group_others(vf.pci).map_err(failed)? {
                let owner = self.site.ledger.ownership(other)?;
                let Some(owner) = owner.filter(|owner| owner.claim.uid != planned.claim.uid) else {
                    continue;
                };
                let driver = self.site.functions.life(other).and_then(|life| life.driver);
                if vf.vfio || driver.as_deref() == Some(VFIO_PCI) {
                    return Err(PrepareError::GroupShared { vf: vf.pci, other, holder: owner.claim });
                }
            }
        }
        Ok(())
    }

    fn set(
        &self,
        vf: PciAddress,
        pf: &PfLink,
        index: u32,
        setting: &Setting,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let refused = |source| PrepareError::Setting { vf, field: setting.field(), source };
        let until = deadline.min(clock::now() + LATE);
        patiently(until, || self.site.functions.set(vf, pf, index, setting)).map_err(refused)?;
        loop {
            let now = self.site.functions.settings(vf, pf, index).map_err(refused)?.like(setting);
            if now.as_ref() == Some(setting) {
                break;
            }
            if clock::now() >= until {
                return Err(PrepareError::NotTaken {
                    vf,
                    field: setting.field(),
                    wanted: setting.to_string(),
                    is: now.map_or_else(|| "nothing".to_owned(), |now| now.to_string()),
                    pf: pf.name.clone(),
                });
            }
            clock::sleep(POLL);
        }
        match setting {
            Setting::Mac(mac) => self.make_effective(vf, mac, deadline),
            Setting::Vlan(_)
            | Setting::SpoofCheck(_)
            | Setting::Trust(_)
            | Setting::LinkState(_)
            | Setting::Rate(_) => Ok(()),
        }
    }

    /// What a PF says of a VF, without an address that it did not give: zero is none.
    pub(super) fn given_by_the_pf(&self, vf: &Vf, mut told: VfSettings) -> VfSettings {
        let own = vf.netdev.as_ref().and_then(|netdev| netdev.hw_addr.as_ref());
        let says_it = vf.driver.as_ref().is_some_and(|driver| SAYS_THE_CHOSEN.contains(&driver.as_str()));
        if says_it
            && own.is_some()
            && told.mac.as_ref() == own
            && self.site.functions.chose_its_address(vf.pci)
        {
            told.mac = Some(HwAddr::new([0; 6]));
        }
        told
    }

    /// An address that the PF gave is the VF's own only when its driver has taken it up.
    fn make_effective(&self, vf: PciAddress, mac: &HwAddr, deadline: Instant) -> Result<(), PrepareError> {
        let failed = |source| PrepareError::Vf { vf, source };
        let Some(driver) = self.site.functions.life(vf).and_then(|life| life.driver) else { return Ok(()) };
        if driver == VFIO_PCI {
            return Ok(());
        }
        let again = || {
            self.site.functions.unbind(vf).map_err(failed)?;
            self.site.functions.bind(vf, Some(&driver)).map_err(failed)?;
            self.wait_for_netdev(vf, None, deadline).map(drop)
        };
        let mut bound_again = BOUND_AGAIN.contains(&driver.as_str());
        if bound_again {
            again()?;
        }
        let zero = mac.bytes().iter().all(|byte| *byte == 0);
        let handle = VfHandle { pci: vf, hw_addr: None, stand_in: self.site.kernel.has_stand_ins() };
        let mut until = deadline.min(clock::now() + LATE);
        loop {
            let found = find_vf_on_host(self.site.kernel.as_ref(), &handle).map_err(failed)?;
            let Some((mut host, link)) = found else { return Ok(()) };
            if zero || link.hw_addr.as_ref() == Some(mac) {
                return Ok(());
            }
            match host.set_hw_addr(&link, mac) {
                Ok(()) => return Ok(()),
                Err(error) if is_busy(&error) && clock::now() < until => clock::sleep(POLL),
                // A driver that was not known to want this.
                Err(_) if !bound_again => {
                    again()?;
                    bound_again = true;
                    until = deadline.min(clock::now() + LATE);
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Nodes that an earlier call found stay until this one has looked.
    pub(super) fn keep_nodes(&self, planned: &mut Entry, previous: Option<&Entry>) {
        for vf in planned.vfs.iter_mut().filter(|vf| !vf.admin_access) {
            let before = previous.and_then(|entry| entry.vfs.iter().find(|before| before.pci == vf.pci));
            if let Some(before) = before {
                vf.vfio_group.clone_from(&before.vfio_group);
                vf.nodes.clone_from(&before.nodes);
                // While it is in a pod, what can be seen of it here is not all.
                if before.rdma_left.is_some() {
                    (vf.rdma, vf.rdma_left) = (None, before.rdma_left.clone());
                } else if vf.rdma.is_none() {
                    vf.rdma.clone_from(&before.rdma);
                } else if let (Some(now), Some(before)) = (&mut vf.rdma, &before.rdma) {
                    now.nodes.clone_from(&before.nodes);
                }
            }
        }
    }

    /// Notes the device nodes of VFs on vfio-pci; `true` when something was not noted yet.
    pub(super) fn name_nodes(&self, entry: &mut Entry) -> Result<bool, PrepareError> {
        let mut changed = false;
        for vf in entry.vfs.iter_mut().filter(|vf| !vf.admin_access) {
            let failed = |source| PrepareError::Vf { vf: vf.pci, source };
            let mut found = match vf.vfio {
                true => self.site.functions.vfio_nodes(vf.pci).map_err(failed)?,
                false => Default::default(),
            };
            if vf.vhost {
                found.paths.extend(self.site.functions.vhost_nodes().map_err(failed)?);
            }
            changed |= vf.vfio_group != found.group || vf.nodes != found.paths;
            vf.vfio_group = found.group;
            vf.nodes = found.paths;
        }
        Ok(changed)
    }

    /// Gives the VF the driver it had, if it has another by now, and waits for its interface.
    pub(super) fn put_driver_back(
        &self,
        vf: PciAddress,
        clean: &CleanFacts,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let Some(life) = self.site.functions.life(vf) else { return Ok(()) };
        if life.driver != clean.driver {
            let to = clean.driver.clone().map_or(Driver::Unbound, Driver::Named);
            let from = life.driver.map_or(Driver::Unbound, Driver::Named);
            self.apply(&Step::Bind { vf, from, to }, deadline)?;
        }
        // A driver that is bound by name stays forced; left so, an administrator could bind no other.
        match self.site.functions.life(vf) {
            Some(life) if life.forced != clean.forced => {
                let forced = self.site.functions.force(vf, clean.forced.as_deref());
                forced.map_err(|source| PrepareError::Vf { vf, source })
            }
            _ => Ok(()),
        }
    }

    /// Makes the VF's interface what it was, where it has one on the host.
    pub(super) fn restore_link(&self, vf: PciAddress, clean: &CleanFacts) -> Result<(), PrepareError> {
        if clean.name.is_none() {
            return Ok(());
        }
        let handle =
            VfHandle { pci: vf, hw_addr: clean.hw_addr.as_ref(), stand_in: self.site.kernel.has_stand_ins() };
        match restore(self.site.kernel.as_ref(), &handle, clean) {
            Err(RestoreError::Missing { .. }) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Tries again while the driver says that it is busy.
fn patiently(until: Instant, mut change: impl FnMut() -> Result<(), HostError>) -> Result<(), HostError> {
    loop {
        match change() {
            Err(error) if is_busy(&error) && clock::now() < until => clock::sleep(POLL),
            done => return done,
        }
    }
}

/// A VF that resets refuses an address with any of these (i40e, ice, iavf).
fn is_busy(error: &HostError) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAGAIN, EBUSY};
    matches!(error.errno(), Some(EAGAIN | EBUSY | EADDRNOTAVAIL))
}
