//! A VF on the host, made what it was: name, link-layer address, MTU, alternative names, alias, flags.

use ipnet::IpNet;

use crate::device::{CleanFacts, HwAddr, PciAddress};
use crate::host::{HostError, Kernel, Link, Links, VfHandle, find_vf_on_host};

/// Why a VF is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not on the host.
    #[error("VF {vf} is not on the host")]
    Missing {
        /// Which VF.
        vf: PciAddress,
    },
    /// It is there, but not as it was.
    #[error("VF {vf} came back with {is}, but had {was}")]
    NotAsBefore {
        /// Which VF.
        vf: PciAddress,
        /// What differs.
        is: String,
        /// What it was.
        was: String,
    },
    /// The kernel refused to look.
    #[error("VF {vf}")]
    Vf {
        /// Which VF.
        vf: PciAddress,
        /// What it refused.
        source: HostError,
    },
    /// It is as it was, as far as that is looked at, but the kernel refused something.
    #[error("VF {vf}: {what}")]
    Refused {
        /// Which VF.
        vf: PciAddress,
        /// Every refusal, as sentences.
        what: String,
    },
}

/// Makes a VF on the host what it was, then looks whether it is. Its name is the one thing that another link may hold.
pub fn restore(kernel: &dyn Kernel, handle: &VfHandle<'_>, clean: &CleanFacts) -> Result<(), RestoreError> {
    let vf = handle.pci;
    let failed = |source| RestoreError::Vf { vf, source };
    let Some((mut host, link)) = find_vf_on_host(kernel, handle).map_err(failed)? else {
        return Err(RestoreError::Missing { vf });
    };
    // By that a stand-in is known, and a VF that was without driver has no other.
    let known_by_alias = handle.stand_in && link.alias == vf.to_string();
    let refused = repair(host.as_mut(), &link, clean, known_by_alias);
    match find_vf_on_host(kernel, handle).map_err(failed)? {
        Some((_, link)) => verify(vf, &link, clean)?,
        None => return Err(RestoreError::Missing { vf }),
    }
    if refused.is_empty() {
        return Ok(());
    }
    let what: Vec<String> = refused.iter().map(HostError::sentence).collect();
    Err(RestoreError::Refused { vf, what: what.join("; ") })
}

fn settable(address: &HwAddr) -> bool {
    // IPoIB addresses belong to the hardware.
    address.is_ethernet()
}

/// Does all it can; what the kernel refused is returned.
fn repair(host: &mut dyn Links, link: &Link, clean: &CleanFacts, keep_alias: bool) -> Vec<HostError> {
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
    if link.alias != alias && !keep_alias {
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

fn verify(vf: PciAddress, link: &Link, clean: &CleanFacts) -> Result<(), RestoreError> {
    let differs = |is: String, was: String| Err(RestoreError::NotAsBefore { vf, is, was });
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
