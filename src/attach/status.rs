//! Writes claim status: one server-side apply with all our entries of a claim, off everybody's path.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::report::Report;
use super::status_body::status_body;

/// One write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of one report before it is given up; a newer report of the claim replaces it anyway.
const TRIES: u32 = 8;

/// At the end: nobody reports any more when there is nothing for this long.
const QUIET: Duration = Duration::from_millis(500);

/// Applies reports until `stop`, then those that are left. A status that can't be written is logged and forgotten: the pod does not wait for it.
pub async fn run(
    client: Client,
    driver: String,
    mut reports: mpsc::Receiver<Report>,
    stop: CancellationToken,
) {
    // Latest report of each claim, and how often it was tried.
    let mut pending: BTreeMap<String, (Report, Timestamp, u32)> = BTreeMap::new();
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            report = reports.recv() => match report {
                Some(report) => {
                    pending.insert(report.claim.uid.clone(), (report, Timestamp::now(), 0));
                }
                None => break,
            },
            () = tokio::time::sleep(pause), if !pending.is_empty() => {}
        }
        while let Ok(report) = reports.try_recv() {
            pending.insert(report.claim.uid.clone(), (report, Timestamp::now(), 0));
        }
        let mut failed = false;
        for uid in pending.keys().cloned().collect::<Vec<_>>() {
            if stop.is_cancelled() {
                return;
            }
            let Some((report, since, tries)) = pending.remove(&uid) else { continue };
            let claim = format!("{}/{}", report.claim.namespace, report.claim.name);
            match apply(&client, &driver, &report, since).await {
                Ok(()) => tracing::debug!(%claim, "claim status written"),
                Err(Failure::Final(reason)) => tracing::warn!(%claim, reason, "claim status not written"),
                Err(Failure::Again(reason)) if tries + 1 >= TRIES => {
                    tracing::warn!(%claim, reason, tries = TRIES, "claim status given up");
                }
                Err(Failure::Again(reason)) => {
                    tracing::debug!(%claim, reason, "claim status is tried again");
                    failed = true;
                    pending.insert(uid, (report, since, tries + 1));
                }
            }
        }
        pause = if failed {
            (pause * 2).clamp(Duration::from_millis(500), Duration::from_secs(30))
        } else {
            Duration::ZERO
        };
    }
    // The next agent finds these pods complete and has nothing to report: what is known now is written now, with what
    // an attach in flight still reports.
    while let Ok(Some(report)) = tokio::time::timeout(QUIET, reports.recv()).await {
        pending.insert(report.claim.uid.clone(), (report, Timestamp::now(), 0));
    }
    for (report, since, _) in pending.into_values() {
        let claim = format!("{}/{}", report.claim.namespace, report.claim.name);
        if let Err(Failure::Final(reason) | Failure::Again(reason)) =
            apply(&client, &driver, &report, since).await
        {
            tracing::warn!(%claim, reason, "claim status not written before the end");
        }
    }
}

enum Failure {
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
        Ok(Err(error)) => Err(Failure::Again(error.to_string())),
        Err(_) => Err(Failure::Again(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}
