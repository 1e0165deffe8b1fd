//! Versioned, checksummed JSON files, replaced by rename.
//!
//! `{"version":1,"minReader":1,"checksum":"…","body":{…}}`: fields may be added; `minReader` goes up only when an older
//! agent would do harm with the entry, which then leaves it alone.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::host::age::is_older;
use crate::host::disk;

/// What this agent writes.
pub(super) const VERSION: u32 = 1;

/// The newest `minReader` this agent understands.
pub(super) fn reader() -> u32 {
    #[cfg(any(test, feature = "testing"))]
    if super::next_version::is_played() {
        return super::next_version::VERSION;
    }
    1
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    version: u32,
    min_reader: u32,
    checksum: String,
    body: Value,
}

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<T> {
    Missing,
    Found(T),
    Newer { min_reader: u32 },
    Damaged(String),
}

impl<T> Read<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Read<U> {
        match self {
            Self::Missing => Read::Missing,
            Self::Found(body) => Read::Found(change(body)),
            Self::Newer { min_reader } => Read::Newer { min_reader },
            Self::Damaged(reason) => Read::Damaged(reason),
        }
    }
}

/// No write takes longer, even of a disk that is slow to sync.
const WRITTEN_IN: Duration = Duration::from_secs(60);

/// What to do about a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    /// `AlreadyExists` instead; whoever is first wins, and the loser never sees half a file.
    Refuse,
}

/// How much the file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// The death of this process.
    Process,
    /// The loss of power.
    Power,
}

/// Of the body as `Value` prints it: its keys are sorted, so the text is the same on every read.
fn checksum(body: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or_default();
    let mut text = Vec::with_capacity(64);
    for byte in Sha256::digest(body.as_bytes()) {
        text.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    String::from_utf8(text).unwrap_or_default()
}

fn envelope(version: u32, min_reader: u32, body: Value) -> Envelope {
    Envelope { version, min_reader, checksum: checksum(&body.to_string()), body }
}

/// A body as this agent writes it.
fn sealed(body: Value) -> Envelope {
    #[cfg(any(test, feature = "testing"))]
    if super::next_version::is_played() {
        return sealed_by_next(body);
    }
    envelope(VERSION, 1, body)
}

/// The text of a file with this body, its checksum right whatever the body says.
#[cfg(any(test, feature = "testing"))]
pub fn text_of(body: Value) -> Result<String, serde_json::Error> {
    serde_json::to_string(&sealed(body))
}

#[cfg(any(test, feature = "testing"))]
fn sealed_by_next(body: Value) -> Envelope {
    let (min_reader, body) = super::next_version::as_written(body);
    envelope(super::next_version::VERSION, min_reader, body)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    min_reader: u32,
    checksum: String,
}

/// Head and text of the body, if the file is as this version writes it and its checksum is right: its body is not taken
/// apart and put together again for that.
fn as_written(text: &str) -> Option<(Head, &str)> {
    let (head, body) = text.strip_suffix('}')?.split_once(r#","body":"#)?;
    let head: Head = serde_json::from_str(&format!("{head}}}")).ok()?;
    (checksum(body) == head.checksum).then_some((head, body))
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Read<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Read::Damaged("it is not text".to_owned()));
        }
        Err(error) => return Err(error),
    };
    if let Some((head, body)) = as_written(&text) {
        return Ok(opened(head.min_reader, || serde_json::from_str(body)));
    }
    let envelope: Envelope = match serde_json::from_str(&text) {
        Ok(envelope) => envelope,
        Err(error) => {
            return Ok(Read::Damaged(format!("{} bytes that are no whole entry: {error}", text.len())));
        }
    };
    if checksum(&envelope.body.to_string()) != envelope.checksum {
        return Ok(Read::Damaged("its checksum is wrong".to_owned()));
    }
    Ok(opened(envelope.min_reader, || serde_json::from_value(envelope.body)))
}

fn opened<T>(min_reader: u32, body: impl FnOnce() -> serde_json::Result<T>) -> Read<T> {
    if min_reader > reader() {
        return Read::Newer { min_reader };
    }
    match body() {
        Ok(body) => Read::Found(body),
        Err(error) => Read::Damaged(error.to_string()),
    }
}

pub(super) fn write<T: Serialize>(
    path: &Path,
    body: &T,
    existing: Existing,
    durability: Durability,
) -> io::Result<()> {
    let envelope = sealed(serde_json::to_value(body)?);
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // One name per process and thread: two agents may write the same entry at the same moment.
    let temporary =
        folder.join(format!(".{name}.{}.{:?}.tmp", std::process::id(), std::thread::current().id()));
    let written = (|| {
        // A left-over of a killed process may be the very inode of a live entry (hard_link below): never write into it.
        let _ = disk::remove(&temporary);
        let file = disk::make(&temporary, serde_json::to_string(&envelope)?.as_bytes(), None)?;
        if durability == Durability::Power {
            disk::sync(&file, &temporary)?;
        }
        match existing {
            Existing::Replace => disk::rename(&temporary, path)?,
            Existing::Refuse => disk::link(&temporary, path)?,
        }
        if durability == Durability::Power {
            disk::sync_folder(folder)?;
        }
        Ok(())
    })();
    if existing == Existing::Refuse || written.is_err() {
        // After a rename there is nothing left to remove; after a link the temporary name is surplus.
        let _ = disk::remove(&temporary);
    }
    written
}

/// Removes what killed writers left: a hook and a second agent may be writing at this very moment.
pub(super) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") && is_older(&entry.path(), WRITTEN_IN) {
            let _ = disk::remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn written(body: &Value) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.json");
        write(&path, body, Existing::Replace, Durability::Power).unwrap();
        (dir, path)
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_of_an_entry_is_noticed() {
        let body = serde_json::json!({"claim": "a", "vfs": [{"pci": "0000:81:00.2", "mtu": 9000}]});
        let (_dir, path) = written(&body);
        let whole = fs::read(&path).unwrap();
        assert_eq!(read::<Value>(&path).unwrap(), Read::Found(body.clone()));
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(read::<Value>(&path).unwrap(), Read::Damaged(_)), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x01;
            fs::write(&path, &bytes).unwrap();
            // A flip in the version number alone changes nothing that was meant.
            if let Read::Found(found) = read::<Value>(&path).unwrap() {
                assert_eq!(found, body, "flip at {at}");
            }
        }
    }

    #[test]
    fn an_entry_of_another_layout_is_read_too() {
        let body = serde_json::json!({"claim": "a", "body": {"b": 1}});
        let (_dir, path) = written(&body);
        let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            fs::write(&path, text).unwrap();
            assert_eq!(read::<Value>(&path).unwrap(), Read::Found(body.clone()));
        }
    }

    #[test]
    fn an_entry_that_wants_a_newer_reader_is_told_apart_from_a_damaged_one() {
        let (_dir, path) = written(&serde_json::json!({"a": 1}));
        let text = fs::read_to_string(&path).unwrap().replace("\"minReader\":1", "\"minReader\":7");
        fs::write(&path, text).unwrap();
        assert_eq!(read::<Value>(&path).unwrap(), Read::Newer { min_reader: 7 });
    }

    #[test]
    fn what_the_next_version_adds_is_passed_over_and_what_it_keeps_for_itself_is_left_alone() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Known {
            pod_claim_name: String,
            vfs: Vec<Value>,
        }
        let (_dir, path) = written(&Value::Null);
        let read_of_next = |claim: &str| {
            let body = serde_json::json!({"podClaimName": claim, "vfs": [{"pci": "0000:81:00.2"}]});
            fs::write(&path, serde_json::to_string(&sealed_by_next(body)).unwrap()).unwrap();
            read::<Known>(&path).unwrap()
        };
        let Read::Found(known) = read_of_next("net") else { panic!("an added field is no reason") };
        assert_eq!(
            (known.pod_claim_name.as_str(), &known.vfs[0]["pci"]),
            ("net", &Value::from("0000:81:00.2"))
        );
        assert!(known.vfs[0][super::super::next_version::FIELD].is_array(), "nothing was added");
        assert_eq!(read_of_next(super::super::next_version::ONLY_NEXT), Read::Newer { min_reader: 2 });
    }

    #[test]
    fn an_exclusive_write_loses_against_a_file_that_is_there_and_leaves_nothing_behind() {
        let (dir, path) = written(&serde_json::json!({"owner": "first"}));
        let error =
            write(&path, &serde_json::json!({"owner": "second"}), Existing::Refuse, Durability::Process);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read::<Value>(&path).unwrap(), Read::Found(serde_json::json!({"owner": "first"})));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_killed_writers_left_is_removed_and_what_somebody_is_writing_is_not() {
        let (dir, path) = written(&serde_json::json!({"a": 1}));
        let (left, fresh) = (dir.path().join(".e.json.7.x.tmp"), dir.path().join(".e.json.8.x.tmp"));
        fs::write(&fresh, "{").unwrap();
        let then = std::time::SystemTime::now() - WRITTEN_IN * 2;
        File::create(&left).unwrap().set_modified(then).unwrap();
        sweep(dir.path());
        assert!(path.exists() && fresh.exists() && !left.exists());
    }
}
