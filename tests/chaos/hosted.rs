//! What is so of pods on the host's network, and of RDMA devices wherever they are given out.

use sriov_dra::host::NetnsId;
use sriov_dra::prepare::records::{Entry, RdmaWay, VfEntry};

use super::node::number;
use super::world::World;

/// What is missing of an entry's VFs, of which none leaves the host.
pub fn on_host(world: &World, entry: &Entry, pod: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let host = world.node.ground.host();
    for vf in entry.vfs.iter().filter(|vf| !vf.admin_access) {
        let n = number(vf.pci);
        let driver = world.node.life(n).and_then(|life| life.driver);
        if (driver.as_deref() == Some("vfio-pci")) != vf.vfio {
            faults.push(format!("pod {pod} runs on the host's network, and its VF {n} is on {driver:?}"));
        }
        let settings = world.node.ground.settings_of(n);
        for setting in vf.settings.iter().filter(|setting| settings.like(setting).as_ref() != Some(setting)) {
            faults.push(format!("pod {pod}: VF {n}: {} is not {setting}", setting.field()));
        }
        if vf.vfio {
            continue;
        }
        match world.node.ground.vf(n) {
            Some((place, link, addresses)) if place == host => {
                // udev's, where the driver was bound anew: an administrator's name comes back with the VF.
                let wanted = [world.node.truth[&n].name.clone(), format!("ens1v{n}")];
                if !wanted.contains(&link.name) || !addresses.is_empty() || link.mtu != 1500 {
                    faults.push(format!("pod {pod}: VF {n} is no longer {wanted:?}: {link:?} {addresses:?}"));
                }
            }
            other => faults.push(format!("pod {pod} is on the host's network, its VF {n} at {other:?}")),
        }
        faults.extend(rdma(world, vf, host, pod));
    }
    faults
}

/// Where the RDMA devices of a pod's VF have to be: in its namespace, or where all can open them.
pub fn rdma(world: &World, vf: &VfEntry, netns: NetnsId, pod: &str) -> Vec<String> {
    let Some(rdma) = &vf.rdma else { return Vec::new() };
    let host = world.node.ground.host();
    let wanted = match rdma.way {
        RdmaWay::Namespace => netns,
        RdmaWay::CharDevice => host,
    };
    let mut faults = Vec::new();
    for device in &rdma.devices {
        let place = world.node.ground.rdma_place(device).map(|(place, _)| place);
        if place != Some(wanted) {
            faults.push(format!("pod {pod}: RDMA device {device} is at {place:?}, not {wanted}"));
        }
    }
    let exclusive = world.node.ground.rdma_is_exclusive();
    if rdma.way == RdmaWay::CharDevice && exclusive && netns != host {
        faults.push(format!("pod {pod} runs, and can't open {:?}", rdma.devices));
    }
    faults
}
