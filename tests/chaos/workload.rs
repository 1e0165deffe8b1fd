//! A long life of a node from one number, and the shortest list of what it takes when something is wrong.

use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::chance::Chance;
use super::ground::double::Double;
use super::ground::{Ground, Lack};
use super::invariants::{after_each, at_rest};
use super::node::VFS;
use super::ops::{Act, Bound, End, Fault, Op, Who, with};
use super::world::{SLOTS, World};

/// Acts from one recovery to the next.
const STRETCH: usize = 24;

/// What became of a run.
pub struct Told {
    /// The act at which something was wrong, and what.
    pub wrong: Option<(usize, Vec<String>)>,
    /// Calls of the agent that ended well.
    pub well: usize,
    /// Recoveries.
    pub rests: usize,
    /// Pods that were placed, by act, as ops that say what they ask for.
    pub placed: Vec<(usize, String)>,
}

fn end(chance: &mut Chance) -> End {
    [End::Told, End::Told, End::Early, End::Silent][chance.below(4)]
}

fn op(chance: &mut Chance) -> Op {
    let slot = u8::try_from(chance.below(SLOTS.into())).unwrap();
    let vf = u8::try_from(1 + chance.below(VFS.into())).unwrap();
    match chance.below(100) {
        0..=9 => Op::Create { slot, seed: chance.next() % 100_000 },
        10..=24 => Op::Prepare { slot },
        25..=38 => Op::Run { slot },
        39..=49 => Op::Container { slot },
        50..=54 => Op::Stop { slot, end: end(chance) },
        55..=60 => Op::Finish { slot, end: end(chance) },
        61..=62 => Op::Force { slot, lives: chance.below(2) == 0 },
        63..=64 => Op::Reap,
        65..=67 => Op::HandOver { slot, to: (slot + 1) % SLOTS, end: end(chance) },
        68 => Op::Kill,
        69..=79 => Op::Start,
        80 => Op::RdmaShared { shared: chance.below(2) == 0 },
        81..=82 => Op::Synchronize,
        83 => Op::Sweep,
        84 => Op::Reboot { lossy: chance.below(2) == 0 },
        85 => Op::WipeCdi,
        86..=87 => Op::Rename { vf },
        88..=89 => Op::Meddle { slot, what: u8::try_from(chance.below(6)).unwrap() },
        90..=91 => Op::Anew { vf },
        92 => Op::Rebind { vf, driver: [Bound::Nothing, Bound::Netdev, Bound::Userspace][chance.below(3)] },
        93 => Op::ApiAway { away: chance.below(3) == 0 },
        94 => Op::DiskFull { full: true },
        95..=96 => Op::DiskFull { full: false },
        97 => Op::Clock { by: [-86_400, 86_400, -10, 10][chance.below(4)] },
        _ => Op::Wait { seconds: u16::try_from(chance.below(700)).unwrap() },
    }
}

fn fault(chance: &mut Chance) -> Fault {
    let most = [3, 12, 40][chance.below(3)];
    let k = chance.below(most);
    let errnos = [Errno::EBUSY, Errno::EEXIST, Errno::ENODEV, Errno::ENOSPC, Errno::EINVAL, Errno::EIO];
    match chance.below(20) {
        0..=1 => Fault::Fail { k, errno: errnos[chance.below(errnos.len())] },
        2..=3 => Fault::Die { k },
        4 => Fault::Tear { k },
        5 => Fault::Beside {
            k,
            who: [Who::NamespaceEnds, Who::SecondAgent, Who::SecondStarts][chance.below(3)],
        },
        _ => Fault::No,
    }
}

/// Where a life is told, and how long one may try to tell a shorter one.
pub struct Stage {
    pub ground: fn() -> Rc<dyn Ground>,
    pub shrinking: Duration,
}

/// What holds state: fast.
pub const DOUBLE: Stage =
    Stage { ground: || Rc::new(Double::new()), shrinking: Duration::from_secs(24 * 3600) };

/// The first `count` acts of a seed; what can't happen is drawn again.
pub fn acts(seed: u64, count: usize, lacks: &[Lack]) -> Vec<Act> {
    let mut chance = Chance::new(seed);
    let mut possible = || loop {
        let op = op(&mut chance);
        let fault = fault(&mut chance);
        if !lacks.iter().any(|lack| (lack.op)(&op)) {
            return with(op, fault);
        }
    };
    let act = |at: usize| match at % STRETCH {
        0 => Op::Rest.into(),
        _ => possible(),
    };
    (1..=count).map(act).collect()
}

/// Lives through it, on what holds state.
pub fn live(acts: &[Act]) -> Told {
    live_on(&DOUBLE, acts)
}

/// Lives through it. Everybody does what they have to after each stretch, and in the end.
pub fn live_on(stage: &Stage, acts: &[Act]) -> Told {
    let mut world = World::on((stage.ground)());
    let mut told = Told { wrong: None, well: 0, rests: 0, placed: Vec::new() };
    for (at, act) in acts.iter().enumerate() {
        let ended = world.act(*act);
        told.placed.extend(world.placed.take().map(|op| (at, op)));
        told.well += usize::from(matches!(ended, super::world::Ended::Well) && !world.effects.is_empty());
        let mut faults = after_each(&world);
        if faults.is_empty() && (act.op == Op::Rest || at + 1 == acts.len()) {
            told.rests += 1;
            faults.extend(world.recover());
            faults.extend(at_rest(&mut world));
        }
        if !faults.is_empty() {
            told.wrong = Some((at, faults));
            return told;
        }
    }
    told
}

/// The acts without those that it does not take to go wrong (delta debugging: halves, quarters, … single ones), and with
/// as few faults and as early ones as it takes.
pub fn shrink(stage: &Stage, mut acts: Vec<Act>) -> Vec<Act> {
    let until = Instant::now() + stage.shrinking;
    let wrong = |acts: &[Act]| Instant::now() < until && live_on(stage, acts).wrong.is_some();
    let mut size = acts.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < acts.len() {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + size).min(acts.len()));
            if wrong(&fewer) {
                acts = fewer;
                shorter = true;
            } else {
                at += size;
            }
        }
        if size == 1 && !shorter {
            break;
        }
        size = if shorter { size.min(acts.len().max(1)) } else { size.div_ceil(2).max(1) };
    }
    for at in 0..acts.len() {
        let mut calmer = acts.clone();
        calmer[at].fault = Fault::No;
        if wrong(&calmer) {
            acts = calmer;
        }
    }
    acts
}

/// A regression test, as it can be pasted into `tests/chaos/found.rs`.
pub fn as_test(stage: &Stage, seed: u64, acts: &[Act]) -> String {
    let told = live_on(stage, acts);
    let faults = told.wrong.map(|(_, faults)| faults).unwrap_or_default();
    let mut text = format!("#[test]\nfn found_by_seed_{seed}() {{\n");
    for fault in faults {
        writeln!(text, "    // {fault}").unwrap();
    }
    writeln!(text, "    holds(&[").unwrap();
    for (at, act) in acts.iter().enumerate() {
        if let Some((_, op)) = told.placed.iter().find(|(placed, _)| *placed == at) {
            writeln!(text, "        {op}.into(),").unwrap();
            continue;
        }
        match act.fault {
            Fault::No => writeln!(text, "        {:?}.into(),", act.op).unwrap(),
            fault => writeln!(text, "        with({:?}, {fault:?}),", act.op).unwrap(),
        }
    }
    text + "    ]);\n}\n"
}

/// Lives through a seed; what is wrong is shrunk and told as a test.
pub fn run(stage: &Stage, seed: u64, count: usize) -> Told {
    let lacks = (stage.ground)().lacks();
    lacks.iter().for_each(|lack| println!("left out here: {}", lack.what));
    let acts = acts(seed, count, &lacks);
    let told = live_on(stage, &acts);
    if let Some((at, faults)) = &told.wrong {
        println!("seed {seed} goes wrong at act {at}: {faults:#?}");
        let fewer = shrink(stage, acts[..=*at].to_vec());
        panic!(
            "seed {seed} goes wrong at act {at}; CHAOS_SEED={seed} tells it again. What it takes:\n\n{}",
            as_test(stage, seed, &fewer)
        );
    }
    told
}
