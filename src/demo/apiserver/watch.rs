//! Watches: a stream of the changes that a client hasn't seen.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::request::{Query, Target};
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Change, Store};

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(15);
/// How long a watch lives that names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

struct Watch {
    store: Store,
    changes: tokio::sync::watch::Receiver<u64>,
    target: Target,
    selector: Selector,
    seen: u64,
    lines: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    until: Instant,
    ended: bool,
}

/// The body of a watch's answer: one JSON event a line, until the client's `timeoutSeconds` are over.
pub fn watch(
    store: &Store,
    target: &Target,
    query: &Query,
) -> Result<StreamBody<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<>>, ApiError> {
    let mut selector_target = target.clone();
    let name = selector_target.name.take();
    let selector = Selector::parse(target.resource, query)?.and_name(name);
    let timeout =
        query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let from = query.number("resourceVersion")?.filter(|version| *version > 0);
    let initial = query.get("sendInitialEvents") == "true";
    if initial && query.get("resourceVersionMatch") != "NotOlderThan" {
        let message = "sendInitialEvents needs resourceVersionMatch=NotOlderThan";
        return Err(ApiError::bad_request(message));
    }
    let now = Instant::now();
    let mut watch = Watch {
        store: store.clone(),
        // Subscribed before the first look, so that no change falls between.
        changes: store.changes(),
        target: selector_target,
        selector,
        seen: from.unwrap_or(0),
        lines: VecDeque::new(),
        bookmarks: query.is_set("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_EVERY,
        until: now + timeout,
        ended: false,
    };
    // Without a version a watch begins with what there is, as synthetic additions.
    if initial || from.is_none() {
        watch.send_all();
        if initial && watch.bookmarks {
            watch.bookmark(true);
        }
    }
    Ok(StreamBody::new(futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next_line().await?;
        Some((Ok(Frame::data(line)), watch))
    })))
}

impl Watch {
    async fn next_line(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.changes.borrow_and_update();
            self.catch_up();
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.changes.changed() => self.ended = changed.is_err(),
                () = tokio::time::sleep_until(self.until) => {
                    self.ended = true;
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                }
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.bookmark(false);
                }
            }
        }
    }

    fn send_all(&mut self) {
        let (resource, namespace) = (self.target.resource, self.target.namespace.clone());
        let (version, objects) =
            self.store.with(|objects| (objects.version, objects.list(resource, &namespace)));
        self.seen = version;
        for (_, object) in objects {
            if self.selector.matches(&object) {
                self.event("ADDED", &object);
            }
        }
    }

    fn catch_up(&mut self) {
        let seen = self.seen;
        match self.store.with(|objects| objects.since(seen)) {
            Ok(changes) => {
                for change in changes {
                    self.seen = change.version;
                    self.change(&change);
                }
            }
            Err(oldest) => {
                self.event("ERROR", &ApiError::expired(seen, oldest).body());
                self.ended = true;
            }
        }
    }

    /// An object that begins or ceases to match the selector is an addition or a deletion to this client.
    fn change(&mut self, change: &Change) {
        if !change.key.is_in(self.target.resource, &self.target.namespace) {
            return;
        }
        let matches = |object: &Arc<Value>| self.selector.matches(object);
        let before = change.before.as_ref().is_some_and(matches);
        let after = !change.deleted && matches(&change.object);
        match (before, after) {
            (false, true) => self.event("ADDED", &change.object),
            (true, true) => self.event("MODIFIED", &change.object),
            (true, false) => self.event("DELETED", &change.object),
            (false, false) => {}
        }
    }

    fn bookmark(&mut self, initial_events_end: bool) {
        let resource = self.target.resource;
        let mut object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.seen.to_string(), "creationTimestamp": null},
        });
        if initial_events_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.event("BOOKMARK", &object);
    }

    fn event(&mut self, kind: &str, object: &Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.lines.push_back(line.into());
    }
}
