//! The advertise flow: scan the node when something changed, judge, hand the offers on.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::functions::NodeFunctions;
use crate::controller::blocks::{NodePf, Pfs};
use crate::controller::{Controller, Offer};
use crate::device::{CleanFacts, PciAddress};
use crate::host::{HostError, memory};
use crate::policy::{self, OfferedDevice};
use crate::prepare::ledger::Ledger;

/// Without any news the node is looked at this often: what no uevent told, and kernels whose uevents do not arrive.
const EVERY: Duration = Duration::from_secs(10);
/// A burst of uevents (127 VFs appear one by one) is one change.
const SETTLE: Duration = Duration::from_millis(300);

/// Scans until `stop`; `news` wakes it.
pub async fn run(
    functions: NodeFunctions,
    ledger: Ledger,
    offers: watch::Sender<Option<Offer>>,
    pfs: watch::Sender<Option<Pfs>>,
    mut news: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut last_error = None;
    let mut last_withheld = BTreeMap::new();
    loop {
        let (functions, ledger) = (functions.clone(), ledger.clone());
        match spawn_blocking(move || scan(&functions, &ledger)).await {
            Ok(Ok(Scan { offered, withheld, pfs: seen })) => {
                pfs.send_if_modified(|now| {
                    let changed = now.as_deref() != Some(&seen);
                    if changed {
                        *now = Some(Pfs::new(seen));
                    }
                    changed
                });
                last_error = None;
                if withheld != last_withheld {
                    for (vf, why) in withheld.iter().filter(|(vf, why)| last_withheld.get(*vf) != Some(*why))
                    {
                        tracing::info!(%vf, why, "VF withheld");
                    }
                    last_withheld = withheld;
                }
                offers.send_if_modified(|now| {
                    let changed = now.as_deref() != Some(&offered);
                    if changed {
                        tracing::info!(
                            devices = offered.len(),
                            withheld = last_withheld.len(),
                            "offering VFs"
                        );
                        *now = Some(Offer::new(offered));
                    }
                    changed
                });
            }
            // The last offer stands: a node that can't be read has not lost its VFs.
            Ok(Err(error)) if last_error.as_deref() != Some(error.as_str()) => {
                tracing::error!(error = %error, "the node's VFs can't be read; what was published stays");
                last_error = Some(error);
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::error!(%error, "the scan was cut off"),
        }
        // A scan takes twenty times what it leaves, and so does the round of writes after the one before.
        memory::give_back();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
            Some(()) = news.recv() => {
                tokio::time::sleep(SETTLE).await;
                while news.try_recv().is_ok() {}
            }
        }
    }
}

/// Starts the controller with the first offer: before the first scan nothing is known, and an empty slice would take
/// the node's VFs from the scheduler.
pub async fn publish(
    controller: Controller,
    mut offers: watch::Receiver<Option<Offer>>,
    stop: CancellationToken,
) {
    let first = tokio::select! {
        () = stop.cancelled() => return,
        first = offers.wait_for(Option::is_some) => first.ok().and_then(|offer| offer.clone()),
    };
    let Some(first) = first else { return };
    let (sender, receiver) = watch::channel(first);
    let forward = async {
        while offers.changed().await.is_ok() {
            if let Some(offer) = offers.borrow_and_update().clone() {
                sender.send_replace(offer);
            }
        }
        // A closed channel is a last offer that stands.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = controller.run(receiver, stop) => {}
        () = forward => {}
    }
}

/// What claims own and what it was like clean. A ledger that can't be read owns nothing anybody can name.
pub(super) fn owned(ledger: &Ledger) -> Result<BTreeMap<PciAddress, CleanFacts>, String> {
    let owned = ledger.owned().map_err(|error| error.sentence())?;
    Ok(owned.into_iter().map(|(vf, owner)| (vf, owner.clean)).collect())
}

struct Scan {
    offered: Vec<OfferedDevice>,
    withheld: BTreeMap<PciAddress, String>,
    pfs: Vec<NodePf>,
}

fn scan(functions: &NodeFunctions, ledger: &Ledger) -> Result<Scan, String> {
    // Read before and after: a VF that a claim takes or returns meanwhile is somebody's in one of the two, and must
    // not flicker out of its slice.
    let mut facts = owned(ledger)?;
    let snapshot = functions.snapshot().map_err(|error: HostError| error.sentence())?;
    facts.extend(owned(ledger)?);
    let verdicts = functions.judge(&snapshot, &facts);
    let withheld = verdicts.iter().filter(|verdict| !verdict.is_offered()).map(|verdict| {
        let reasons: Vec<String> = verdict.withheld.iter().map(ToString::to_string).collect();
        (verdict.device.pci, reasons.join("; "))
    });
    let withheld = withheld.collect();
    Ok(Scan { offered: policy::offered(&verdicts), withheld, pfs: functions.pfs(&snapshot, &facts) })
}
