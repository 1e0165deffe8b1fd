//! RDMA devices into pods and back, and what containers get of them.

use std::time::{Duration, Instant};

use super::attacher::{Present, Target, VF_WAIT};
use super::bundle::Bundle;
use super::variables;
use super::{AttachError, Attacher, DeviceReport, Reason};
use crate::device::{CharDevice, CleanFacts, PciAddress, RdmaNetnsMode};
use crate::host::{HostError, Netns, clock};
use crate::prepare::rdma::{Limit, limit_of};
use crate::prepare::records::{Entry, RdmaEntry, RdmaWay, VfEntry};

/// How often a device that is on its way is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Exactly a namespace was asked for, and nothing else will do.
pub(super) fn wants_namespace(rdma: &RdmaEntry) -> bool {
    rdma.asked && rdma.way == RdmaWay::Namespace
}

/// `auto`, and nobody is told of it by name.
fn may_be_left(rdma: &RdmaEntry) -> bool {
    !rdma.asked && rdma.nccl.is_none()
}

impl Attacher {
    /// In a pod with a network of its own nobody can open a device that is the host's alone.
    pub(super) fn check_rdma_way(&self, vf: &VfEntry) -> Result<(), AttachError> {
        match &vf.rdma {
            Some(RdmaEntry { way: RdmaWay::CharDevice, .. })
                if self.site.kernel.rdma().mode() == Some(RdmaNetnsMode::Exclusive) =>
            {
                Err(AttachError::RdmaNotOpenable { vf: vf.pci })
            }
            _ => Ok(()),
        }
    }

    /// The VF's RDMA devices are in the namespace afterwards; `true` when one was moved. Where nothing but `auto` says that
    /// they are wanted and their driver can't move them, the VF goes without: nobody in the pod could open them.
    pub(super) fn rdma_in(&self, vf: &mut VfEntry, target: &Target<'_>) -> Result<bool, AttachError> {
        match self.move_rdma(vf, target) {
            Err(AttachError::RdmaImmovable { device, .. }) if vf.rdma.as_ref().is_some_and(may_be_left) => {
                tracing::warn!(vf = %vf.pci, %device, "the driver of an RDMA device can't move it: the pod goes without");
                (vf.rdma, vf.rdma_left) = (None, Some(device));
                Ok(false)
            }
            moved => moved,
        }
    }

    fn move_rdma(&self, vf: &VfEntry, target: &Target<'_>) -> Result<bool, AttachError> {
        let &Target { netns, present, deadline, .. } = target;
        let until = deadline.min(clock::now() + VF_WAIT);
        let Some(entry) = vf.rdma.as_ref().filter(|rdma| rdma.way == RdmaWay::Namespace) else {
            return Ok(false);
        };
        let (kernel, rdma) = (self.site.kernel.as_ref(), self.site.kernel.rdma());
        let failed = |source| AttachError::Vf { vf: vf.pci, source };
        let mut moved = false;
        let mut names = self.rdma_names(vf.pci, &entry.devices);
        // A VF whose driver was bound just now gets its RDMA device a little later.
        while names.is_err() && clock::now() < until {
            clock::sleep(POLL);
            names = self.rdma_names(vf.pci, &entry.devices);
        }
        for device in names? {
            if rdma.find(netns, &device).map_err(failed)?.is_some() {
                continue;
            }
            if present == Present::PutRight {
                return Err(AttachError::RdmaNotMoved { vf: vf.pci, device });
            }
            let started = clock::now();
            let lost = |place| AttachError::RdmaLost {
                vf: vf.pci,
                device: device.clone(),
                place,
                waited_ms: started.elapsed().as_millis(),
            };
            let link = loop {
                if let Some(link) = rdma.find(kernel.host(), &device).map_err(failed)? {
                    break link;
                }
                if clock::now() >= until {
                    return Err(lost("on the host"));
                }
                clock::sleep(POLL);
            };
            // Every pod of the node with such a device waits here: a move takes the kernel up to a second.
            let _rdma = self.site.locks.rdma(deadline)?;
            rdma.move_to(kernel.host(), &link, netns).map_err(|source| match source.errno() {
                Some(nix::libc::EOPNOTSUPP) => {
                    AttachError::RdmaImmovable { vf: vf.pci, device: device.clone() }
                }
                _ => failed(source),
            })?;
            if rdma.find(netns, &device).map_err(failed)?.is_none() {
                return Err(lost("in the pod"));
            }
            tracing::info!(vf = %vf.pci, %device, "RDMA device moved into the pod");
            moved = true;
        }
        Ok(moved)
    }

    /// The VF's RDMA devices are on the host afterwards, from wherever they were. The kernel brings those of a namespace that
    /// ends itself (`rdma_dev_exit_net`, drivers/infiniband/core/device.c).
    pub(super) fn rdma_out(
        &self,
        vf: PciAddress,
        clean: &CleanFacts,
        netns: Option<&Netns>,
        last: bool,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let rdma = self.site.kernel.rdma();
        let living = rdma.names_of(vf);
        let names = match living.is_empty() {
            true => clean.rdma.iter().map(|device| device.name.clone()).collect(),
            false => living.clone(),
        };
        if names.is_empty() || rdma.mode() != Some(RdmaNetnsMode::Exclusive) {
            return Ok(());
        }
        for device in names {
            // One that is only remembered may have gone with its driver, and its name may be another VF's by now: it is
            // looked for where the claim's pod was, and nowhere else.
            match living.is_empty() {
                true => self.bring_rdma(vf, &device, netns, false, clock::now())?,
                false => self.bring_rdma(vf, &device, netns, last, deadline)?,
            }
        }
        Ok(())
    }

    fn bring_rdma(
        &self,
        vf: PciAddress,
        device: &str,
        netns: Option<&Netns>,
        last: bool,
        until: Instant,
    ) -> Result<(), AttachError> {
        let (kernel, rdma) = (self.site.kernel.as_ref(), self.site.kernel.rdma());
        let started = clock::now();
        let mut searched = !last;
        loop {
            let failed = |source| AttachError::Vf { vf, source };
            if rdma.find(kernel.host(), device).map_err(failed)?.is_some() {
                return Ok(());
            }
            let mut moved =
                netns.is_some_and(|netns| self.take_rdma_from(vf, device, netns).unwrap_or(false));
            if !moved && !searched {
                searched = true;
                let mut others = kernel.namespaces().into_iter();
                moved = others.any(|netns| self.take_rdma_from(vf, device, &netns).unwrap_or(false));
            }
            if moved {
                continue;
            }
            if clock::now() >= until {
                // With the reason, where there is one.
                if let Some(netns) = netns {
                    self.take_rdma_from(vf, device, netns)?;
                }
                if rdma.find(kernel.host(), device).map_err(failed)?.is_some() || rdma.names_of(vf).is_empty()
                {
                    return Ok(());
                }
                let waited_ms = started.elapsed().as_millis();
                return Err(AttachError::RdmaLost {
                    vf,
                    device: device.to_owned(),
                    place: "back on the host",
                    waited_ms,
                });
            }
            clock::sleep(POLL);
        }
    }

    /// `false` when it is not there.
    fn take_rdma_from(&self, vf: PciAddress, device: &str, netns: &Netns) -> Result<bool, AttachError> {
        let (kernel, rdma) = (self.site.kernel.as_ref(), self.site.kernel.rdma());
        let failed = |source| AttachError::Vf { vf, source };
        if netns.id() == kernel.host().id() {
            return Ok(false);
        }
        let Some(link) = rdma.find(netns, device).map_err(failed)? else { return Ok(false) };
        let _rdma = self.site.locks.rdma(clock::now() + Duration::from_secs(5))?;
        rdma.move_to(netns, &link, kernel.host()).map_err(failed)?;
        tracing::info!(%vf, %device, "RDMA device moved back to the host");
        Ok(true)
    }

    /// Names as they are now: udev may have renamed one since it was noted, and what was noted of one that is gone may be
    /// another VF's name by now.
    pub(super) fn rdma_names(&self, vf: PciAddress, noted: &[String]) -> Result<Vec<String>, AttachError> {
        let living = self.site.kernel.rdma().names_of(vf);
        match noted.first().filter(|_| living.is_empty()) {
            Some(device) => {
                Err(AttachError::RdmaLost { vf, device: device.clone(), place: "below its VF", waited_ms: 0 })
            }
            None => Ok(living),
        }
    }

    /// Device nodes that are known only now, and the limit of locked memory, for a container with these VFs.
    pub(super) fn rdma_for_container<'v>(
        &self,
        vfs: impl Iterator<Item = &'v VfEntry>,
        netns: &Netns,
    ) -> Result<(Vec<CharDevice>, Option<Limit>), AttachError> {
        let room = self.site.runtime.now().memlock;
        let (mut devices, mut limit) = (Vec::new(), None);
        for vf in vfs.filter(|vf| vf.has_interface()) {
            let Some(rdma) = &vf.rdma else { continue };
            limit = limit.max(limit_of(rdma.memlock, room));
            if rdma.way == RdmaWay::Namespace {
                devices.extend(self.rdma_nodes(vf.pci, rdma, netns)?);
            }
        }
        devices.sort();
        devices.dedup();
        Ok((devices, limit))
    }

    /// As they are in the namespace that has the devices.
    fn rdma_nodes(
        &self,
        vf: PciAddress,
        entry: &RdmaEntry,
        netns: &Netns,
    ) -> Result<Vec<CharDevice>, AttachError> {
        let rdma = self.site.kernel.rdma();
        let failed = |source: HostError| AttachError::Vf { vf, source };
        let mut nodes = Vec::new();
        for device in self.rdma_names(vf, &entry.devices)? {
            let link = rdma.find(netns, &device).map_err(failed)?;
            let link = link.ok_or(AttachError::RdmaLost { vf, device, place: "in the pod", waited_ms: 0 })?;
            nodes.extend(rdma.char_devices(netns, &link, entry.umad).map_err(failed)?);
        }
        Ok(nodes)
    }

    /// What the claim's status says of it, or of the one that was left out.
    pub(super) fn with_rdma(&self, vf: &VfEntry, mut report: DeviceReport) -> DeviceReport {
        if let Some(device) = &vf.rdma_left {
            report.message = format!(
                "{}, without RDMA device {device}: its driver can't move it to the pod's network namespace",
                report.message
            );
        }
        let Some(rdma) = &vf.rdma else { return report };
        let names = rdma.devices.join(", ");
        report.message = match rdma.way {
            RdmaWay::Namespace => format!("{}, with RDMA device {names}", report.message),
            RdmaWay::CharDevice => {
                format!("{}, with the device nodes of RDMA device {names}", report.message)
            }
        };
        let room = self.site.runtime.now().memlock;
        if let Some(limit) = limit_of(rdma.memlock, room).filter(|limit| limit.short) {
            report.reason = Reason::MemlockLimited;
            report.message.push_str(&format!(
                "; its containers may lock {} bytes of memory, the most that the container runtime can give: it has no \
                 CAP_SYS_RESOURCE, and needs LimitMEMLOCK=infinity to give more",
                limit.bytes
            ));
        }
        report
    }

    /// The hook's look at a container that is about to start: the device nodes of the claim's RDMA devices are those that
    /// the container's configuration has. The limit of locked memory that is missing there.
    ///
    /// # Errors
    /// When a node is missing, or has another device's number, or when less memory may be locked than the container's
    /// claims demand.
    pub fn check_bundle(
        &self,
        claim_uid: &str,
        bundle: &Bundle,
        netns: Option<&Netns>,
    ) -> Result<Option<Limit>, AttachError> {
        let Some(entry) = self.site.ledger.entry(claim_uid)? else {
            return Err(AttachError::NotPrepared { uid: claim_uid.to_owned() });
        };
        let host = self.site.kernel.host();
        for (vf, rdma) in rdma_listed(&entry, bundle) {
            let place = match rdma.way {
                RdmaWay::Namespace => netns.unwrap_or(host),
                RdmaWay::CharDevice => host,
            };
            for node in self.rdma_nodes(vf.pci, rdma, place)? {
                bundle.check(vf.pci, &node)?;
            }
        }
        // Of all the container's claims, each of which has a hook: they all set the same, whichever is the last.
        let (mut limit, mut demanded) = (None::<Limit>, None);
        let mut named = variables::claims_named(&bundle.env);
        if !named.iter().any(|uid| uid == claim_uid) {
            named.push(claim_uid.to_owned());
        }
        for uid in named {
            let Some(other) = self.site.ledger.entry(&uid)? else { continue };
            // Whoever writes a pod can name another pod's claim.
            if other.pod.as_ref().map(|pod| &pod.uid) != entry.pod.as_ref().map(|pod| &pod.uid) {
                continue;
            }
            for (_, rdma) in rdma_listed(&other, bundle) {
                let own = limit_of(rdma.memlock, None);
                demanded = demanded.max(own.filter(|own| !own.auto).map(|own| own.bytes));
                limit = limit.max(own);
            }
        }
        // A runtime that has a limit in the configuration sets it after its hooks, whatever they set.
        match (demanded, bundle.memlock) {
            (Some(wanted), Some(set)) if set < wanted => Err(AttachError::MemlockSet { wanted, set }),
            // Beside a demand nothing less will do, even where another VF would take it.
            (_, None) => Ok(limit.map(|limit| Limit { auto: limit.auto && demanded.is_none(), ..limit })),
            (_, Some(_)) => Ok(None),
        }
    }

    /// Whether the hook has to look at a container's configuration for a claim at all.
    ///
    /// # Errors
    /// When the ledger can't be read.
    pub fn has_rdma(&self, claim_uid: &str) -> Result<bool, AttachError> {
        let entry = self.site.ledger.entry(claim_uid)?;
        Ok(entry.is_some_and(|entry| entry.vfs.iter().any(|vf| vf.rdma.is_some())))
    }
}

/// RDMA devices that the container gets with interfaces of a claim.
fn rdma_listed<'e>(
    entry: &'e Entry,
    bundle: &'e Bundle,
) -> impl Iterator<Item = (&'e VfEntry, &'e RdmaEntry)> {
    let vfs = variables::listed(entry, &bundle.env).filter(|vf| vf.has_interface());
    vfs.filter_map(|vf| Some((vf, vf.rdma.as_ref()?)))
}
