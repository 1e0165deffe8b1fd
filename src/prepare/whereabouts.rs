//! The part of the ledger that lives as long as the boot: a pod's sandbox, and where a claim's VFs were moved. Nothing here
//! waits for the disk.

use super::PrepareError;
use super::ledger::{Ledger, failed, names, remove};
use super::records::{Attachment, CurrentSandbox};
use super::sealed::{self, Durability, Existing};

impl Ledger {
    /// The pod's current sandbox.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn current_sandbox(&self, pod_uid: &str) -> Result<Option<CurrentSandbox>, PrepareError> {
        self.read(&self.boot.join("pods").join(format!("{pod_uid}.json")))
    }

    /// Makes a sandbox the pod's current one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_current_sandbox(&self, pod_uid: &str, current: &CurrentSandbox) -> Result<(), PrepareError> {
        let path = self.boot.join("pods").join(format!("{pod_uid}.json"));
        sealed::write(&path, current, Existing::Replace, Durability::Process).map_err(failed("write", &path))
    }

    /// Forgets a pod's sandbox.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget_sandbox(&self, pod_uid: &str) -> Result<(), PrepareError> {
        remove(&self.boot.join("pods").join(format!("{pod_uid}.json")))
    }

    /// Where a claim's VFs were moved.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn attachment(&self, claim_uid: &str) -> Result<Option<Attachment>, PrepareError> {
        self.read(&self.attachment_path(claim_uid))
    }

    /// Every claim with VFs in a pod.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn attachments(&self) -> Result<Vec<(String, Attachment)>, PrepareError> {
        let mut all = Vec::new();
        for name in names(&self.boot.join("attach"))? {
            let Some(uid) = name.strip_suffix(".json") else { continue };
            if let Some(attachment) = self.attachment(uid)? {
                all.push((uid.to_owned(), attachment));
            }
        }
        Ok(all)
    }

    /// Notes where a claim's VFs are about to be moved.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_attachment(&self, claim_uid: &str, attachment: &Attachment) -> Result<(), PrepareError> {
        let path = self.attachment_path(claim_uid);
        sealed::write(&path, attachment, Existing::Replace, Durability::Process)
            .map_err(failed("write", &path))
    }

    /// All VFs of the claim are back.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_attachment(&self, claim_uid: &str) -> Result<(), PrepareError> {
        remove(&self.attachment_path(claim_uid))
    }
}
