//! The way back: settings, drivers and interfaces as they were, then the claim forgotten.

use std::collections::BTreeSet;
use std::time::Instant;

use super::PrepareError;
use super::apply::LATE;
use super::engine::{Engine, SETTLE};
use super::ledger::Ledger;
use super::locks::Locks;
use super::records::{Entry, Ownership, Unclean};
use super::settings::link_of;
use super::steps::Step;
use crate::claim::ClaimId;
use crate::device::{PciAddress, PfLink};
use crate::host::clock;
use crate::host::flock::HeldLock;

impl Engine {
    /// Undoes a claim: drivers back, CDI file, ledger and ownership gone. The VFs must be back on the host. A claim
    /// nobody knows is a success.
    ///
    /// # Errors
    /// Everything that could not be undone; what could be is, and the next call goes on from there.
    pub fn unprepare(&self, claim: &ClaimId, deadline: Instant) -> Result<(), PrepareError> {
        let HeldClaim { pod: pod_lock, claim: claim_lock, entry } =
            hold_claim(&self.site.ledger, &self.site.locks, &claim.uid, deadline)?;
        let pod_uid = entry.as_ref().and_then(|entry| entry.pod.as_ref()).map(|pod| pod.uid.clone());
        if self.site.ledger.attachment(&claim.uid)?.is_some() {
            return Err(PrepareError::StillAttached { claim: format!("{}/{}", claim.namespace, claim.name) });
        }
        // The files of ownership say it too: they are there when the entry was lost.
        let owned: Vec<(PciAddress, Ownership)> =
            self.site.ledger.owned()?.into_iter().filter(|(_, owner)| owner.claim.uid == claim.uid).collect();
        let mut errors = Vec::new();
        for (vf, ownership) in &owned {
            if let Err(error) = self.give_back(*vf, ownership, deadline) {
                errors.push(error);
            }
        }
        super::cdi_file::remove(&self.site.cdi_dir, &self.site.driver, &claim.uid)?;
        let mut errors = errors.into_iter();
        if let Some(first) = errors.next() {
            let others: Vec<String> = errors.map(|error| error.sentence()).collect();
            return Err(match others.is_empty() {
                true => first,
                false => PrepareError::UndoFailed { first: Box::new(first), others },
            });
        }
        self.site.ledger.remove_entry(&claim.uid, pod_uid.as_deref())?;
        claim_lock.remove_file();
        if let (Some(lock), Some(uid)) = (pod_lock, pod_uid)
            && self.site.ledger.claims_of_pod(&uid)?.is_empty()
        {
            let record = self.site.locks.sandbox_record(&uid, deadline)?;
            self.site.ledger.forget_sandbox(&uid)?;
            record.remove_file();
            lock.remove_file();
        }
        Ok(())
    }

    /// Makes a VF what it was and lets it go. One whose settings can't be made what they were is withheld, and let go all
    /// the same: a pod that never ends would help nobody.
    pub(super) fn give_back(
        &self,
        vf: PciAddress,
        ownership: &Ownership,
        deadline: Instant,
    ) -> Result<(), PrepareError> {
        let clean = &ownership.clean;
        let life =
            self.site.functions.life(vf).filter(|life| {
                ownership.boot_id == self.site.boot_id && life.incarnation == clean.incarnation
            });
        let Some(life) = life else { return self.site.ledger.release(vf) };
        let other_driver = life.driver != clean.driver;
        let mut refused = Vec::new();
        // One that was killed between the driver and what forces it has left that.
        let other_force = life.forced != clean.forced;
        if other_driver || other_force || !clean.settings.is_empty() {
            let facts = self.site.functions.facts(&BTreeSet::from([vf]))?;
            let facts = facts.get(&vf);
            let pf = facts.and_then(|facts| facts.vf.pf);
            if other_driver {
                // Before the lock: other VFs of the PF need not wait for whoever has this one open.
                self.wait_until_closed(vf, deadline.min(clock::now() + SETTLE))?;
            }
            let _pf = self.site.locks.pf(pf.unwrap_or(vf), deadline)?;
            // Before the driver: it takes its address from the PF when it is bound.
            if let Some((link, index)) = facts.and_then(|facts| link_of(&facts.vf, facts.pf.as_ref())) {
                // A driver that answers late has its time, whoever called late.
                let until = deadline.max(clock::now() + LATE);
                refused = self.put_settings_back(vf, (&link, index), ownership, until);
            } else if !clean.settings.is_empty() {
                refused.push(format!("VF {vf}: its PF has no network interface any more to set it through"));
            }
            // Looked at anew: a driver that did not come back after it was bound again for an address is none.
            let bound = self.site.functions.life(vf).and_then(|life| life.driver);
            self.put_driver_back(vf, clean, deadline)?;
            if bound != clean.driver && clean.name.is_some() {
                let there = self.wait_for_netdev(vf, None, deadline.min(clock::now() + SETTLE));
                refused.extend(there.err().map(|error| error.sentence()));
            }
            refused.extend(self.restore_link(vf, clean).err().map(|error| error.sentence()));
        }
        if refused.is_empty() {
            if !clean.settings.is_empty() {
                self.site.ledger.mark_clean(vf)?;
            }
        } else {
            let reason = refused.join("; ");
            tracing::error!(%vf, error = %reason, "a VF could not be made what it was; it is withheld");
            let unclean =
                Unclean { boot_id: self.site.boot_id.clone(), incarnation: clean.incarnation, reason };
            self.site.ledger.mark_unclean(vf, &unclean)?;
        }
        self.site.ledger.release(vf)
    }

    /// Every setting that could not be put back, as a sentence.
    fn put_settings_back(
        &self,
        vf: PciAddress,
        (pf, index): (&PfLink, u32),
        ownership: &Ownership,
        deadline: Instant,
    ) -> Vec<String> {
        let wanted = ownership.clean.settings.each();
        if wanted.is_empty() {
            return Vec::new();
        }
        let now = match self.site.functions.settings(vf, pf, index) {
            Ok(now) => now,
            Err(source) => return vec![PrepareError::Vf { vf, source }.sentence()],
        };
        let mut refused = Vec::new();
        // In reverse: trust goes before the address that it let the VF change.
        for to in wanted.into_iter().rev() {
            // Nothing is said any more: it is set all the same, and what can't be seen afterwards is told.
            let from = now.like(&to);
            if from.as_ref() == Some(&to) {
                continue;
            }
            let from = from.unwrap_or_else(|| to.clone());
            let step = Step::Set { vf, pf: pf.clone(), index, from, to };
            refused.extend(self.apply(&step, deadline).err().map(|error| error.sentence()));
        }
        refused
    }
}

/// A claim's locks, and its entry as it is under them.
#[derive(Debug)]
pub struct HeldClaim {
    /// Its pod's, if it has one.
    pub pod: Option<HeldLock>,
    /// Its own.
    pub claim: HeldLock,
    /// None: nobody knows the claim.
    pub entry: Option<Entry>,
}

/// Takes the locks of a claim known by its UID only: which pod's lock comes first stands in the entry, which may be
/// handed over to another pod meanwhile.
///
/// # Errors
/// When they are not free by the deadline, or the entry can't be read.
pub fn hold_claim(
    ledger: &Ledger,
    locks: &Locks,
    uid: &str,
    deadline: Instant,
) -> Result<HeldClaim, PrepareError> {
    let pod_of = |entry: &Option<Entry>| Some(entry.as_ref()?.pod.as_ref()?.uid.clone());
    loop {
        let before = pod_of(&ledger.entry(uid)?);
        let pod = before.as_ref().map(|pod| locks.pod(pod, deadline)).transpose()?;
        let claim = locks.claim(uid, deadline)?;
        let entry = ledger.entry(uid)?;
        if pod_of(&entry) == before {
            return Ok(HeldClaim { pod, claim, entry });
        }
    }
}
