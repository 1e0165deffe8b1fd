//! What a running agent holds, by `/proc` and by what lies in its folders.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// At one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// `RssAnon` in MiB: pages of files, the program's among them, come and go with the machine's need.
    pub own: f64,
    /// `VmRSS` in MiB.
    pub resident: f64,
    pub threads: usize,
    /// What each is open for.
    pub descriptors: Vec<String>,
    /// In its folders and below.
    pub files: BTreeSet<PathBuf>,
    /// Network namespaces that a process of the machine is in, that are mounted, or that the agent holds open.
    pub namespaces: BTreeSet<String>,
}

impl Held {
    /// # Errors
    /// When the process is gone, or something can't be read.
    pub fn of(pid: u32, folders: &[PathBuf]) -> Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let mut namespaces = BTreeSet::new();
        let tables = ["tcp", "unix"].map(|table| fs::read_to_string(process.join("net").join(table)));
        let tables: Vec<String> = tables.into_iter().collect::<io::Result<_>>()?;
        let mut descriptors = Vec::new();
        for entry in fs::read_dir(process.join("fd"))? {
            // Some are closed while they are looked at.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            let target = target.display().to_string();
            namespaces.extend(Some(&target).filter(|target| target.starts_with("net:[")).cloned());
            descriptors.push(socket(&target, &tables).unwrap_or(target));
        }
        descriptors.sort();
        for entry in fs::read_dir("/proc")? {
            // Processes end while they are looked at.
            if let Ok(netns) = fs::read_link(entry?.path().join("ns/net")) {
                namespaces.insert(netns.display().to_string());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        namespaces.extend(mounts.split(' ').filter(|word| word.starts_with("net:[")).map(str::to_owned));
        Ok(Self {
            own: mib(pid, "RssAnon")?,
            resident: mib(pid, "VmRSS")?,
            threads: fs::read_dir(process.join("task"))?.count(),
            descriptors,
            files: files(folders)?,
            namespaces,
        })
    }
}

/// The line that the kernel has for a socket.
fn socket(target: &str, tables: &[String]) -> Option<String> {
    let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    let mut lines = tables.iter().flat_map(|table| table.lines());
    let line = lines.find(|line| line.split_whitespace().any(|word| word == inode))?;
    Some(format!("socket {}", line.trim()))
}

/// A line of a process's `status` in MiB (proc(5); the file has KiB).
///
/// # Errors
/// When there is no such process or line.
pub fn mib(pid: u32, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {key} in /proc/{pid}/status"))? / 1024.0)
}

fn files(folders: &[PathBuf]) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = folders.to_vec();
    while let Some(next) = folders.pop() {
        let entries = match fs::read_dir(next) {
            // What goes while it is looked at is not held.
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => drop(found.insert(entry.path())),
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}
