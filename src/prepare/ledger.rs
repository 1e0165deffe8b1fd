//! The only memory of what was done: a durable store below the kubelet's plugin folder, a boot-scoped one in `/run`.
//!
//! ```text
//! <durable>/claims/<claim uid>.json        Entry
//! <durable>/vf/<pci>.json                  Ownership
//! <durable>/pods/<pod uid>/<claim uid>     empty: which claims a pod has
//! <durable>/unclean/<pci>.json             Unclean
//! <durable>/quarantine/…                   entries that can't be read, kept for people
//! <boot>/lock/  <boot>/pods/  <boot>/attach/  <boot>/status/
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::PrepareError;
use super::records::{Entry, Ownership, Unclean};
use super::sealed::{self, Durability, Existing, Read};
use crate::address::Book;
use crate::device::PciAddress;
use crate::host::disk;

/// Both stores.
#[derive(Debug, Clone)]
pub struct Ledger {
    durable: PathBuf,
    pub(super) boot: PathBuf,
    /// For looking only: nothing is moved, not even what is damaged.
    read_only: bool,
}

/// What the start-up scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Readable entries.
    pub entries: usize,
    /// Files moved to `quarantine/`, with the reason.
    pub quarantined: Vec<String>,
    /// Entries of a newer version, left alone.
    pub newer: Vec<String>,
    /// Files the disk does not give, left alone.
    pub unreadable: Vec<String>,
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrepareError {
    let path = path.to_owned();
    move |source| PrepareError::Ledger { what, path, source }
}

pub(super) fn names(folder: &Path) -> Result<Vec<String>, PrepareError> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("read", folder)(error)),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), PrepareError> {
    match disk::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// An entry that says of whom it is: claim and pod become names of files.
fn read_entry(path: &Path) -> io::Result<Read<Entry>> {
    let of_path = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
    Ok(match sealed::read::<Entry>(path)? {
        Read::Found(entry) if of_path != Some(&entry.claim.uid) => {
            Read::Damaged(format!("it is about a claim with UID {:?}", entry.claim.uid))
        }
        Read::Found(Entry { pod: Some(pod), .. }) if !is_file_name(&pod.uid) => {
            Read::Damaged(format!("its pod has UID {:?}", pod.uid))
        }
        read => read,
    })
}

/// Of one component, with room for what is put before and behind it.
fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 200 && !text.starts_with('.') && !text.contains(['/', '\0'])
}

impl Ledger {
    /// Opens or makes both stores.
    ///
    /// # Errors
    /// When a folder can't be made.
    pub fn open(durable: impl Into<PathBuf>, boot: impl Into<PathBuf>) -> Result<Self, PrepareError> {
        let ledger = Self { durable: durable.into(), boot: boot.into(), read_only: false };
        for (root, folders) in [
            (&ledger.durable, &["claims", "vf", "pods", "quarantine", "unclean"][..]),
            (&ledger.boot, &["lock", "pods", "attach"]),
        ] {
            for folder in folders {
                let path = root.join(folder);
                disk::make_folder(&path).map_err(failed("make", &path))?;
            }
        }
        Ok(ledger)
    }

    /// A ledger that an agent keeps on this node, for looking only; `None` where there is none.
    ///
    /// # Errors
    /// There may be one, but who has which VF is not for this process to read.
    pub fn existing(durable: impl Into<PathBuf>) -> Result<Option<Self>, PrepareError> {
        let durable = durable.into();
        let folder = durable.join("vf");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed("read", &folder)(error)),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            match fs::File::open(&path) {
                // Released between the two looks.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => drop(opened.map_err(failed("read", &path))?),
            }
        }
        Ok(Some(Self { boot: durable.clone(), durable, read_only: true }))
    }

    /// The folder of the lock files.
    pub fn lock_folder(&self) -> PathBuf {
        self.boot.join("lock")
    }

    /// The folder of reports that wait to become claim status.
    pub fn outbox_folder(&self) -> PathBuf {
        self.boot.join("status")
    }

    fn entry_path(&self, claim_uid: &str) -> PathBuf {
        self.durable.join("claims").join(format!("{claim_uid}.json"))
    }

    /// Whether there is a file of the claim, readable or not.
    pub fn has_entry(&self, claim_uid: &str) -> bool {
        self.entry_path(claim_uid).exists()
    }

    fn ownership_path(&self, vf: PciAddress) -> PathBuf {
        self.durable.join("vf").join(format!("{vf}.json"))
    }

    pub(super) fn attachment_path(&self, claim_uid: &str) -> PathBuf {
        self.boot.join("attach").join(format!("{claim_uid}.json"))
    }

    /// A damaged file is moved aside once, kept and reported; the rest is served.
    pub(super) fn read<T: serde::de::DeserializeOwned>(
        &self,
        path: &Path,
    ) -> Result<Option<T>, PrepareError> {
        self.found(path, sealed::read(path))
    }

    fn found<T>(&self, path: &Path, read: io::Result<Read<T>>) -> Result<Option<T>, PrepareError> {
        match read.map_err(failed("read", path))? {
            Read::Missing => Ok(None),
            Read::Found(body) => Ok(Some(body)),
            Read::Newer { min_reader } => Err(PrepareError::Newer { path: path.to_owned(), min_reader }),
            Read::Damaged(reason) => {
                self.quarantine(path, &reason)?;
                Ok(None)
            }
        }
    }

    fn quarantine(&self, path: &Path, reason: &str) -> Result<String, PrepareError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.read_only {
            return Ok(format!("{}: {reason}", path.display()));
        }
        let stamp = jiff::Timestamp::now().as_millisecond();
        let aside = self.durable.join("quarantine").join(format!("{stamp}-{name}"));
        // /run and the kubelet's folder may be different file systems.
        if disk::rename(path, &aside).is_err() {
            disk::copy(path, &aside).map_err(failed("copy to quarantine", path))?;
            remove(path)?;
        }
        tracing::error!(file = %path.display(), kept_as = %aside.display(), reason, "damaged ledger file put into quarantine");
        Ok(format!("{}: {reason}; kept as {}", path.display(), aside.display()))
    }

    /// Reads every durable file once: quarantines what is damaged, rebuilds the index of pods and lost files of
    /// ownership, sweeps what killed writers left. A file that can't be read at all is told and left.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn survey(&self, boot_id: &str) -> Result<Survey, PrepareError> {
        let mut survey = Survey::default();
        let mut entries = Vec::new();
        self.remove_half_written();
        for folder in ["claims", "vf", "unclean"] {
            for name in names(&self.durable.join(folder))? {
                let path = self.durable.join(folder).join(&name);
                // Ownership is not synced: what is empty was lost with the power, not damaged. It was of another boot.
                if folder == "vf" && fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
                    tracing::debug!(file = %path.display(), "lost with the power; removed");
                    remove(&path)?;
                    continue;
                }
                let read = match folder {
                    "claims" => read_entry(&path).map(|read| read.map(|entry| entries.push(entry))),
                    "vf" => sealed::read::<Ownership>(&path).map(|read| read.map(drop)),
                    _ => sealed::read::<Unclean>(&path).map(|read| read.map(drop)),
                };
                match read {
                    Ok(Read::Missing | Read::Found(())) => {}
                    Ok(Read::Newer { .. }) => survey.newer.push(path.display().to_string()),
                    Ok(Read::Damaged(reason)) => survey.quarantined.push(self.quarantine(&path, &reason)?),
                    Err(error) => {
                        tracing::error!(file = %path.display(), %error, "a ledger file can't be read; it is left alone");
                        survey.unreadable.push(format!("{}: {error}", path.display()));
                    }
                }
            }
        }
        survey.entries = entries.len();
        for name in names(&self.durable.join("pods"))? {
            let path = self.durable.join("pods").join(&name);
            if !path.is_dir() {
                survey.quarantined.push(self.quarantine(&path, "it is where a pod's folder would be")?);
            }
        }
        self.rebuild_index(&entries)?;
        for entry in entries.iter().filter(|entry| entry.boot_id == boot_id) {
            for (vf, clean) in entry.vfs.iter().filter_map(|vf| Some((vf.pci, vf.clean.clone()?))) {
                // Most are there. Should one come or go just now, taking it decides.
                if self.ownership_path(vf).exists() {
                    continue;
                }
                let ownership =
                    Ownership { claim: entry.claim.clone(), boot_id: entry.boot_id.clone(), clean };
                self.take(vf, &ownership)?;
            }
        }
        Ok(survey)
    }

    /// Removes what writers left that were killed some time ago.
    pub fn remove_half_written(&self) {
        let durable = ["", "claims", "vf", "unclean"].map(|folder| self.durable.join(folder));
        let boot = ["attach", "pods"].map(|folder| self.boot.join(folder));
        durable.iter().chain(&boot).for_each(|folder| sealed::sweep(folder));
    }

    /// The index says just what the entries say.
    fn rebuild_index(&self, entries: &[Entry]) -> Result<(), PrepareError> {
        let backed = |pod: &str, claim: &str| {
            entries
                .iter()
                .any(|e| e.claim.uid == claim && e.pod.as_ref().is_some_and(|owner| owner.uid == pod))
        };
        for pod in names(&self.durable.join("pods"))? {
            for claim in self.claims_of_pod(&pod)? {
                // An entry of a newer agent, or one that can't be read now, is still somebody's.
                if !backed(&pod, &claim) && !self.entry_path(&claim).exists() {
                    self.unindex(&pod, &claim)?;
                }
            }
            // Of a process that was killed between folder and file; one with claims stays.
            let _ = disk::remove_folder(&self.durable.join("pods").join(&pod));
        }
        for entry in entries {
            self.index(entry)?;
            for pod in names(&self.durable.join("pods"))? {
                let other = entry.pod.as_ref().is_none_or(|owner| owner.uid != pod);
                if other && self.durable.join("pods").join(&pod).join(&entry.claim.uid).exists() {
                    self.unindex(&pod, &entry.claim.uid)?;
                }
            }
        }
        Ok(())
    }

    /// A claim's entry.
    ///
    /// # Errors
    /// When it can't be read, or a newer agent wrote it.
    pub fn entry(&self, claim_uid: &str) -> Result<Option<Entry>, PrepareError> {
        let path = self.entry_path(claim_uid);
        self.found(&path, read_entry(&path))
    }

    /// UIDs of all claims with an entry, readable or not.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn claims(&self) -> Result<Vec<String>, PrepareError> {
        let names = names(&self.durable.join("claims"))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
    }

    /// Writes a claim's entry so that it survives the loss of power.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_entry(&self, entry: &Entry) -> Result<(), PrepareError> {
        self.index(entry)?;
        let path = self.entry_path(&entry.claim.uid);
        sealed::write(&path, entry, Existing::Replace, Durability::Power).map_err(failed("write", &path))
    }

    /// Writes a claim's entry without waiting for the disk: for callers on the runtime's clock.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_entry_quickly(&self, entry: &Entry) -> Result<(), PrepareError> {
        self.index(entry)?;
        let path = self.entry_path(&entry.claim.uid);
        sealed::write(&path, entry, Existing::Replace, Durability::Process).map_err(failed("write", &path))
    }

    fn index(&self, entry: &Entry) -> Result<(), PrepareError> {
        let Some(pod) = &entry.pod else { return Ok(()) };
        let folder = self.durable.join("pods").join(&pod.uid);
        let path = folder.join(&entry.claim.uid);
        let make = || disk::make_folder(&folder).and_then(|()| disk::touch(&path));
        let made = match make() {
            // Another agent took the folder for one that is left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(),
            made => made,
        };
        made.map_err(failed("write", &path))
    }

    /// Takes a claim off a pod's list.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn unindex(&self, pod_uid: &str, claim_uid: &str) -> Result<(), PrepareError> {
        let folder = self.durable.join("pods").join(pod_uid);
        remove(&folder.join(claim_uid))?;
        // Fails as long as other claims are listed, which is as it should be.
        if disk::remove_folder(&folder).is_ok() {
            let _ = disk::remove_tree(&self.container_files(pod_uid));
        }
        Ok(())
    }

    /// Removes a claim's entry. The removal survives the loss of power, as do releases of VFs before it: a file that
    /// came back would hold a VF for nobody.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_entry(&self, claim_uid: &str, pod_uid: Option<&str>) -> Result<(), PrepareError> {
        remove(&self.entry_path(claim_uid))?;
        for folder in ["claims", "vf"] {
            let path = self.durable.join(folder);
            disk::sync_folder(&path).map_err(failed("write", &path))?;
        }
        if let Some(pod_uid) = pod_uid {
            self.unindex(pod_uid, claim_uid)?;
        }
        Ok(())
    }

    /// Writes what a container of a pod reads; it is gone when the pod's last claim is. Of this boot, like the pod.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put_container_file(&self, pod_uid: &str, name: &str, text: &str) -> Result<PathBuf, PrepareError> {
        let folder = self.container_files(pod_uid);
        disk::make_folder(&folder).map_err(failed("make", &folder))?;
        let path = folder.join(name);
        // A container of that name that runs still reads the file it got.
        let new = folder.join(format!(".{name}"));
        // Of a process that died there.
        let _ = disk::remove(&new);
        disk::make(&new, text.as_bytes(), Some(0o644)).map_err(failed("write", &new))?;
        disk::rename(&new, &path).map_err(failed("rename", &path))?;
        Ok(path)
    }

    fn container_files(&self, pod_uid: &str) -> PathBuf {
        self.boot.join("containers").join(pod_uid)
    }

    /// UIDs of the claims of a pod. Cheap for the many pods that have none.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn claims_of_pod(&self, pod_uid: &str) -> Result<Vec<String>, PrepareError> {
        let mut claims = names(&self.durable.join("pods").join(pod_uid))?;
        claims.sort();
        Ok(claims)
    }

    /// Who has a VF.
    ///
    /// # Errors
    /// When the file can't be read, or a newer agent wrote it.
    pub fn ownership(&self, vf: PciAddress) -> Result<Option<Ownership>, PrepareError> {
        let path = self.ownership_path(vf);
        let there = path.exists();
        let found: Option<Ownership> = self.read(&path)?;
        if found.is_some() || !there || self.read_only {
            return Ok(found);
        }
        // It was damaged, and is in quarantine now: the claim's entry says the same.
        for uid in self.claims()? {
            let Ok(Some(entry)) = self.entry(&uid) else { continue };
            // The claim may watch it as well, by another request.
            let clean =
                entry.vfs.iter().filter(|entry| entry.pci == vf).find_map(|entry| entry.clean.clone());
            if let Some(clean) = clean {
                let ownership = Ownership { claim: entry.claim, boot_id: entry.boot_id, clean };
                self.take(vf, &ownership)?;
                return Ok(Some(ownership));
            }
        }
        Ok(None)
    }

    /// Every VF that somebody has.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn owned(&self) -> Result<Vec<(PciAddress, Ownership)>, PrepareError> {
        let mut owned = Vec::new();
        for name in names(&self.durable.join("vf"))? {
            let Some(vf) = name.strip_suffix(".json").and_then(|text| text.parse().ok()) else { continue };
            match self.ownership(vf) {
                Ok(Some(ownership)) => owned.push((vf, ownership)),
                Ok(None) => {}
                // One file must not stop the claims of all others.
                Err(error) => tracing::warn!(%vf, error = %error.sentence(), "who has this VF can't be read"),
            }
        }
        owned.sort_by_key(|(vf, _)| *vf);
        Ok(owned)
    }

    /// VFs of claims that only a newer agent understands, and those that it noted as not made what they were.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn kept_by_newer(&self) -> Result<Vec<PciAddress>, PrepareError> {
        let mut kept = Vec::new();
        for name in names(&self.durable.join("vf"))? {
            let Some(vf) = name.strip_suffix(".json").and_then(|text| text.parse().ok()) else { continue };
            let read = match self.ownership(vf) {
                Ok(Some(owner)) => self.entry(&owner.claim.uid).map(drop),
                other => other.map(drop),
            };
            if matches!(read, Err(PrepareError::Newer { .. })) {
                kept.push(vf);
            }
        }
        for name in names(&self.durable.join("unclean"))? {
            let Some(vf) = name.strip_suffix(".json").and_then(|text| text.parse().ok()) else { continue };
            if !kept.contains(&vf) && matches!(self.unclean_of(vf), Err(PrepareError::Newer { .. })) {
                kept.push(vf);
            }
        }
        Ok(kept)
    }

    /// Takes a VF that nobody has. `false`: somebody was faster.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn take(&self, vf: PciAddress, ownership: &Ownership) -> Result<bool, PrepareError> {
        let path = self.ownership_path(vf);
        match sealed::write(&path, ownership, Existing::Refuse, Durability::Process) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("write", &path)(error)),
        }
    }

    /// Replaces the facts about a VF that the claim has already: a new boot or incarnation made the old ones void.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn refresh(&self, vf: PciAddress, ownership: &Ownership) -> Result<(), PrepareError> {
        let path = self.ownership_path(vf);
        sealed::write(&path, ownership, Existing::Replace, Durability::Process)
            .map_err(failed("write", &path))
    }

    /// Lets a VF go.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn release(&self, vf: PciAddress) -> Result<(), PrepareError> {
        remove(&self.ownership_path(vf))
    }

    /// Keeps what is known of pools and of this node's blocks: what pods get their addresses from while no API server
    /// answers.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_book(&self, book: &Book) -> Result<(), PrepareError> {
        let path = self.durable.join("addresses.json");
        sealed::write(&path, book, Existing::Replace, Durability::Power).map_err(failed("write", &path))
    }

    /// What was known last; nothing on a node that has never known anything.
    ///
    /// # Errors
    /// When the file can't be read, or only by a newer version.
    pub fn book(&self) -> Result<Book, PrepareError> {
        Ok(self.read(&self.durable.join("addresses.json"))?.unwrap_or_default())
    }

    /// Notes that a VF could not be made what it was.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn mark_unclean(&self, vf: PciAddress, unclean: &Unclean) -> Result<(), PrepareError> {
        let path = self.durable.join("unclean").join(format!("{vf}.json"));
        sealed::write(&path, unclean, Existing::Replace, Durability::Power).map_err(failed("write", &path))
    }

    /// The VF is as it should be.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn mark_clean(&self, vf: PciAddress) -> Result<(), PrepareError> {
        remove(&self.durable.join("unclean").join(format!("{vf}.json")))
    }

    /// VFs that could not be made what they were.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn unclean(&self) -> Result<Vec<(PciAddress, Unclean)>, PrepareError> {
        let mut all = Vec::new();
        for name in names(&self.durable.join("unclean"))? {
            let Some(vf) = name.strip_suffix(".json").and_then(|text| text.parse().ok()) else { continue };
            match self.unclean_of(vf) {
                Ok(unclean) => all.extend(unclean.map(|unclean| (vf, unclean))),
                // One file must not hide the others. `survey` tells of it, once.
                Err(error) => {
                    tracing::debug!(%vf, error = %error.sentence(), "whether a VF is withheld can't be read");
                }
            }
        }
        Ok(all)
    }

    /// Why the VF could not be made what it was.
    ///
    /// # Errors
    /// When it can't be read, or a newer agent wrote it.
    pub fn unclean_of(&self, vf: PciAddress) -> Result<Option<Unclean>, PrepareError> {
        self.read(&self.durable.join("unclean").join(format!("{vf}.json")))
    }
}
