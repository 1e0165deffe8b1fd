//! What is left of claims that nobody knows any more.

use std::collections::BTreeSet;

use super::PrepareError;
use super::cdi_file;
use super::engine::Engine;
use super::locks::Subject;
use super::records::Progress;
use crate::host::clock;

impl Engine {
    /// Writes the CDI files of prepared claims anew where they are not as this process would write them, and says how many
    /// that were: one of an older version names no hook, or a hook with other folders. A container that starts again is
    /// given what the file says then. Claims at which somebody is at work are passed over: their file is written there.
    ///
    /// # Errors
    /// When the entries can't be listed, or a file can't be written.
    pub fn renew_cdi(&self) -> Result<usize, PrepareError> {
        let site = &self.site;
        let mut renewed = 0;
        for uid in site.ledger.claims()? {
            let Ok(lock) = site.locks.claim(&uid, clock::now()) else { continue };
            match site.ledger.entry(&uid) {
                Ok(Some(entry)) => {
                    let holds = entry.boot_id == site.boot_id && entry.progress == Progress::Prepared;
                    if holds && !site.has_cdi(&entry) {
                        site.write_cdi(&entry)?;
                        renewed += 1;
                    }
                }
                // Over meanwhile: the lock file was made for nothing.
                Ok(None) => lock.remove_file(),
                Err(_) => {}
            }
        }
        Ok(renewed)
    }

    /// Removes CDI files without an entry, and lets VFs go that are held for a claim without entry and attachment: both
    /// are left of a process that was killed, or of a removal that a loss of power undid. Returns a sentence for each.
    /// Claims at which somebody is at work are passed over.
    ///
    /// # Errors
    /// When a folder can't be listed.
    pub fn sweep(&self) -> Result<Vec<String>, PrepareError> {
        let site = &self.site;
        cdi_file::remove_half_written(&site.cdi_dir, &site.driver);
        site.ledger.remove_half_written();
        let mut put_right = Vec::new();
        // By the names of files: an entry that can't be read is still somebody's.
        let known: BTreeSet<String> = site.ledger.claims()?.into_iter().collect();
        for uid in cdi_file::claim_uids(&site.cdi_dir, &site.driver)? {
            if known.contains(&uid) {
                continue;
            }
            let Ok(lock) = site.locks.claim(&uid, clock::now()) else { continue };
            if site.ledger.claims()?.contains(&uid) {
                continue;
            }
            if cdi_file::remove(&site.cdi_dir, &site.driver, &uid)? {
                put_right
                    .push(format!("the CDI file of claim {uid}, which is not prepared here, was removed"));
            }
            lock.remove_file();
        }
        self.forget_pods_and_locks()?;
        for (vf, owner) in site.ledger.owned()? {
            if known.contains(&owner.claim.uid) {
                continue;
            }
            let claim = format!("{}/{}", owner.claim.namespace, owner.claim.name);
            match self.release_orphan(vf, &owner.claim) {
                Ok(true) => put_right.push(format!(
                    "VF {vf} was held for claim {claim}, which is not prepared here; it is free"
                )),
                Ok(false) => {}
                // One that a process has open must not keep the others.
                Err(error) => {
                    tracing::warn!(%vf, %claim, error = %error.sentence(), "a VF held for a claim nobody knows can't be let go");
                }
            }
        }
        self.forget_former_lives()?;
        Ok(put_right)
    }

    /// The note that a VF could not be made what it was counts in that life of the VF and that boot; nothing else removes it.
    fn forget_former_lives(&self) -> Result<(), PrepareError> {
        let site = &self.site;
        for (vf, was) in site.ledger.unclean()? {
            let life = site.functions.life(vf);
            let over =
                was.boot_id != site.boot_id || life.is_some_and(|life| life.incarnation != was.incarnation);
            // Whoever has it may be about to note what can't be undone now, and lets go of it afterwards: the note is read
            // once more when nobody has it. Nobody takes a VF and gives it back between that and the removal.
            let is_free = || matches!(site.ledger.ownership(vf), Ok(None));
            if over && is_free() && site.ledger.unclean_of(vf)?.is_some_and(|now| now == was) {
                site.ledger.mark_clean(vf)?;
            }
        }
        Ok(())
    }

    /// A hook that was called while its claim was unprepared leaves the record of its sandbox and files of locks behind.
    /// Nothing is told of them: nobody is missing anything.
    fn forget_pods_and_locks(&self) -> Result<(), PrepareError> {
        let site = &self.site;
        let subjects: BTreeSet<Subject> = site.locks.subjects().into_iter().collect();
        for subject in subjects {
            match subject {
                Subject::Pod(uid) if site.ledger.claims_of_pod(&uid)?.is_empty() => {
                    let Ok(pod) = site.locks.pod(&uid, clock::now()) else { continue };
                    let Ok(record) = site.locks.sandbox_record(&uid, clock::now()) else { continue };
                    if site.ledger.claims_of_pod(&uid)?.is_empty() {
                        site.ledger.forget_sandbox(&uid)?;
                        record.remove_file();
                        pod.remove_file();
                    }
                }
                Subject::Claim(uid) if !site.ledger.has_entry(&uid) => {
                    let Ok(claim) = site.locks.claim(&uid, clock::now()) else { continue };
                    if !site.ledger.has_entry(&uid) {
                        claim.remove_file();
                    }
                }
                Subject::Pod(_) | Subject::Claim(_) => {}
            }
        }
        Ok(())
    }
}
