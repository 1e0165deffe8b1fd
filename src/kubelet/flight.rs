//! Running work, one line of tasks per claim UID.
//!
//! The kubelet gives up after 45 s and calls again a minute later, and tonic drops the handler of a call whose deadline
//! has passed. A VF that is half set up must not be left like that: the work runs in a task of its own, and the next
//! call for the same thing joins it. Prepare and Unprepare of one claim never overlap; different claims never wait for
//! each other.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use tokio::sync::watch;

use super::{ClaimRef, ClaimService, PreparedDevice};

/// Devices of a Prepare, none of an Unprepare, or a sentence.
pub(super) type Outcome = Result<Vec<PreparedDevice>, String>;

/// Which of the two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// NodePrepareResources
    Prepare,
    /// NodeUnprepareResources
    Unprepare,
}

/// The last task in the line of a UID.
#[derive(Debug, Clone)]
struct Flight {
    number: u64,
    operation: Operation,
    claim: ClaimRef,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Debug, Default)]
struct Lines {
    last_number: u64,
    tails: HashMap<String, Flight>,
}

/// All running work of the driver.
#[derive(Debug)]
pub(super) struct Flights<S> {
    service: Arc<S>,
    lines: Mutex<Lines>,
    /// Tasks that have not ended.
    running: watch::Sender<usize>,
}

impl<S: ClaimService> Flights<S> {
    pub(super) fn new(service: Arc<S>) -> Arc<Self> {
        Arc::new(Self { service, lines: Mutex::default(), running: watch::Sender::new(0) })
    }

    /// Starts the work, or joins it where the same call is already under way or waiting; does not wait. Needs to be
    /// called in a tokio runtime.
    pub(super) fn start(self: &Arc<Self>, operation: Operation, claim: ClaimRef) -> Pending {
        let mut lines = self.lock();
        let before = lines.tails.get(&claim.uid).cloned();
        if let Some(flight) = &before
            && flight.operation == operation
            && flight.claim == claim
        {
            tracing::info!(claim = %claim.uid, ?operation, "joining the work that is still running");
            return Pending { claim, outcome: flight.outcome.clone() };
        }
        lines.last_number += 1;
        let number = lines.last_number;
        let (tell, outcome) = watch::channel(None);
        let flight = Flight { number, operation, claim: claim.clone(), outcome: outcome.clone() };
        lines.tails.insert(claim.uid.clone(), flight);
        self.running.send_modify(|n| *n += 1);
        drop(lines);

        let flights = Arc::clone(self);
        let pending = Pending { claim: claim.clone(), outcome };
        tokio::spawn(async move {
            if let Some(flight) = before {
                // The outcome of what went before is its own callers' business; a lost task counts as ended.
                let _ = (Pending { claim: flight.claim, outcome: flight.outcome }).wait().await;
            }
            let outcome = flights.run(operation, claim.clone()).await;
            // Out of the line first: whoever comes from here on wants the work done again, not a result of the past.
            let mut lines = flights.lock();
            if lines.tails.get(&claim.uid).is_some_and(|tail| tail.number == number) {
                lines.tails.remove(&claim.uid);
            }
            drop(lines);
            tell.send_replace(Some(outcome));
            flights.running.send_modify(|n| *n -= 1);
        });
        pending
    }

    async fn run(&self, operation: Operation, claim: ClaimRef) -> Outcome {
        let name = format!("{}/{}", claim.namespace, claim.name);
        let work = async {
            match operation {
                Operation::Prepare => self.service.prepare(claim).await,
                Operation::Unprepare => self.service.unprepare(claim).await.map(|()| Vec::new()),
            }
        };
        let outcome = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
            Err(format!(
                "{operation:?} of claim {name} ran into a defect of this driver ({}); the kubelet will try again",
                panic_text(panic.as_ref())
            ))
        });
        match outcome {
            // To the kubelet an entry with an empty error is a success.
            Err(sentence) if sentence.is_empty() => {
                Err(format!("{operation:?} of claim {name} failed without saying why"))
            }
            other => other,
        }
    }

    /// Returns when no task runs.
    pub(super) async fn idle(&self) {
        // The sender lives in self: it can't be closed.
        let _ = self.running.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Claims with work under way.
    pub(super) fn unfinished(&self) -> Vec<ClaimRef> {
        self.lock().tails.values().map(|flight| flight.claim.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // No code that can panic runs under the lock, and a map entry more or less is no reason to fail every claim.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that was started or joined. Dropping it does not stop the work.
#[derive(Debug)]
pub(super) struct Pending {
    claim: ClaimRef,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Pending {
    /// The outcome, when it is there.
    pub(super) async fn wait(mut self) -> Outcome {
        if let Ok(outcome) = self.outcome.wait_for(Option::is_some).await
            && let Some(outcome) = outcome.as_ref()
        {
            return outcome.clone();
        }
        let ClaimRef { namespace, name, .. } = self.claim;
        Err(format!(
            "the driver stopped before claim {namespace}/{name} was done; the kubelet will try again"
        ))
    }
}

/// What `panic!` was given.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a text")
}
