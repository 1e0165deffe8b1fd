//! Random lives on the kernel that runs: links, addresses, routes, rules, sysctls and names are its own, `ip` is the
//! witness, and a sandbox is a process in a network namespace. VFs are veth pairs; what drivers and PFs do of them holds
//! state (`FakeFunctions`). The same acts, faults and invariants as in `tests/chaos`.
//!
//! Needs root, or user namespaces (`unshare -Urnm`). Each life has a network namespace of its own, which stands for the
//! host, and mounts of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[allow(dead_code, reason = "that suite uses the rest")]
#[path = "../chaos/mod.rs"]
mod life;
mod veth;

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use life::asks::Ask;
use life::ground::Meddling;
use life::invariants::{after_each, at_rest};
use life::ops::{Act, Bound, End, Fault, Op, with};
use life::workload::{self, Stage};
use life::world::World;

const VETHS: Stage = Stage { ground: || Rc::new(veth::Veths::new()), shrinking: Duration::from_secs(300) };

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// `CHAOS_SEED` is another life (`clock`: one that nobody has told yet), `CHAOS_ACTS` a longer one.
#[test]
fn a_long_life_on_the_running_kernel_leaves_nothing_behind() {
    let seed = match std::env::var("CHAOS_SEED").as_deref() {
        Ok("clock") => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        _ => number_of("CHAOS_SEED").unwrap_or(1),
    };
    let count = number_of("CHAOS_ACTS").map_or(1_000, |count| usize::try_from(count).unwrap());
    println!("CHAOS_SEED={seed}");
    let started = Instant::now();
    let told = workload::run(&VETHS, seed, count);
    println!(
        "seed {seed}: {count} acts, {} calls that changed something, {} recoveries, {:.1} s",
        told.well,
        told.rests,
        started.elapsed().as_secs_f32()
    );
    assert!(told.well > count / 16, "hardly anything was done: {}", told.well);
}

fn holds(acts: &[Act]) {
    if let Some((at, faults)) = workload::live_on(&VETHS, acts).wrong {
        panic!("at {:?}: {faults:#?}", acts[at]);
    }
}

/// What the invariants are told by `ip` is what is so: each of these is seen, in a pod and on the host.
#[test]
fn whatever_somebody_does_behind_the_drivers_back_is_seen() {
    let asks = vec![Ask::Mtu, Ask::Addresses, Ask::Routes, Ask::SourceRouting];
    let changes = [
        ("mtu 1300", "MTU 1300"),
        ("down", "up: false"),
        ("name thief", "is thief"),
        ("address 02:00:00:00:99:99", "address"),
    ];
    for (what, seen) in changes {
        let mut world = World::on((VETHS.ground)());
        world.place(0, true, vec![vec![(6, [asks.clone(), vec![Ask::Mac]].concat())]]);
        for op in [Op::Prepare { slot: 0 }, Op::Run { slot: 0 }, Op::Container { slot: 0 }] {
            world.act(op.into());
        }
        assert_eq!(after_each(&world), Vec::<String>::new());
        let ground = Rc::clone(&world.node.ground);
        let change = |n: u8| ground.meddle(n, &Meddling::Other(format!("link set dev {{}} {what}")));
        change(6);
        let faults = after_each(&world);
        assert!(faults.iter().any(|fault| fault.contains(seen)), "{what}: {faults:?}");
        world.act(Op::Finish { slot: 0, end: End::Told }.into());
        world.recover();
        assert_eq!(at_rest(&mut world), Vec::<String>::new(), "{what}");
        // Down is what a VF on the host is anyway.
        if what != "down" {
            change(3);
            let faults = at_rest(&mut world);
            assert!(faults.iter().any(|fault| fault.starts_with("VF 3: ")), "{what}: {faults:?}");
        }
    }
}

/// Each kind of thing that a ground does, once: what random lives are made of works here.
#[test]
fn a_pods_life_with_all_that_can_be_asked_holds_beside_everything_that_befalls_it() {
    use Ask::{Addresses, DefaultRoute, Mac, Mtu, Name, Pool, SourceRouting, Sysctls, Trust, Vfio, Vlan};
    holds(&[
        Op::Place {
            slot: 0,
            shared: true,
            claims: &[
                &[(2, &[Mac, Vlan, Name, Mtu, Addresses]), (4, &[Vfio, Trust])],
                &[(5, &[Mtu]), (6, &[Pool, SourceRouting, Sysctls, DefaultRoute])],
            ],
        }
        .into(),
        Op::Prepare { slot: 0 }.into(),
        with(Op::Run { slot: 0 }, Fault::Die { k: 9 }),
        Op::Rest.into(),
        Op::Container { slot: 0 }.into(),
        Op::Rest.into(),
        Op::Rename { vf: 3 }.into(),
        Op::Rebind { vf: 1, driver: Bound::Nothing }.into(),
        Op::Meddle { slot: 0, what: 3 }.into(),
        Op::HandOver { slot: 0, to: 1, end: End::Early }.into(),
        Op::Prepare { slot: 1 }.into(),
        Op::Run { slot: 1 }.into(),
        Op::Container { slot: 1 }.into(),
        Op::Rest.into(),
        Op::Anew { vf: 6 }.into(),
        Op::Reboot { lossy: true }.into(),
        Op::Rest.into(),
        Op::Run { slot: 1 }.into(),
        Op::Finish { slot: 1, end: End::Silent }.into(),
    ]);
}
