//! The boot this process lives in.

use std::path::Path;
use std::time::Duration;

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

/// Time since the boot, standby included: what orders events of several processes of one boot, whatever is done to the
/// wall clock (`CLOCK_BOOTTIME`, clock_gettime(2)).
///
/// # Errors
/// Never on a kernel since 2.6.39.
pub fn since_boot() -> Result<Duration, HostError> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let now = now.map_err(|errno| HostError::File {
        what: "read",
        path: Path::new("CLOCK_BOOTTIME").to_owned(),
        source: errno.into(),
    })?;
    Ok(now.into())
}
