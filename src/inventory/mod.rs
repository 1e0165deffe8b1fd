//! What the kernel shows, as one `Snapshot`.
//!
//! In: a sysfs root and the host's links and routes. Out: PFs and VFs with every fact that could be read; what could
//! not be read is absent, never guessed. A scan that fails is an error and not an empty node. Never here: whether a VF
//! is offered (`policy`), Kubernetes.

mod assemble;
mod links;
mod netdevs;
mod passthrough;

use std::collections::{BTreeMap, BTreeSet};

use crate::device::{EswitchMode, PciAddress, RdmaNetnsMode, Snapshot};
use crate::host::sysfs::{Function, Kind, Sysfs, SysfsError};
use assemble::Assembly;
pub use links::HostLinks;

/// Reads PFs and VFs once.
///
/// - `links`: what netlink knows of the host's interfaces; joined by name and index.
/// - `rdma`: how RDMA devices relate to namespaces; `None` without RDMA.
/// - `eswitch`: devlink's answer for a PF; `None` when it has none.
///
/// A VF is left out while it comes or goes. A function without `physfn` is a VF only if its IDs say so and no PF here
/// could own its address.
///
/// # Errors
/// The PCI devices can't be listed, or the process is out of descriptors or memory.
pub fn scan(
    sysfs: &Sysfs,
    links: &HostLinks,
    rdma: Option<RdmaNetnsMode>,
    eswitch: &dyn Fn(PciAddress) -> Option<EswitchMode>,
) -> Result<Snapshot, SysfsError> {
    let functions = sysfs.functions()?.into_iter().map(|function| (function.pci, function)).collect();
    Ok(assembled(sysfs, links, rdma, eswitch, &functions))
}

/// Reads some VFs and their PFs, as [`scan`] would; the snapshot has nothing else, and nothing for an address where there
/// is no VF.
///
/// # Errors
/// As for [`scan`].
pub fn scan_only(
    sysfs: &Sysfs,
    links: &HostLinks,
    rdma: Option<RdmaNetnsMode>,
    eswitch: &dyn Fn(PciAddress) -> Option<EswitchMode>,
    vfs: &BTreeSet<PciAddress>,
) -> Result<Snapshot, SysfsError> {
    let mut functions = BTreeMap::new();
    let mut pfs: BTreeMap<PciAddress, BTreeSet<PciAddress>> = BTreeMap::new();
    let mut plain = false;
    for vf in vfs {
        let Some(function) = sysfs.function(*vf)? else { continue };
        match function.kind {
            Kind::Virtual(pf) => drop(pfs.entry(pf).or_default().insert(*vf)),
            Kind::Plain => plain = true,
            Kind::Physical(_) => continue,
        }
        functions.insert(*vf, function);
    }
    if plain {
        // Whether it is a VF depends on every PF.
        functions = sysfs.functions()?.into_iter().map(|f| (f.pci, f)).collect();
    } else {
        // The PF's links must be read after the VF, as they are gone before it.
        for (pf, vfs) in pfs {
            functions.extend(sysfs.pf_of(pf, &vfs)?.map(|f| (f.pci, f)));
        }
    }
    let mut snapshot = assembled(sysfs, links, rdma, eswitch, &functions);
    snapshot.vfs.retain(|found| vfs.contains(&found.pci));
    let pfs: BTreeSet<PciAddress> = snapshot.vfs.iter().filter_map(|found| found.pf).collect();
    snapshot.pfs.retain(|found| pfs.contains(&found.pci));
    Ok(snapshot)
}

fn assembled(
    sysfs: &Sysfs,
    links: &HostLinks,
    rdma: Option<RdmaNetnsMode>,
    eswitch: &dyn Fn(PciAddress) -> Option<EswitchMode>,
    functions: &BTreeMap<PciAddress, Function>,
) -> Snapshot {
    let assembly = Assembly {
        uplinks: links.uplinks(),
        links,
        eswitch,
        ipoib: sysfs.has_module("ib_ipoib"),
        // A walk over all processes: only where somebody could hold a device.
        open_vfio: if functions.values().any(assemble::is_on_vfio) {
            sysfs.open_vfio()
        } else {
            Default::default()
        },
    };

    let mut snapshot = Snapshot { rdma_netns: rdma, ..Snapshot::default() };
    for function in functions.values() {
        match &function.kind {
            Kind::Physical(sriov) => snapshot.pfs.push(assembly.pf(function, sriov)),
            Kind::Virtual(pf) => {
                // Without the link back from the PF it is half-made.
                let Some(Function { kind: Kind::Physical(sriov), .. }) = functions.get(pf) else {
                    continue;
                };
                let Some(index) = sriov.vfs.get(&function.pci) else {
                    continue;
                };
                snapshot.vfs.push(assembly.vf(function, functions.get(pf), Some(*index)));
            }
            Kind::Plain if passthrough::is_virtual_function(function) => {
                let coming_or_going = functions.values().any(
                    |pf| matches!(&pf.kind, Kind::Physical(sriov) if sriov.covers(pf.pci, function.pci)),
                );
                if !coming_or_going {
                    snapshot.vfs.push(assembly.vf(function, None, None));
                }
            }
            Kind::Plain => {}
        }
    }
    snapshot
}
