//! What can go wrong between this plugin and a runtime.

use std::io;
use std::path::PathBuf;

/// Why there is no (more) connection to a runtime.
#[derive(Debug, thiserror::Error)]
pub enum NriError {
    /// A name or index that every runtime refuses.
    #[error("NRI plugin {what} {value:?} {problem}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// As given.
        value: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// Nobody listens.
    #[error(
        "cannot connect to NRI socket {} ({source}): check that the container runtime runs with NRI enabled \
         (containerd 2.0 and CRI-O 1.30 do by default; containerd 1.7 needs `disable = false` for its NRI plugin) \
         and that the socket's directory is mounted here", socket.display()
    )]
    Connect {
        /// Which socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Read or write failed.
    #[error("NRI connection failed")]
    Io(#[from] io::Error),
    /// The runtime closed the connection.
    #[error("the runtime closed the NRI connection {when}")]
    Closed {
        /// In which phase.
        when: &'static str,
    },
    /// The runtime did not do its part in time.
    #[error("the runtime did not {what} within {seconds} s of the NRI registration")]
    Handshake {
        /// What is missing.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// RegisterPlugin was answered with an error.
    #[error("the runtime refused the NRI registration: {message} (code {code})")]
    Refused {
        /// gRPC code.
        code: i32,
        /// The runtime's sentence.
        message: String,
    },
    /// Bytes that are neither mux nor ttrpc.
    #[error("malformed NRI stream: {what} of {length} bytes, and {limit} is the most that is allowed")]
    TooLong {
        /// Which unit declared it.
        what: &'static str,
        /// As declared.
        length: usize,
        /// The limit.
        limit: usize,
    },
}
