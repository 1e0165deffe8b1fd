//! Every effect of every call, refused once and fatal once, for everything that a claim can ask for.

use nix::errno::Errno;
use sriov_dra::device::{HwAddr, LinkState, PfLink, Rate, Setting, Vlan};
use sriov_dra::prepare::steps::{Driver, Step};

use crate::asks::Ask;
use crate::invariants::{after_each, at_rest, statuses};
use crate::node::pci;
use crate::ops::{Act, End, Fault, Op, Who, with};
use crate::world::{Ended, World};

/// A pod's claim: VFs, and what is asked for each.
#[derive(Debug, Clone)]
struct Scenario(Vec<(u8, Vec<Ask>)>, Ground);

/// Where a scenario's pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// In a network namespace of its own.
    Own,
    /// On the host's network.
    Host,
    /// In one of its own, on a node where RDMA devices are in all of them.
    SharedRdma,
}

/// The VF that shows a step, what has to be asked for it, and the effect by which it is seen. Exhaustive: a step that has no
/// scenario does not compile.
fn shows(step: &Step) -> (u8, Ask, &'static str) {
    match step {
        Step::Set { to, .. } => match to {
            Setting::Mac(_) => (2, Ask::Mac, "set vf.mac"),
            Setting::Vlan(_) => (3, Ask::Vlan, "set vf.vlan"),
            Setting::SpoofCheck(_) => (4, Ask::SpoofCheck, "set vf.spoofCheck"),
            Setting::Trust(_) => (6, Ask::Trust, "set vf.trust"),
            Setting::LinkState(_) => (3, Ask::LinkState, "set vf.linkState"),
            Setting::Rate(_) => (1, Ask::Rate, "set vf.minTxRateMbps"),
        },
        Step::Bind { to, .. } => match to {
            Driver::Network | Driver::Unbound => (5, Ask::Mtu, "probe VF"),
            Driver::Named(_) => (4, Ask::Vfio, "force driver Some(\"vfio-pci\")"),
        },
    }
}

/// One of each kind.
fn steps() -> Vec<Step> {
    let settings = [
        Setting::Mac(HwAddr::new([2; 6])),
        Setting::Vlan(Vlan::default()),
        Setting::SpoofCheck(true),
        Setting::Trust(true),
        Setting::LinkState(LinkState::Auto),
        Setting::Rate(Rate::default()),
    ];
    let pf = PfLink { name: "ens1f0".into(), index: 3 };
    let set = |to: Setting| Step::Set { vf: pci(1), pf: pf.clone(), index: 0, from: to.clone(), to };
    let bind = |to: Driver| Step::Bind { vf: pci(1), from: Driver::Unbound, to };
    let binds = [Driver::Unbound, Driver::Network, Driver::Named("vfio-pci".into())];
    settings.into_iter().map(set).chain(binds.into_iter().map(bind)).collect()
}

impl Scenario {
    fn of(step: &Step) -> Self {
        let (vf, ask, _) = shows(step);
        Self(vec![(vf, vec![ask])], Ground::Own)
    }

    /// What is asked inside the pod: addresses, pools, routes, rules, sysctls, the default route, names, RDMA.
    fn inside() -> Vec<Self> {
        use Ask::*;
        let pods = [
            vec![(4, vec![Addresses, Mtu, Name])],
            vec![(3, vec![Pool, SourceRouting, Sysctls])],
            vec![(6, vec![Routes, SourceRouting, DefaultRoute])],
            vec![(3, vec![NoRdma, Addresses]), (6, vec![Umad])],
        ];
        pods.into_iter().map(|vfs| Self(vfs, Ground::Own)).collect()
    }

    /// Pods on the host's network, RDMA devices that are given out by their nodes, VFs that are only watched.
    fn elsewhere() -> Vec<Self> {
        use Ask::*;
        vec![
            Self(vec![(2, vec![Mac, Vlan, Trust]), (5, vec![]), (4, vec![Vfio])], Ground::Host),
            Self(vec![(6, vec![CharDevice, Umad]), (4, vec![])], Ground::Host),
            Self(vec![(6, vec![CharDevice, Umad, Addresses]), (4, vec![])], Ground::SharedRdma),
            Self(vec![(3, vec![Watch]), (3, vec![Vlan]), (4, vec![Watch])], Ground::Own),
            Self(vec![(3, vec![Watch]), (4, vec![Watch])], Ground::Own),
            Self(vec![(4, vec![WatchWithOthers])], Ground::Own),
            Self(vec![(1, vec![Watch]), (2, vec![Rate])], Ground::Host),
        ]
    }

    /// As much as one claim can have.
    fn all() -> Self {
        let but =
            |without: &[Ask]| Ask::ALL.into_iter().filter(|ask| !without.contains(ask)).collect::<Vec<_>>();
        use Ask::*;
        let on_net = but(&[Vfio, Vhost, NoRdma, CharDevice]);
        let other = but(&[Vfio, Vhost, NoRdma, CharDevice, Pool, DefaultRoute]);
        let of_all = vec![(2, other), (4, vec![Vfio, Vhost, Trust, Vlan, Mac]), (5, vec![Mtu]), (6, on_net)];
        Self(of_all, Ground::Own)
    }

    fn world(&self, upto: &[Op]) -> World {
        let mut world = World::new();
        if self.1 == Ground::SharedRdma {
            for op in [Op::RdmaShared { shared: true }, Op::Reboot { lossy: false }, Op::Start] {
                assert!(matches!(world.act(op.into()), Ended::Well), "{op:?}");
            }
        }
        world.place(0, true, vec![self.0.clone()]);
        if self.1 == Ground::Host {
            world.move_to_host(0);
        }
        for op in upto {
            let ended = world.act((*op).into());
            assert!(matches!(ended, Ended::Well), "{self:?}: {op:?}: {ended:?}");
        }
        world
    }
}

/// A pod's life. Told to stop the pod, an agent that was restarted, the second look of a container.
const LIFE: [Op; 6] = [
    Op::Prepare { slot: 0 },
    Op::Run { slot: 0 },
    Op::Container { slot: 0 },
    Op::Start,
    Op::Stop { slot: 0, end: End::Told },
    Op::Finish { slot: 0, end: End::Told },
];

/// Goes wrong at the k-th effect of one op, for every k; then everybody does what they have to, and the pod lives its life
/// to the end.
fn survives(scenario: &Scenario, faults: &[&dyn Fn(usize) -> Fault]) -> usize {
    let mut tried = 0;
    for (at, op) in LIFE.iter().enumerate() {
        let count = {
            let mut world = scenario.world(&LIFE[..at]);
            world.act((*op).into());
            world.effects.len()
        };
        // One more: the process ends when all is done and before anybody hears of it.
        for k in 0..=count {
            for fault in faults {
                tried += 1;
                let act = with(*op, fault(k));
                let world = scenario.world(&LIFE[..at]);
                if let Err(faults) = lives_on(world, act) {
                    panic!("{scenario:?}\nat {act:?}:\n{faults:#?}");
                }
            }
        }
    }
    tried
}

fn lives_on(mut world: World, act: Act) -> Result<(), Vec<String>> {
    world.act(act);
    let effect = world.effects.last().cloned().unwrap_or_default();
    let told = world.told.clone();
    let named = |mut faults: Vec<String>, when: &str| {
        if faults.is_empty() {
            return Ok(());
        }
        faults.insert(0, format!("{when}; the last effect was: {effect}; told: {told:?}"));
        Err(faults)
    };
    named(after_each(&world), "at once")?;
    let mut faults = world.recover();
    faults.extend(at_rest(&mut world));
    named(faults, "after the recovery")?;
    for op in [Op::Run { slot: 0 }, Op::Container { slot: 0 }] {
        let ended = world.act(op.into());
        // A sandbox that is gone takes a second one.
        if let Ended::Refused(why) = ended {
            let again = world.act(op.into());
            if !matches!(again, Ended::Well) {
                return named(vec![why, format!("{again:?}")], "the pod does not start");
            }
        }
    }
    if let Some(pod) = &world.slots[0]
        && !pod.runs
    {
        return named(vec!["the pod does not run".into()], "in the end");
    }
    named(after_each(&world), "in the end")?;
    world.write_status();
    named(statuses(&world), "in the end")?;
    world.act(Op::Finish { slot: 0, end: End::Told }.into());
    let mut faults = world.recover();
    faults.extend(at_rest(&mut world));
    named(faults, "after all is over")
}

const REFUSED: &dyn Fn(usize) -> Fault = &|k| Fault::Fail { k, errno: Errno::EIO };
const BUSY: &dyn Fn(usize) -> Fault = &|k| Fault::Fail { k, errno: Errno::EBUSY };
const FULL: &dyn Fn(usize) -> Fault = &|k| Fault::Fail { k, errno: Errno::ENOSPC };
const KILLED: &dyn Fn(usize) -> Fault = &|k| Fault::Die { k };
const TORN: &dyn Fn(usize) -> Fault = &|k| Fault::Tear { k };

#[test]
fn every_kind_of_step_is_made_in_the_scenario_that_is_for_it() {
    for step in steps() {
        let (_, _, seen) = shows(&step);
        let world = Scenario::of(&step).world(&LIFE[..1]);
        assert!(world.effects.iter().any(|effect| effect.starts_with(seen)), "{step:?}: {:?}", world.effects);
    }
}

#[test]
fn an_agent_that_is_killed_at_any_effect_of_any_step_loses_nothing_and_leaves_nothing() {
    let tried: usize = steps().iter().map(|step| survives(&Scenario::of(step), &[KILLED])).sum();
    println!("{tried} deaths");
}

#[test]
fn any_effect_of_any_step_may_be_refused() {
    let tried: usize = steps().iter().map(|step| survives(&Scenario::of(step), &[REFUSED])).sum();
    println!("{tried} refusals");
}

#[test]
fn what_is_made_inside_a_pod_survives_deaths_and_refusals() {
    let tried: usize =
        Scenario::inside().iter().map(|one| survives(one, &[KILLED, REFUSED, BUSY, FULL])).sum();
    println!("{tried} faults");
}

#[test]
fn on_the_hosts_network_with_device_nodes_alone_and_watching_only_deaths_and_refusals_are_survived() {
    let tried: usize =
        Scenario::elsewhere().iter().map(|one| survives(one, &[KILLED, TORN, REFUSED, BUSY])).sum();
    println!("{tried} faults");
}

#[test]
fn a_claim_with_all_that_there_is_survives_every_kind_of_fault() {
    println!("{} faults", survives(&Scenario::all(), &[KILLED, TORN, REFUSED]));
}

#[test]
fn whoever_comes_beside_at_any_effect_takes_nothing() {
    let beside = |who: Who| move |k: usize| Fault::Beside { k, who };
    let (second, starts, ends) =
        (beside(Who::SecondAgent), beside(Who::SecondStarts), beside(Who::NamespaceEnds));
    println!("{} meetings", survives(&Scenario::all(), &[&second, &starts, &ends]));
}

#[test]
fn an_agent_that_is_killed_while_it_recovers_from_a_death_is_no_worse() {
    let scenario = Scenario::all();
    let mut tried = 0;
    for (at, op) in LIFE.iter().enumerate().filter(|(_, op)| **op != Op::Start) {
        let mut k = 0;
        loop {
            let mut world = scenario.world(&LIFE[..at]);
            if !matches!(world.act(with(*op, Fault::Die { k })), Ended::Died) {
                break;
            }
            // As often as it takes: each start gets one effect further.
            let mut j = 0;
            while matches!(world.start(Fault::Die { k: j }), Ended::Died) {
                j += 1;
                tried += 1;
            }
            if let Err(faults) = lives_on(world, Op::Start.into()) {
                panic!("{op:?}, killed before effect {k} and at each start:\n{faults:#?}");
            }
            k += 1;
        }
    }
    println!("{tried} deaths on the way back");
}

/// An attach does not wait for the disk.
#[test]
fn an_entry_that_a_loss_of_power_emptied_is_made_again_or_given_up() {
    for next in [Op::Start, Op::Force { slot: 0, lives: false }] {
        let acts = [Op::Prepare { slot: 0 }, Op::Anew { vf: 3 }, Op::Run { slot: 0 }];
        let claim = vec![(3, vec![Ask::Mtu]), (4, vec![Ask::Trust])];
        let mut world = Scenario(claim, Ground::Own).world(&acts);
        world.act(Op::Reboot { lossy: true }.into());
        assert!(!world.emptied.is_empty(), "the entry was not written without waiting");
        if let Err(faults) = lives_on(world, next.into()) {
            panic!("{next:?}:\n{faults:#?}");
        }
    }
}

/// The kubelet is told that it is prepared, and does not ask again before the pod starts anew.
#[test]
fn what_prepare_wrote_is_whole_after_a_loss_of_power() {
    let mut world = Scenario::all().world(&LIFE[..1]);
    world.act(Op::Reboot { lossy: true }.into());
    assert!(world.emptied.is_empty(), "nobody waited for {:?}", world.emptied);
    if let Err(faults) = lives_on(world, Op::Start.into()) {
        panic!("{faults:#?}");
    }
}
