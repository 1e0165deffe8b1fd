//! What people, pods and machines do to a node behind the driver's back.

use sriov_dra::host::clock;
use sriov_dra::prepare::ledger::Ledger;

use super::ground::Meddling;
use super::node::pci;
use super::ops::{Bound, Op};
use super::pods::vfs_of;
use super::world::World;

pub fn befall(world: &mut World, op: Op) {
    match op {
        Op::Reboot { lossy } => reboot(world, lossy),
        Op::RdmaShared { shared } => world.node.rdma_is_shared = shared,
        Op::WipeCdi => {
            let _ = std::fs::remove_dir_all(world.node.path("cdi"));
        }
        Op::Rename { vf } => rename(world, vf),
        Op::Meddle { slot, what } => meddle(world, slot, what),
        Op::Anew { vf } => {
            for vf in world.node.make_anew(vf) {
                disturb(world, vf);
            }
        }
        Op::Rebind { vf, driver } => rebind(world, vf, driver),
        Op::DiskFull { full } => world.disk_full = full,
        Op::ApiAway { away } => world.api_away = away,
        Op::Clock { by } => clock::set_wall(Some(by)),
        Op::Wait { seconds } => clock::sleep(std::time::Duration::from_secs(seconds.into())),
        other => unreachable!("{other:?} is the world's"),
    }
}

/// Whoever has it finds another VF than the driver left.
pub fn disturb(world: &mut World, vf: u8) {
    for pod in world.slots.iter_mut().flatten().chain(&mut world.zombies) {
        if vfs_of(pod).any(|n| n == vf) {
            pod.disturbed = true;
        }
    }
}

/// Some claim of this boot has it, or still has to give it back.
fn is_owned(world: &World, vf: u8) -> bool {
    let Ok(Some(ledger)) = Ledger::existing(world.node.path("durable")) else { return false };
    let boot = world.node.boot_id();
    let life = world.node.life(vf).map(|life| life.incarnation);
    let claims = ledger.claims().unwrap_or_default();
    let entries =
        claims.iter().filter_map(|uid| ledger.entry(uid).ok()?).filter(|entry| entry.boot_id == boot);
    let noted = entries
        .flat_map(|entry| entry.vfs)
        .filter(|entry| entry.pci == pci(vf))
        .filter_map(|entry| entry.clean);
    let owner = ledger.ownership(pci(vf)).ok().flatten().filter(|owner| owner.boot_id == boot);
    noted.chain(owner.map(|owner| owner.clean)).any(|clean| Some(clean.incarnation) == life)
}

fn reboot(world: &mut World, lossy: bool) {
    world.agent = None;
    world.node.reboot();
    for pod in world.slots.iter_mut().flatten().chain(&mut world.zombies) {
        (pod.sandbox, pod.runs, pod.disturbed) = (None, false, false);
        pod.claims.iter_mut().for_each(|claim| claim.prepared = false);
    }
    if lossy {
        // None of these is synced: the name may be there without content, or not at all.
        for (at, name) in world.node.files("durable/vf").into_iter().enumerate() {
            let path = world.node.path("durable/vf").join(name);
            match at % 3 {
                0 => std::fs::write(&path, b"").unwrap(),
                1 => std::fs::remove_file(&path).unwrap(),
                _ => {}
            }
        }
        let _ = std::fs::remove_dir_all(world.node.path("durable/pods"));
        for path in world.unsynced.iter().filter(|path| std::path::Path::new(path).exists()) {
            std::fs::write(path, b"").unwrap();
            let (_, name) = path.rsplit_once('/').unwrap();
            world.emptied.insert(name.to_owned());
        }
        for (path, text) in world.undead.iter().filter(|(path, _)| !path.exists()) {
            std::fs::write(path, text).unwrap();
        }
    }
    world.unsynced.clear();
    world.undead.clear();
}

fn rename(world: &mut World, vf: u8) {
    if is_owned(world, vf) {
        return;
    }
    if let Some((netns, link, _)) = world.node.ground.vf(vf)
        && netns == world.node.ground.host()
    {
        let name = if link.name.starts_with("ens") { format!("rail{vf}") } else { format!("ens1v{vf}") };
        world.node.ground.rename(vf, &name);
        world.node.truth.get_mut(&vf).unwrap().name = name;
    }
}

fn meddle(world: &mut World, slot: u8, what: u8) {
    let Some(pod) = &world.slots[usize::from(slot)] else { return };
    // On the host a pod may do anything to any interface. One that was made anew is no claim's any more.
    let vfs: Vec<u8> = vfs_of(pod).filter(|vf| !pod.on_host || is_owned(world, *vf)).collect();
    let Some(pod) = &mut world.slots[usize::from(slot)] else { return };
    let Some(sb) = &pod.sandbox else { return };
    for vf in vfs {
        if world.node.ground.vf(vf).is_some_and(|(netns, ..)| netns == sb.netns) {
            pod.disturbed = true;
            let what = match what % 6 {
                0 => Meddling::Promisc,
                1 => Meddling::Mtu(1280),
                2 => Meddling::Down,
                3 => Meddling::Name(format!("mine{vf}")),
                4 => Meddling::AltName(format!("nick{vf}")),
                _ => Meddling::Alias("ours".into()),
            };
            world.node.ground.meddle(vf, &what);
        }
    }
}

fn rebind(world: &mut World, vf: u8, driver: Bound) {
    let owned = is_owned(world, vf);
    let state = |world: &World| {
        let interface = world.node.ground.vf(vf).map(|(_, link, _)| link.index);
        (world.node.life(vf).and_then(|life| life.driver), interface)
    };
    let before = state(world);
    world.node.ground.rebind(vf, driver);
    let life = world.node.life(vf).unwrap();
    if state(world) != before {
        disturb(world, vf);
    }
    if !owned {
        let link = world.node.ground.vf(vf).map(|(_, link, _)| link);
        let born = world.node.ground.born(vf);
        let truth = world.node.truth.get_mut(&vf).unwrap();
        (truth.driver, truth.forced) = (life.driver, life.forced);
        truth.hw_addr = born.hw_addr.or_else(|| link.as_ref()?.hw_addr.clone());
        truth.name = link.map_or(born.name, |link| link.name);
    }
}
