//! The boot this process lives in.

use std::path::Path;

use super::HostError;

/// The kernel's boot ID: settings, file descriptors, namespaces and `/run` are void when it changes.
///
/// # Errors
/// When `/proc/sys/kernel/random/boot_id` can't be read.
pub fn boot_id() -> Result<String, HostError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path).map(|id| id.trim().to_owned()).map_err(|source| HostError::File {
        what: "read",
        path: path.to_owned(),
        source,
    })
}
