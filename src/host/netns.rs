//! Network namespaces as file descriptors.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use serde::{Deserialize, Serialize};

use super::HostError;

/// `NSFS_MAGIC`, include/uapi/linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The network namespace of the thread that opens it.
pub(super) const CURRENT: &str = "/proc/thread-self/ns/net";

/// What makes two handles the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of the nsfs inode.
    pub dev: u64,
    /// Inode; used again by the kernel once the namespace is gone.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dev, self.ino)
    }
}

/// A namespace that stays alive as long as this value does.
#[derive(Debug, Clone)]
pub struct Netns {
    id: NetnsId,
    // Absent in the fake kernel only.
    fd: Option<Arc<OwnedFd>>,
}

impl Netns {
    /// Opens a namespace file (`/run/netns/x`, `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// [`HostError::Netns`] when it can't be opened, [`HostError::NotNetns`] when it is another kind of file.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let fail = |source| HostError::Netns { name: path.display().to_string(), source };
        let file = File::open(path).map_err(fail)?;
        let kind = fstatfs(&file).map_err(|errno| fail(errno.into()))?.filesystem_type();
        if kind != FsType(NSFS_MAGIC) {
            return Err(HostError::NotNetns(path.to_owned()));
        }
        let meta = file.metadata().map_err(fail)?;
        Ok(Self { id: NetnsId { dev: meta.dev(), ino: meta.ino() }, fd: Some(Arc::new(file.into())) })
    }

    /// A namespace of the fake kernel.
    #[cfg(any(test, feature = "testing"))]
    pub fn fake(id: NetnsId) -> Self {
        Self { id, fd: None }
    }

    /// Its identity.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Where the calling thread is.
    fn id_of_thread() -> Option<NetnsId> {
        let meta = std::fs::metadata(CURRENT).ok()?;
        Some(NetnsId { dev: meta.dev(), ino: meta.ino() })
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, HostError> {
        self.fd.as_deref().map(AsFd::as_fd).ok_or_else(|| HostError::Netns {
            name: self.id.to_string(),
            source: std::io::Error::from(std::io::ErrorKind::Unsupported),
        })
    }

    /// Runs `work` inside the namespace: at once if the calling thread is there, which needs no privilege; else on a
    /// thread of its own, which ends with it, so that nothing has to be restored.
    pub(super) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, HostError> + Send,
    ) -> Result<T, HostError> {
        let fd = self.fd()?;
        if Self::id_of_thread() == Some(self.id) {
            return work();
        }
        let name = self.id.to_string();
        let fail = |source| HostError::Netns { name: name.clone(), source };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                setns(fd, CloneFlags::CLONE_NEWNET).map_err(|errno| fail(errno.into()))?;
                work()
            });
            let joined = thread.map_err(fail)?.join();
            joined.unwrap_or_else(|_| {
                Err(fail(std::io::Error::other("the thread inside the namespace panicked")))
            })
        })
    }
}
