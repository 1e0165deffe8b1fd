//! Advisory locks between processes: agent, second agent, hook.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::{HostError, clock, disk, fate};

/// A held lock; dropping it lets go. The kernel lets go too when the process dies.
#[derive(Debug)]
pub struct HeldLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl HeldLock {
    /// Removes the lock file while it is held, for locks whose subject is gone. Who waits on the old file notices that
    /// it is no longer the one at the path and starts over.
    pub fn remove_file(&self) {
        // A file that stays behind is harmless: the next holder takes it over.
        let _ = disk::remove(&self.path);
    }
}

/// Takes the lock at `path`, waiting until `deadline`.
///
/// # Errors
/// [`HostError::Locked`] when the deadline passes, [`HostError::File`] when the file can't be made.
pub fn lock(path: &Path, deadline: Instant) -> Result<HeldLock, HostError> {
    let started = clock::now();
    let fail = |source| HostError::File { what: "lock", path: path.to_owned(), source };
    let mut pause = Duration::from_micros(200);
    loop {
        if !path.exists() {
            fate::effect(fate::Kind::Room, format_args!("make lock {}", path.display())).map_err(fail)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(fail)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                // The holder before us may have removed the file: then ours locks nothing that others see.
                let held = file.metadata().map_err(fail)?;
                if std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()))
                {
                    return Ok(HeldLock { path: path.to_owned(), _file: file });
                }
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                if clock::now() >= deadline {
                    return Err(HostError::Locked {
                        path: path.to_owned(),
                        waited_ms: started.elapsed().as_millis(),
                    });
                }
                clock::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Err((_, errno)) => return Err(fail(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_lock_excludes_a_second_holder_until_it_is_dropped_or_its_file_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let first = lock(&path, Instant::now()).unwrap();
        assert!(matches!(
            lock(&path, Instant::now() + Duration::from_millis(20)),
            Err(HostError::Locked { .. })
        ));
        let waiter = thread::spawn({
            let path = path.clone();
            move || lock(&path, Instant::now() + Duration::from_secs(5)).map(|held| (held, path))
        });
        thread::sleep(Duration::from_millis(20));
        first.remove_file();
        drop(first);
        let (second, path) = waiter.join().unwrap().unwrap();
        assert!(matches!(lock(&path, Instant::now()), Err(HostError::Locked { .. })));
        drop(second);
        lock(&path, Instant::now()).unwrap();
    }
}
