//! What another process may do with resource limits.

use std::path::PathBuf;

use super::HostError;
use crate::device::MemlockRoom;

/// `CAP_SYS_RESOURCE`, include/uapi/linux/capability.h.
const SYS_RESOURCE: u32 = 24;

/// Reads it of a process: it may raise limits with CAP_SYS_RESOURCE in the first user namespace (`do_prlimit`, kernel/sys.c),
/// else up to its own hard limit.
///
/// # Errors
/// When `/proc` does not say.
pub fn memlock_room(pid: i32) -> Result<MemlockRoom, HostError> {
    let read = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        std::fs::read_to_string(&path).map_err(|source| HostError::File { what: "read", path, source })
    };
    let (status, limits, ids) = (read("status")?, read("limits")?, read("uid_map")?);
    room_of(&status, &limits, &ids).ok_or_else(|| HostError::Protocol {
        what: format!("read the limits of process {pid}"),
        reason: "no effective capabilities, or no limit of locked memory".to_owned(),
    })
}

fn room_of(status: &str, limits: &str, ids: &str) -> Option<MemlockRoom> {
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let capable = u64::from_str_radix(capabilities.trim(), 16).ok()? & (1 << SYS_RESOURCE) != 0;
    // user_namespaces(7): the initial one maps all IDs to themselves.
    if capable && ids.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Some(MemlockRoom::All);
    }
    // proc(5): name, soft, hard, unit.
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(MemlockRoom::All),
        hard => hard.parse().ok().map(MemlockRoom::Bytes),
    }
}

/// Sets the limit of locked memory of a process, soft and hard, bytes; `None` is no limit.
///
/// # Errors
/// The kernel's: EPERM where this process may not raise it.
pub fn set_memlock(pid: u32, bytes: Option<u64>) -> Result<(), HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/limits"));
    let failed = |source| HostError::File { what: "set the limit of locked memory in", path, source };
    let Ok(pid) = i32::try_from(pid) else { return Err(failed(std::io::ErrorKind::InvalidInput.into())) };
    let value = bytes.unwrap_or(nix::libc::RLIM_INFINITY);
    let limit = nix::libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is a struct rlimit that outlives the call; the kernel only reads it, and writes nothing to null.
    #[allow(unsafe_code)]
    let done =
        unsafe { nix::libc::prlimit(pid, nix::libc::RLIMIT_MEMLOCK, &raw const limit, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(failed(std::io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: &str = "         0          0 4294967295\n";

    #[test]
    fn the_capability_counts_in_the_first_user_namespace_only_and_else_the_hard_limit() {
        let limits = |hard: &str| {
            format!("Limit  Soft Limit  Hard Limit  Units\nMax locked memory  65536  {hard}  bytes\n")
        };
        let (root, none) = ("CapEff:\t000001ffffffffff\n", "CapEff:\t000001fffeffffff\n");
        let eight = MemlockRoom::Bytes(8 << 20);
        for (status, ids, hard, room) in [
            (root, INITIAL, "8388608", Some(MemlockRoom::All)),
            (root, "0 100000 65536\n", "8388608", Some(eight)),
            (none, INITIAL, "8388608", Some(eight)),
            (none, INITIAL, "unlimited", Some(MemlockRoom::All)),
            (none, INITIAL, "many", None),
            ("Name: x\n", INITIAL, "8388608", None),
        ] {
            assert_eq!(room_of(status, &limits(hard), ids), room, "{status} {ids} {hard}");
        }
    }

    #[test]
    fn a_process_can_be_given_less_and_the_room_of_this_one_is_known() {
        memlock_room(std::process::id().try_into().unwrap()).unwrap();
        assert!(memlock_room(i32::MAX).is_err());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        set_memlock(child.id(), Some(4096)).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
        assert_eq!(line.split_whitespace().filter(|word| *word == "4096").count(), 2, "{line}");
    }
}
