//! The loop: events of pools, blocks and PFs in, rounds of claims out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::claim::{Claimed, Server};
use super::plan::{Here, Pfs, Plan, plan, without};
use super::told::{Events, differs, full, tell, valid};
use crate::address::{AddressBlock, AddressPool, Book};
use crate::controller::Error;
use crate::controller::listing::{Changes, watched};
use crate::controller::pace::{self, Pace};

/// Times of the blocks' controller.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Those it has in common with the slices' one.
    pub pace: pace::Settings,
    /// How long a Node must have been gone before its blocks are taken.
    pub lost_after: Duration,
    /// A look at everything without any news: labels of the Node change, and full pools get free blocks.
    pub again: Duration,
    /// Agents that see the same write it within this time, not all at once.
    pub spread: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pace: pace::Settings::default(),
            lost_after: Duration::from_secs(24 * 3600),
            again: Duration::from_secs(60),
            spread: Duration::from_secs(5),
        }
    }
}

/// Claims and keeps one node's blocks.
pub struct Blocks {
    client: kube::Client,
    server: Server,
    settings: Settings,
    pools: Mirror<AddressPool>,
    own: Mirror<AddressBlock>,
    labels: BTreeMap<String, String>,
    labels_read: Option<Instant>,
    full: BTreeMap<String, Option<String>>,
    events: Events,
    /// Errors that were told since all was well.
    errors: BTreeSet<String>,
    book: watch::Sender<Arc<Book>>,
}

/// Objects as the watch shows them, with own writes already in.
#[derive(Debug)]
struct Mirror<K> {
    live: BTreeMap<String, K>,
    listing: Option<BTreeMap<String, K>>,
    complete: bool,
}

impl<K: kube::ResourceExt> Mirror<K> {
    fn new() -> Self {
        Self { live: BTreeMap::new(), listing: None, complete: false }
    }

    fn take(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                self.listing.get_or_insert_default().insert(object.name_any(), object);
            }
            Event::InitDone => {
                self.live = self.listing.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(object) => drop(self.live.insert(object.name_any(), object)),
            Event::Delete(object) => {
                let name = object.name_any();
                if self.live.get(&name).is_some_and(|live| live.uid() == object.uid()) {
                    self.live.remove(&name);
                }
            }
        }
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("node", &self.server.node).finish_non_exhaustive()
    }
}

impl Blocks {
    /// A controller for the blocks of `node`; `known` is what was known when the agent ended.
    pub fn new(client: kube::Client, node: &str, known: Book) -> Self {
        let settings = Settings::default();
        let server = Server {
            blocks: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
            node: node.to_owned(),
            call_timeout: settings.pace.call_timeout,
            lost_after: settings.lost_after,
        };
        Self {
            client,
            server,
            settings,
            pools: Mirror::new(),
            own: Mirror::new(),
            labels: BTreeMap::new(),
            labels_read: None,
            full: BTreeMap::new(),
            events: Events::default(),
            errors: BTreeSet::new(),
            book: watch::Sender::new(Arc::new(known)),
        }
    }

    /// Other times than the default ones.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.server.call_timeout = settings.pace.call_timeout;
        self.server.lost_after = settings.lost_after;
        self.settings = settings;
        self
    }

    /// What is known, from now on.
    pub fn book(&self) -> watch::Receiver<Arc<Book>> {
        self.book.subscribe()
    }

    /// Claims blocks for the PFs until `stop`. Blocks stay when it ends, and when PFs are not known.
    pub async fn run(mut self, mut pfs: watch::Receiver<Option<Pfs>>, stop: CancellationToken) {
        let mut pace = Pace::new(self.settings.pace.clone());
        let mut pfs_end = false;
        let pools: Api<AddressPool> = Api::all(self.client.clone());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.server.node));
        let mut pool_events: Changes<AddressPool> =
            watched(pools.clone(), watcher::Config::default(), self.server.call_timeout);
        let mut block_events: Changes<AddressBlock> =
            watched(self.server.blocks.clone(), mine, self.server.call_timeout);
        let mut tell_at: Option<Instant> = None;
        let mut again = Instant::now() + self.settings.again;
        loop {
            let ready = self.pools.complete && self.own.complete && pfs.borrow().is_some();
            let due = pace.due().filter(|_| ready);
            tokio::select! {
                () = stop.cancelled() => return,
                Some(event) = pool_events.next() => match event {
                    Ok(event) => {
                        self.pools.take(event);
                        pace.changed(Instant::now());
                    }
                    Err(source) => self.fails(watch_error("AddressPools", source)),
                },
                Some(event) = block_events.next() => match event {
                    Ok(event) => {
                        self.own.take(event);
                        pace.changed(Instant::now());
                    }
                    Err(source) => self.fails(watch_error("AddressBlocks", source)),
                },
                changed = pfs.changed(), if !pfs_end => match changed {
                    Ok(()) => pace.changed(Instant::now()),
                    Err(_) => pfs_end = true,
                },
                () = tokio::time::sleep_until(again.into()) => {
                    again = Instant::now() + self.settings.again;
                    pace.changed(Instant::now());
                }
                () = sleep_until(due) => {
                    pace.begins();
                    let pfs = pfs.borrow_and_update().clone().unwrap_or_default();
                    let round = tokio::select! {
                        () = stop.cancelled() => return,
                        round = self.round(&pfs) => round,
                    };
                    match round {
                        Ok(()) => {
                            pace.ended(Instant::now(), false);
                            self.errors.clear();
                        }
                        Err(error) => {
                            pace.failed(Instant::now());
                            self.fails(error);
                        }
                    }
                    match self.has_to_tell(&pfs) {
                        true if tell_at.is_none() => {
                            tell_at = Some(Instant::now() + pace::jitter(self.settings.spread));
                        }
                        true => {}
                        false => self.full.retain(|_, why| why.is_some()),
                    }
                }
                () = sleep_until(tell_at) => {
                    tell_at = None;
                    let pfs = pfs.borrow().clone().unwrap_or_default();
                    self.tell(&pools, &pfs).await;
                }
            }
        }
    }

    /// Logs each error once, until all is well.
    fn fails(&mut self, error: Error) {
        let text = error.chain();
        match (self.errors.insert(text.clone()), &error) {
            (false, _) => debug!(error = text, "still no blocks"),
            (true, Error::WatchAddresses { what, source }) if is_unknown(source) => info!(
                "the API server knows no {what}: there are no addresses from pools before manifests/crds.yaml is applied"
            ),
            (true, Error::Overtaken { .. }) => info!(error = text, "trying again"),
            (true, _) => warn!(error = text, "blocks of addresses are not as they should be; trying again"),
        }
    }

    fn plan(&self, pfs: &Pfs) -> Plan {
        let here = Here { node: &self.server.node, labels: &self.labels, pfs };
        plan(&self.pools.live, &self.own.live, here)
    }

    async fn round(&mut self, pfs: &Pfs) -> Result<(), Error> {
        if !self.pools.live.is_empty() {
            self.read_labels().await?;
        }
        let Plan { mut book, claim, release, .. } = self.plan(pfs);
        // What is tried again has not changed before it is done.
        for want in &claim {
            let known = self.book.borrow();
            let before = known.pools.get(&want.pool.name).and_then(|page| page.without.get(&want.pf.pci));
            if let (Some(before), Some(page)) = (before, book.pools.get_mut(&want.pool.name)) {
                page.without.insert(want.pf.pci, before.clone());
            }
        }
        // What is known counts before anything new is.
        self.publish(&book);
        for (name, uid) in release {
            self.server.delete(&name, uid, None).await?;
            info!(block = name, "block of addresses given back");
            self.own.live.remove(&name);
        }
        let marked = self
            .own
            .live
            .iter()
            .filter(|(_, block)| block.status.as_ref().is_some_and(|s| s.node_gone_since.is_some()));
        for name in marked.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.server.mark(&name, None).await?;
        }
        let (mut first_error, mut seen) = (None, None);
        for want in claim {
            let (pool, pf) = (want.pool.name.clone(), want.pf.pci);
            let Some(page) = book.pools.get_mut(&pool) else { continue };
            match self.server.claim(&want, &mut seen).await {
                Ok(Claimed::Block(object)) => {
                    page.blocks.insert(pf, object.spec.clone());
                    page.without.remove(&pf);
                    self.own.live.insert(object.spec.name(), *object);
                    // Only who said that it is full takes that back: to others it may be.
                    if let Some(told @ Some(_)) = self.full.get_mut(&pool) {
                        *told = None;
                    }
                }
                Ok(Claimed::Full(why)) => {
                    page.without.insert(pf, why.clone());
                    self.full.insert(pool, Some(why));
                }
                Ok(Claimed::Taken(why)) => drop(page.without.insert(pf, why)),
                Err(error) => {
                    page.without.insert(pf, error.chain());
                    let outage = error.is_outage();
                    first_error.get_or_insert(error);
                    if outage {
                        break;
                    }
                }
            }
        }
        self.publish(&book);
        if let Some(error) = first_error {
            return Err(error);
        }
        self.events.tell(&self.client, &self.server.node, &self.pools.live, &without(&book)).await;
        Ok(())
    }

    fn publish(&self, book: &Book) {
        self.book.send_if_modified(|known| {
            let changed = **known != *book;
            if changed {
                *known = Arc::new(book.clone());
            }
            changed
        });
    }

    async fn read_labels(&mut self) -> Result<(), Error> {
        if self.labels_read.is_some_and(|at| at.elapsed() < self.settings.again * 5) {
            return Ok(());
        }
        let node = self.server.node.clone();
        let found = self.server.timed(&format!("read Node {node}"), self.server.nodes.get(&node)).await?;
        let found: Node = found.map_err(|source| Error::Node { node, source: Box::new(source) })?;
        self.labels = found.metadata.labels.unwrap_or_default();
        self.labels_read = Some(Instant::now());
        Ok(())
    }

    fn wanted(&self, pfs: &Pfs) -> Vec<(String, super::told::Wanted)> {
        let verdicts = self.plan(pfs).verdicts;
        let known = |name: &String| self.full.get(name).map(|why| (name.clone(), full(why.as_deref())));
        let full = verdicts.keys().filter_map(known).collect::<Vec<_>>();
        verdicts.iter().map(|(name, verdict)| (name.clone(), valid(verdict))).chain(full).collect()
    }

    fn has_to_tell(&self, pfs: &Pfs) -> bool {
        let differs = |(name, wanted): &(String, _)| {
            self.pools.live.get(name).is_some_and(|pool| differs(pool, wanted))
        };
        self.wanted(pfs).iter().any(differs)
    }

    /// Another agent may have written it meanwhile: then there is nothing to do.
    async fn tell(&mut self, pools: &Api<AddressPool>, pfs: &Pfs) {
        for (name, wanted) in self.wanted(pfs) {
            let Some(pool) = self.pools.live.get(&name).filter(|pool| differs(pool, &wanted)) else {
                continue;
            };
            let told = tell(pools, &name, pool, &wanted);
            let told = self.server.timed("tell the pool's condition", told).await.and_then(|told| told);
            if let Err(error) = told {
                debug!(pool = name, error = error.chain(), "condition not written");
            }
        }
        // Said once. Another node may find it full, and two agents must not contradict each other for ever.
        self.full.retain(|_, why| why.is_some());
    }
}

fn watch_error(what: &'static str, source: watcher::Error) -> Error {
    Error::WatchAddresses { what, source: Box::new(source) }
}

/// The kind is not there.
fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
