//! Attach and return as a function of ledger entries and sandboxes.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::link_in::{complete, move_in};
use super::link_out::{move_out, restore};
use super::nri::{Adjustment, Container, Sandbox};
use super::report::{DeviceReport, Reason, Report};
use super::{AttachError, PodSandbox};
use crate::claim::{ClaimId, PodRef};
use crate::device::{CleanFacts, PciAddress};
use crate::host::{Kernel, Link, Links, Netns, VfHandle, find_vf, find_vf_on_host};
use crate::prepare::cdi;
use crate::prepare::cdi_file;
use crate::prepare::functions::Functions;
use crate::prepare::ledger::Ledger;
use crate::prepare::locks::Locks;
use crate::prepare::records::{Attachment, CurrentSandbox, Entry, VfEntry};

/// How often a VF on its way back from a namespace that ended is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Moves VFs. Every method blocks; callers give a deadline.
#[derive(Debug, Clone)]
pub struct Attacher {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// PCI functions.
    pub functions: Arc<dyn Functions>,
    /// The memory.
    pub ledger: Ledger,
    /// The locks.
    pub locks: Locks,
    /// Driver name.
    pub driver: String,
    /// Where CDI files are: a name that had to give way is written there.
    pub cdi_dir: PathBuf,
    /// What became of claims, for their status. Dropped when nobody keeps up.
    pub reports: mpsc::Sender<Report>,
}

/// A claim that a container names but that belongs to another pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignClaim {
    /// Which claim.
    pub claim: ClaimId,
    /// Pod that has it.
    pub holder: PodRef,
}

impl Attacher {
    /// RunPodSandbox: the sandbox becomes its pod's current one, and every VF of the pod is moved into it.
    ///
    /// # Errors
    /// When a VF can't be attached; then the VFs that this call moved are back on the host.
    pub fn run(&self, sandbox: &Sandbox, deadline: Instant) -> Result<(), AttachError> {
        let claims = self.ledger.claims_of_pod(&sandbox.pod_uid)?;
        if claims.is_empty() {
            return Ok(());
        }
        let pod = PodSandbox::open(self.kernel.as_ref(), sandbox)?;
        let epoch = self.make_current(&pod, deadline)?;
        self.attach_claims(&claims, &pod, epoch, deadline)
    }

    pub(super) fn attach_claims(
        &self,
        claims: &[String],
        pod: &PodSandbox,
        epoch: u64,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let _pod = self.locks.pod(&pod.pod_uid, deadline)?;
        let mut attached = Vec::new();
        for uid in claims {
            match self.attach_claim(uid, pod, epoch, deadline) {
                Ok(true) => attached.push(uid),
                Ok(false) => {}
                Err(first) => {
                    let undone = attached.iter().rev().map(|uid| self.detach_from(uid, &pod.id, deadline));
                    let errors = std::iter::once(first).chain(undone.filter_map(Result::err)).collect();
                    return AttachError::all(errors).map_or(Ok(()), Err);
                }
            }
        }
        Ok(())
    }

    /// Notes the sandbox as the pod's current one and returns its epoch. A second agent that is told of the same
    /// sandbox gets the same epoch.
    pub(super) fn make_current(&self, pod: &PodSandbox, deadline: Instant) -> Result<u64, AttachError> {
        let _record = self.locks.sandbox_record(&pod.pod_uid, deadline)?;
        let current = self.ledger.current_sandbox(&pod.pod_uid)?;
        if let Some(current) = current.as_ref().filter(|current| current.sandbox == pod.id) {
            return Ok(current.epoch);
        }
        let epoch = current.map_or(0, |current| current.epoch) + 1;
        self.ledger.put_current_sandbox(&pod.pod_uid, &CurrentSandbox { sandbox: pod.id.clone(), epoch })?;
        Ok(epoch)
    }

    /// A task for a sandbox that stopped or was replaced meanwhile must do nothing more.
    fn still_current(&self, pod: &PodSandbox, epoch: u64) -> Result<(), AttachError> {
        let current = self.ledger.current_sandbox(&pod.pod_uid)?;
        if current.is_some_and(|current| current.sandbox == pod.id && current.epoch == epoch) {
            return Ok(());
        }
        Err(AttachError::Superseded { sandbox: pod.id.clone(), pod: pod.pod_uid.clone() })
    }

    /// `true`: this call moved something.
    fn attach_claim(
        &self,
        uid: &str,
        pod: &PodSandbox,
        epoch: u64,
        deadline: Instant,
    ) -> Result<bool, AttachError> {
        let _claim = self.locks.claim(uid, deadline)?;
        // A list that names a claim without entry is older than its Unprepare.
        let Some(mut entry) = self.ledger.entry(uid)? else { return Ok(false) };
        if entry.pod.as_ref().is_none_or(|owner| owner.uid != pod.pod_uid) {
            return Ok(false);
        }
        let Some((path, netns)) = &pod.netns else { return self.host_network(&entry, pod).map(|()| false) };
        let attachment = Attachment {
            pod_uid: pod.pod_uid.clone(),
            sandbox: pod.id.clone(),
            epoch,
            netns_path: path.clone(),
            netns: netns.id(),
            complete: false,
        };
        let before = self.ledger.attachment(uid)?;
        let resumed = match &before {
            Some(record) if record.netns == netns.id() && record.sandbox == pod.id => record.complete,
            Some(record) => {
                self.take_back(&entry, record, deadline)?;
                false
            }
            None => false,
        };
        let before = before.filter(|record| record.sandbox == pod.id);
        if !resumed {
            self.ledger.put_attachment(uid, &attachment)?;
        }
        let planned = entry.clone();
        let mut moved = Vec::new();
        match self.attach_vfs(&mut entry, pod, netns, epoch, resumed, &mut moved, deadline) {
            Ok(devices) => {
                if entry != planned {
                    self.ledger.put_entry_quickly(&entry)?;
                    cdi_file::write(&self.cdi_dir, &self.driver, uid, &cdi::spec_of(&self.driver, &entry))?;
                }
                if !resumed {
                    self.ledger.put_attachment(uid, &Attachment { complete: true, ..attachment })?;
                }
                if !resumed || !moved.is_empty() {
                    self.report(Report { claim: entry.claim, devices });
                }
                Ok(!moved.is_empty())
            }
            Err(first) => {
                self.report(failure(&entry, &first));
                // Only what this call moved: VFs that were inside before belong to a pod that may be running.
                let ours: Vec<_> = vfs(&entry).into_iter().filter(|(vf, _)| moved.contains(vf)).collect();
                let undone = self.detach_vfs(uid, &ours, Some(netns), deadline);
                if undone.is_ok() && before.is_none() {
                    self.ledger.remove_attachment(uid)?;
                }
                AttachError::all([Some(first), undone.err()].into_iter().flatten().collect())
                    .map_or(Ok(false), Err)
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn attach_vfs(
        &self,
        entry: &mut Entry,
        pod: &PodSandbox,
        netns: &Netns,
        epoch: u64,
        only_presence: bool,
        moved: &mut Vec<PciAddress>,
        deadline: Instant,
    ) -> Result<Vec<DeviceReport>, AttachError> {
        let mut host = self.kernel.enter(self.kernel.host())?;
        let mut inside = self.kernel.enter(netns)?;
        let mut devices = Vec::new();
        for vf in &mut entry.vfs {
            if vf.admin_access {
                devices.push(device(vf, None));
                continue;
            }
            let clean = self.clean(&entry.claim.uid, vf.pci)?;
            let failed = |source| AttachError::Vf { vf: vf.pci, source };
            let started = Instant::now();
            let (link, fresh) = loop {
                self.still_current(pod, epoch)?;
                let handle = VfHandle { pci: vf.pci, hw_addr: clean.hw_addr.as_ref() };
                if let Some(link) = find_vf(inside.as_mut(), &handle, &[vf.name.as_str()]).map_err(failed)? {
                    break (link, false);
                }
                if let Some(link) = self.find_on_host(host.as_mut(), &handle).map_err(failed)? {
                    moved.push(vf.pci);
                    move_in((host.as_mut(), &link), (netns, inside.as_mut()), vf)?;
                    let arrived = inside
                        .by_name(vf.name.as_str())
                        .map_err(|source| AttachError::Vf { vf: vf.pci, source })?;
                    break (arrived.ok_or_else(|| lost(vf.pci, started))?, true);
                }
                if Instant::now() >= deadline {
                    return Err(lost(vf.pci, started));
                }
                thread::sleep(POLL);
            };
            if fresh || !only_presence {
                complete(inside.as_mut(), &link, vf)
                    .map_err(|source| AttachError::Vf { vf: vf.pci, source })?;
            }
            devices.push(device(vf, Some(&link)));
        }
        Ok(devices)
    }

    fn find_on_host(
        &self,
        host: &mut dyn Links,
        handle: &VfHandle<'_>,
    ) -> Result<Option<Link>, crate::host::HostError> {
        let names = self.kernel.netdev_names(handle.pci);
        find_vf(host, handle, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn clean(&self, claim_uid: &str, vf: PciAddress) -> Result<CleanFacts, AttachError> {
        match self.ledger.ownership(vf)?.filter(|owner| owner.claim.uid == claim_uid) {
            Some(owner) => Ok(owner.clean),
            None => Err(AttachError::NotPrepared { uid: claim_uid.to_owned() }),
        }
    }

    /// On the host's network a VF stays where it is; only what can be done there may have been asked for.
    fn host_network(&self, entry: &Entry, pod: &PodSandbox) -> Result<(), AttachError> {
        if entry.vfs.iter().any(|vf| vf.interface_asked && !vf.admin_access) {
            let error = AttachError::HostNetwork {
                pod: pod.pod.clone(),
                claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
            };
            self.report(failure(entry, &error));
            return Err(error);
        }
        let devices = entry.vfs.iter().map(|vf| {
            let link = find_vf_on_host(self.kernel.as_ref(), &VfHandle { pci: vf.pci, hw_addr: None })
                .ok()
                .flatten();
            DeviceReport { reason: Reason::HostNetwork, ..device(vf, link.map(|(_, link)| link).as_ref()) }
        });
        self.report(Report { claim: entry.claim.clone(), devices: devices.collect() });
        Ok(())
    }

    /// The claim's VFs are in an earlier sandbox. They are taken back only when nobody lives there any more.
    fn take_back(&self, entry: &Entry, record: &Attachment, deadline: Instant) -> Result<(), AttachError> {
        if let Some(netns) = self.namespace_of(record) {
            let user = self.kernel.user_of(netns.id())?;
            let vf = entry.vfs.iter().find(|vf| !vf.admin_access);
            if let (Some(pid), Some(vf)) = (user, vf)
                && self.is_inside(entry, &netns)?
            {
                return Err(AttachError::InUse {
                    claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
                    holder: entry.pod.as_ref().map_or_else(|| record.pod_uid.clone(), |pod| pod.name.clone()),
                    vf: vf.pci,
                    sandbox: record.sandbox.clone(),
                    pid,
                });
            }
        }
        self.detach(entry, record, deadline)
    }

    fn is_inside(&self, entry: &Entry, netns: &Netns) -> Result<bool, AttachError> {
        let mut links = self.kernel.enter(netns)?;
        for vf in entry.vfs.iter().filter(|vf| !vf.admin_access) {
            let clean = self.clean(&entry.claim.uid, vf.pci)?;
            let handle = VfHandle { pci: vf.pci, hw_addr: clean.hw_addr.as_ref() };
            if find_vf(links.as_mut(), &handle, &[vf.name.as_str()])?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens a recorded namespace again; `None` when it is gone. The path alone proves nothing: runtimes use names again,
    /// and the kernel inodes.
    fn namespace_of(&self, record: &Attachment) -> Option<Netns> {
        let by_path = self.kernel.open(&record.netns_path).ok().filter(|netns| netns.id() == record.netns);
        by_path
            .or_else(|| self.kernel.find(record.netns))
            .filter(|netns| netns.id() != self.kernel.host().id())
    }

    /// StopPodSandbox and RemovePodSandbox: the VFs that are in this sandbox go back. Any other sandbox of the pod is
    /// none of this call's business.
    ///
    /// # Errors
    /// Every VF that did not come back as it was.
    pub fn stop(&self, sandbox: &Sandbox, deadline: Instant) -> Result<(), AttachError> {
        let claims = self.ledger.claims_of_pod(&sandbox.pod_uid)?;
        if claims.is_empty() {
            // A pod that named a claim and was refused it has nothing but this note.
            let current = self.ledger.current_sandbox(&sandbox.pod_uid)?;
            return match current.filter(|current| current.sandbox == sandbox.id) {
                Some(_) => Ok(self.ledger.forget_sandbox(&sandbox.pod_uid)?),
                None => Ok(()),
            };
        }
        self.retire(&sandbox.pod_uid, &sandbox.id, deadline)?;
        let _pod = self.locks.pod(&sandbox.pod_uid, deadline)?;
        let errors =
            claims.iter().filter_map(|uid| self.detach_from(uid, &sandbox.id, deadline).err()).collect();
        AttachError::all(errors).map_or(Ok(()), Err)
    }

    /// Ends the sandbox's time as the current one, so that a late task for it finds itself superseded.
    fn retire(&self, pod_uid: &str, sandbox: &str, deadline: Instant) -> Result<(), AttachError> {
        let _record = self.locks.sandbox_record(pod_uid, deadline)?;
        if let Some(current) =
            self.ledger.current_sandbox(pod_uid)?.filter(|current| current.sandbox == sandbox)
        {
            let retired = CurrentSandbox { sandbox: String::new(), epoch: current.epoch + 1 };
            self.ledger.put_current_sandbox(pod_uid, &retired)?;
        }
        Ok(())
    }

    fn detach_from(&self, uid: &str, sandbox: &str, deadline: Instant) -> Result<(), AttachError> {
        let _claim = self.locks.claim(uid, deadline)?;
        let Some(record) = self.ledger.attachment(uid)?.filter(|record| record.sandbox == sandbox) else {
            return Ok(());
        };
        match self.ledger.entry(uid)? {
            Some(entry) => self.detach(&entry, &record, deadline),
            None => Ok(()),
        }
    }

    /// Unprepare: wherever the claim's VFs are, they go back. The kubelet calls it when no container of the pod is left.
    ///
    /// # Errors
    /// Every VF that did not come back as it was.
    pub fn release(&self, claim_uid: &str, deadline: Instant) -> Result<(), AttachError> {
        let entry = self.ledger.entry(claim_uid)?;
        let pod = entry.as_ref().and_then(|entry| entry.pod.clone());
        let _pod = pod.map(|pod| self.locks.pod(&pod.uid, deadline)).transpose()?;
        let _claim = self.locks.claim(claim_uid, deadline)?;
        let Some(record) = self.ledger.attachment(claim_uid)? else { return Ok(()) };
        match entry {
            Some(entry) => self.detach(&entry, &record, deadline),
            None => self.detach_without_entry(claim_uid, &record, deadline),
        }
    }

    fn detach(&self, entry: &Entry, record: &Attachment, deadline: Instant) -> Result<(), AttachError> {
        self.detach_vfs(&entry.claim.uid, &vfs(entry), self.namespace_of(record).as_ref(), deadline)?;
        Ok(self.ledger.remove_attachment(&entry.claim.uid)?)
    }

    /// The entry was lost (quarantined): the files of ownership still say which VFs the claim has.
    fn detach_without_entry(
        &self,
        uid: &str,
        record: &Attachment,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let owned = self.ledger.owned()?;
        let vfs: Vec<(PciAddress, String)> = owned
            .into_iter()
            .filter(|(_, o)| o.claim.uid == uid)
            .map(|(vf, _)| (vf, String::new()))
            .collect();
        self.detach_vfs(uid, &vfs, self.namespace_of(record).as_ref(), deadline)?;
        Ok(self.ledger.remove_attachment(uid)?)
    }

    fn detach_vfs(
        &self,
        claim_uid: &str,
        vfs: &[(PciAddress, String)],
        netns: Option<&Netns>,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let mut inside = netns.and_then(|netns| self.kernel.enter(netns).ok());
        let mut errors = Vec::new();
        for (vf, name) in vfs {
            let Some(owner) = self.ledger.ownership(*vf)?.filter(|owner| owner.claim.uid == claim_uid) else {
                continue;
            };
            if let Err(error) = self.detach_vf(*vf, name, &owner.clean, inside.as_deref_mut(), deadline) {
                errors.push(error);
            }
        }
        AttachError::all(errors).map_or(Ok(()), Err)
    }

    fn detach_vf(
        &self,
        vf: PciAddress,
        name: &str,
        clean: &CleanFacts,
        inside: Option<&mut (dyn Links + 'static)>,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let failed = |source| AttachError::Vf { vf, source };
        let handle = VfHandle { pci: vf, hw_addr: clean.hw_addr.as_ref() };
        if let Some(inside) = inside
            && let Some(link) = find_vf(inside, &handle, &[name]).map_err(failed)?
        {
            move_out(self.kernel.as_ref(), inside, &link, clean).map_err(failed)?;
        }
        let started = Instant::now();
        loop {
            match restore(self.kernel.as_ref(), vf, clean) {
                Err(AttachError::Lost { .. }) => {}
                other => return other,
            }
            // Removed, or made anew: then there is nothing of ours left on it.
            match self.functions.facts(vf).map_err(failed)? {
                Some(facts) if facts.vf.incarnation == clean.incarnation => {}
                _ => return Ok(()),
            }
            if Instant::now() >= deadline {
                return Err(lost(vf, started));
            }
            thread::sleep(POLL);
        }
    }

    /// Claims that a container names but that belong to another pod: the caller asks the API server whether this pod
    /// may have them.
    ///
    /// # Errors
    /// When the ledger can't be read.
    pub fn foreign_claims(
        &self,
        sandbox: &Sandbox,
        container: &Container,
    ) -> Result<Vec<ForeignClaim>, AttachError> {
        let mut foreign = Vec::new();
        for uid in claims_named(container) {
            if let Some(entry) = self.ledger.entry(&uid)?
                && let Some(holder) = entry.pod.filter(|holder| holder.uid != sandbox.pod_uid)
            {
                foreign.push(ForeignClaim { claim: entry.claim, holder });
            }
        }
        Ok(foreign)
    }

    /// Gives a claim to another pod that it is reserved for too: only when nobody lives where its VFs are.
    ///
    /// # Errors
    /// When the pod that has it still lives.
    pub fn hand_over(&self, claim_uid: &str, to: &PodRef, deadline: Instant) -> Result<(), AttachError> {
        let Some(before) = self.ledger.entry(claim_uid)? else { return Ok(()) };
        let Some(holder) = before.pod.filter(|holder| holder.uid != to.uid) else { return Ok(()) };
        // Two pods: in the order of their UIDs, so that two hand-overs never wait for each other.
        let mut pods = [&holder.uid, &to.uid];
        pods.sort();
        let _pods = pods.iter().map(|uid| self.locks.pod(uid, deadline)).collect::<Result<Vec<_>, _>>()?;
        let _claim = self.locks.claim(claim_uid, deadline)?;
        let Some(mut entry) = self.ledger.entry(claim_uid)? else { return Ok(()) };
        if entry.pod.as_ref().is_none_or(|now| now.uid != holder.uid) {
            return Ok(());
        }
        if let Some(record) = self.ledger.attachment(claim_uid)? {
            self.take_back(&entry, &record, deadline)?;
        }
        tracing::info!(claim = %claim_uid, from = %holder.name, to = %to.name, "claim handed over to another pod");
        entry.pod = Some(to.clone());
        self.ledger.put_entry_quickly(&entry)?;
        self.ledger.unindex(&holder.uid, claim_uid)?;
        if self.ledger.claims_of_pod(&holder.uid)?.is_empty() {
            // No Unprepare will come by for a pod that has no claim any more.
            self.ledger.forget_sandbox(&holder.uid)?;
        }
        Ok(())
    }

    /// CreateContainer: every VF of every claim the container names is in this pod's namespace afterwards, or the
    /// container is refused.
    ///
    /// # Errors
    /// When a VF is not there and can't be brought.
    pub fn create_container(
        &self,
        sandbox: &Sandbox,
        container: &Container,
        deadline: Instant,
    ) -> Result<Adjustment, AttachError> {
        let named = claims_named(container);
        if named.is_empty() {
            return Ok(Adjustment::default());
        }
        let pod = PodSandbox::open(self.kernel.as_ref(), sandbox)?;
        let epoch = self.make_current(&pod, deadline)?;
        for uid in &named {
            let entry =
                self.ledger.entry(uid)?.ok_or_else(|| AttachError::NotPrepared { uid: uid.clone() })?;
            if let Some(holder) = entry.pod.filter(|holder| holder.uid != sandbox.pod_uid) {
                return Err(AttachError::NotReserved {
                    claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
                    holder: holder.name,
                    pod: pod.pod.clone(),
                });
            }
        }
        self.attach_claims(&named, &pod, epoch, deadline)?;
        let mut adjustment = Adjustment::default();
        for uid in &named {
            if let Some(entry) = self.ledger.entry(uid)? {
                adjustment.env.extend(self.variables_to_correct(&entry, &pod, container));
            }
        }
        Ok(adjustment)
    }

    /// The CDI file was read before a name had to give way, or says a pod name where the VF stays on the host.
    fn variables_to_correct(
        &self,
        entry: &Entry,
        pod: &PodSandbox,
        container: &Container,
    ) -> Vec<(String, String)> {
        let mut entry = entry.clone();
        if pod.netns.is_none() {
            for vf in &mut entry.vfs {
                let handle = VfHandle { pci: vf.pci, hw_addr: None };
                if let Ok(Some((_, link))) = find_vf_on_host(self.kernel.as_ref(), &handle)
                    && let Ok(name) = crate::device::IfName::new(link.name)
                {
                    vf.name = name;
                }
            }
        }
        cdi::variables_of(&entry)
            .into_iter()
            .filter(|(key, value)| {
                let prefix = format!("{key}=");
                container.env.iter().any(|line| line.strip_prefix(&prefix).is_some_and(|now| now != value))
            })
            .collect()
    }

    /// Synchronize: attaches what is missing in live sandboxes, returns what is left of dead ones.
    pub fn synchronize(&self, sandboxes: &[Sandbox], deadline: Instant) {
        let mut live = Vec::new();
        for sandbox in sandboxes {
            let Ok(claims) = self.ledger.claims_of_pod(&sandbox.pod_uid) else { continue };
            if claims.is_empty() {
                continue;
            }
            // The runtime lists stopped sandboxes too, some of them with the UID of a pod that lives.
            let lives = sandbox.pid != 0
                || sandbox.netns.as_ref().is_some_and(|path| {
                    let netns = self.kernel.open(path).ok();
                    netns.is_some_and(|netns| self.kernel.user_of(netns.id()).ok().flatten().is_some())
                });
            if !lives {
                continue;
            }
            live.push(sandbox.id.clone());
            match self.run(sandbox, deadline) {
                Ok(()) => {}
                Err(error) => tracing::warn!(
                    pod = %format!("{}/{}", sandbox.pod_namespace, sandbox.pod_name),
                    error = %error.sentence(),
                    "could not attach after a reconnect"
                ),
            }
        }
        for (uid, record) in self.ledger.attachments().unwrap_or_default() {
            if live.contains(&record.sandbox) {
                continue;
            }
            let user =
                self.namespace_of(&record).and_then(|netns| self.kernel.user_of(netns.id()).ok().flatten());
            if user.is_none()
                && let Err(error) = self.detach_from(&uid, &record.sandbox, deadline)
            {
                tracing::warn!(claim = %uid, error = %error.sentence(), "could not return the VFs of a dead sandbox");
            }
        }
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::warn!("claim status is not written: too many are waiting");
        }
    }
}

/// The claims whose CDI devices a container got.
fn claims_named(container: &Container) -> Vec<String> {
    let mut claims: Vec<String> =
        container.env.iter().filter_map(|line| cdi::claim_uid_of_marker(line)).collect();
    claims.sort();
    claims.dedup();
    claims
}

fn vfs(entry: &Entry) -> Vec<(PciAddress, String)> {
    entry.vfs.iter().filter(|vf| !vf.admin_access).map(|vf| (vf.pci, vf.name.to_string())).collect()
}

fn lost(vf: PciAddress, since: Instant) -> AttachError {
    AttachError::Lost { vf, waited_ms: since.elapsed().as_millis() }
}

fn device(vf: &VfEntry, link: Option<&Link>) -> DeviceReport {
    DeviceReport {
        pool: vf.pool.clone(),
        device: vf.device.clone(),
        share_id: vf.share_id.clone(),
        reason: if vf.admin_access { Reason::AdminAccess } else { Reason::Attached },
        message: match link {
            _ if vf.admin_access => format!("VF {} is watched, not used", vf.pci),
            Some(_) => format!("VF {} is in the pod as {}", vf.pci, vf.name),
            None => format!("VF {} stays on the host", vf.pci),
        },
        interface: link.map(|_| vf.name.to_string()).filter(|_| !vf.admin_access),
        addresses: if vf.admin_access { Vec::new() } else { vf.addresses.clone() },
        hw_addr: link.and_then(|link| link.hw_addr.clone()).filter(|_| !vf.admin_access),
    }
}

fn failure(entry: &Entry, error: &AttachError) -> Report {
    let message = error.sentence();
    let devices = entry.vfs.iter().map(|vf| DeviceReport {
        reason: Reason::AttachFailed,
        message: message.clone(),
        interface: None,
        addresses: Vec::new(),
        hw_addr: None,
        ..device(vf, None)
    });
    Report { claim: entry.claim.clone(), devices: devices.collect() }
}
