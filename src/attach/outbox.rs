//! Reports that wait to become claim status, as files: the agent may be killed after an attach and before the write,
//! the API server may be away for hours, and the hook that attached is gone when anybody could write.
//!
//! `<boot>/status/<claim uid>.<nanoseconds since boot>.json`, whole or not there. The newest of a claim counts, also where
//! the wall clock was set back between two reports.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Report;
use crate::host::age::is_older;
use crate::host::boot::since_boot;
use crate::host::disk;

/// How long a file that this version can't read is left for one that can.
const FOREIGN: Duration = Duration::from_secs(3600);

/// Where reports are put and found.
#[derive(Debug, Clone)]
pub struct Outbox {
    folder: PathBuf,
    wake: mpsc::Sender<()>,
}

/// One report that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// When the claim became as the report says.
    pub since: Timestamp,
    /// What to write.
    pub report: Report,
}

impl Outbox {
    /// The outbox in a folder, and what hears of each report put into it by this process. Others' are found by looking.
    pub fn at(folder: PathBuf) -> (Self, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        (Self { folder, wake }, woken)
    }

    /// Puts a report in.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, report: Report) -> io::Result<()> {
        let letter = Letter { since: Timestamp::now(), report };
        let since_boot = since_boot().map_err(|error| io::Error::other(error.sentence()))?;
        let name = format!("{}.{:020}.json", letter.report.claim.uid, since_boot.as_nanos());
        let temporary = self.folder.join(format!(".{name}.{}", std::process::id()));
        disk::make_folder(&self.folder)?;
        let written = serde_json::to_vec(&letter).map_err(io::Error::from);
        let written = written.and_then(|text| disk::make(&temporary, &text, None));
        if let Err(error) = written.and_then(|_| disk::rename(&temporary, &self.folder.join(name))) {
            let _ = disk::remove(&temporary);
            return Err(error);
        }
        // Full: somebody is about to look anyway.
        let _ = self.wake.try_send(());
        Ok(())
    }

    /// The newest report of each claim, by file; older ones are removed, and what nobody has been able to read or to
    /// finish for an hour: until then another version may be at work beside this one.
    pub fn waiting(&self) -> Vec<(PathBuf, Letter)> {
        let mut newest: BTreeMap<String, PathBuf> = BTreeMap::new();
        let mut names: Vec<String> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        // Left of a process that was killed while it wrote.
        names
            .extract_if(.., |name| name.starts_with('.'))
            .for_each(|name| self.done_if_old(&self.folder.join(name)));
        for name in names {
            let claim = name.strip_suffix(".json").and_then(|stem| stem.rsplit_once('.'));
            let path = self.folder.join(&name);
            match claim {
                Some((claim, _)) => {
                    if let Some(older) = newest.insert(claim.to_owned(), path) {
                        self.done(&older);
                    }
                }
                None => self.done_if_old(&path),
            }
        }
        let mut letters = Vec::new();
        for path in newest.into_values() {
            match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
                Ok(Ok(letter)) => letters.push((path, letter)),
                Ok(Err(error)) => {
                    tracing::debug!(file = %path.display(), %error, "a report of a claim can't be read");
                    self.done_if_old(&path);
                }
                // Another agent wrote it to the claim.
                Err(_) => {}
            }
        }
        letters
    }

    fn done_if_old(&self, file: &Path) {
        if is_older(file, FOREIGN) {
            tracing::warn!(file = %file.display(), "a report of a claim that nobody could read is removed");
            self.done(file);
        }
    }

    /// The report is written, or never will be.
    pub fn done(&self, file: &Path) {
        // Another agent may have been faster.
        let _ = disk::remove(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::ClaimId;

    fn report(claim: &str, name: &str) -> Report {
        let claim = ClaimId { uid: claim.into(), namespace: "ns".into(), name: name.into() };
        Report { claim, devices: Vec::new() }
    }

    #[test]
    fn the_newest_report_of_each_claim_waits_until_it_is_done_also_for_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, mut woken) = Outbox::at(dir.path().join("status"));
        for (claim, name) in [("c1", "first"), ("c2", "other"), ("c1", "second")] {
            outbox.put(report(claim, name)).unwrap();
        }
        assert!(woken.try_recv().is_ok());
        let (next, _) = Outbox::at(dir.path().join("status"));
        let names = |outbox: &Outbox| -> Vec<String> {
            outbox.waiting().into_iter().map(|(_, letter)| letter.report.claim.name).collect()
        };
        assert_eq!(names(&next), ["second", "other"]);
        assert_eq!(fs::read_dir(dir.path().join("status")).unwrap().count(), 2, "the older one is gone");
        let (file, _) = next.waiting().remove(0);
        outbox.put(report("c1", "third")).unwrap();
        next.done(&file);
        assert_eq!(
            names(&outbox),
            ["third", "other"],
            "a report put meanwhile is not taken for the one written"
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_for_another_version_for_an_hour_and_then_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _woken) = Outbox::at(dir.path().to_owned());
        let files = ["c1.00000000000000000001.json", "stray", ".c2.00000000000000000001.json.7"]
            .map(|name| dir.path().join(name));
        files.iter().for_each(|file| fs::write(file, "{").unwrap());
        assert_eq!(outbox.waiting(), []);
        assert!(files.iter().all(|file| file.exists()));
        for file in &files {
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_modified(std::time::SystemTime::now() - FOREIGN * 2).unwrap();
        }
        assert_eq!(outbox.waiting(), []);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
