//! Every request that is made of the API server while pods live and end, refused, cut off, or left without an answer, once
//! each; and the agent killed at it. Which requests there are is seen by living once without any fault.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio::task::{JoinSet, LocalSet};

use super::lab::{Lab, Wrong, kind_of};

/// A part of what happens on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chapter {
    /// VFs are published; a pod lives with one, and ends.
    Life,
    /// The same where the hook alone attaches.
    LifeByHook,
    /// A claim goes on to a second pod, which the kubelet prepares nothing for.
    HandOver,
    /// A claim is gone at the API server, and holds the VF of the next.
    Room,
    /// A claim is gone at the API server, and nobody ever comes for it.
    Stray,
}

async fn live(chapter: Chapter, lab: &mut Lab) {
    match chapter {
        Chapter::Life | Chapter::LifeByHook => {
            lab.until_published(2).await;
            let pod = lab.pod("worker");
            let claim = lab.claim("vf", 1, ("worker", &pod));
            lab.prepare(&claim).await;
            let netns = lab.start(("worker", &pod), &claim).await;
            assert!(lab.kernel.links_of(netns).contains_key("net1"));
            lab.until_told(&claim).await;
            lab.offer(3);
            lab.stop("worker", netns).await;
            lab.unprepare(&claim).await;
            lab.until_published(3).await;
        }
        Chapter::HandOver => {
            let (first, second) = (lab.pod("first"), lab.pod("second"));
            let claim = lab.claim("vf", 1, ("first", &first));
            lab.prepare(&claim).await;
            let netns = lab.start(("first", &first), &claim).await;
            lab.until_told(&claim).await;
            lab.stop("first", netns).await;
            lab.reserve(&claim, ("second", &second));
            let netns = lab.start(("second", &second), &claim).await;
            assert!(lab.kernel.links_of(netns).contains_key("net1"));
            lab.until_told(&claim).await;
            lab.stop("second", netns).await;
            lab.unprepare(&claim).await;
        }
        Chapter::Room => {
            let (first, second) = (lab.pod("first"), lab.pod("second"));
            let over = lab.claim("over", 1, ("first", &first));
            lab.prepare(&over).await;
            let netns = lab.start(("first", &first), &over).await;
            lab.stop("first", netns).await;
            lab.forget(&over);
            let claim = lab.claim("vf", 1, ("second", &second));
            lab.prepare(&claim).await;
            let netns = lab.start(("second", &second), &claim).await;
            assert!(lab.kernel.links_of(netns).contains_key("net1"));
            lab.until_told(&claim).await;
            lab.stop("second", netns).await;
            lab.unprepare(&claim).await;
        }
        Chapter::Stray => {
            let pod = lab.pod("worker");
            let claim = lab.claim("vf", 1, ("worker", &pod));
            lab.prepare(&claim).await;
            lab.forget(&claim);
            lab.look_until_gone(&claim).await;
        }
    }
    lab.assert_nothing_is_left().await;
}

/// What can go wrong with a request.
fn wrongs(kind: &str) -> Vec<Wrong> {
    let mut all: Vec<Wrong> = [500, 503, 429, 403].map(Wrong::Refused).to_vec();
    all.extend([Wrong::Cut, Wrong::AnswerLost, Wrong::Silence, Wrong::KilledBefore]);
    if !kind.starts_with("GET") {
        all.extend([Wrong::Refused(409), Wrong::Killed]);
    }
    all
}

/// Lives through a chapter with each of its requests going wrong in each way, all at the same time.
async fn survives(chapter: Chapter) -> (usize, Vec<String>) {
    let by_hook = chapter == Chapter::LifeByHook;
    let mut calm = Lab::new(by_hook, None).await;
    live(chapter, &mut calm).await;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for request in calm.server.faults().requests() {
        *kinds.entry(kind_of(&request)).or_default() += 1;
    }
    let mut lives = JoinSet::new();
    for (kind, count) in &kinds {
        for ordinal in 0..*count {
            for wrong in wrongs(kind) {
                let kind = kind.clone();
                lives.spawn_local(async move {
                    let life = async {
                        let mut lab = Lab::new(by_hook, Some((wrong, &kind, ordinal))).await;
                        live(chapter, &mut lab).await;
                        lab.met()
                    };
                    // What went wrong is printed where it did; where that was is said here.
                    let met = AssertUnwindSafe(life).catch_unwind().await;
                    (format!("{wrong:?} at {kind} number {ordinal}"), met.ok())
                });
            }
        }
    }
    let tried = lives.len();
    let (mut unmet, mut failed) = (Vec::new(), Vec::new());
    while let Some(done) = lives.join_next().await {
        match done.unwrap() {
            (what, None) => failed.push(what),
            (what, Some(false)) => unmet.push(what),
            (_, Some(true)) => {}
        }
    }
    assert!(failed.is_empty(), "{chapter:?}: {failed:#?}");
    println!("{chapter:?}: {tried} faults at {} requests; not met: {unmet:?}", kinds.values().sum::<usize>());
    (tried, unmet)
}

async fn holds(chapter: Chapter) {
    let (tried, unmet) = LocalSet::new().run_until(survives(chapter)).await;
    assert!(unmet.len() * 10 < tried, "of {tried} faults these did not happen: {unmet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_request_goes_wrong_the_pod_lives_and_ends() {
    holds(Chapter::Life).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_request_goes_wrong_the_pod_lives_and_ends_by_the_hook_alone() {
    holds(Chapter::LifeByHook).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_request_goes_wrong_a_claim_goes_on_to_the_next_pod() {
    holds(Chapter::HandOver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_request_goes_wrong_a_claim_that_is_over_makes_room() {
    holds(Chapter::Room).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_request_goes_wrong_a_claim_that_nobody_comes_for_is_undone() {
    holds(Chapter::Stray).await;
}
