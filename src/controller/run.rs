//! The loop: events and offers in, rounds of writes out.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::dropped::{Adopted, fields, not_kept, with_adopted};
use super::listing::watched;
use super::pace::Pace;
use super::slices::{Obsolete, PoolIdentity, devices, plan};
use super::view::View;
use super::{Error, Limits, Settings};
use crate::policy::OfferedDevice;

/// What this controller writes.
const SLICE: &str = "ResourceSlice";

/// How far publishing is; for readiness and logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The pool's generation; 0 before the first round that ended well.
    pub generation: i64,
    /// Slices of the pool.
    pub slices: usize,
    /// Devices in them.
    pub devices: usize,
    /// The last round ended well: server and policy agree.
    pub in_sync: bool,
    /// The error of the last round or of the watch, with its causes.
    pub last_error: Option<String>,
}

/// What the policy offers, in publishing order; shared, as a node may have a thousand VFs.
pub type Offer = Arc<Vec<OfferedDevice>>;

/// Publishes one node's pool of one driver.
#[derive(Debug)]
pub struct Controller {
    slices: Api<ResourceSlice>,
    nodes: Api<Node>,
    settings: Settings,
    limits: Limits,
    pool: PoolIdentity,
    view: View,
    offered: Offer,
    adopted: Adopted,
    /// Fields whose loss was logged.
    warned: BTreeSet<String>,
    /// The error of the last round.
    round_error: Option<String>,
    /// The error of the watch, until it brings something or is quiet for long.
    watch_error: Option<(String, Instant)>,
    published: watch::Sender<Published>,
}

impl Controller {
    /// A controller for the pool of `node`; nothing happens before [`Controller::run`].
    pub fn new(client: kube::Client, driver: &str, node: &str) -> Self {
        Self {
            slices: Api::all(client.clone()),
            nodes: Api::all(client),
            settings: Settings::default(),
            limits: Limits::default(),
            pool: PoolIdentity { driver: driver.to_owned(), node: node.to_owned(), node_uid: String::new() },
            view: View::default(),
            offered: Offer::default(),
            adopted: Adopted::new(),
            warned: BTreeSet::new(),
            round_error: None,
            watch_error: None,
            published: watch::Sender::default(),
        }
    }

    /// Other times than the default ones.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How far publishing is, from now on.
    pub fn published(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Publishes what is offered until `stop`. The slices stay: the kubelet removes them 30 s after the last instance
    /// of the driver is gone. A closed channel means that the last offer stands.
    pub async fn run(mut self, mut offered: watch::Receiver<Offer>, stop: CancellationToken) {
        self.offered = offered.borrow_and_update().clone();
        let mut offers_end = false;
        let mut pace = Pace::new(self.settings.clone());
        // The first round is due as soon as the first list is complete.
        let mut new_offer = true;
        let selector = format!("spec.driver={},spec.nodeName={}", self.pool.driver, self.pool.node);
        let config = watcher::Config::default().fields(&selector);
        let mut events = watched(self.slices.clone(), config, self.settings.call_timeout);
        loop {
            let due = pace.due().filter(|_| self.view.is_complete());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = events.next() => match event {
                    Ok(event) => {
                        if self.watch_error.is_some() {
                            self.watch_is_well();
                            pace.server_is_back();
                        }
                        self.take(event);
                        pace.changed(Instant::now());
                    }
                    Err(source) => self.watch_fails(source),
                },
                changed = offered.changed(), if !offers_end => match changed {
                    Ok(()) => {
                        let next = offered.borrow_and_update().clone();
                        if next != self.offered {
                            self.offered = next;
                            self.adopted.clear();
                            new_offer = true;
                            pace.changed(Instant::now());
                        }
                    }
                    Err(_) => offers_end = true,
                },
                () = sleep_until(self.watch_error.as_ref().map(|(_, until)| *until)) => self.watch_is_well(),
                () = sleep_until(due) => {
                    pace.begins();
                    let round = tokio::select! {
                        () = stop.cancelled() => break,
                        round = self.round() => round,
                    };
                    match round {
                        Ok(wrote) => {
                            pace.ended(Instant::now(), wrote && !new_offer);
                            new_offer = false;
                        }
                        Err(error) => {
                            pace.failed(Instant::now());
                            self.round_fails(error);
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, event: Event<ResourceSlice>) {
        let now = Instant::now();
        match event {
            Event::Init => self.view.list_begins(now),
            Event::InitApply(slice) => self.view.listed(slice),
            Event::InitDone => self.view.list_ends(now),
            Event::Apply(slice) => self.view.seen(slice, now),
            Event::Delete(slice) => self.view.gone(&slice),
        }
    }

    /// A watch that resumed says nothing until something changes; hence well is also what is quiet for longer than its
    /// longest wait between two tries.
    fn watch_fails(&mut self, source: watcher::Error) {
        let (driver, node) = (self.pool.driver.clone(), self.pool.node.clone());
        let text = Error::Watch { driver, node, source: Box::new(source) }.chain();
        let known = self.watch_error.as_ref().map(|(known, _)| known) == Some(&text);
        match known {
            true => debug!(error = text, "still not watching"),
            false => warn!(error = text, "ResourceSlices are not guarded; trying again"),
        }
        let quiet = self.settings.backoff_max.saturating_mul(3);
        self.watch_error = Some((text, Instant::now() + quiet));
        self.tell(|_| {});
    }

    fn watch_is_well(&mut self) {
        self.watch_error = None;
        self.tell(|_| {});
    }

    /// Logs an error once, until another one takes its place or all is well.
    fn round_fails(&mut self, error: Error) {
        let text = error.chain();
        match (self.round_error.as_ref() == Some(&text), &error) {
            (true, _) => debug!(error = text, "still not published"),
            // Two agents beside each other, or the kubelet's wipe: nothing is wrong.
            (false, Error::Overtaken { .. }) => info!(error = text, "trying again"),
            (false, _) => warn!(error = text, "ResourceSlices are not as they should be; trying again"),
        }
        self.round_error = Some(text);
        self.tell(|published| published.in_sync = false);
    }

    fn tell(&self, change: impl FnOnce(&mut Published)) {
        let watch_error = self.watch_error.as_ref().map(|(text, _)| text);
        let last_error = self.round_error.as_ref().or(watch_error).cloned();
        self.published.send_if_modified(|published| {
            let before = published.clone();
            change(published);
            published.last_error = last_error;
            *published != before
        });
    }

    /// Brings the server to what is offered. `true` if anything was written; the first error after trying all of it.
    async fn round(&mut self) -> Result<bool, Error> {
        let fresh = self.pool.node_uid.is_empty();
        if fresh {
            self.read_node().await?;
        }
        let wanted = with_adopted(devices(&self.offered), &self.adopted);
        let mut actions = plan(&self.view.slices(), &wanted, &self.pool, self.limits);
        // Slices may be missing because the Node was re-created: owned by the former one, they would be collected again.
        if !actions.create.is_empty() && !fresh {
            self.read_node().await?;
            actions = plan(&self.view.slices(), &wanted, &self.pool, self.limits);
        }
        let counts = (actions.delete.len(), actions.update.len(), actions.create.len());
        let wrote = !actions.is_empty();
        let mut first_error = None;
        for obsolete in &actions.delete {
            keep_first(&mut first_error, self.delete(obsolete).await)?;
        }
        for slice in &actions.update {
            keep_first(&mut first_error, self.update(slice).await)?;
        }
        for slice in &actions.create {
            keep_first(&mut first_error, self.create(slice).await)?;
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let (generation, slices, devices) = (actions.generation, actions.slices, wanted.len());
        if wrote {
            let (deleted, updated, created) = counts;
            info!(generation, slices, devices, deleted, updated, created, "published ResourceSlices");
        } else if self.round_error.is_some() {
            info!(generation, slices, devices, "ResourceSlices are as they should be again");
        }
        self.round_error = None;
        self.tell(|published| {
            *published = Published { generation, slices, devices, in_sync: true, last_error: None };
        });
        Ok(wrote)
    }

    async fn read_node(&mut self) -> Result<(), Error> {
        let node = self.pool.node.clone();
        let answer = self.timed(&format!("read Node {node}"), self.nodes.get(&node)).await?;
        let found = answer.map_err(|source| Error::Node { node, source: Box::new(source) })?;
        let uid = found.metadata.uid.unwrap_or_default();
        if !self.pool.node_uid.is_empty() && self.pool.node_uid != uid {
            info!(node = self.pool.node, uid, "the Node was re-created; the slices get the new one as owner");
        }
        self.pool.node_uid = uid;
        Ok(())
    }

    async fn delete(&mut self, obsolete: &Obsolete) -> Result<(), Error> {
        let Obsolete { name, uid, resource_version } = obsolete;
        let preconditions = Preconditions { uid: uid.clone(), resource_version: resource_version.clone() };
        let params = DeleteParams::default().preconditions(preconditions);
        let what = format!("delete ResourceSlice {name}");
        match self.timed(&what, self.slices.delete(name, &params)).await? {
            Ok(_) => self.view.deleted(name, Instant::now()),
            Err(kube::Error::Api(status)) if status.code == 404 => self.view.deleted(name, Instant::now()),
            Err(source) => return Err(Error::of_write("delete", SLICE, name, source)),
        }
        Ok(())
    }

    async fn update(&mut self, slice: &ResourceSlice) -> Result<(), Error> {
        let name = slice.metadata.name.clone().unwrap_or_default();
        let what = format!("update ResourceSlice {name}");
        let params = PostParams::default();
        match self.timed(&what, self.slices.replace(&name, &params, slice)).await? {
            Ok(kept) => self.written(slice, kept),
            Err(source) => {
                if matches!(&source, kube::Error::Api(status) if status.code == 404) {
                    self.view.deleted(&name, Instant::now());
                }
                return Err(Error::of_write("update", SLICE, &name, source));
            }
        }
        Ok(())
    }

    async fn create(&mut self, slice: &ResourceSlice) -> Result<(), Error> {
        let prefix = slice.metadata.generate_name.clone().unwrap_or_default();
        let what = format!("create ResourceSlice {prefix}");
        let params = PostParams::default();
        match self.timed(&what, self.slices.create(&params, slice)).await? {
            Ok(kept) => self.written(slice, kept),
            Err(source) => return Err(Error::of_write("create", SLICE, &prefix, source)),
        }
        Ok(())
    }

    /// Takes the server's version in, and as the wanted one where it kept less than it was sent.
    fn written(&mut self, sent: &ResourceSlice, kept: ResourceSlice) {
        let sent = sent.spec.devices.as_deref().unwrap_or_default();
        let lost = not_kept(sent, kept.spec.devices.as_deref().unwrap_or_default());
        let fields = fields(sent, &lost);
        if !fields.is_subset(&self.warned) {
            let names = fields.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            warn!(
                fields = names,
                "the API server did not keep these fields (a feature gate of the cluster is off, or a webhook changed \
                 them); publishing without them"
            );
            self.warned.extend(fields);
        }
        self.adopted.extend(lost);
        self.view.wrote(kept, Instant::now());
    }

    async fn timed<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, Error> {
        let budget = self.settings.call_timeout;
        let answer = tokio::time::timeout(budget, call).await;
        answer.map_err(|_| Error::Timeout { what: what.to_owned(), seconds: budget.as_secs() })
    }
}

/// Keeps the first error and goes on with the other slices, unless nobody answers.
fn keep_first(first: &mut Option<Error>, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_outage() => Err(first.take().unwrap_or(error)),
        Err(error) => {
            first.get_or_insert(error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
