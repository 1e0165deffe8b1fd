//! Attach as a function of ledger entries and sandboxes. The way back is in `detach`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::addressing::{Arrived, address};
use super::link_in::{bring_up, move_in};
use super::nri::{Adjustment, Container, Sandbox};
use super::outbox::Outbox;
use super::rdma::wants_namespace;
use super::report::{DeviceReport, Reason, Report, device, failure};
use super::{AttachError, PodSandbox, variables};
use crate::claim::{ClaimId, PodRef};
use crate::device::{CleanFacts, IfName, PciAddress};
use crate::host::{HostError, Link, Links, Netns, VfHandle, clock, find_vf, find_vf_on_host};
use crate::prepare::plan::VFIO_PCI;
use crate::prepare::records::{Attachment, CurrentSandbox, Entry, Ownership, Progress, VfEntry};
use crate::prepare::site::Site;

/// How long an attach waits for a VF that is on its way back from a namespace that ended: well within what a runtime
/// waits for its plugins. The kubelet tries again.
pub(super) const VF_WAIT: Duration = Duration::from_millis(500);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(20);
/// What one pod may take in a Synchronize; others wait for it.
const SYNC_BUDGET: Duration = Duration::from_secs(3);

/// Moves VFs. Every method blocks; callers give a deadline.
#[derive(Debug, Clone)]
pub struct Attacher {
    /// What it works on.
    pub site: Site,
    /// What became of claims, for their status.
    pub outbox: Outbox,
}

/// A claim that a container names but that belongs to another pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignClaim {
    /// Which claim.
    pub claim: ClaimId,
    /// Pod that has it.
    pub holder: PodRef,
}

/// What is done about a VF that is in the pod already, from an attach that was completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Present {
    /// It is the pod's affair: a running pod may have renamed it or set it down.
    Leave,
    /// A container that is about to start finds it under its name and up.
    PutRight,
}

/// What one call did to one claim, for its undo.
struct Moved {
    uid: String,
    vfs: Vec<PciAddress>,
    /// The record as it was: none was made before, or one that says how far an earlier call came.
    before: Option<Attachment>,
}

/// One attach: where to, for whom.
pub(super) struct Target<'a> {
    pod: &'a PodSandbox,
    epoch: u64,
    pub(super) netns: &'a Netns,
    /// Names that other VFs of the pod will want.
    planned: &'a BTreeSet<String>,
    /// Everything was attached before: only what is missing is brought.
    resumed: bool,
    pub(super) present: Present,
    pub(super) deadline: Instant,
}

impl Attacher {
    /// RunPodSandbox: the sandbox becomes its pod's current one, and every VF of the pod is moved into it.
    ///
    /// # Errors
    /// When a VF can't be attached; then the VFs that this call moved are back on the host.
    pub fn run(&self, sandbox: &Sandbox, deadline: Instant) -> Result<(), AttachError> {
        let claims = self.site.ledger.claims_of_pod(&sandbox.pod_uid)?;
        if claims.is_empty() {
            return Ok(());
        }
        let pod = PodSandbox::open(self.site.kernel.as_ref(), sandbox)?;
        let epoch = self.make_current(&pod, deadline)?;
        self.attach_claims(&claims, &pod, epoch, Present::Leave, deadline)
    }

    pub(super) fn attach_claims(
        &self,
        claims: &[String],
        pod: &PodSandbox,
        epoch: u64,
        present: Present,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let _pod = self.site.locks.pod(&pod.pod_uid, deadline)?;
        let mut planned = BTreeSet::new();
        for uid in self.site.ledger.claims_of_pod(&pod.pod_uid)? {
            if let Ok(Some(entry)) = self.site.ledger.entry(&uid) {
                planned
                    .extend(entry.vfs.iter().filter(|vf| vf.has_interface()).map(|vf| vf.name.to_string()));
            }
        }
        let mut attached: Vec<Moved> = Vec::new();
        for uid in claims {
            match self.attach_claim(uid, pod, epoch, &planned, present, deadline) {
                Ok(moved) => attached.extend(moved),
                Err(first) => {
                    let undone = attached.iter().rev().map(|moved| self.undo(moved, pod, deadline));
                    let errors = std::iter::once(first).chain(undone.filter_map(Result::err)).collect();
                    return AttachError::all(errors).map_or(Ok(()), Err);
                }
            }
        }
        Ok(())
    }

    /// Takes back what this call moved, and only that: other VFs of the claim may have been inside before, in use.
    fn undo(&self, moved: &Moved, pod: &PodSandbox, deadline: Instant) -> Result<(), AttachError> {
        let _claim = self.site.locks.claim(&moved.uid, deadline)?;
        let Some((_, netns)) = &pod.netns else { return Ok(()) };
        let was_complete = moved.before.as_ref().is_some_and(|record| record.complete);
        if let (false, Some(record)) = (was_complete, self.site.ledger.attachment(&moved.uid)?) {
            // First: what is half out is not complete, should this process be killed.
            self.site.ledger.put_attachment(&moved.uid, &Attachment { complete: false, ..record })?;
        }
        self.detach_vfs(&moved.uid, &moved.vfs, Some(netns), false, deadline)?;
        match &moved.before {
            None => Ok(self.site.ledger.remove_attachment(&moved.uid)?),
            Some(before) => Ok(self.site.ledger.put_attachment(&moved.uid, before)?),
        }
    }

    /// Notes the sandbox as the pod's current one and returns its epoch. A second agent that is told of the same
    /// sandbox gets the same epoch; a task that comes after the sandbox stopped gets none.
    pub(super) fn make_current(&self, pod: &PodSandbox, deadline: Instant) -> Result<u64, AttachError> {
        let _record = self.site.locks.sandbox_record(&pod.pod_uid, deadline)?;
        let current = self.site.ledger.current_sandbox(&pod.pod_uid)?.unwrap_or_default();
        if current.retired.contains(&pod.id) {
            return Err(AttachError::Superseded { sandbox: pod.id.clone(), pod: pod.pod.clone() });
        }
        if current.sandbox == pod.id {
            return Ok(current.epoch);
        }
        let epoch = current.epoch + 1;
        let record = CurrentSandbox { sandbox: pod.id.clone(), epoch, retired: current.retired };
        self.site.ledger.put_current_sandbox(&pod.pod_uid, &record)?;
        Ok(epoch)
    }

    /// A task for a sandbox that stopped or was replaced meanwhile must do nothing more.
    fn still_current(&self, pod: &PodSandbox, epoch: u64) -> Result<(), AttachError> {
        let current = self.site.ledger.current_sandbox(&pod.pod_uid)?;
        if current.is_some_and(|current| current.sandbox == pod.id && current.epoch == epoch) {
            return Ok(());
        }
        Err(AttachError::Superseded { sandbox: pod.id.clone(), pod: pod.pod.clone() })
    }

    /// `None`: nothing had to be moved.
    fn attach_claim(
        &self,
        uid: &str,
        pod: &PodSandbox,
        epoch: u64,
        planned: &BTreeSet<String>,
        present: Present,
        deadline: Instant,
    ) -> Result<Option<Moved>, AttachError> {
        let _claim = self.site.locks.claim(uid, deadline)?;
        // A list that names a claim without entry is older than its Unprepare.
        let Some(mut entry) = self.site.ledger.entry(uid)? else { return Ok(None) };
        if entry.pod.as_ref().is_none_or(|owner| owner.uid != pod.pod_uid) {
            return Ok(None);
        }
        // Prepared before a reboot is not prepared: nothing is set on the VFs, and what is known of them is void. Nor is
        // what a process was killed at: some is set, some is not.
        if entry.boot_id != self.site.boot_id || entry.progress != Progress::Prepared {
            return Err(AttachError::NotPrepared { uid: uid.to_owned() });
        }
        let Some((path, netns)) = &pod.netns else {
            return self.host_network(&entry, pod, deadline).map(|()| None);
        };
        self.still_current(pod, epoch)?;
        let attachment = Attachment {
            pod_uid: pod.pod_uid.clone(),
            sandbox: pod.id.clone(),
            epoch,
            netns_path: path.clone(),
            netns: netns.id(),
            complete: false,
        };
        let before = self.site.ledger.attachment(uid)?;
        if let Some(other) =
            before.as_ref().filter(|record| record.netns != netns.id() || record.sandbox != pod.id)
        {
            self.take_back(&entry, other, deadline)?;
        }
        let before = before.filter(|record| record.netns == netns.id() && record.sandbox == pod.id);
        let resumed = before.as_ref().is_some_and(|record| record.complete);
        if !resumed {
            self.site.ledger.put_attachment(uid, &attachment)?;
        }
        let entry_before = entry.clone();
        let mut moved = Moved { uid: uid.to_owned(), vfs: Vec::new(), before };
        let target = Target { pod, epoch, netns, planned, resumed, present, deadline };
        match self.attach_vfs(&mut entry, &target, &mut moved.vfs) {
            Ok(devices) => {
                if entry != entry_before {
                    self.site.ledger.put_entry_quickly(&entry)?;
                    self.site.write_cdi(&entry)?;
                }
                if resumed && moved.vfs.is_empty() {
                    return Ok(None);
                }
                // Before the record says that all is done: a process that is killed in between reports once more, not never.
                self.report(Report { claim: entry.claim.clone(), devices });
                self.site.ledger.put_attachment(uid, &Attachment { complete: true, ..attachment })?;
                let vfs: Vec<String> = entry.vfs.iter().map(|vf| format!("{}={}", vf.pci, vf.name)).collect();
                tracing::info!(claim = %uid, pod = %pod.pod, sandbox = %pod.id, vfs = %vfs.join(","), "attached");
                Ok(Some(moved))
            }
            Err(first) => {
                self.report(failure(&entry, &first));
                let undone = self.detach_vfs(uid, &moved.vfs, Some(netns), false, deadline);
                if undone.is_ok() && moved.before.is_none() {
                    self.site.ledger.remove_attachment(uid)?;
                }
                AttachError::all([Some(first), undone.err()].into_iter().flatten().collect())
                    .map_or(Ok(None), Err)
            }
        }
    }

    fn attach_vfs(
        &self,
        entry: &mut Entry,
        target: &Target<'_>,
        moved: &mut Vec<PciAddress>,
    ) -> Result<Vec<DeviceReport>, AttachError> {
        let mut host = self.site.kernel.enter(self.site.kernel.host())?;
        let mut inside = self.site.kernel.enter(target.netns)?;
        // By the order of the entry: the link, and whether there is something to do.
        let mut links: Vec<Option<(Link, bool)>> = Vec::new();
        for vf in &mut entry.vfs {
            self.check_life(&entry.claim.uid, vf)?;
            if !vf.has_interface() {
                self.check_driver(vf)?;
                links.push(None);
                continue;
            }
            let clean = self.clean(&entry.claim.uid, vf.pci)?;
            let pci = vf.pci;
            let failed = |source| AttachError::Vf { vf: pci, source };
            // Without it the claim could be had, but not the device that it is wanted for.
            self.check_rdma_way(vf)?;
            // The interface of InfiniBand is made anew where its RDMA device arrives.
            let rdma_first = clean.hw_addr.as_ref().is_some_and(|address| !address.is_ethernet());
            if rdma_first && self.rdma_in(vf, target)? {
                moved.push(pci);
            }
            let handle = self.handle(pci, Some(&clean));
            let started = clock::now();
            let until = target.deadline.min(started + VF_WAIT);
            let (link, fresh) = loop {
                self.still_current(target.pod, target.epoch)?;
                if let Some(link) = find_vf(inside.as_mut(), &handle, &[vf.name.as_str()]).map_err(failed)? {
                    break (link, false);
                }
                if let Some(link) = self.find_on_host(host.as_mut(), &handle).map_err(failed)? {
                    self.note_new_life(&entry.claim, vf, &clean, &link)?;
                    if !moved.contains(&pci) {
                        moved.push(pci);
                    }
                    // When the hook runs, the container's environment is fixed.
                    let may_give_way = target.present == Present::Leave;
                    move_in(
                        (host.as_mut(), &link),
                        (target.netns, inside.as_mut()),
                        vf,
                        target.planned,
                        may_give_way,
                    )?;
                    let arrived = inside.by_name(vf.name.as_str()).map_err(failed)?;
                    break (arrived.ok_or_else(|| lost(pci, started))?, true);
                }
                if self.site.functions.life(pci).is_none() || clock::now() >= until {
                    return Err(lost(pci, started));
                }
                clock::sleep(POLL);
            };
            let usable = link.up && link.name == vf.name.as_str();
            let to_do = fresh || !target.resumed || (target.present == Present::PutRight && !usable);
            let link = match to_do {
                true => bring_up(inside.as_mut(), &link, vf).map_err(failed)?,
                false => link,
            };
            links.push(Some((link, to_do)));
        }
        let with_links = entry.vfs.iter().zip(&links);
        let arrived: Vec<Arrived<'_>> = with_links
            .filter_map(|(vf, link)| Some((vf, link.clone().filter(|(_, to_do)| *to_do)?.0)))
            .collect();
        let mut checks = address(inside.as_mut(), &arrived, target.deadline)?;
        for vf in entry.vfs.iter_mut().filter(|vf| vf.has_interface()) {
            self.rdma_in(vf, target)?;
        }
        let devices = entry.vfs.iter().zip(&links).map(|(vf, link)| {
            let checks = checks.remove(&vf.pci).unwrap_or_default();
            let report = DeviceReport { checks, ..device(vf, link.as_ref().map(|(link, _)| link)) };
            self.with_rdma(vf, report)
        });
        Ok(devices.collect())
    }

    /// A VF that was made anew has lost what its PF said of it: a VLAN may be all that keeps its pod from others. Only
    /// Prepare sets it.
    fn check_life(&self, claim_uid: &str, vf: &VfEntry) -> Result<(), AttachError> {
        if vf.settings.is_empty() {
            return Ok(());
        }
        let owned = self.clean(claim_uid, vf.pci)?;
        // As it was when the claim was last prepared to the end. Who owns it may know of a later life: a Prepare that failed
        // or was killed took it, and set nothing.
        let prepared = vf.clean.as_ref().unwrap_or(&owned);
        match self.site.functions.life(vf.pci) {
            Some(life) if life.incarnation != prepared.incarnation => {
                Err(AttachError::MadeAnew { vf: vf.pci })
            }
            _ => Ok(()),
        }
    }

    /// A VF that was made anew after its claim was prepared, and that nothing was set on: what it is now is what it will be
    /// given back as. What was noted of its former life would leave it under the pod's name.
    fn note_new_life(
        &self,
        claim: &ClaimId,
        vf: &mut VfEntry,
        clean: &CleanFacts,
        link: &Link,
    ) -> Result<(), AttachError> {
        let life = self.site.functions.life(vf.pci).filter(|life| life.incarnation != clean.incarnation);
        let Some(life) = life else { return Ok(()) };
        tracing::warn!(vf = %vf.pci, "a VF was made anew after its claim was prepared; it is taken as it is now");
        let clean = link.clone().noted_in(CleanFacts {
            incarnation: life.incarnation,
            driver: life.driver,
            forced: life.forced,
            ..clean.clone()
        });
        let owner =
            Ownership { claim: claim.clone(), boot_id: self.site.boot_id.clone(), clean: clean.clone() };
        self.site.ledger.refresh(vf.pci, &owner)?;
        vf.clean = Some(clean);
        Ok(())
    }

    /// What has no interface is not moved; the container opens its device node.
    fn check_driver(&self, vf: &VfEntry) -> Result<(), AttachError> {
        let driver = self.site.functions.life(vf.pci).and_then(|life| life.driver);
        if vf.vfio && driver.as_deref() != Some(VFIO_PCI) {
            let driver = driver.map_or("no driver".to_owned(), |driver| format!("driver {driver}"));
            return Err(AttachError::NotOnVfio { vf: vf.pci, driver });
        }
        Ok(())
    }

    fn find_on_host(&self, host: &mut dyn Links, handle: &VfHandle<'_>) -> Result<Option<Link>, HostError> {
        let names = self.site.kernel.netdev_names(handle.pci);
        find_vf(host, handle, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(super) fn handle<'a>(&self, pci: PciAddress, clean: Option<&'a CleanFacts>) -> VfHandle<'a> {
        let hw_addr = clean.and_then(|clean| clean.hw_addr.as_ref());
        VfHandle { pci, hw_addr, stand_in: self.site.kernel.has_stand_ins() }
    }

    pub(super) fn clean(&self, claim_uid: &str, vf: PciAddress) -> Result<CleanFacts, AttachError> {
        match self.site.ledger.ownership(vf)?.filter(|owner| owner.claim.uid == claim_uid) {
            Some(owner) => Ok(owner.clean),
            None => Err(AttachError::NotPrepared { uid: claim_uid.to_owned() }),
        }
    }

    /// On the host's network a VF stays where it is; only what can be done there may have been asked for.
    fn host_network(&self, entry: &Entry, pod: &PodSandbox, deadline: Instant) -> Result<(), AttachError> {
        if entry.vfs.iter().any(|vf| vf.interface_asked && !vf.admin_access) {
            let error = AttachError::HostNetwork {
                pod: pod.pod.clone(),
                claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
            };
            self.report(failure(entry, &error));
            return Err(error);
        }
        if entry.vfs.iter().any(|vf| vf.rdma.as_ref().is_some_and(wants_namespace)) {
            let error = AttachError::HostNetworkRdma {
                pod: pod.pod.clone(),
                claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
            };
            self.report(failure(entry, &error));
            return Err(error);
        }
        let started = clock::now();
        let until = deadline.min(started + VF_WAIT);
        let mut devices = Vec::new();
        for vf in &entry.vfs {
            self.check_life(&entry.claim.uid, vf)?;
            if vf.vfio {
                self.check_driver(vf)?;
                devices.push(device(vf, None));
                continue;
            }
            let found = loop {
                match self.on_host(vf) {
                    Some(found) => break Some(found),
                    None if vf.admin_access => break None,
                    None if clock::now() >= until => {
                        let error = lost(vf.pci, started);
                        self.report(failure(entry, &error));
                        return Err(error);
                    }
                    None => clock::sleep(POLL),
                }
            };
            let report = match found {
                Some((name, link)) => device(&VfEntry { name, ..vf.clone() }, Some(&link)),
                None => device(vf, None),
            };
            devices.push(self.with_rdma(vf, DeviceReport { reason: Reason::HostNetwork, ..report }));
        }
        self.report(Report { claim: entry.claim.clone(), devices });
        Ok(())
    }

    fn on_host(&self, vf: &VfEntry) -> Option<(IfName, Link)> {
        let (_, link) =
            find_vf_on_host(self.site.kernel.as_ref(), &self.handle(vf.pci, vf.clean.as_ref())).ok()??;
        Some((IfName::new(link.name.clone()).ok()?, link))
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
        for uid in variables::claims_named(&container.env) {
            if let Some(entry) = self.site.ledger.entry(&uid)?
                && let Some(holder) = entry.pod.filter(|holder| holder.uid != sandbox.pod_uid)
            {
                foreign.push(ForeignClaim { claim: entry.claim, holder });
            }
        }
        Ok(foreign)
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
        let named = variables::claims_named(&container.env);
        if named.is_empty() {
            return Ok(Adjustment::default());
        }
        let pod = PodSandbox::open(self.site.kernel.as_ref(), sandbox)?;
        let epoch = self.make_current(&pod, deadline)?;
        for uid in &named {
            let entry =
                self.site.ledger.entry(uid)?.ok_or_else(|| AttachError::NotPrepared { uid: uid.clone() })?;
            if let Some(holder) = entry.pod.filter(|holder| holder.uid != sandbox.pod_uid) {
                return Err(AttachError::NotReserved {
                    claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
                    holder: holder.name,
                    pod: pod.pod.clone(),
                });
            }
        }
        self.attach_claims(&named, &pod, epoch, Present::Leave, deadline)?;
        let mut entries = Vec::new();
        for uid in &named {
            entries.extend(self.site.ledger.entry(uid)?);
        }
        if pod.netns.is_none() {
            entries.iter_mut().for_each(|entry| self.name_as_on_host(entry));
        }
        let netns = pod.netns.as_ref().map_or(self.site.kernel.host(), |(_, netns)| netns);
        let vfs = entries.iter().flat_map(|entry| variables::listed(entry, &container.env));
        let (mut devices, memlock) = self.rdma_for_container(vfs, netns)?;
        // Two agents during an upgrade are both asked, and a runtime bears no two plugins that set the same.
        devices.retain(|device| !container.devices.contains(device));
        let memlock =
            memlock.map(|limit| limit.bytes).filter(|bytes| container.memlock.is_none_or(|is| is < *bytes));
        let nccl = self.nccl_for_container(&entries, &pod.pod_uid, container)?;
        let mut env = variables::to_set(&entries, &container.env);
        env.extend(nccl.env);
        Ok(Adjustment { env, devices, memlock, files: nccl.files })
    }

    /// The CDI file says the names of a pod; these VFs stay on the host.
    fn name_as_on_host(&self, entry: &mut Entry) {
        for vf in &mut entry.vfs {
            if let Some((name, _)) = self.on_host(vf) {
                vf.name = name;
            }
        }
    }

    /// Synchronize: attaches what is missing in live sandboxes, returns what is left of dead ones.
    pub fn synchronize(&self, sandboxes: &[Sandbox], deadline: Instant) {
        let mut live = Vec::new();
        for sandbox in sandboxes {
            let Ok(claims) = self.site.ledger.claims_of_pod(&sandbox.pod_uid) else { continue };
            if claims.is_empty() {
                continue;
            }
            // The runtime lists stopped sandboxes too, some of them with the UID of a pod that lives. A sandbox
            // without process may be one that never had any (CRI-O without infra container): its path is there.
            let lives = sandbox.pid != 0
                || sandbox.netns.as_ref().is_some_and(|path| self.site.kernel.open(path).is_ok());
            if !lives {
                continue;
            }
            live.push(sandbox.id.clone());
            let until = deadline.min(clock::now() + SYNC_BUDGET);
            if let Err(error) = self.run(sandbox, until) {
                let pod = format!("{}/{}", sandbox.pod_namespace, sandbox.pod_name);
                tracing::warn!(%pod, error = %error.sentence(), "could not attach after a reconnect");
            }
        }
        self.return_from_dead(&live, deadline);
    }

    fn report(&self, report: Report) {
        let claim = format!("{}/{}", report.claim.namespace, report.claim.name);
        if let Err(error) = self.outbox.put(report) {
            tracing::warn!(%claim, %error, "claim status will not be written: the report can't be kept");
        }
    }
}

pub(super) fn lost(vf: PciAddress, since: Instant) -> AttachError {
    AttachError::Lost { vf, waited_ms: since.elapsed().as_millis() }
}
