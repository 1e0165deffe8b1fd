//! What a test can do to the server: faults, a log of requests, a webhook.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// A request as predicates and the log see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// The query as it was sent.
    pub query: String,
    /// `User-Agent`
    pub user_agent: String,
}

impl Logged {
    /// Creates, updates, patches and deletes.
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }

    /// About this resource, by its plural name.
    pub fn is_about(&self, plural: &str) -> bool {
        self.path.split('/').any(|part| part == plural)
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This HTTP status instead of an answer.
    Status(u16),
    /// A `Status` object instead of an answer.
    Answer(u16, Value),
    /// The answer comes later.
    Delay(Duration),
    /// The connection closes and nothing was done.
    Drop,
    /// The connection closes after everything was done.
    DropAnswer,
}

type Predicate = Box<dyn Fn(&Logged) -> bool + Send>;
type Webhook = Box<dyn Fn(&Logged, &mut Value) + Send>;

/// The faults of one server.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<Vec<(usize, Predicate, Fault)>>,
    webhooks: Mutex<Vec<Webhook>>,
    log: Mutex<Vec<Logged>>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("rules", &lock(&self.rules).len()).finish_non_exhaustive()
    }
}

impl Faults {
    /// The next `times` requests that match suffer `fault`.
    pub fn next(&self, times: usize, matches: impl Fn(&Logged) -> bool + Send + 'static, fault: Fault) {
        lock(&self.rules).push((times, Box::new(matches), fault));
    }

    /// All faults and webhooks end.
    pub fn clear(&self) {
        lock(&self.rules).clear();
        lock(&self.webhooks).clear();
    }

    /// `change` sees every object that is about to be stored by a request, as a mutating webhook or a server without
    /// some feature gate would.
    pub fn webhook(&self, change: impl Fn(&Logged, &mut Value) + Send + 'static) {
        lock(&self.webhooks).push(Box::new(change));
    }

    /// Requests since the start or the last [`Faults::forget_requests`], in the order of their arrival.
    pub fn requests(&self) -> Vec<Logged> {
        lock(&self.log).clone()
    }

    /// Writes to a resource among [`Faults::requests`].
    pub fn writes(&self, plural: &str) -> Vec<Logged> {
        self.requests().into_iter().filter(|request| request.is_write() && request.is_about(plural)).collect()
    }

    /// Empties the log.
    pub fn forget_requests(&self) {
        lock(&self.log).clear();
    }

    pub(super) fn arrives(&self, request: &Logged) -> Option<Fault> {
        lock(&self.log).push(request.clone());
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|(times, matches, _)| *times > 0 && matches(request))?;
        rule.0 -= 1;
        let fault = rule.2.clone();
        rules.retain(|(times, ..)| *times > 0);
        Some(fault)
    }

    pub(super) fn admit(&self, request: &Logged, object: &mut Value) {
        for webhook in lock(&self.webhooks).iter() {
            webhook(request, object);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
