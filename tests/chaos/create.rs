//! Pods as a scheduler places them, with claims of every kind.

use std::collections::BTreeSet;

use sriov_dra::claim::{ClaimId, ClaimSpec, PodRef};

use super::asks::{Ask, is_watched, wants};
use super::chance::Chance;
use super::node::{VFS, number};
use super::ops::Op;
use super::pods::{Claim, Pod, vfs_of_claim};
use super::world::World;

impl World {
    /// VFs that no claim at the API server has, and that are not withheld.
    fn free_vfs(&self) -> Vec<u8> {
        let claims = self.slots.iter().flatten().chain(&self.zombies).flat_map(|pod| &pod.claims);
        let taken: BTreeSet<u8> =
            claims.filter(|claim| claim.exists).flat_map(|claim| vfs_of_claim(&claim.spec)).collect();
        let unclean = self.node.ledger.unclean().unwrap_or_default();
        let withheld: BTreeSet<u8> = unclean.into_iter().map(|(vf, _)| number(vf)).collect();
        (1..=VFS).filter(|n| !taken.contains(n) && !withheld.contains(n)).collect()
    }

    pub fn create(&mut self, slot: u8, seed: u64) {
        let mut free = self.free_vfs();
        if self.slots[usize::from(slot)].is_some() || free.is_empty() {
            return;
        }
        let mut chance = Chance::new(seed);
        let lacks = self.node.ground.lacks();
        let shared = chance.below(2) == 0;
        let mut claims = Vec::new();
        let mut has_default = false;
        for _ in 0..=chance.below(2) {
            let mut vfs = Vec::new();
            for _ in 0..=chance.below(2) {
                if free.is_empty() {
                    break;
                }
                let n = free.remove(chance.below(free.len()));
                let dense = 1 + chance.below(4);
                let mut asks: Vec<Ask> = Ask::ALL.into_iter().filter(|_| chance.below(4) < dense).collect();
                asks.retain(|ask| !lacks.iter().any(|lack| (lack.ask)(n, *ask)));
                if chance.below(3) != 0 {
                    asks.retain(|ask| *ask != Ask::Vfio);
                }
                // A pod has one default route.
                if has_default {
                    asks.retain(|ask| *ask != Ask::DefaultRoute);
                }
                has_default |= asks.contains(&Ask::DefaultRoute);
                vfs.push((n, asks));
            }
            // Whoever has it: this claim, this pod, another one, nobody.
            if chance.below(6) == 0 {
                vfs.push((watched(&mut chance), vec![Ask::Watch]));
            }
            if !vfs.is_empty() {
                claims.push(vfs);
            }
        }
        if chance.below(8) == 0 {
            let ask = [Ask::Watch, Ask::WatchWithOthers][chance.below(2)];
            claims.push(vec![(watched(&mut chance), vec![ask])]);
        }
        let hosted = Op::PlaceOnHost { slot, shared, claims: &[] };
        let on_host = chance.below(5) == 0 && !lacks.iter().any(|lack| (lack.op)(&hosted));
        if on_host && chance.below(6) != 0 {
            let vfs = claims.iter_mut().flatten();
            vfs.for_each(|(_, asks)| asks.retain(|ask| !ask.is_of_the_pods_network()));
        }
        self.place(slot, shared, claims);
        if on_host {
            self.move_to_host(slot);
        }
    }

    /// The pod that was just placed is one on the host's network.
    pub fn move_to_host(&mut self, slot: u8) {
        self.slots[usize::from(slot)].iter_mut().for_each(|pod| pod.on_host = true);
        self.placed.iter_mut().for_each(|op| *op = op.replace("Place {", "PlaceOnHost {"));
    }

    /// A pod with these claims.
    pub fn place(&mut self, slot: u8, shared: bool, claims: Vec<Vec<(u8, Vec<Ask>)>>) {
        let shown: Vec<String> = claims
            .iter()
            .map(|vfs| {
                let vfs: Vec<String> = vfs.iter().map(|(n, asks)| format!("({n}, &{asks:?})")).collect();
                format!("&[{}]", vfs.join(", "))
            })
            .collect();
        self.placed =
            Some(format!("Place {{ slot: {slot}, shared: {shared}, claims: &[{}] }}", shown.join(", ")));
        let pod = self.new_uid();
        let claims = claims.into_iter().enumerate().map(|(which, vfs)| {
            let results = vfs.iter().map(|(n, asks)| wants(*n, asks)).collect();
            let mut claim = self.claim(&pod, which, results, shared);
            if vfs.iter().all(|(_, asks)| is_watched(asks) && asks.contains(&Ask::WatchWithOthers)) {
                claim.spec.pod = None;
            }
            claim
        });
        let claims = claims.collect();
        self.slots[usize::from(slot)] = Some(Pod {
            uid: pod,
            claims,
            sandbox: None,
            on_host: false,
            runs: false,
            disturbed: false,
            over: false,
        });
    }

    fn claim(
        &mut self,
        pod: &str,
        which: usize,
        results: Vec<sriov_dra::claim::ResultSpec>,
        shared: bool,
    ) -> Claim {
        self.made += 1;
        let uid = format!("c{}", self.made);
        let name = if shared { format!("vf{which}") } else { format!("{pod}-vf{which}-x") };
        let spec = ClaimSpec {
            id: ClaimId { uid, namespace: "ns".into(), name },
            pod_claim_name: format!("vf{which}"),
            pod: Some(PodRef { uid: pod.to_owned(), name: format!("pod-{pod}") }),
            results,
        };
        Claim { spec, exists: true, shared, prepared: false }
    }

    /// Of a pod.
    pub fn new_uid(&mut self) -> String {
        self.made += 1;
        format!("p{}", self.made)
    }
}

/// Any VF: nothing is taken of it.
fn watched(chance: &mut Chance) -> u8 {
    1 + u8::try_from(chance.below(VFS.into())).unwrap()
}
