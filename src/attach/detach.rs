//! The way back: from a sandbox that stopped, from a claim that is over, from a pod that hands its claim on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::addressing::leave;
use super::attacher::lost;
use super::link_out::move_out;
use super::nri::Sandbox;
use super::{AttachError, Attacher};
use crate::claim::PodRef;
use crate::device::{CleanFacts, PciAddress};
use crate::host::{HostError, Links, Netns, clock, find_vf, find_vf_on_host};
use crate::prepare::hold_claim;
use crate::prepare::plan::VFIO_PCI;
use crate::prepare::records::{Attachment, Entry, Unclean};
use crate::prepare::restore::{RestoreError, restore};

/// How often a VF on its way back is looked for: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

impl Attacher {
    /// StopPodSandbox and RemovePodSandbox: the VFs that are in this sandbox go back. Any other sandbox of the pod is
    /// none of this call's business.
    ///
    /// # Errors
    /// Every VF that did not come back as it was.
    pub fn stop(&self, sandbox: &Sandbox, deadline: Instant) -> Result<(), AttachError> {
        let claims = self.site.ledger.claims_of_pod(&sandbox.pod_uid)?;
        if claims.is_empty() {
            // A pod that named a claim and was refused it has nothing but this note.
            let current = self.site.ledger.current_sandbox(&sandbox.pod_uid)?;
            return match current.filter(|current| current.sandbox == sandbox.id) {
                Some(_) => Ok(self.site.ledger.forget_sandbox(&sandbox.pod_uid)?),
                None => Ok(()),
            };
        }
        self.retire(&sandbox.pod_uid, &sandbox.id, deadline)?;
        let _pod = self.site.locks.pod(&sandbox.pod_uid, deadline)?;
        let errors =
            claims.iter().filter_map(|uid| self.detach_from(uid, &sandbox.id, deadline).err()).collect();
        AttachError::all(errors).map_or(Ok(()), Err)
    }

    /// Ends the sandbox's time, so that a late task for it finds itself superseded.
    fn retire(&self, pod_uid: &str, sandbox: &str, deadline: Instant) -> Result<(), AttachError> {
        let _record = self.site.locks.sandbox_record(pod_uid, deadline)?;
        let current = self.site.ledger.current_sandbox(pod_uid)?.unwrap_or_default();
        Ok(self.site.ledger.put_current_sandbox(pod_uid, &current.retire(sandbox))?)
    }

    fn detach_from(&self, uid: &str, sandbox: &str, deadline: Instant) -> Result<(), AttachError> {
        let _claim = self.site.locks.claim(uid, deadline)?;
        match self.site.ledger.attachment(uid)?.filter(|record| record.sandbox == sandbox) {
            Some(record) => self.detach(uid, &record, deadline),
            None => Ok(()),
        }
    }

    /// Unprepare: wherever the claim's VFs are, they go back, and what can't be undone is noted. The kubelet calls it
    /// when no container of the pod is left; it is the authority on that.
    ///
    /// # Errors
    /// A VF that does not come back.
    pub fn release(&self, claim_uid: &str, deadline: Instant) -> Result<(), AttachError> {
        let _held = hold_claim(&self.site.ledger, &self.site.locks, claim_uid, deadline)?;
        let vfs = self.vfs_of(claim_uid)?;
        let netns = self.site.ledger.attachment(claim_uid)?.and_then(|record| self.namespace_of(&record));
        self.detach_vfs(claim_uid, &vfs, netns.as_ref(), true, deadline)?;
        Ok(self.site.ledger.remove_attachment(claim_uid)?)
    }

    /// The files of ownership say which VFs a claim has; they are there when its entry was lost.
    fn vfs_of(&self, claim_uid: &str) -> Result<Vec<PciAddress>, AttachError> {
        let mut vfs = Vec::new();
        if let Some(entry) = self.site.ledger.entry(claim_uid)? {
            for vf in entry.vfs.iter().filter(|vf| !vf.admin_access) {
                // Reading it brings a damaged file back from the entry.
                vfs.extend(self.site.ledger.ownership(vf.pci)?.map(|_| vf.pci));
            }
        }
        let owned = self.site.ledger.owned()?.into_iter().filter(|(_, owner)| owner.claim.uid == claim_uid);
        vfs.extend(owned.map(|(vf, _)| vf));
        vfs.sort();
        vfs.dedup();
        Ok(vfs)
    }

    fn detach(&self, uid: &str, record: &Attachment, deadline: Instant) -> Result<(), AttachError> {
        let vfs = self.vfs_of(uid)?;
        self.detach_vfs(uid, &vfs, self.namespace_of(record).as_ref(), false, deadline)?;
        self.site.ledger.remove_attachment(uid)?;
        tracing::info!(claim = %uid, sandbox = %record.sandbox, "returned to the host");
        Ok(())
    }

    /// `last`: nobody comes after this call; a VF that can't be made what it was is noted as such and let go.
    pub(super) fn detach_vfs(
        &self,
        claim_uid: &str,
        vfs: &[PciAddress],
        netns: Option<&Netns>,
        last: bool,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let mut inside = netns.and_then(|netns| self.site.kernel.enter(netns).ok());
        if let (Some(inside), Some(entry)) = (inside.as_deref_mut(), self.site.ledger.entry(claim_uid)?) {
            // A pod whose attach failed in part lives on.
            for vf in entry.vfs.iter().filter(|vf| vf.has_interface() && vfs.contains(&vf.pci)) {
                leave(inside, vf).map_err(|source| AttachError::Vf { vf: vf.pci, source })?;
            }
        }
        let mut errors = Vec::new();
        for vf in vfs {
            let owner = self.site.ledger.ownership(*vf)?.filter(|owner| owner.claim.uid == claim_uid);
            // Facts of another boot say nothing about the VF of this one.
            let Some(owner) = owner.filter(|owner| owner.boot_id == self.site.boot_id) else { continue };
            // Before the netdev: with InfiniBand that goes with it.
            let rdma = self.rdma_out(*vf, &owner.clean, netns, last, deadline);
            let back = self.detach_vf(*vf, &owner.clean, inside.as_deref_mut(), last, deadline);
            // One that stays away keeps the claim, not the interface.
            errors.extend(rdma.err());
            if let Err(error) = back {
                errors.push(error);
            }
        }
        AttachError::all(errors).map_or(Ok(()), Err)
    }

    /// Removed, or made anew: then there is nothing of ours left on it. Looked at twice, for sysfs may be in between.
    fn is_another(&self, vf: PciAddress, clean: &CleanFacts) -> bool {
        let same = || self.site.functions.life(vf).is_some_and(|life| life.incarnation == clean.incarnation);
        !same() && {
            clock::sleep(POLL.0);
            !same()
        }
    }

    fn detach_vf(
        &self,
        vf: PciAddress,
        clean: &CleanFacts,
        inside: Option<&mut (dyn Links + 'static)>,
        last: bool,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let failed = |source| AttachError::Vf { vf, source };
        // On vfio-pci there is nothing to move: the process that had it open is gone, or Unprepare waits for it.
        if self.is_on_vfio(vf) || self.is_another(vf, clean) {
            return Ok(());
        }
        // An address that the PF holds it to is given back through the PF, when the claim is over.
        let held_to_address = clean.settings.mac.is_some();
        let as_lent =
            CleanFacts { hw_addr: clean.hw_addr.clone().filter(|_| !held_to_address), ..clean.clone() };
        let handle = self.handle(vf, Some(clean));
        if let Some(inside) = inside
            && let Some(link) = find_vf(inside, &handle, &[]).map_err(failed)?
        {
            move_out(self.site.kernel.as_ref(), inside, &link, clean).map_err(failed)?;
        }
        let started = clock::now();
        let mut pause = POLL.0;
        let mut searched = !last;
        loop {
            match restore(self.site.kernel.as_ref(), &handle, &as_lent) {
                Err(RestoreError::Missing { .. }) => {}
                Err(error) if last => return self.give_up(vf, clean, &error.into()),
                Ok(()) => return Ok(self.site.ledger.mark_clean(vf)?),
                Err(other) => return Err(other.into()),
            }
            // On no driver, or on another one, it has no netdev to wait for; Unprepare gives it the driver it had, which
            // may be none.
            let has_none = self
                .site
                .functions
                .life(vf)
                .is_none_or(|life| life.driver.is_none() || (last && life.driver != clean.driver));
            if self.is_another(vf, clean) || has_none {
                return Ok(());
            }
            if !searched {
                searched = true;
                self.bring_from_anywhere(vf, clean)?;
                continue;
            }
            if clock::now() >= deadline {
                return Err(lost(vf, started));
            }
            clock::sleep(pause);
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// The record of where it was moved is lost, or somebody moved it on: it is in one of the node's namespaces.
    fn bring_from_anywhere(&self, vf: PciAddress, clean: &CleanFacts) -> Result<(), AttachError> {
        for netns in self.site.kernel.namespaces() {
            let Ok(mut links) = self.site.kernel.enter(&netns) else { continue };
            let Ok(Some(link)) = find_vf(links.as_mut(), &self.handle(vf, Some(clean)), &[]) else {
                continue;
            };
            tracing::warn!(%vf, netns = %netns.id(), "a VF was found in a namespace that nothing says it should be in");
            return move_out(self.site.kernel.as_ref(), links.as_mut(), &link, clean)
                .map_err(|source| AttachError::Vf { vf, source });
        }
        Ok(())
    }

    fn give_up(&self, vf: PciAddress, clean: &CleanFacts, error: &AttachError) -> Result<(), AttachError> {
        let reason = error.sentence();
        tracing::error!(%vf, error = %reason, "a VF came back and could not be made what it was; it is withheld");
        let unclean = Unclean { boot_id: self.site.boot_id.clone(), incarnation: clean.incarnation, reason };
        Ok(self.site.ledger.mark_unclean(vf, &unclean)?)
    }

    /// Opens a recorded namespace again; `None` when it is gone. The path alone proves nothing: runtimes use names
    /// again, and the kernel inodes.
    fn namespace_of(&self, record: &Attachment) -> Option<Netns> {
        let by_path =
            self.site.kernel.open(&record.netns_path).ok().filter(|netns| netns.id() == record.netns);
        by_path
            .or_else(|| self.site.kernel.find(record.netns))
            .filter(|netns| netns.id() != self.site.kernel.host().id())
    }

    /// Some process may be using a VF of the claim: it lives where the VF is, or has the VF's vfio device open.
    ///
    /// # Errors
    /// When the ledger can't be read, or it can't be told.
    pub fn is_used(&self, claim_uid: &str) -> Result<bool, AttachError> {
        for vf in self.vfs_of(claim_uid)? {
            if self.is_open(vf)? {
                return Ok(true);
            }
        }
        Ok(self.user_of(claim_uid)?.is_some())
    }

    fn is_open(&self, vf: PciAddress) -> Result<bool, HostError> {
        let facts = self.site.functions.facts(&BTreeSet::from([vf]))?;
        Ok(facts.get(&vf).is_some_and(|facts| facts.vf.vfio_open))
    }

    fn is_on_vfio(&self, vf: PciAddress) -> bool {
        let driver = self.site.functions.life(vf).and_then(|life| life.driver);
        driver.as_deref() == Some(VFIO_PCI)
    }

    /// Some process in a namespace where one of the claim's VFs is, by PID. What the record says is where the search
    /// begins: it may be lost, and the kernel gives the inode of a namespace that ended to the next pod's.
    ///
    /// # Errors
    /// When the ledger can't be read, or it can't be told.
    fn user_of(&self, claim_uid: &str) -> Result<Option<i32>, AttachError> {
        let kernel = self.site.kernel.as_ref();
        let recorded = self.site.ledger.attachment(claim_uid)?.and_then(|record| self.namespace_of(&record));
        for vf in self.vfs_of(claim_uid)? {
            // In no namespace: whoever lives where the claim was given may open it at any moment.
            if self.is_on_vfio(vf) {
                let user = recorded.as_ref().map(|netns| kernel.user_of(netns.id())).transpose()?;
                match user.flatten() {
                    Some(pid) => return Ok(Some(pid)),
                    None => continue,
                }
            }
            let clean = self.clean(claim_uid, vf)?;
            let handle = self.handle(vf, Some(&clean));
            if find_vf_on_host(kernel, &handle)?.is_some() {
                continue;
            }
            let is_inside = |netns: &Netns| -> Result<bool, HostError> {
                Ok(find_vf(kernel.enter(netns)?.as_mut(), &handle, &[])?.is_some())
            };
            let netns = match &recorded {
                Some(netns) if is_inside(netns)? => Some(netns.clone()),
                // One that ends meanwhile has nobody in it.
                _ => kernel.namespaces().into_iter().find(|netns| is_inside(netns).unwrap_or(false)),
            };
            if let Some(netns) = netns
                && let Some(pid) = kernel.user_of(netns.id())?
            {
                return Ok(Some(pid));
            }
        }
        Ok(None)
    }

    /// The claim's VFs are in an earlier sandbox. They are taken back only when nobody lives there any more.
    pub(super) fn take_back(
        &self,
        entry: &Entry,
        record: &Attachment,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        if let Some(netns) = self.namespace_of(record) {
            let user = self.site.kernel.user_of(netns.id())?;
            if let Some(pid) = user
                && let Some(vf) = self.vf_inside(entry, &netns)?
            {
                return Err(self.in_use(entry, record, vf, format!("where process {pid} runs")));
            }
        }
        self.detach(&entry.claim.uid, record, deadline)
    }

    fn in_use(&self, entry: &Entry, record: &Attachment, vf: PciAddress, why: String) -> AttachError {
        AttachError::InUse {
            claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
            holder: entry.pod.as_ref().map_or_else(|| record.pod_uid.clone(), |pod| pod.name.clone()),
            vf,
            sandbox: record.sandbox.clone(),
            why,
        }
    }

    fn vf_inside(&self, entry: &Entry, netns: &Netns) -> Result<Option<PciAddress>, AttachError> {
        // In no namespace, but the containers there have its device nodes.
        if let Some(vf) = entry.vfs.iter().find(|vf| vf.vfio && !vf.admin_access) {
            return Ok(Some(vf.pci));
        }
        let mut links = self.site.kernel.enter(netns)?;
        for vf in entry.vfs.iter().filter(|vf| vf.has_interface()) {
            let clean = self.clean(&entry.claim.uid, vf.pci)?;
            if find_vf(links.as_mut(), &self.handle(vf.pci, Some(&clean)), &[vf.name.as_str()])?.is_some() {
                return Ok(Some(vf.pci));
            }
        }
        Ok(None)
    }

    /// Gives a claim to another pod that it is reserved for too: only when its VFs are back, or nobody lives where
    /// they are and the sandbox there is over.
    ///
    /// # Errors
    /// When the pod that has it still lives.
    pub fn hand_over(&self, claim_uid: &str, to: &PodRef, deadline: Instant) -> Result<(), AttachError> {
        let Some(before) = self.site.ledger.entry(claim_uid)? else { return Ok(()) };
        let Some(holder) = before.pod.filter(|holder| holder.uid != to.uid) else { return Ok(()) };
        // Two pods: in the order of their UIDs, so that two hand-overs never wait for each other.
        let mut pods = [&holder.uid, &to.uid];
        pods.sort();
        let _pods =
            pods.iter().map(|uid| self.site.locks.pod(uid, deadline)).collect::<Result<Vec<_>, _>>()?;
        let _claim = self.site.locks.claim(claim_uid, deadline)?;
        let Some(mut entry) = self.site.ledger.entry(claim_uid)? else { return Ok(()) };
        if entry.pod.as_ref().is_none_or(|now| now.uid != holder.uid) {
            return Ok(());
        }
        if let Some(record) = self.site.ledger.attachment(claim_uid)? {
            // A sandbox may live without any process in it: between two starts of its only container, on runtimes that
            // have no pause process. It is over when it was stopped, or its namespace is gone.
            let current = self
                .site
                .ledger
                .current_sandbox(&holder.uid)?
                .is_some_and(|now| now.sandbox == record.sandbox);
            if let (true, Some(netns)) = (current, self.namespace_of(&record))
                && let Some(vf) = self.vf_inside(&entry, &netns)?
            {
                let lives = match self.site.kernel.user_of(netns.id())? {
                    Some(pid) => format!("where process {pid} runs"),
                    None => "which has not been stopped".to_owned(),
                };
                return Err(self.in_use(&entry, &record, vf, lives));
            }
            self.take_back(&entry, &record, deadline)?;
        }
        // On the host's network there is no such record.
        for vf in entry.vfs.iter().filter(|vf| vf.vfio && !vf.admin_access) {
            if self.is_open(vf.pci)? {
                return Err(AttachError::VfioOpen {
                    vf: vf.pci,
                    claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
                    holder: holder.name,
                });
            }
        }
        tracing::info!(claim = %claim_uid, from = %holder.name, to = %to.name, "claim handed over to another pod");
        entry.pod = Some(to.clone());
        self.site.ledger.put_entry_quickly(&entry)?;
        self.site.ledger.unindex(&holder.uid, claim_uid)?;
        if self.site.ledger.claims_of_pod(&holder.uid)?.is_empty() {
            // No Unprepare will come by for a pod that has no claim any more.
            self.site.ledger.forget_sandbox(&holder.uid)?;
        }
        Ok(())
    }

    /// After a reconnect: what is attached to sandboxes that are not among the living, and where nobody lives.
    pub(super) fn return_from_dead(&self, live: &[String], deadline: Instant) {
        for (uid, record) in self.site.ledger.attachments().unwrap_or_default() {
            if live.contains(&record.sandbox) {
                continue;
            }
            let user = match self.namespace_of(&record) {
                Some(netns) => self.site.kernel.user_of(netns.id()),
                None => Ok(None),
            };
            if matches!(user, Ok(None))
                && let Err(error) = self.detach_from(&uid, &record.sandbox, deadline)
            {
                tracing::warn!(claim = %uid, error = %error.sentence(), "could not return the VFs of a dead sandbox");
            }
        }
    }
}
