//! Writes claim status: one server-side apply with all our entries of a claim, off everybody's path.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use super::report::Report;
use super::status_body::status_body;
use crate::prepare::locks::Locks;

/// One write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the outbox is looked at without news: the hook and another agent put reports in, too.
const EVERY: Duration = Duration::from_secs(10);
/// Between two tries of what could not be written, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Tries of one report after which its failure is told aloud.
const TOLD_AFTER: u32 = 8;
/// At the end: an attach in flight still reports within this.
const QUIET: Duration = Duration::from_millis(500);

/// Writes what is in the outbox until `stop`, and once more then. What can't be written stays there, for the next try or
/// the next agent; a pod never waits for it.
pub async fn run(
    client: Client,
    driver: String,
    outbox: Outbox,
    locks: Locks,
    mut woken: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut tries: BTreeMap<PathBuf, u32> = BTreeMap::new();
    let mut pause = Duration::ZERO;
    while !stop.is_cancelled() {
        let failed = tokio::select! {
            () = stop.cancelled() => break,
            failed = write_all(&client, &driver, &outbox, &locks, &mut tries) => failed,
        };
        pause = if failed { (pause * 2).clamp(RETRY.0, RETRY.1) } else { Duration::ZERO };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = woken.recv() => {}
            () = tokio::time::sleep(if failed { pause } else { EVERY }) => {}
        }
    }
    tokio::time::sleep(QUIET).await;
    write_all(&client, &driver, &outbox, &locks, &mut tries).await;
}

/// `true` when something has to be tried again. One agent writes at a time: of two reports of a claim that two agents hold
/// in their hands, the older could be the last to arrive.
async fn write_all(
    client: &Client,
    driver: &str,
    outbox: &Outbox,
    locks: &Locks,
    tries: &mut BTreeMap<PathBuf, u32>,
) -> bool {
    let Ok(_writer) = locks.status(Instant::now()) else { return true };
    let letters = outbox.waiting();
    tries.retain(|file, _| letters.iter().any(|(waiting, _)| waiting == file));
    let mut failed = false;
    for (file, letter) in letters {
        let claim = format!("{}/{}", letter.report.claim.namespace, letter.report.claim.name);
        match apply(client, driver, &letter.report, letter.since).await {
            Ok(()) => {
                tracing::debug!(%claim, "claim status written");
                outbox.done(&file);
            }
            Err(Failure::Final(reason)) => {
                tracing::warn!(%claim, reason, "claim status not written");
                outbox.done(&file);
            }
            // The others would wait for the same silence.
            Err(Failure::Away(reason)) => {
                tracing::debug!(%claim, reason, "claim statuses wait for the API server");
                return true;
            }
            Err(Failure::Again(reason)) => {
                failed = true;
                let tried = tries.entry(file).or_default();
                *tried += 1;
                match *tried == TOLD_AFTER {
                    true => {
                        tracing::warn!(%claim, reason, tries = *tried, "claim status can't be written; trying on")
                    }
                    false => tracing::debug!(%claim, reason, tries = *tried, "claim status is tried again"),
                }
            }
        }
    }
    failed
}

enum Failure {
    /// The API server does not answer.
    Away(String),
    Final(String),
    Again(String),
}

async fn apply(client: &Client, driver: &str, report: &Report, since: Timestamp) -> Result<(), Failure> {
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &report.claim.namespace);
    let body = Patch::Apply(status_body(driver, report, |_| since));
    let parameters = PatchParams::apply(driver).force();
    match tokio::time::timeout(TIMEOUT, api.patch_status(&report.claim.name, &parameters, &body)).await {
        Ok(Ok(_)) => Ok(()),
        // 404: the claim is gone. 422: another claim of that name, or not allocated any more. Others may pass: a token
        // is renewed, a role is bound.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 404 | 422) => {
            Err(Failure::Final(status.message.clone()))
        }
        Ok(Err(error @ kube::Error::Api(_))) => Err(Failure::Again(error.to_string())),
        Ok(Err(error)) => Err(Failure::Away(error.to_string())),
        Err(_) => Err(Failure::Away(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}
