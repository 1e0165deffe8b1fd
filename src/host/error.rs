//! What can go wrong with the kernel.

use std::io;
use std::path::PathBuf;

/// A failed call, naming the thing and keeping the errno.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A netlink request was refused.
    #[error("{what}")]
    Netlink {
        /// What was asked for, with the link's name.
        what: String,
        /// The kernel's errno.
        source: io::Error,
    },
    /// A netlink answer that can't be read.
    #[error("{what}: the kernel's answer can't be read: {reason}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// What is odd about the answer.
        reason: String,
    },
    /// A namespace that can't be opened or entered.
    #[error("network namespace {name}")]
    Netns {
        /// Path or identity.
        name: String,
        /// The kernel's errno.
        source: io::Error,
    },
    /// A path that is no network namespace here.
    #[error(
        "{} is not a network namespace as seen from this process: it was made after the agent started and does not \
         reach it (mount the folder with HostToContainer propagation)",
        .0.display()
    )]
    NotNetns(PathBuf),
    /// A file that can't be read or written.
    #[error("{what} {}", path.display())]
    File {
        /// `read`, `write`, `lock`, …
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's errno.
        source: io::Error,
    },
    /// sysfs.
    #[error(transparent)]
    Sysfs(#[from] super::sysfs::SysfsError),
    /// Somebody else holds the lock.
    #[error("{} is still locked after {waited_ms} ms", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Milliseconds spent waiting.
        waited_ms: u128,
    },
}

impl HostError {
    /// The errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { source, .. } | Self::Netns { source, .. } | Self::File { source, .. } => {
                source.raw_os_error()
            }
            Self::Protocol { .. } | Self::NotNetns(_) | Self::Sysfs(_) | Self::Locked { .. } => None,
        }
    }

    /// The whole chain in one line.
    pub fn sentence(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}
