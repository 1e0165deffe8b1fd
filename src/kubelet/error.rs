//! What can keep the plugin from being served.

use std::io;
use std::path::PathBuf;

/// Why the kubelet can't reach this driver.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A flag that can't become part of a socket's path.
    #[error("{what} {value:?} {problem}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// As given.
        value: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// No form of the name fits `sun_path`.
    #[error(
        "socket path {} has {length} bytes, and a unix socket's path may have {max}: choose a shorter kubelet \
         directory or driver name", path.display()
    )]
    PathTooLong {
        /// The shortest form that was tried.
        path: PathBuf,
        /// Its bytes.
        length: usize,
        /// Bytes without the terminating NUL.
        max: usize,
    },
    /// A directory for sockets could not be made.
    #[error("cannot create directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something that is not a socket has the socket's name.
    #[error("{} exists and is not a socket: remove it", path.display())]
    NotASocket {
        /// Which.
        path: PathBuf,
    },
    /// A living process answers on the socket.
    #[error(
        "another process listens on {}: stop it, or give each instance its own pod UID (--pod-uid)", path.display()
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Bind, stat, chmod or unlink failed.
    #[error("cannot {action} socket {}", path.display())]
    Socket {
        /// Which step.
        action: &'static str,
        /// Which socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
