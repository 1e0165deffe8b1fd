//! One VF back to the host. What it was there is `prepare::restore`'s.

use crate::device::{CleanFacts, IfName};
use crate::host::{HostError, Kernel, Link, Links};

/// Moves a VF out of a namespace, under its host name if that is free, else under one that nobody has.
pub(super) fn move_out(
    kernel: &dyn Kernel,
    pod: &mut dyn Links,
    link: &Link,
    clean: &CleanFacts,
) -> Result<(), HostError> {
    if link.up {
        pod.set_up(link, false)?;
    }
    // An alternative name that a process in the pod gave, and that somebody on the host has, would stop the move.
    for alt in &link.alt_names {
        pod.remove_alt_name(link, alt)?;
    }
    if let Some(name) = &clean.name {
        match pod.move_to(link, kernel.host(), name) {
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {
                // The kernel renames after the move unless it has to rename for it (__dev_change_net_namespace,
                // net/core/dev.c): a name that is taken may mean that the link is on the host under its pod name.
                if pod.by_name(&link.name)?.is_none_or(|still| still.index != link.index) {
                    return Ok(());
                }
            }
            other => return other,
        }
    }
    let unique = IfName::new(format!("sdra{}", link.index)).map_err(|error| HostError::Protocol {
        what: format!("move link {} to the host", link.name),
        reason: error.to_string(),
    })?;
    pod.move_to(link, kernel.host(), &unique)
}
