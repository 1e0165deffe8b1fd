//! One VF back to the host, as it was: name, link-layer address, MTU, alternative names, alias, flags.

use ipnet::IpNet;

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
pub(super) fn restore(
    kernel: &dyn Kernel,
    handle: &VfHandle<'_>,
    clean: &CleanFacts,
) -> Result<(), AttachError> {
    let vf = handle.pci;
    let failed = |source| AttachError::Vf { vf, source };
    let Some((mut host, link)) = find_vf_on_host(kernel, handle).map_err(failed)? else {
        return Err(AttachError::Lost { vf, waited_ms: 0 });
    };
    let refused = repair(host.as_mut(), &link, clean);
    match find_vf_on_host(kernel, handle).map_err(failed)? {
        Some((_, link)) => verify(vf, &link, clean)?,
        None => return Err(AttachError::Lost { vf, waited_ms: 0 }),
    }
    AttachError::all(refused.into_iter().map(failed).collect()).map_or(Ok(()), Err)
}

fn settable(address: &HwAddr) -> bool {
    // IPoIB addresses belong to the hardware.
    address.is_ethernet()
}

/// Does all it can; what the kernel refused is returned.
fn repair(host: &mut dyn Links, link: &Link, clean: &CleanFacts) -> Vec<HostError> {
    let mut refused = Vec::new();
    let mut note = |done: Result<(), HostError>| refused.extend(done.err());
    let rename = clean.name.as_ref().filter(|name| name.as_str() != link.name);
    let address = clean.hw_addr.as_ref().filter(|a| settable(a) && link.hw_addr.as_ref() != Some(*a));
    if link.up && (rename.is_some() || address.is_some()) {
        note(host.set_up(link, false));
    }
    let surplus =
        |alt: &&String| !clean.alt_names.contains(alt) || rename.is_some_and(|name| name.as_str() == *alt);
    for alt in link.alt_names.iter().filter(surplus) {
        // udev may have made its name one: then the VF could not be called so.
        note(host.remove_alt_name(link, alt));
    }
    if let Some(name) = rename {
        match host.rename(link, name) {
            // The VF is known by its address; that another link took its name must not keep it from the next pod.
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {
                tracing::warn!(name = %name, now = %link.name, "a returned VF keeps another name: its own is taken on the host");
            }
            other => note(other),
        }
    }
    if let Some(address) = address {
        note(host.set_hw_addr(link, address));
    }
    if let Some(mtu) = clean.mtu.filter(|mtu| *mtu != link.mtu) {
        note(host.set_mtu(link, mtu));
    }
    if let Some(packets) = clean.queue_length.filter(|packets| *packets != link.queue_length) {
        note(host.set_queue_length(link, packets));
    }
    note(host.scrub(link));
    let alias = clean.alias.as_deref().unwrap_or_default();
    if link.alias != alias {
        note(host.set_alias(link, alias));
    }
    for alt in clean.alt_names.iter().filter(|alt| !link.alt_names.contains(alt)) {
        match host.add_alt_name(link, alt) {
            // udev was faster, or gave the name to another link meanwhile.
            Err(error) if error.errno() == Some(nix::libc::EEXIST) => {}
            other => note(other),
        }
    }
    // Whoever was given the VF put them there: a VF with addresses is not given away.
    match host.addresses(link.index) {
        Ok(addresses) => {
            for address in addresses.into_iter().filter(|address| !is_link_local(address)) {
                note(host.remove_address(link, address));
            }
        }
        Err(error) => note(Err(error)),
    }
    let up = link.up && rename.is_none() && address.is_none();
    if clean.up != up {
        note(host.set_up(link, clean.up));
    }
    refused
}

fn is_link_local(address: &IpNet) -> bool {
    match address {
        IpNet::V4(v4) => v4.addr().is_link_local(),
        IpNet::V6(v6) => v6.addr().is_unicast_link_local(),
    }
}

fn verify(vf: PciAddress, link: &Link, clean: &CleanFacts) -> Result<(), AttachError> {
    let differs = |is: String, was: String| Err(AttachError::NotAsBefore { vf, is, was });
    if let Some(mtu) = clean.mtu.filter(|mtu| *mtu != link.mtu) {
        return differs(format!("MTU {}", link.mtu), format!("MTU {mtu}"));
    }
    if link.promisc || link.noarp || link.xdp {
        return differs(
            "a setting of its former pod (promiscuity, NOARP or an XDP program)".to_owned(),
            "none".to_owned(),
        );
    }
    match (&clean.hw_addr, &link.hw_addr) {
        (Some(was), Some(is)) if settable(was) && was != is => {
            differs(format!("address {is}"), format!("address {was}"))
        }
        _ => Ok(()),
    }
}
