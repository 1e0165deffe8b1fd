//! One VF into a pod's namespace: move and rename in one message, then MTU, sysctls, up. What leads to it is in
//! `addressing`.

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

/// A VF that is in the namespace gets its name, MTU, sysctls, and is up: whatever is as it should be stays untouched.
/// Returns the link as it is then.
pub(super) fn bring_up(pod: &mut dyn Links, link: &Link, vf: &VfEntry) -> Result<Link, HostError> {
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
        // Before up: a reply by the wrong rail would be remembered by those who asked.
        set_sysctls(pod, vf)?;
        pod.set_up(link, true)?;
    }
    let hw_addr = vf.mac().cloned().or_else(|| link.hw_addr.clone());
    Ok(Link { name: vf.name.to_string(), up: true, hw_addr, ..link.clone() })
}

/// Sysctls of the interface, so that they are in effect: for most the kernel takes the larger of `all`'s and the
/// interface's (`IN_DEV_MAXCONF`, `IN_DEV_ORCONF`, include/linux/inetdevice.h). Where `all` is in the way it is lowered,
/// and every other interface gets by itself what it had by `all`.
fn set_sysctls(pod: &mut dyn Links, vf: &VfEntry) -> Result<(), HostError> {
    for (name, value) in &vf.sysctls {
        if name == "disable_ipv6" {
            pod.sysctl(&format!("ipv6/conf/{}/{name}", vf.name), &value.to_string())?;
            continue;
        }
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u32>().ok());
        let for_all = format!("ipv4/conf/all/{name}");
        if let Some(all) = number(pod.read_sysctl(&for_all)?).filter(|all| all > value) {
            for other in pod.all()?.into_iter().filter(|other| other.name != vf.name.as_str()) {
                let key = format!("ipv4/conf/{}/{name}", other.name);
                if number(pod.read_sysctl(&key)?).is_some_and(|own| own < all) {
                    pod.sysctl(&key, &all.to_string())?;
                }
            }
            pod.sysctl(&for_all, &value.to_string())?;
        }
        pod.sysctl(&format!("ipv4/conf/{}/{name}", vf.name), &value.to_string())?;
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
