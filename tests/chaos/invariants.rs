//! What is always so, and what is so once everybody has done what they have to.

use std::collections::{BTreeMap, BTreeSet};

use sriov_dra::prepare::functions::Life;
use sriov_dra::prepare::records::{Entry, Progress};

use super::ground::Routing;
use super::hosted::{on_host, rdma};
use super::misfortune::disturb;
use super::node::{VFS, number, pci};
use super::pods::{Pod, vfs_of, vfs_of_claim};
use super::world::World;

/// Nothing is taken from a pod that runs, whatever goes wrong elsewhere.
pub fn after_each(world: &World) -> Vec<String> {
    let mut faults = world.seen.clone();
    let ledger = &world.node.ledger;
    for pod in world.slots.iter().flatten().chain(&world.zombies).filter(|pod| is_promised(pod)) {
        let Some(sb) = &pod.sandbox else { continue };
        for claim in &pod.claims {
            let Ok(Some(entry)) = ledger.entry(&claim.spec.id.uid) else {
                faults.push(format!("pod {} runs, and claim {} is not known", pod.uid, claim.spec.id.uid));
                continue;
            };
            if !pod.on_host {
                faults.extend(inside(world, &entry, sb.netns, &pod.uid));
            } else if entry.pod.is_some() {
                faults.extend(on_host(world, &entry, &pod.uid));
            }
        }
    }
    faults
}

/// On the host's network nobody can tell who uses a VF: one whose pod is deleted by force goes to the next.
fn is_promised(pod: &Pod) -> bool {
    pod.runs && !pod.disturbed && !(pod.over && pod.on_host)
}

/// What is missing of an entry's VFs in a pod.
fn inside(world: &World, entry: &Entry, netns: sriov_dra::host::NetnsId, pod: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for vf in entry.vfs.iter().filter(|vf| !vf.admin_access) {
        if vf.vfio {
            let driver = world.node.life(number(vf.pci)).and_then(|life| life.driver);
            if driver.as_deref() != Some("vfio-pci") {
                faults.push(format!("pod {pod} runs, and its VF {} is on {driver:?}", number(vf.pci)));
            }
            continue;
        }
        let n = number(vf.pci);
        match world.node.ground.vf(n) {
            Some((place, link, addresses)) if place == netns => {
                if link.name != vf.name.as_str() || !link.up {
                    faults.push(format!(
                        "pod {pod}: VF {n} is {} (up: {}), not {}",
                        link.name, link.up, vf.name
                    ));
                }
                if vf.mtu.is_some_and(|mtu| mtu != link.mtu) {
                    faults.push(format!("pod {pod}: VF {n} has MTU {}", link.mtu));
                }
                if vf.mac().is_some_and(|mac| link.hw_addr.as_ref() != Some(mac)) {
                    faults.push(format!("pod {pod}: VF {n} has address {:?}", link.hw_addr));
                }
                for address in vf.addresses.iter().filter(|address| !addresses.contains(address)) {
                    faults.push(format!("pod {pod}: VF {n} has no {address}"));
                }
                let (routes, rules) = world.node.ground.routing_of(netns);
                let own = routes.iter().filter(|route| route.link == link.index).count();
                if own < vf.routes.len() && !vf.routes.is_empty() && vf.source_routing {
                    faults.push(format!("pod {pod}: VF {n} has {own} routes: {routes:?}"));
                }
                let by_source =
                    rules.iter().filter(|rule| vf.addresses.iter().any(|a| a.addr() == rule.from));
                if vf.source_routing && by_source.count() != vf.addresses.len() {
                    faults.push(format!("pod {pod}: VF {n} lacks rules: {rules:?}"));
                }
            }
            other => {
                faults.push(format!("pod {pod} runs, and its VF {n} is at {:?}", other.map(|(p, ..)| p)))
            }
        }
        let settings = world.node.ground.settings_of(number(vf.pci));
        for setting in vf.settings.iter().filter(|setting| settings.like(setting).as_ref() != Some(setting)) {
            faults.push(format!("pod {pod}: VF {n}: {} is not {setting}", setting.field()));
        }
        faults.extend(rdma(world, vf, netns, pod));
    }
    faults
}

/// After [`World::recover`].
pub fn at_rest(world: &mut World) -> Vec<String> {
    let mut faults = after_each(world);
    let Ok(process) = world.node.process() else { return vec!["the ledger can't be opened".into()] };
    let ledger = &process.engine.site.ledger;
    let pods: Vec<&Pod> = world.slots.iter().flatten().collect();
    let mut owners: BTreeMap<u8, String> = BTreeMap::new();
    let mut entries = Vec::new();
    for uid in ledger.claims().unwrap() {
        match ledger.entry(&uid) {
            Ok(Some(entry)) => entries.push(entry),
            other => faults.push(format!("entry {uid} can't be read: {other:?}")),
        }
    }
    for entry in &entries {
        for vf in entry.vfs.iter().filter(|vf| !vf.admin_access) {
            if let Some(other) = owners.insert(number(vf.pci), entry.claim.uid.clone()) {
                faults.push(format!("VF {} is in claims {other} and {}", number(vf.pci), entry.claim.uid));
            }
        }
    }
    let owned: BTreeMap<u8, String> =
        ledger.owned().unwrap().into_iter().map(|(vf, owner)| (number(vf), owner.claim.uid)).collect();
    expect(&mut faults, "ownership", &owned, &owners);

    let wanted: BTreeMap<u8, String> = pods
        .iter()
        .flat_map(|pod| pod.claims.iter())
        .filter(|claim| claim.prepared)
        .flat_map(|claim| vfs_of_claim(&claim.spec).map(|n| (n, claim.spec.id.uid.clone())))
        .collect();
    expect(&mut faults, "VFs of prepared claims", &owners, &wanted);
    for entry in &entries {
        if entry.progress != Progress::Prepared || entry.boot_id != world.node.boot_id() {
            faults.push(format!("claim {} is {:?} in {}", entry.claim.uid, entry.progress, entry.boot_id));
        }
    }
    faults.extend(statuses(world));
    faults.extend(files(world, &pods, &entries));
    faults.extend(places(world, &pods, &entries));

    // Free VFs. One may be withheld only where the kernel or the disk refused something.
    let mut unclean = BTreeSet::new();
    for (vf, note) in ledger.unclean().unwrap() {
        let n = number(vf);
        let is_now =
            |life: Life| life.incarnation == note.incarnation && note.boot_id == world.node.boot_id();
        if world.node.life(n).is_none_or(is_now) {
            unclean.insert(n);
        } else if !owners.contains_key(&n) {
            faults.push(format!("VF {n} is not the one that was withheld, and this is left: {note:?}"));
        }
    }
    if !unclean.is_empty() && !world.refused {
        faults.push(format!("VFs {unclean:?} are withheld, and nothing was refused: {:?}", ledger.unclean()));
    }
    for n in (1..=VFS).filter(|n| !owners.contains_key(n) && !unclean.contains(n)) {
        let wrong = world.node.faults_of(n);
        let is_name =
            |fault: &String| fault.contains(": name is") || fault.contains(": alternative names is");
        if world.names_refused && !wrong.is_empty() && wrong.iter().all(is_name) {
            make_anew(world, n);
            continue;
        }
        faults.extend(wrong);
    }
    for n in unclean.into_iter().filter(|n| !owners.contains_key(n)) {
        make_anew(world, n);
    }
    (world.refused, world.names_refused) = (false, false);
    faults
}

/// After [`World::write_status`]: claims of pods that run say so.
pub fn statuses(world: &World) -> Vec<String> {
    let mut faults = Vec::new();
    for pod in world.slots.iter().flatten().filter(|pod| pod.runs && !pod.disturbed && !world.ever_refused) {
        // A claim that is no pod's has nothing to be told of.
        let theirs = pod.claims.iter().filter(|claim| claim.spec.pod.is_some());
        for uid in theirs.map(|claim| &claim.spec.id.uid) {
            let told = world.status.get(uid);
            if told != Some(&true) {
                faults.push(format!("pod {} runs, and the status of {uid} is {told:?}", pod.uid));
            }
        }
    }
    faults
}

fn expect<T: PartialEq + std::fmt::Debug>(faults: &mut Vec<String>, what: &str, is: &T, wanted: &T) {
    if is != wanted {
        faults.push(format!("{what}: {is:?}, wanted {wanted:?}"));
    }
}

/// No file is left, and none is missing.
fn files(world: &World, pods: &[&Pod], entries: &[Entry]) -> Vec<String> {
    let mut faults = Vec::new();
    let node = &world.node;
    let cdi: Vec<String> =
        entries.iter().map(|entry| format!("sriov-dra.io-vf_{}.json", entry.claim.uid)).collect();
    expect(&mut faults, "CDI files", &node.files("cdi"), &sorted(cdi));
    let index = entries.iter().filter_map(|entry| entry.pod.as_ref()).map(|pod| pod.uid.clone()).collect();
    expect(&mut faults, "index of pods", &node.files("durable/pods"), &sorted(index));
    for entry in entries {
        let Some(pod) = &entry.pod else { continue };
        if !node.files(&format!("durable/pods/{}", pod.uid)).contains(&entry.claim.uid) {
            faults.push(format!("claim {} is not in the index of pod {}", entry.claim.uid, pod.uid));
        }
    }
    for (folder, fine) in [
        ("durable/claims", entries.iter().map(|e| format!("{}.json", e.claim.uid)).collect::<BTreeSet<_>>()),
        ("durable/vf", (1..=VFS).map(|n| format!("{}.json", pci(n))).collect()),
        ("durable/quarantine", BTreeSet::new()),
        ("run/status", BTreeSet::new()),
        ("run/pods", pods.iter().map(|pod| format!("{}.json", pod.uid)).collect()),
        ("run/attach", entries.iter().map(|e| format!("{}.json", e.claim.uid)).collect()),
        (
            "run/lock",
            pods.iter()
                .flat_map(|pod| [format!("pod-{}", pod.uid), format!("sandbox-{}", pod.uid)])
                .chain(entries.iter().map(|e| format!("claim-{}", e.claim.uid)))
                .chain(node.ground.pfs().into_iter().chain((1..=VFS).map(pci)).map(|pf| format!("pf-{pf}")))
                .chain(["rdma".to_owned()])
                .collect(),
        ),
    ] {
        let left: Vec<String> = node.files(folder).into_iter().filter(|name| !fine.contains(name)).collect();
        if !left.is_empty() {
            faults.push(format!("{folder}: {left:?} is left"));
        }
    }
    faults
}

fn in_order((routes, rules): &Routing) -> Vec<String> {
    let lines = routes.iter().map(|r| format!("{r:?}")).chain(rules.iter().map(|r| format!("{r:?}")));
    sorted(lines.collect())
}

/// Nobody has it; whoever has another one that goes with it finds a new one.
fn make_anew(world: &mut World, vf: u8) {
    for other in world.node.make_anew(vf).into_iter().filter(|other| *other != vf) {
        disturb(world, other);
    }
}

fn sorted(names: Vec<String>) -> Vec<String> {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The ledger says where VFs are, and pods have nothing that is not theirs.
fn places(world: &World, pods: &[&Pod], entries: &[Entry]) -> Vec<String> {
    let mut faults = Vec::new();
    let Ok(process) = world.node.process() else { return faults };
    for pod in pods {
        let Some(sb) = &pod.sandbox else { continue };
        if pod.on_host {
            for uid in pod.claims.iter().map(|claim| &claim.spec.id.uid) {
                if let Some(record) = process.engine.site.ledger.attachment(uid).unwrap() {
                    faults.push(format!(
                        "claim {uid} of a pod on the host's network is recorded in {record:?}"
                    ));
                }
            }
            continue;
        }
        let links = world.node.ground.links_of(sb.netns);
        let theirs: BTreeSet<u8> = vfs_of(pod).collect();
        let strange: Vec<&String> = links
            .iter()
            .filter(|(_, (link, _))| link.pci.is_some_and(|vf| !theirs.contains(&number(vf))))
            .map(|(name, _)| name)
            .collect();
        if !strange.is_empty() {
            faults.push(format!("pod {} has {strange:?}", pod.uid));
        }
        let now = world.node.ground.routing_of(sb.netns);
        let has_vf = links.values().any(|(link, _)| link.pci.is_some());
        let bare = world.node.bare.get(&sb.netns).cloned().unwrap_or_default();
        if !has_vf && !pod.disturbed && in_order(&now) != in_order(&bare) {
            faults.push(format!("pod {} has no VF, and {now:?} instead of {bare:?}", pod.uid));
        }
        for entry in entries.iter().filter(|e| e.pod.as_ref().is_some_and(|p| p.uid == pod.uid)) {
            let record = process.engine.site.ledger.attachment(&entry.claim.uid).unwrap();
            let is_there = |n| world.node.ground.vf(n).is_some_and(|(place, ..)| place == sb.netns);
            let there = entry.vfs.iter().filter(|vf| vf.has_interface()).any(|vf| is_there(number(vf.pci)));
            if there && record.as_ref().is_none_or(|record| record.netns != sb.netns) {
                faults.push(format!(
                    "claim {} is in pod {}, and its record is {record:?}",
                    entry.claim.uid, pod.uid
                ));
            }
            // The agent was told of this sandbox, and attached or said why not.
            if record.is_some_and(|record| record.netns == sb.netns && record.complete) && !pod.disturbed {
                faults.extend(inside(world, entry, sb.netns, &pod.uid));
            }
        }
    }
    for entry in entries {
        let record = process.engine.site.ledger.attachment(&entry.claim.uid).unwrap();
        if let Some(record) = record
            && !pods.iter().any(|pod| pod.sandbox.as_ref().is_some_and(|sb| sb.netns == record.netns))
        {
            faults.push(format!(
                "claim {} is recorded in sandbox {}, which is gone",
                entry.claim.uid, record.sandbox
            ));
        }
    }
    faults
}
