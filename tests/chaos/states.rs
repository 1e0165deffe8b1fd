//! The states of a VF as docs/vf-states.svg draws them, told from the ledger alone, at every effect: no VF goes a way that is
//! not drawn, and each that is drawn is gone.

use std::collections::BTreeSet;
use std::path::Path;

use nix::errno::Errno;
use sriov_dra::prepare::records::Progress;

use crate::asks::Ask;
use crate::node::pci;
use crate::ops::{Act, End, Fault, Op, with};
use crate::world::{Ended, World};

/// The VF that is looked at: one that has settings to put back.
const VF: u8 = 3;
const PLACE: Op = Op::Place { slot: 0, shared: false, claims: &[&[(VF, &[Ask::Vlan, Ask::Mtu])]] };
const PREPARE: Op = Op::Prepare { slot: 0 };
const RUN: Op = Op::Run { slot: 0 };
const STOP: Op = Op::Stop { slot: 0, end: End::Told };
const SILENT: Op = Op::Stop { slot: 0, end: End::Silent };
const FINISH: Op = Op::Finish { slot: 0, end: End::Told };
const REBOOT: Op = Op::Reboot { lossy: false };

type Ways = BTreeSet<(String, String)>;

/// By the files of the ledger, as an agent that starts now would see it.
fn state(world: &World) -> &'static str {
    let agent = world.node.process().unwrap();
    let (ledger, boot) = (&agent.engine.site.ledger, &agent.engine.site.boot_id);
    let Some(owner) = ledger.ownership(pci(VF)).unwrap() else {
        let life = world.node.life(VF).unwrap();
        let unclean = ledger.unclean().unwrap().into_iter();
        let mut unclean = unclean.filter(|(vf, _)| *vf == pci(VF));
        let is_this = |noted: &str, incarnation| noted == boot && incarnation == life.incarnation;
        return match unclean.any(|(_, noted)| is_this(&noted.boot_id, noted.incarnation)) {
            true => "withheld",
            false => "free",
        };
    };
    let claim = &owner.claim.uid;
    match (ledger.attachment(claim).unwrap(), ledger.entry(claim).unwrap()) {
        _ if owner.boot_id != *boot => "void",
        (Some(attachment), _) if attachment.complete => "attached",
        (Some(_), _) => "moving",
        (None, Some(entry)) if entry.progress == Progress::Prepared && entry.boot_id == *boot => "prepared",
        _ => "taken",
    }
}

/// The states that the VF has during the last act, which an agent is killed at after each of its effects in turn.
fn ways_of(acts: &[Act], ways: &mut Ways) {
    let (last, before) = acts.split_last().unwrap();
    let world = || {
        let mut world = World::new();
        before.iter().for_each(|act| drop(world.act(*act)));
        world
    };
    let mut from = state(&world());
    let mut go = |to: &'static str| {
        if from != to {
            ways.insert((from.to_owned(), to.to_owned()));
        }
        from = to;
    };
    for k in 0.. {
        let mut world = world();
        let ended = world.act(if last.fault == Fault::No { with(last.op, Fault::Die { k }) } else { *last });
        go(state(&world));
        if !matches!(ended, Ended::Died) || last.fault != Fault::No {
            return;
        }
    }
}

fn seen() -> Ways {
    let mut ways = Ways::new();
    let acts = |ops: &[Op]| ops.iter().copied().map(Act::from).collect::<Vec<_>>();
    for life in [
        &[PLACE, PREPARE, RUN, STOP, RUN, STOP, FINISH][..],
        &[PLACE, PREPARE, RUN, REBOOT, Op::Start, PREPARE],
        &[PLACE, PREPARE, REBOOT, Op::Start, FINISH],
        // Made anew, and prepared again.
        &[PLACE, PREPARE, Op::Anew { vf: VF }, PREPARE],
    ] {
        (1..=life.len()).for_each(|upto| ways_of(&acts(&life[..upto]), &mut ways));
    }
    // Killed on the way in, and what the next agent, the kubelet and the runtime do then.
    for (before, op, half_way) in [(&[PLACE][..], PREPARE, "taken"), (&[PLACE, PREPARE], RUN, "moving")] {
        let killed = |k| [acts(before), vec![with(op, Fault::Die { k })]].concat();
        let is_half_way = |k: &usize| {
            let mut world = World::new();
            killed(*k).iter().for_each(|act| drop(world.act(*act)));
            state(&world) == half_way
        };
        let first = (0..50).find(is_half_way).unwrap();
        let last = (first..50).take_while(is_half_way).last().unwrap();
        for k in [first, last] {
            for next in [&[op][..], &[STOP], &[STOP, FINISH], &[REBOOT]] {
                for start in [&[][..], &[Op::Start], &[SILENT, Op::Start]] {
                    let life = [killed(k), acts(start)].concat();
                    ways_of(&life, &mut ways);
                    ways_of(&[life, acts(next)].concat(), &mut ways);
                }
            }
        }
    }
    // What can't be put back.
    for k in 0..20 {
        let refused = with(FINISH, Fault::Fail { k, errno: Errno::EIO });
        let life = [PLACE, PREPARE].map(Act::from);
        ways_of(&[&life[..], &[refused]].concat(), &mut ways);
        ways_of(&[&life[..], &[refused, Op::Anew { vf: VF }.into()]].concat(), &mut ways);
        ways_of(&[&life[..], &[refused, REBOOT.into()]].concat(), &mut ways);
    }
    ways
}

#[test]
fn a_vf_goes_the_ways_that_the_picture_has_and_each_of_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/vf-states.svg");
    let text = std::fs::read_to_string(path).unwrap();
    let picture = roxmltree::Document::parse(&text).unwrap();
    let attribute = |node: &roxmltree::Node<'_, '_>, name: &str| node.attribute(name).map(str::to_owned);
    let drawn: Ways = picture
        .descendants()
        .filter_map(|node| Some((attribute(&node, "data-from")?, attribute(&node, "data-to")?)))
        .collect();
    let states: BTreeSet<String> =
        picture.descendants().filter_map(|node| attribute(&node, "data-state")).collect();
    let named: BTreeSet<String> = drawn.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect();
    assert_eq!(states, named, "each state has its box");
    assert_eq!(seen(), drawn);
}
