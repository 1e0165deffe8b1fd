//! Kubelet, scheduler and runtime around a node: what they believe, and what they do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use sriov_dra::attach::nri::Sandbox;
use sriov_dra::claim::PodRef;
use sriov_dra::host::clock;
use sriov_dra::host::fate::{Fate, Kind, Turn};

use super::asks::Ask;
use super::container::of_cdi;
use super::ground::Ground;
use super::ground::double::Double;
use super::node::{Agent, Node, soon};
use super::ops::{Act, End, Fault, Op, Who};
use super::pods::{Pod, Sb, end_sandbox, prepare, sandbox_of, unprepare};

pub const SLOTS: u8 = 4;

/// How a call of the agent ended.
#[derive(Debug)]
pub enum Ended {
    Well,
    Refused(String),
    Died,
}

pub struct World {
    pub node: Node,
    pub slots: Vec<Option<Pod>>,
    /// Pods that were deleted by force.
    pub zombies: Vec<Pod>,
    pub agent: Option<Agent>,
    pub disk_full: bool,
    pub api_away: bool,
    /// Some effect was ever refused: a report may be lost.
    pub ever_refused: bool,
    /// What claims' status says, by UID: every device is ready.
    pub status: BTreeMap<String, bool>,
    /// Something was refused since the last look: a VF may be withheld for it.
    pub refused: bool,
    /// The kernel said that a name was taken which was not: nobody insists on one.
    pub names_refused: bool,
    /// Names of all effects of the last op.
    pub effects: Vec<String>,
    /// Why calls were refused, for whoever wonders.
    pub told: Vec<String>,
    /// What was wrong when a container started.
    pub seen: Vec<String>,
    /// Entries that the loss of power would empty, by path.
    pub unsynced: BTreeSet<String>,
    /// Entries whose removal nobody waited for, by path, with what was in them: the loss of power would bring them back.
    pub undead: BTreeMap<PathBuf, Vec<u8>>,
    /// Names of those that it emptied: such a file goes into quarantine, for people.
    pub emptied: BTreeSet<String>,
    /// The last pod that was placed, as an op.
    pub placed: Option<String>,
    pub made: u32,
}

impl World {
    /// On what holds state.
    pub fn new() -> Self {
        Self::on(Rc::new(Double::new()))
    }

    pub fn on(ground: Rc<dyn Ground>) -> Self {
        let mut world = Self {
            node: Node::on(ground),
            slots: vec![None; usize::from(SLOTS)],
            zombies: Vec::new(),
            agent: None,
            disk_full: false,
            api_away: false,
            ever_refused: false,
            status: BTreeMap::new(),
            refused: false,
            names_refused: false,
            effects: Vec::new(),
            told: Vec::new(),
            seen: Vec::new(),
            unsynced: BTreeSet::new(),
            undead: BTreeMap::new(),
            emptied: BTreeSet::new(),
            placed: None,
            made: 0,
        };
        world.start(Fault::No);
        world
    }

    /// Does something as a process with this fate. A process that ends at it was the agent, unless it is the hook's.
    fn live(
        &mut self,
        fault: Fault,
        sandbox: Option<Sb>,
        deed: impl Fn(&Agent) -> Result<(), String> + Clone + 'static,
    ) -> Ended {
        let Ok(process) = self.node.process() else { return Ended::Refused("no process".into()) };
        let ends = sandbox.as_ref().map(|sandbox| sandbox.netns);
        let ground = Rc::clone(&self.node.ground);
        let fate = match fault {
            Fault::No => Fate::default(),
            Fault::Fail { k, errno } => Fate::default().at(k, Turn::Fails(errno)),
            Fault::Die { k } => Fate::default().at(k, Turn::Dies),
            Fault::Tear { k } => Fate::default().at(k, Turn::Tears),
            Fault::Beside { k, who } => {
                let deed = deed.clone();
                let (again, sandboxes) = (self.node.process().ok(), self.listed());
                let other: Box<dyn FnOnce()> = Box::new(move || match (who, again) {
                    (Who::NamespaceEnds, _) => {
                        sandbox.iter().for_each(|sandbox| ground.let_go(sandbox.netns));
                    }
                    (Who::SecondAgent, Some(second)) => drop(deed(&second)),
                    (Who::SecondStarts, Some(second)) => {
                        let site = &second.engine.site;
                        drop(site.ledger.survey(&site.boot_id));
                        drop(second.engine.sweep());
                        second.attacher.synchronize(&sandboxes, soon());
                    }
                    (_, None) => {}
                });
                Fate::default().at(k, Turn::Meanwhile(other))
            }
        };
        if self.disk_full {
            fate.refuse(Kind::Room, nix::errno::Errno::ENOSPC);
        }
        let entries = self.entries();
        let done = fate.live(|| deed(&process));
        self.effects = fate.effects();
        if !self.effects.is_empty() || matches!(fault, Fault::Beside { .. }) {
            self.node.ground.look_anew();
        }
        let happened = !fate.is_open();
        let undone = match fault {
            Fault::Fail { k, .. } | Fault::Die { k } | Fault::Tear { k } if happened => Some(k),
            _ => None,
        };
        self.note_unsynced(undone);
        self.note_undead(undone, &entries);
        self.ever_refused |= self.refused;
        self.names_refused |=
            happened && matches!(fault, Fault::Fail { errno: nix::errno::Errno::EEXIST, .. });
        // Whoever had it open has closed it.
        if let (Fault::Beside { who: Who::NamespaceEnds, .. }, Some(netns), true) = (fault, ends, happened) {
            self.node.ground.destroy(netns);
            self.notice_ends();
        }
        self.refused |=
            self.disk_full || matches!(fault, Fault::Fail { .. } | Fault::Beside { .. }) && happened;
        match done {
            Some(Ok(())) => Ended::Well,
            Some(Err(error)) => {
                self.told.push(error.clone());
                Ended::Refused(error)
            }
            None => Ended::Died,
        }
    }

    /// Entries that were put in their place by all effects but this one, and whose content nobody waited for.
    fn note_unsynced(&mut self, but: Option<usize>) {
        let mut synced = false;
        for (_, effect) in self.effects.iter().enumerate().filter(|(k, _)| Some(*k) != but) {
            if let Some(path) = effect.strip_prefix("rename to ").filter(|path| path.contains("/claims/")) {
                match synced {
                    true => self.unsynced.remove(path),
                    false => self.unsynced.insert(path.to_owned()),
                };
            } else if effect.starts_with("write ") {
                synced = false;
            } else if effect.starts_with("sync ") && effect.ends_with(".tmp") {
                synced = true;
            }
        }
    }

    fn entries(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.node.path("durable/claims");
        let paths = self.node.files("durable/claims").into_iter().map(|name| folder.join(name));
        paths.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
    }

    /// Entries that were removed by all effects but this one, and whose folder nobody waited for since.
    fn note_undead(&mut self, but: Option<usize>, before: &BTreeMap<PathBuf, Vec<u8>>) {
        let folder = self.node.path("durable/claims");
        for (_, effect) in self.effects.iter().enumerate().filter(|(k, _)| Some(*k) != but) {
            if let Some(path) = effect.strip_prefix("remove ").map(PathBuf::from) {
                self.undead.extend(before.get(&path).map(|text| (path, text.clone())));
            } else if effect.strip_prefix("sync ").is_some_and(|path| folder == *path) {
                self.undead.clear();
            }
        }
    }

    /// The same, of the agent: it must be there, and is not any more if it died.
    fn as_agent(
        &mut self,
        fault: Fault,
        sandbox: Option<Sb>,
        deed: impl Fn(&Agent) -> Result<(), String> + Clone + 'static,
    ) -> Ended {
        if self.agent.is_none() {
            return Ended::Refused("there is no agent".into());
        }
        let ended = self.live(fault, sandbox, deed);
        if matches!(ended, Ended::Died) {
            self.agent = None;
        }
        ended
    }

    /// Sandboxes as the runtime lists them: stopped ones too, for a while.
    fn listed(&self) -> Vec<Sandbox> {
        let pods = self.slots.iter().flatten().chain(&self.zombies);
        pods.filter_map(|pod| Some(sandbox_of(pod, pod.sandbox.as_ref()?))).collect()
    }

    pub fn start(&mut self, fault: Fault) -> Ended {
        self.agent = self.node.process().ok();
        let sandboxes = self.listed();
        let started = self.as_agent(fault, None, move |agent| {
            let site = &agent.engine.site;
            site.ledger.survey(&site.boot_id).map_err(|error| error.sentence())?;
            let _ = std::fs::create_dir_all(&site.cdi_dir);
            let _ = agent.engine.renew_cdi();
            agent.attacher.synchronize(&sandboxes, soon());
            if let Err(error) = agent.engine.sweep() {
                return Err(format!("sweep: {}", error.sentence()));
            }
            Ok(())
        });
        // An agent that can't read its ledger ends; one that can't look for strays goes on.
        if matches!(&started, Ended::Refused(why) if !why.starts_with("sweep")) {
            self.agent = None;
        }
        started
    }

    pub fn act(&mut self, act: Act) -> Ended {
        self.effects.clear();
        self.placed = None;
        let fault = act.fault;
        match act.op {
            Op::Create { slot, seed } => self.create(slot, seed),
            Op::Place { slot, shared, claims } => {
                let of = |(n, asks): &(u8, &[Ask])| (*n, asks.to_vec());
                let claims = claims.iter().map(|vfs| vfs.iter().map(of).collect()).collect();
                self.place(slot, shared, claims);
            }
            Op::PlaceOnHost { slot, shared, claims } => {
                self.act(Op::Place { slot, shared, claims }.into());
                self.move_to_host(slot);
            }
            Op::Prepare { slot } => return self.prepare(slot, fault),
            Op::Run { slot } => return self.run(slot, fault),
            Op::Container { slot } => return self.container(slot, fault),
            Op::Stop { slot, end } => return self.stop(slot, end, fault),
            Op::Finish { slot, end } => {
                if self.slots[usize::from(slot)].is_some() {
                    let ended = self.stop(slot, end, fault);
                    if matches!(ended, Ended::Died) {
                        return ended;
                    }
                    let mut pod = self.slots[usize::from(slot)].take().unwrap();
                    pod.over = true;
                    let ended = self.unprepare(&mut pod, fault);
                    self.keep(pod);
                    return ended;
                }
            }
            Op::Force { slot, lives } => self.force(slot, lives),
            Op::Reap => {
                let mut last = Ended::Well;
                for mut pod in std::mem::take(&mut self.zombies) {
                    end_sandbox(&self.node, &mut pod);
                    if !matches!(last, Ended::Died) {
                        last = self.unprepare(&mut pod, fault);
                    }
                    self.keep(pod);
                }
                return last;
            }
            Op::HandOver { slot, to, end } => return self.hand_over(slot, to, end, fault),
            Op::Rest => {}
            Op::Kill => self.agent = None,
            Op::Start => return self.start(fault),
            Op::Synchronize => {
                let sandboxes = self.listed();
                return self.as_agent(fault, None, move |agent| {
                    agent.attacher.synchronize(&sandboxes, soon());
                    Ok(())
                });
            }
            Op::Sweep => {
                return self.as_agent(fault, None, |a| a.engine.sweep().map(drop).map_err(|e| e.sentence()));
            }
            _ => super::misfortune::befall(self, act.op),
        }
        Ended::Well
    }

    /// A pod that still has to be unprepared stays the kubelet's affair.
    fn keep(&mut self, pod: Pod) {
        if !pod.claims.is_empty() {
            self.zombies.push(pod);
        }
    }

    /// As `app::claims`: a claim of another pod is handed over, and one that is no more makes room.
    pub fn prepare(&mut self, slot: u8, fault: Fault) -> Ended {
        let Some(pod) = self.slots[usize::from(slot)].clone() else { return Ended::Well };
        if self.api_away {
            return Ended::Refused("the claim can't be read from the API server".into());
        }
        let existing: BTreeSet<String> = self.existing();
        for (at, claim) in pod.claims.iter().enumerate() {
            let (spec, existing) = (claim.spec.clone(), existing.clone());
            if let Some(pod) = self.slots[usize::from(slot)].as_mut().filter(|_| self.agent.is_some()) {
                pod.claims[at].prepared = false;
            }
            let ended =
                self.as_agent(fault, pod.sandbox.clone(), move |agent| prepare(agent, &spec, &existing));
            match ended {
                Ended::Well => {
                    if let Some(pod) = &mut self.slots[usize::from(slot)] {
                        pod.claims[at].prepared = true;
                    }
                }
                other => return other,
            }
        }
        Ended::Well
    }

    /// Claims at the API server, by UID.
    fn existing(&self) -> BTreeSet<String> {
        let pods = self.slots.iter().flatten().chain(&self.zombies);
        pods.flat_map(|pod| &pod.claims).filter(|c| c.exists).map(|c| c.spec.id.uid.clone()).collect()
    }

    fn run(&mut self, slot: u8, fault: Fault) -> Ended {
        let at = usize::from(slot);
        if !self.slots[at].as_ref().is_some_and(|pod| pod.claims.iter().all(|claim| claim.prepared)) {
            return Ended::Well;
        }
        let made = self.made;
        if self.slots[at].as_ref().is_some_and(|pod| pod.sandbox.is_none()) {
            self.made += 1;
            let on_host = self.slots[at].as_ref().is_some_and(|pod| pod.on_host);
            let (path, netns, pid) =
                if on_host { self.node.own_namespace() } else { self.node.add_namespace() };
            let sandbox = Sb { id: format!("s{made}"), path, netns, pid, lives: true };
            let pod = self.slots[at].as_mut().unwrap();
            // What a pod did to a VF on the host stays until the claim is over.
            (pod.sandbox, pod.disturbed) = (Some(sandbox), pod.disturbed && on_host);
        }
        let pod = self.slots[at].clone().unwrap();
        let sb = pod.sandbox.clone().unwrap();
        let sandbox = sandbox_of(&pod, &sb);
        let ended = self.as_agent(fault, Some(sb), move |agent| {
            agent.attacher.run(&sandbox, soon()).map_err(|error| error.sentence())
        });
        self.notice_ends();
        // The runtime takes a sandbox away whose plugin says no.
        if let Ended::Refused(_) = ended
            && self.agent.is_some()
        {
            let pod = self.slots[at].as_mut().unwrap();
            if !pod.runs {
                end_sandbox(&self.node, pod);
                pod.sandbox = None;
            }
        }
        ended
    }

    fn container(&mut self, slot: u8, fault: Fault) -> Ended {
        let at = usize::from(slot);
        let Some(pod) = self.slots[at].clone() else { return Ended::Well };
        let Some(sb) = pod.sandbox.clone().filter(|sb| sb.lives) else { return Ended::Well };
        let sandbox = sandbox_of(&pod, &sb);
        let Some(made) = of_cdi(&self.node, &pod) else {
            return Ended::Refused("the runtime finds no CDI device".into());
        };
        let container = made.container(&sb);
        if self.agent.is_some() {
            let (of, made) = (sandbox.clone(), made.clone());
            let ended = self.as_agent(fault, Some(sb.clone()), move |agent| {
                let done = agent.attacher.create_container(&of, &container, soon());
                done.map(|adjustment| made.adjust(adjustment)).map_err(|error| error.sentence())
            });
            self.notice_ends();
            match ended {
                Ended::Refused(_) => return ended,
                // The runtime's plugin is gone, which stops nobody; the hook is next.
                Ended::Well | Ended::Died => {}
            }
        }
        let uids: Vec<String> = pod.claims.iter().map(|claim| claim.spec.id.uid.clone()).collect();
        // A container's process says where it is, on the host's network too.
        let sandbox = Sandbox { netns: Some(sb.path.clone()), ..sandbox };
        let hooked = self.live(if self.agent.is_some() { Fault::No } else { fault }, Some(sb), {
            let made = made.clone();
            move |hook| uids.iter().try_for_each(|uid| made.pass_the_hook(hook, &sandbox, uid))
        });
        self.notice_ends();
        if let (Ended::Well, false) = (&hooked, pod.disturbed) {
            let claims = pod.claims.iter().map(|claim| self.node.ledger.entry(&claim.spec.id.uid));
            let entries: Vec<_> = claims.filter_map(|entry| entry.ok().flatten()).collect();
            self.seen = made.faults(&self.node, &entries, &pod);
        }
        if let (Ended::Well, Some(pod)) = (&hooked, &mut self.slots[at])
            && pod.sandbox.as_ref().is_some_and(|sb| sb.lives)
        {
            pod.runs = true;
        }
        hooked
    }

    fn stop(&mut self, slot: u8, end: End, fault: Fault) -> Ended {
        let at = usize::from(slot);
        let Some(pod) = self.slots[at].clone() else { return Ended::Well };
        let Some(sb) = pod.sandbox.clone() else { return Ended::Well };
        let sandbox = sandbox_of(&pod, &sb);
        let tell = |world: &mut Self| {
            world.as_agent(fault, Some(sb.clone()), {
                let sandbox = sandbox.clone();
                move |agent| agent.attacher.stop(&sandbox, soon()).map_err(|error| error.sentence())
            })
        };
        let stop_processes = |world: &mut Self| {
            world.node.ground.kill_users(sb.netns);
            world.slots[at].iter_mut().for_each(|pod| pod.runs = false);
        };
        let ended = match end {
            End::Told => {
                stop_processes(self);
                let ended = tell(self);
                self.node.ground.destroy(sb.netns);
                ended
            }
            End::Early => {
                stop_processes(self);
                self.node.ground.destroy(sb.netns);
                tell(self)
            }
            End::Silent => {
                stop_processes(self);
                self.node.ground.destroy(sb.netns);
                Ended::Well
            }
        };
        if let Some(pod) = &mut self.slots[at] {
            (pod.sandbox, pod.runs) = (None, false);
        }
        ended
    }

    /// The kubelet: each claim until it is told that it is unprepared. What is left of the pod's claims stays in it.
    pub fn unprepare(&mut self, pod: &mut Pod, fault: Fault) -> Ended {
        let mut ended = Ended::Well;
        let mut left = Vec::new();
        for claim in std::mem::take(&mut pod.claims) {
            if !matches!(ended, Ended::Died) {
                let id = claim.spec.id.clone();
                ended = self.as_agent(fault, pod.sandbox.clone(), move |agent| unprepare(agent, &id));
                if matches!(ended, Ended::Well) {
                    continue;
                }
            }
            left.push(claim);
        }
        pod.claims = left;
        ended
    }

    fn force(&mut self, slot: u8, lives: bool) {
        let Some(mut pod) = self.slots[usize::from(slot)].take() else { return };
        pod.over = true;
        pod.claims.iter_mut().for_each(|claim| claim.exists = false);
        if !lives {
            end_sandbox(&self.node, &mut pod);
        }
        self.zombies.push(pod);
    }

    /// Only claims that people made, and only when the pod is over.
    fn hand_over(&mut self, slot: u8, to: u8, end: End, fault: Fault) -> Ended {
        let fits = |pod: &Pod| pod.claims.iter().all(|claim| claim.shared && claim.exists);
        let (from, to) = (usize::from(slot), usize::from(to));
        if from == to || self.slots[to].is_some() || !self.slots[from].as_ref().is_some_and(fits) {
            return Ended::Well;
        }
        let ended = self.stop(slot, end, fault);
        let Some(mut pod) = self.slots[from].take() else { return ended };
        pod.uid = self.new_uid();
        for claim in &mut pod.claims {
            if claim.spec.pod.is_some() {
                claim.spec.pod = Some(PodRef { uid: pod.uid.clone(), name: format!("pod-{}", pod.uid) });
            }
            claim.prepared = false;
        }
        pod.disturbed &= pod.on_host;
        self.slots[to] = Some(pod);
        ended
    }

    /// What became of sandboxes while the agent was at work.
    pub fn notice_ends(&mut self) {
        for pod in self.slots.iter_mut().flatten().chain(&mut self.zombies) {
            if pod.sandbox.as_ref().is_some_and(|sb| !self.node.ground.exists(sb.netns)) {
                (pod.sandbox, pod.runs) = (None, false);
            }
        }
    }

    /// People look at what is in quarantine: entries that the loss of power emptied, as they are. Anything else stays
    /// there, and is a fault.
    fn take_what_was_emptied(&mut self) {
        let emptied = std::mem::take(&mut self.emptied);
        for name in self.node.files("durable/quarantine") {
            let path = self.node.path("durable/quarantine").join(&name);
            let was = name.split_once('-').is_some_and(|(_, was)| emptied.contains(was));
            if was && std::fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// Everybody does what they have to, until nothing is left to do.
    pub fn recover(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        (self.disk_full, self.api_away) = (false, false);
        self.notice_ends();
        if let Ended::Refused(error) = self.start(Fault::No) {
            faults.push(format!("an agent does not start: {error}"));
        }
        self.take_what_was_emptied();
        self.act(Op::Reap.into());
        if let Some(pod) = self.zombies.first() {
            let why = self.told.last().cloned().unwrap_or_default();
            faults.push(format!("pod {} can't be unprepared: {why}", pod.uid));
        }
        for slot in 0..SLOTS {
            let Some(pod) = self.slots[usize::from(slot)].clone() else { continue };
            // The kubelet asks for what it has not been told of, and after a reboot for all.
            if !pod.claims.iter().all(|claim| claim.prepared)
                && let Ended::Refused(error) = self.prepare(slot, Fault::No)
            {
                // A VF of it is withheld, which somebody sees, and deletes the pod.
                if self.refused && error.contains("can't be given to a pod") {
                    self.force(slot, false);
                    self.act(Op::Reap.into());
                    continue;
                }
                faults.push(format!("pod {} can't be prepared: {error}", pod.uid));
            }
        }
        // Writers that were killed: their files are old by now, on a clock that is right.
        clock::set_wall(None);
        clock::sleep(std::time::Duration::from_secs(7200));
        if let Ended::Refused(error) = self.act(Op::Sweep.into()) {
            faults.push(format!("strays can't be looked for: {error}"));
        }
        self.write_status();
        faults
    }

    /// The agent writes what waits.
    pub fn write_status(&mut self) {
        let Some(agent) = &self.agent else { return };
        for (file, letter) in agent.attacher.outbox.waiting() {
            let ready = letter.report.devices.iter().all(|device| device.reason.ready());
            self.status.insert(letter.report.claim.uid, ready);
            agent.attacher.outbox.done(&file);
        }
    }
}
