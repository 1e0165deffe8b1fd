//! One VF into a pod's namespace: move and rename in one message, then MTU, addresses, up.

use crate::claim::{NameFacts, NameSpec};
use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::device::IfName;
use crate::host::{HostError, Link, Links, Netns};
use crate::prepare::records::VfEntry;

use super::AttachError;

/// Moves a VF that is on the host. The entry's name is replaced where a default name has to give way and `may_give_way`:
/// the container can still be told.
pub(super) fn move_in(
    on_host: (&mut dyn Links, &Link),
    target: (&Netns, &mut dyn Links),
    vf: &mut VfEntry,
    planned: &BTreeSet<String>,
    may_give_way: bool,
) -> Result<(), AttachError> {
    let (host, link) = on_host;
    let (netns, pod) = target;
    let failed = |source| AttachError::Vf { vf: vf.pci, source };
    // The kernel refuses the move when any of the link's names is taken in the target.
    for alt in &link.alt_names {
        host.remove_alt_name(link, alt).map_err(failed)?;
    }
    if link.up {
        // Kernels before 6.2 refuse to rename a link that is up.
        host.set_up(link, false).map_err(failed)?;
    }
    vf.name = free_name(pod, vf, planned, may_give_way)?;
    host.move_to(link, netns, &vf.name).map_err(|source| AttachError::Vf { vf: vf.pci, source })
}

fn free_name(
    pod: &mut dyn Links,
    vf: &mut VfEntry,
    planned: &BTreeSet<String>,
    may_give_way: bool,
) -> Result<IfName, AttachError> {
    let taken: Vec<String> = pod
        .all()
        .map_err(|source| AttachError::Vf { vf: vf.pci, source })?
        .into_iter()
        .flat_map(|link| link.alt_names.into_iter().chain([link.name]))
        .collect();
    let is_free = |name: &IfName| !taken.iter().any(|t| t == name.as_str());
    if is_free(&vf.name) {
        return Ok(vf.name.clone());
    }
    let refuse = || AttachError::NameTaken { vf: vf.pci, name: vf.name.clone() };
    let template = vf.template.clone().filter(|_| may_give_way).map(NameSpec::Template);
    let template = template.filter(NameSpec::counts).ok_or_else(refuse)?;
    let next = (vf.index..=999).find_map(|index| {
        let facts = NameFacts { n: index.into(), ..NameFacts::default() };
        template
            .render(facts)
            .ok()
            .filter(is_free)
            .filter(|name| !planned.contains(name.as_str()))
            .map(|name| (index, name))
    });
    let (index, name) = next.ok_or_else(refuse)?;
    vf.index = index;
    Ok(name)
}

/// Completes a VF that is in the namespace: whatever is as it should be stays untouched.
pub(super) fn complete(pod: &mut dyn Links, link: &Link, vf: &VfEntry) -> Result<(), HostError> {
    if link.name != vf.name.as_str() {
        rename(pod, link, vf)?;
    }
    // Where the driver did not take it from the PF, and after a pod that was trusted with its own.
    if let Some(mac) = vf.mac().filter(|mac| link.hw_addr.as_ref() != Some(*mac)) {
        pod.set_hw_addr(link, mac)?;
    }
    if let Some(mtu) = vf.mtu.filter(|mtu| *mtu != link.mtu) {
        pod.set_mtu(link, mtu)?;
    }
    if !link.up || link.name != vf.name.as_str() {
        // Before up: else a router's advertisement may put a default route into the pod.
        for (key, value) in [("accept_ra", "0"), ("autoconf", "0")] {
            pod.sysctl(&format!("ipv6/conf/{}/{key}", vf.name), value)?;
        }
        if vf.addresses.iter().any(|address| matches!(address, IpNet::V6(_))) {
            // A pod may have IPv6 off for new interfaces; this one was asked to have an address.
            pod.sysctl(&format!("ipv6/conf/{}/disable_ipv6", vf.name), "0")?;
        }
        pod.set_up(link, true)?;
    }
    let present = if vf.addresses.is_empty() { Vec::new() } else { pod.addresses(link.index)? };
    for address in vf.addresses.iter().filter(|address| !present.contains(address)) {
        pod.add_address(link, *address)?;
    }
    Ok(())
}

/// Kernels before 6.2 rename only what is down. Newer ones are not asked to set it down: that costs other containers of the
/// pod their routes and IPv6 addresses.
fn rename(pod: &mut dyn Links, link: &Link, vf: &VfEntry) -> Result<(), HostError> {
    match pod.rename(link, &vf.name) {
        Err(error) if link.up && error.errno() == Some(nix::libc::EBUSY) => {}
        done => return done,
    }
    pod.set_up(link, false)?;
    let renamed = pod.rename(link, &vf.name);
    if renamed.is_err() {
        // Whoever is at work with it goes on under the name it has.
        let _ = pod.set_up(link, true);
    }
    renamed
}
