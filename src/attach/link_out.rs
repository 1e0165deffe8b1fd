//! One VF back to the host, as it was: name, link-layer address, MTU, alternative names, alias, flags.

use crate::device::{CleanFacts, HwAddr, IfName, PciAddress};
use crate::host::{HostError, Kernel, Link, Links, VfHandle, find_vf_on_host};

use super::AttachError;

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

/// Makes a VF on the host what it was, then looks whether it is. Its name is the one thing that another link may hold.
pub(super) fn restore(kernel: &dyn Kernel, vf: PciAddress, clean: &CleanFacts) -> Result<(), AttachError> {
    let failed = |source| AttachError::Vf { vf, source };
    let handle = VfHandle { pci: vf, hw_addr: clean.hw_addr.as_ref() };
    let Some((mut host, link)) = find_vf_on_host(kernel, &handle).map_err(failed)? else {
        return Err(AttachError::Lost { vf, waited_ms: 0 });
    };
    repair(host.as_mut(), &link, clean).map_err(failed)?;
    match find_vf_on_host(kernel, &handle).map_err(failed)? {
        Some((_, link)) => verify(vf, &link, clean),
        None => Err(AttachError::Lost { vf, waited_ms: 0 }),
    }
}

fn settable(address: &HwAddr) -> bool {
    // IPoIB addresses belong to the hardware.
    address.is_ethernet()
}

fn repair(host: &mut dyn Links, link: &Link, clean: &CleanFacts) -> Result<(), HostError> {
    let rename = clean.name.as_ref().filter(|name| name.as_str() != link.name);
    let address = clean.hw_addr.as_ref().filter(|a| settable(a) && link.hw_addr.as_ref() != Some(*a));
    if link.up && (rename.is_some() || address.is_some()) {
        host.set_up(link, false)?;
    }
    if let Some(name) = rename {
        match host.rename(link, name) {
            // The VF is known by its address; that another link took its name must not keep it from the next pod.
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {
                tracing::warn!(name = %name, now = %link.name, "a returned VF keeps another name: its own is taken on the host");
            }
            other => other?,
        }
    }
    if let Some(address) = address {
        host.set_hw_addr(link, address)?;
    }
    if let Some(mtu) = clean.mtu.filter(|mtu| *mtu != link.mtu) {
        host.set_mtu(link, mtu)?;
    }
    if link.promisc || link.allmulti {
        host.clear_promiscuity(link)?;
    }
    let alias = clean.alias.as_deref().unwrap_or_default();
    if link.alias != alias {
        host.set_alias(link, alias)?;
    }
    for alt in link.alt_names.iter().filter(|alt| !clean.alt_names.contains(alt)) {
        host.remove_alt_name(link, alt)?;
    }
    for alt in clean.alt_names.iter().filter(|alt| !link.alt_names.contains(alt)) {
        match host.add_alt_name(link, alt) {
            // udev was faster, or gave the name to another link meanwhile.
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {}
            other => other?,
        }
    }
    let up = link.up && rename.is_none() && address.is_none();
    if clean.up != up {
        host.set_up(link, clean.up)?;
    }
    Ok(())
}

fn verify(vf: PciAddress, link: &Link, clean: &CleanFacts) -> Result<(), AttachError> {
    let differs = |is: String, was: String| Err(AttachError::NotAsBefore { vf, is, was });
    if let Some(mtu) = clean.mtu.filter(|mtu| *mtu != link.mtu) {
        return differs(format!("MTU {}", link.mtu), format!("MTU {mtu}"));
    }
    match (&clean.hw_addr, &link.hw_addr) {
        (Some(was), Some(is)) if settable(was) && was != is => {
            differs(format!("address {is}"), format!("address {was}"))
        }
        _ => Ok(()),
    }
}
