//! Executes plans and takes them back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::PrepareError;
use super::asked::AskedFor;
use super::functions::Facts;
use super::plan::{Plan, Situation, plan};
use super::records::{Entry, Ownership, Progress, VfEntry};
use super::settings::link_of;
use super::site::Site;
use super::steps::Step;
use crate::claim::{ClaimId, ClaimSpec};
use crate::device::{CleanFacts, PciAddress, Place, VfSettings};
use crate::host::{VfHandle, clock, find_vf_on_host};

/// How long a VF that nobody owns may be on its way back.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// How often a VF that is not there yet is looked for again.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Prepare and Unprepare. Every method blocks; callers give a deadline.
#[derive(Debug, Clone)]
pub struct Engine {
    /// What it works on.
    pub site: Site,
}

impl Engine {
    /// Makes a claim ready. Level-triggered: the same call repairs what differs.
    ///
    /// # Errors
    /// When the claim can't be met, or something failed; then what this call did is undone.
    pub fn prepare(&self, spec: &ClaimSpec, deadline: Instant) -> Result<Entry, PrepareError> {
        let wanted: BTreeSet<PciAddress> =
            spec.results.iter().filter(|result| !result.admin_access).map(|result| result.pci).collect();
        // Without a lock: the pod's other claims need not wait for this one's VFs.
        self.wait_until_free(&spec.id, &wanted, deadline)?;
        let _pod = spec.pod.as_ref().map(|pod| self.site.locks.pod(&pod.uid, deadline)).transpose()?;
        let _claim = self.site.locks.claim(&spec.id.uid, deadline)?;
        let previous = self.site.ledger.entry(&spec.id.uid)?;

        let all: BTreeSet<PciAddress> = spec.results.iter().map(|result| result.pci).collect();
        let mut own = BTreeSet::new();
        for vf in &all {
            if self.site.ledger.ownership(*vf)?.is_some_and(|owner| owner.claim.uid == spec.id.uid) {
                own.insert(*vf);
            }
        }
        let facts = self.read_settled(&all, &wanted - &own)?;
        let siblings = match &spec.pod {
            Some(pod) => self.siblings(&pod.uid, &spec.id.uid)?,
            None => Vec::new(),
        };
        let AskedFor { settings, vfio, pools } = self.asked_for(spec, &facts, previous.as_ref(), deadline)?;
        let rdma = self.rdma_of(&spec.results, &facts);
        let situation = Situation {
            facts: &facts,
            rdma: &rdma,
            runtime: self.site.runtime.now(),
            settings: &settings,
            vfio: &vfio,
            pools: &pools,
            own: &own,
            previous: previous.as_ref(),
            siblings: &siblings,
            boot_id: &self.site.boot_id,
        };
        let Plan { entry, steps } = plan(spec, &situation)?;

        let mut done = Done::default();
        let seen = Seen { spec, facts: &facts, settings: &settings };
        match self.execute(&entry, previous.as_ref(), &steps, &seen, &mut done, deadline) {
            Ok(entry) => Ok(entry),
            Err(first) => Err(self.undo(first, &entry, previous.as_ref(), done)),
        }
    }

    /// The namespace of a former pod may end some seconds after the pod: a VF that nobody owns and that is elsewhere is
    /// given the time to come back.
    fn read_settled(
        &self,
        all: &BTreeSet<PciAddress>,
        mut unowned: BTreeSet<PciAddress>,
    ) -> Result<BTreeMap<PciAddress, Facts>, PrepareError> {
        let until = clock::now() + SETTLE;
        let mut facts = self.site.functions.facts(all)?;
        loop {
            unowned.retain(|vf| facts.get(vf).is_some_and(|found| found.vf.place == Place::Elsewhere));
            if unowned.is_empty() || clock::now() >= until {
                return Ok(facts);
            }
            clock::sleep(POLL);
            let again = self.site.functions.facts(&unowned)?;
            facts.retain(|vf, _| !unowned.contains(vf) || again.contains_key(vf));
            facts.extend(again);
        }
    }

    fn siblings(&self, pod_uid: &str, but: &str) -> Result<Vec<Entry>, PrepareError> {
        let mut siblings = Vec::new();
        for uid in self.site.ledger.claims_of_pod(pod_uid)? {
            // The list may be older than a hand-over.
            if uid != but
                && let Some(entry) = self.site.ledger.entry(&uid)?
                && entry.pod.as_ref().is_some_and(|pod| pod.uid == pod_uid)
            {
                siblings.push(entry);
            }
        }
        Ok(siblings)
    }

    /// The scheduler hands a VF out again as soon as the old claim is deallocated; its Unprepare may still be at work.
    fn wait_until_free(
        &self,
        claim: &ClaimId,
        wanted: &BTreeSet<PciAddress>,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let started = clock::now();
        for vf in wanted {
            while let Some(owner) =
                self.site.ledger.ownership(*vf)?.filter(|owner| owner.claim.uid != claim.uid)
            {
                if self.release_orphan(*vf, &owner.claim)? {
                    continue;
                }
                if clock::now() >= deadline {
                    return Err(held(*vf, &owner.claim, started));
                }
                clock::sleep(POLL);
            }
        }
        Ok(())
    }

    /// A file of ownership whose claim has neither entry nor attachment, and nobody at work on it, is left from a
    /// process that was killed, of a removal that a power loss undid, or of an entry that was damaged: what was changed is
    /// taken back as at the claim's end.
    pub(super) fn release_orphan(&self, vf: PciAddress, holder: &ClaimId) -> Result<bool, PrepareError> {
        let Ok(lock) = self.site.locks.claim(&holder.uid, clock::now()) else { return Ok(false) };
        // Whoever lets go of what a claim holds has the claim's lock: from here on the VF changes hands no more. Before, it
        // may have: another agent or another Prepare may have found the same orphan.
        let owner = self.site.ledger.ownership(vf)?.filter(|owner| owner.claim.uid == holder.uid);
        let Some(owner) = owner else { return Ok(false) };
        let orphan = self.site.ledger.entry(&holder.uid)?.is_none()
            && self.site.ledger.attachment(&holder.uid)?.is_none();
        if orphan {
            tracing::warn!(%vf, claim = %format!("{}/{}", holder.namespace, holder.name), "a VF held for a claim nobody knows is let go");
            self.give_back(vf, &owner, clock::now() + SETTLE)?;
            lock.remove_file();
        }
        Ok(orphan)
    }

    fn execute(
        &self,
        planned: &Entry,
        previous: Option<&Entry>,
        steps: &[Step],
        seen: &Seen<'_>,
        done: &mut Done,
        deadline: Instant,
    ) -> Result<Entry, PrepareError> {
        let facts = seen.facts;
        for vf in planned.vfs.iter().filter(|vf| !vf.admin_access) {
            if let Some(found) = facts.get(&vf.pci) {
                let original = originals(vf, seen.settings.get(&vf.pci));
                self.own(&planned.claim, found, &original, done, deadline)?;
            }
        }
        self.check_groups(planned, steps)?;
        let mut planned = planned.clone();
        for vf in planned.vfs.iter_mut().filter(|vf| !vf.admin_access) {
            vf.clean = self.site.ledger.ownership(vf.pci)?.map(|owner| owner.clean);
        }
        self.keep_nodes(&mut planned, previous);
        let mut prepared = Entry { progress: Progress::Prepared, ..planned.clone() };
        if previous != Some(&prepared) {
            // Each write waits for the disk: what changes nothing on the node needs one only.
            self.site.ledger.put_entry(if steps.is_empty() { &prepared } else { &planned })?;
            done.entry = true;
        }
        let pfs: BTreeSet<PciAddress> = steps
            .iter()
            .map(|step| facts.get(&step.vf()).and_then(|f| f.vf.pf).unwrap_or(step.vf()))
            .collect();
        {
            let _pfs =
                pfs.iter().map(|pf| self.site.locks.pf(*pf, deadline)).collect::<Result<Vec<_>, _>>()?;
            for step in steps {
                // Counted before it is done: a step that fails half-way is undone too.
                done.steps.push(step.clone());
                self.apply(step, deadline)?;
            }
        }
        // Known only now: a group's node is made when the driver is bound, and so is an RDMA device.
        let named = self.name_nodes(&mut prepared)? | self.name_rdma(seen.spec, &mut prepared, deadline)?;
        done.cdi = true;
        self.site.write_cdi(&prepared)?;
        if (done.entry && !steps.is_empty()) || named {
            self.site.ledger.put_entry(&prepared)?;
        }
        Ok(prepared)
    }

    /// Takes the VF and notes what it was, before anything is changed. The note of the same boot and incarnation is
    /// never overwritten: by then the VF may already be changed.
    fn own(
        &self,
        claim: &ClaimId,
        facts: &Facts,
        original: &VfSettings,
        done: &mut Done,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let vf = facts.vf.pci;
        if let Some(owner) = self.site.ledger.ownership(vf)? {
            if owner.claim.uid != claim.uid {
                return Err(held(vf, &owner.claim, clock::now()));
            }
            if owner.boot_id == self.site.boot_id && owner.clean.incarnation == facts.vf.incarnation {
                let mut settings = owner.clean.settings.clone();
                original
                    .each()
                    .into_iter()
                    .filter(|one| owner.clean.settings.like(one).is_none())
                    .for_each(|one| settings.put(one));
                if settings == owner.clean.settings {
                    return Ok(());
                }
                let clean = CleanFacts { settings, ..owner.clean.clone() };
                return self.site.ledger.refresh(vf, &Ownership { clean, ..owner });
            }
            let clean = self.clean_facts(facts, original, deadline)?;
            let ownership = Ownership { claim: claim.clone(), boot_id: self.site.boot_id.clone(), clean };
            return self.site.ledger.refresh(vf, &ownership);
        }
        let clean = self.clean_facts(facts, original, deadline)?;
        let ownership = Ownership { claim: claim.clone(), boot_id: self.site.boot_id.clone(), clean };
        if !self.site.ledger.take(vf, &ownership)? {
            let holder = self.site.ledger.ownership(vf)?.map_or_else(|| claim.clone(), |owner| owner.claim);
            return Err(held(vf, &holder, clock::now()));
        }
        done.owned.push(vf);
        if let Some((pf, index)) = link_of(&facts.vf, facts.pf.as_ref()).filter(|_| !original.is_empty()) {
            // Until now another agent may have been at work on it: what it is when it is ours, is what it was.
            let told = self.site.functions.settings(vf, &pf, index);
            let told = told.map_err(|source| PrepareError::Vf { vf, source })?;
            let now = self.given_by_the_pf(&facts.vf, told);
            let mut settings = VfSettings::default();
            original.each().iter().filter_map(|one| now.like(one)).for_each(|one| settings.put(one));
            if settings != *original {
                let clean = CleanFacts { settings, ..ownership.clean.clone() };
                self.site.ledger.refresh(vf, &Ownership { clean, ..ownership })?;
            }
        }
        Ok(())
    }

    /// What the VF is while nobody owns it. A VF that is on its way back from a namespace that ended is waited for.
    fn clean_facts(
        &self,
        facts: &Facts,
        settings: &VfSettings,
        deadline: Instant,
    ) -> Result<CleanFacts, PrepareError> {
        let vf = &facts.vf;
        let clean = CleanFacts {
            incarnation: vf.incarnation,
            driver: vf.driver.clone(),
            forced: self.site.functions.life(vf.pci).and_then(|life| life.forced),
            name: None,
            hw_addr: None,
            mtu: None,
            alt_names: Vec::new(),
            alias: None,
            up: false,
            queue_length: None,
            rdma: vf.rdma.clone(),
            settings: settings.clone(),
        };
        if matches!(vf.place, Place::Unbound | Place::Userspace) {
            return Ok(clean);
        }
        let hw_addr = vf.netdev.as_ref().and_then(|netdev| netdev.hw_addr.clone());
        let link = self.wait_for_netdev(vf.pci, hw_addr.as_ref(), deadline)?;
        Ok(link.noted_in(clean))
    }

    pub(super) fn wait_for_netdev(
        &self,
        vf: PciAddress,
        hw_addr: Option<&crate::device::HwAddr>,
        deadline: Instant,
    ) -> Result<crate::host::Link, PrepareError> {
        let started = clock::now();
        loop {
            let handle = VfHandle { pci: vf, hw_addr, stand_in: self.site.kernel.has_stand_ins() };
            let found = find_vf_on_host(self.site.kernel.as_ref(), &handle)
                .map_err(|source| PrepareError::Vf { vf, source })?;
            if let Some((_, link)) = found {
                return Ok(link);
            }
            if clock::now() >= deadline {
                let why =
                    "a network driver is bound, but its interface is in another network namespace".to_owned();
                return Err(PrepareError::NoNetdev { vf, why, waited_s: started.elapsed().as_secs() });
            }
            clock::sleep(POLL);
        }
    }

    /// Takes back what a failed call did, in reverse. What an earlier, successful call did stays.
    fn undo(&self, first: PrepareError, entry: &Entry, previous: Option<&Entry>, done: Done) -> PrepareError {
        let had_entry = previous.is_some();
        let mut others = Vec::new();
        let mut note = |result: Result<(), PrepareError>| {
            if let Err(error) = result {
                others.push(error.sentence());
            }
        };
        let deadline = clock::now() + Duration::from_secs(5);
        if done.cdi && !had_entry {
            note(
                super::cdi_file::remove(&self.site.cdi_dir, &self.site.driver, &entry.claim.uid)
                    .map(drop)
                    .map_err(PrepareError::from),
            );
        }
        let mut stuck = BTreeSet::new();
        for step in done.steps.iter().rev() {
            let undone = self.apply(&step.inverse(), deadline);
            if undone.is_err() {
                // It stays this claim's, so that nobody gets it as it is; the next call goes on from there.
                stuck.insert(step.vf());
            }
            note(undone);
        }
        let touched: BTreeSet<PciAddress> = done.steps.iter().map(Step::vf).collect();
        // What an earlier call made of a VF stays.
        for vf in done
            .owned
            .iter()
            .filter(|vf| touched.contains(vf) && !stuck.contains(vf))
            .copied()
            .collect::<Vec<_>>()
        {
            let undone = self.site.ledger.ownership(vf).and_then(|owner| {
                let Some(owner) = owner else { return Ok(()) };
                // One that was bound again for an address may have lost its driver.
                self.put_driver_back(vf, &owner.clean, deadline)?;
                if owner.clean.name.is_some() {
                    self.wait_for_netdev(vf, None, deadline)?;
                }
                // A driver that was bound again gave the interface another name.
                self.restore_link(vf, &owner.clean)
            });
            if undone.is_err() {
                stuck.insert(vf);
            }
            note(undone);
        }
        if done.entry && !had_entry && stuck.is_empty() {
            note(
                self.site
                    .ledger
                    .remove_entry(&entry.claim.uid, entry.pod.as_ref().map(|pod| pod.uid.as_str())),
            );
        }
        if let Some(previous) = previous.filter(|_| done.entry && stuck.is_empty()) {
            // All is as before this call: what was prepared is, and what was void is void.
            note(self.site.ledger.put_entry(previous));
        }
        for vf in done.owned.iter().rev().filter(|vf| !stuck.contains(vf)) {
            note(self.site.ledger.release(*vf));
        }
        if others.is_empty() { first } else { PrepareError::UndoFailed { first: Box::new(first), others } }
    }
}

fn held(vf: PciAddress, holder: &ClaimId, since: Instant) -> PrepareError {
    PrepareError::Held { vf, holder: holder.clone(), waited_s: since.elapsed().as_secs() }
}

/// What one call of Prepare did itself.
#[derive(Debug, Default)]
struct Done {
    owned: Vec<PciAddress>,
    entry: bool,
    steps: Vec<Step>,
    cdi: bool,
}

/// The VFs as they were when the plan was made.
struct Seen<'a> {
    spec: &'a ClaimSpec,
    facts: &'a BTreeMap<PciAddress, Facts>,
    settings: &'a BTreeMap<PciAddress, VfSettings>,
}

/// What the VF has now of the kinds that its claim sets.
fn originals(vf: &VfEntry, now: Option<&VfSettings>) -> VfSettings {
    let mut settings = VfSettings::default();
    vf.settings.iter().filter_map(|setting| now?.like(setting)).for_each(|setting| settings.put(setting));
    settings
}
