//! Which blocks a node keeps, claims and gives back. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::address::{
    AddressBlock, AddressPool, Block, Book, Mode, Overlap, Page, Parent, Pool, Span, overlaps, read, usable,
};
use crate::device::PciAddress;

/// A PF of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePf {
    /// The PF.
    pub parent: Parent,
    /// How many VFs it has.
    pub vfs: u32,
    /// A claim owns one of them, so their addresses are in use.
    pub busy: bool,
}

/// All of them; shared, as the scan comes every few seconds.
pub type Pfs = Arc<Vec<NodePf>>;

/// What is true of this node.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// Its name.
    pub node: &'a str,
    /// Labels of its Node.
    pub labels: &'a BTreeMap<String, String>,
    /// Its PFs.
    pub pfs: &'a [NodePf],
}

/// A block that is to be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Of this pool.
    pub pool: Pool,
    /// For this PF.
    pub pf: Parent,
    /// For so many VFs.
    pub vfs: u32,
    /// Not touching these.
    pub avoid: Vec<Span>,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// What the node knows when nothing of it is done.
    pub book: Book,
    /// Claims.
    pub claim: Vec<Want>,
    /// Names of own blocks that nobody needs any more, with their UIDs.
    pub release: Vec<(String, Option<String>)>,
    /// What is to be said of each pool: `None` is well.
    pub verdicts: BTreeMap<String, Option<Verdict>>,
}

/// What is wrong with a pool, by a look at pools and own blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Decides.
pub fn plan(
    pools: &BTreeMap<String, AddressPool>,
    own: &BTreeMap<String, AddressBlock>,
    here: Here<'_>,
) -> Plan {
    let mut plan = Plan::default();
    let mut by_age: Vec<&AddressPool> = pools.values().collect();
    by_age.sort_by_key(|pool| {
        (pool.metadata.creation_timestamp.as_ref().map(|time| time.0), pool.metadata.name.clone())
    });
    let mut good = Vec::new();
    for object in by_age {
        let (name, uid) = (text(&object.metadata.name), text(&object.metadata.uid));
        plan.book
            .pools
            .insert(name.clone(), Page { uid: uid.clone(), spec: object.spec.clone(), ..Page::default() });
        match read(&name, &uid, &object.spec) {
            Ok(pool) => good.push(pool),
            Err(faults) => {
                let message = faults.to_string();
                plan.verdicts.insert(name, Some(Verdict { reason: "Invalid", message }));
            }
        }
    }
    let overlaps = overlaps(&good);
    let none = Overlap::default();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for pool in &good {
        let held = blocks_of(own, &pool.name, &pool.uid);
        let changed = held.iter().find(|(_, block)| !pool.still_has(block));
        let overlap = overlaps.get(&pool.name).unwrap_or(&none);
        plan.verdicts.insert(pool.name.clone(), verdict(overlap, changed.map(|(_, block)| *block)));
        let Some(page) = plan.book.pools.get_mut(&pool.name) else { continue };
        for pf in here.pfs.iter().filter(|pf| pool.is_for_node(here.labels) && pool.pfs.matches(&pf.parent)) {
            let pci = pf.parent.pci;
            let dictated = (pool.mode == Mode::FromParent).then(|| pool.parents_block(here.node, &pf.parent));
            let mine = held.iter().find(|(_, block)| block.pf_pci_address == pci);
            // A PF that got another prefix: while VFs of it are used, what they have stands.
            let outdated = |block: &Block| {
                !pf.busy
                    && dictated
                        .as_ref()
                        .is_some_and(|now| now.as_ref().is_ok_and(|now| now.cidrs != block.cidrs))
            };
            if let Some((name, block)) = mine.filter(|(_, block)| !outdated(block)) {
                page.blocks.insert(pci, (*block).clone());
                kept.insert(name);
                continue;
            }
            let refusal = match dictated {
                Some(Err(why)) => Some(why),
                _ if !overlap.older.is_empty() => {
                    Some(format!("the pool overlaps the older pool {}", overlap.older.join(", ")))
                }
                _ if changed.is_some() => {
                    Some("the pool was changed in a way that it must not be".to_owned())
                }
                _ => None,
            };
            match refusal {
                Some(why) => drop(page.without.insert(pci, why)),
                None => {
                    page.without.insert(pci, "the agent is about to claim one".to_owned());
                    let (pool, avoid) = (pool.clone(), overlap.avoid.clone());
                    plan.claim.push(Want { pool, pf: pf.parent.clone(), vfs: pf.vfs, avoid });
                }
            }
        }
    }
    for (name, object) in own {
        let block = &object.spec;
        let busy = here.pfs.iter().any(|pf| pf.parent.pci == block.pf_pci_address && pf.busy);
        // While its driver is loaded anew a PF has no name, and pools that select by names or rails do not know it.
        let nameless = |pf: &&NodePf| pf.parent.pci == block.pf_pci_address && pf.parent.name.is_none();
        let lives = good.iter().any(|pool| pool.name == block.pool && pool.uid == block.pool_uid);
        let busy = busy || lives && here.pfs.iter().any(|pf| nameless(&pf));
        // A pool that can't be read has not given up its blocks.
        let unread = plan.book.pools.get(&block.pool).filter(|page| page.uid == block.pool_uid);
        let unread = unread.filter(|_| !good.iter().any(|pool| pool.name == block.pool));
        match (kept.contains(name.as_str()), unread) {
            (true, _) => {}
            (false, Some(_)) => {
                if let Some(page) = plan.book.pools.get_mut(&block.pool) {
                    page.blocks.insert(block.pf_pci_address, block.clone());
                }
            }
            (false, None) if busy => {}
            (false, None) => plan.release.push((name.clone(), object.metadata.uid.clone())),
        }
    }
    plan
}

fn text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

fn blocks_of<'a>(
    own: &'a BTreeMap<String, AddressBlock>,
    pool: &str,
    uid: &str,
) -> Vec<(&'a str, &'a Block)> {
    let of_pool = own.iter().filter(|(_, object)| object.spec.pool == pool && object.spec.pool_uid == uid);
    of_pool.map(|(name, object)| (name.as_str(), &object.spec)).collect()
}

fn verdict(overlap: &Overlap, changed: Option<&Block>) -> Option<Verdict> {
    if let Some(block) = changed {
        let message = format!(
            "block {} was claimed as {} before mode, blockSize, prefixLength or cidr were changed, which they must not be: VFs \
             have addresses by them. Put them back, or make a new pool",
            block.name(),
            block.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
        );
        return Some(Verdict { reason: "ChangeRefused", message });
    }
    let place = overlap.place.map(|place| place.to_string()).unwrap_or_default();
    if !overlap.older.is_empty() {
        let older = overlap.older.join(", ");
        let message =
            format!("it overlaps the older pool {older} in {place}, and claims no blocks as long as it does");
        return Some(Verdict { reason: "Overlap", message });
    }
    let younger = (!overlap.younger.is_empty()).then(|| overlap.younger.join(", "))?;
    let message =
        format!("the younger pool {younger} overlaps it in {place}, where no further blocks are claimed");
    Some(Verdict { reason: "Overlap", message })
}

/// Blocks looked at beyond those that are taken: enough to get past whatever a pool excludes in one piece.
const LOOKED_AT: u64 = 65536;

/// The first block from the PF's first try on that nobody has anything of and that has an address for each VF; where none
/// has, the one that has the most. `held` are the blocks of all pools.
pub fn next_free<'a>(want: &Want, node: &str, held: impl Iterator<Item = &'a Block>) -> Option<Block> {
    let Want { pool, pf, vfs, avoid } = want;
    // Blocks of the pool itself can only be the same ones; of any other, those of a deleted one included, the addresses
    // count. Names are taken in any case.
    let (mut taken, mut avoid) = (BTreeSet::new(), avoid.clone());
    for other in held {
        if other.pool == pool.name {
            taken.insert(other.index);
        }
        if other.pool != pool.name || other.pool_uid != pool.uid {
            avoid.extend(other.cidrs.iter().map(|cidr| Span::of(*cidr)));
        }
    }
    let reach: Vec<Span> = pool.families.iter().map(|family| Span::of(family.cidr)).collect();
    avoid.retain(|span| reach.iter().any(|reach| reach.common(span).is_some()));
    let clear = |block: &Block| {
        !block.cidrs.iter().any(|cidr| avoid.iter().any(|span| span.common(&Span::of(*cidr)).is_some()))
    };
    let (blocks, start) = (pool.blocks(), pool.first_try(node, pf));
    let mut best: Option<(u128, Block)> = None;
    let most = LOOKED_AT.saturating_add(u64::try_from(taken.len()).unwrap_or(u64::MAX));
    for step in 0..blocks.min(most) {
        let index = (start + step) % blocks;
        if taken.contains(&index) {
            continue;
        }
        let Some(block) = pool.block(index, node, pf).filter(clear) else { continue };
        let holds = usable(&block);
        if holds >= u128::from((*vfs).max(1)) {
            return Some(block);
        }
        if holds > best.as_ref().map_or(0, |(holds, _)| *holds) {
            best = Some((holds, block));
        }
    }
    best.map(|(_, block)| block)
}

/// PFs that have no block, by pool.
pub fn without(book: &Book) -> BTreeMap<(String, PciAddress), String> {
    let pages = book.pools.iter();
    pages
        .flat_map(|(name, page)| page.without.iter().map(|(pf, why)| ((name.clone(), *pf), why.clone())))
        .collect()
}
