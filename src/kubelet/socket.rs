//! One listening socket file: made with its directory, known by its inode and age, removed only while it is still ours.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::KubeletError;

/// A listener that takes longer to take a connection has a full queue: it lives.
const PROBE: Duration = Duration::from_secs(1);

/// The file of a socket this process listens on. Dropping it leaves the file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device, inode and time of birth (seconds and nanoseconds; connecting doesn't change a socket's mtime). The inode
/// alone is not enough: file systems give the number of a removed file to the next one.
type Identity = (u64, u64, i64, i64);

impl SocketFile {
    /// Listens on `path`.
    ///
    /// A socket at the path that nobody answers on was left by a process that died, and is removed. One that is
    /// answered belongs to another instance: taking it away would cut that one off from the kubelet without a trace,
    /// so it is an error. (Instances that shall live beside each other have a pod UID in their sockets' names.)
    pub(super) async fn bind(path: &Path) -> Result<(Self, UnixListener), KubeletError> {
        let fail = |action: &'static str| {
            move |source| KubeletError::Socket { action, path: path.to_owned(), source }
        };
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o750) // as the kubelet makes them
                .create(dir)
                .map_err(|source| KubeletError::Directory { path: dir.to_owned(), source })?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(KubeletError::NotASocket { path: path.to_owned() });
            }
            Ok(_) if answers(path).await => {
                return Err(KubeletError::InUse { path: path.to_owned() });
            }
            Ok(_) => remove(path).map_err(fail("remove the stale"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fail("look at")(error)),
        }
        let listener = UnixListener::bind(path).map_err(fail("listen on"))?;
        // The kubelet is root; nobody else has business here, whatever the umask says.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail("set the mode of"))?;
        let identity = identity(path).map_err(fail("look at"))?;
        Ok((Self { path: path.to_owned(), identity }, listener))
    }

    /// The path still leads to this socket.
    pub(super) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|found| found == self.identity)
    }

    /// Unlinks the file unless it is gone or somebody else's.
    pub(super) fn unlink(&self) -> Result<(), KubeletError> {
        if !self.is_in_place() {
            return Ok(());
        }
        remove(&self.path).map_err(|source| KubeletError::Socket {
            action: "remove",
            path: self.path.clone(),
            source,
        })
    }
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn answers(path: &Path) -> bool {
    match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
        Ok(connected) => connected.is_ok(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a/b/x.sock");
        let (first, listener) = SocketFile::bind(&path).await.expect("first");
        assert!(first.is_in_place());
        assert!(matches!(SocketFile::bind(&path).await, Err(KubeletError::InUse { .. })));
        assert!(first.is_in_place(), "the refused instance must not have touched it");

        drop(listener);
        tokio::time::sleep(Duration::from_millis(20)).await; // the file system's clock ticks
        let (second, _listener) = SocketFile::bind(&path).await.expect("over a dead one");
        assert!(second.is_in_place());
        first.unlink().expect("not ours any more: nothing to do");
        assert!(second.is_in_place(), "a socket of another instance was removed");
        second.unlink().expect("ours");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.sock");
        fs::write(&path, "precious").expect("write");
        let error = SocketFile::bind(&path).await.expect_err("must be refused").to_string();
        assert!(error.ends_with("is not a socket: remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
    }
}
