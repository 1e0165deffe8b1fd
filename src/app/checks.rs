//! Start-up checks: what the agent lacks is named before it takes its first claim.

use std::fs;
use std::path::Path;

use crate::doctor::no_propagation;
use crate::host::survey::capabilities;

/// Capabilities the agent can't do without (`include/uapi/linux/capability.h`), and what for.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "to move and configure network interfaces"),
    (21, "CAP_SYS_ADMIN", "to enter pods' network namespaces"),
    (19, "CAP_SYS_PTRACE", "to see which processes live in a network namespace"),
];

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Nothing can work.
    pub faults: Vec<String>,
    /// Something will not work, or not yet.
    pub warnings: Vec<String>,
}

/// Looks at the process and its mounts.
pub fn check(sysfs: &Path, nri_socket: Option<&Path>) -> Findings {
    let mut findings = Findings::default();
    match fs::read_to_string("/proc/self/status") {
        Ok(status) => findings.faults.extend(missing_capabilities(&status)),
        Err(error) => findings.faults.push(format!("/proc/self/status can't be read: {error}")),
    }
    if !sysfs.join("bus/pci/devices").is_dir() {
        findings.faults.push(format!(
            "{} is not a sysfs: it has no bus/pci/devices (mount the host's /sys there, or set --sysfs-root)",
            sysfs.display()
        ));
    }
    if let (Ok(ours), Ok(init)) = (fs::read_link("/proc/self/ns/net"), fs::read_link("/proc/1/ns/net"))
        && ours != init
    {
        findings.warnings.push(
            "this process is not in the network namespace of process 1: with hostNetwork and hostPID it would be, without \
             them it only sees the interfaces of its own namespace"
                .to_owned(),
        );
    }
    if std::process::id() == 1 {
        findings.faults.push(
            "this process is the first of its PID namespace, so it can't see who lives in a network namespace (set \
             hostPID: true on the pod)"
                .to_owned(),
        );
    }
    let foreign_mounts = fs::read_link("/proc/self/ns/mnt").ok() != fs::read_link("/proc/1/ns/mnt").ok();
    if let (true, Ok(mounts)) = (foreign_mounts, fs::read_to_string("/proc/self/mountinfo")) {
        findings.warnings.extend(no_propagation(&mounts, "/run/netns"));
    }
    if let Some(socket) = nri_socket.filter(|socket| !socket.exists()) {
        findings.warnings.push(format!(
            "the runtime's NRI socket {} does not exist: until it does, pods get their VFs from the hook (is NRI enabled in \
             the runtime, is its folder mounted, is --nri-socket right? Without NRI, say so with --attach=hook)",
            socket.display()
        ));
    }
    findings
}

fn missing_capabilities(status: &str) -> Vec<String> {
    let effective = capabilities(status).unwrap_or_default();
    CAPABILITIES
        .iter()
        .filter(|(bit, _, _)| effective & (1 << bit) == 0)
        .map(|(_, name, purpose)| {
            format!(
                "the agent lacks {name}, which it needs {purpose} (run it privileged, or add the capability)"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_capabilities_is_told_which_and_what_for() {
        let faults = missing_capabilities("Name:\tx\nCapEff:\t0000000000000000\n");
        assert_eq!(faults.len(), 3);
        assert!(faults[0].contains("CAP_NET_ADMIN"), "{faults:?}");
        assert!(missing_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_capabilities("CapEff:\t000001ffffdfffff\n").len(), 1);
    }
}
