//! Addresses of pools: what the blocks' controller needs of the scan, and what it comes to know on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::address::{Book, Parent};
use crate::controller::blocks::NodePf;
use crate::device::{CleanFacts, PciAddress, Pf, Snapshot};
use crate::policy::Rules;
use crate::prepare::ledger::Ledger;

/// A PF as pools see it.
pub(super) fn parent(pf: &Pf, rules: &Rules) -> Parent {
    let addresses = pf.netdev.as_ref().map(|netdev| netdev.addresses.clone()).unwrap_or_default();
    Parent {
        pci: pf.pci,
        name: pf.netdev.as_ref().map(|netdev| netdev.name.clone()),
        rail: rules.rails.of(pf),
        addresses,
    }
}

/// The PFs of a scan; `owned` are the VFs that claims have.
pub(super) fn pfs(
    snapshot: &Snapshot,
    owned: &BTreeMap<PciAddress, CleanFacts>,
    rules: &Rules,
) -> Vec<NodePf> {
    // A VF that is not to be seen may be any PF's: its driver is loaded anew, say, while its claim has its address.
    let busy = |pf: &Pf| owned.keys().any(|vf| snapshot.vf(*vf).is_none_or(|vf| vf.pf == Some(pf.pci)));
    let of = |pf: &Pf| NodePf { parent: parent(pf, rules), vfs: pf.num_vfs, busy: busy(pf) };
    snapshot.pfs.iter().map(of).collect()
}

/// Writes down what becomes known before anybody may use it, and wakes the scan, which publishes the addresses.
pub async fn keep(
    ledger: Ledger,
    mut known: watch::Receiver<Arc<Book>>,
    kept: watch::Sender<Arc<Book>>,
    news: mpsc::Sender<()>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = known.changed() => if changed.is_err() {
                // Nothing more becomes known; what is known stands.
                return stop.cancelled().await;
            },
        }
        let book = known.borrow_and_update().clone();
        let (ledger, written) = (ledger.clone(), book.clone());
        match spawn_blocking(move || ledger.put_book(&written)).await {
            Ok(Ok(())) => {}
            // The API server still has it; only while it is away would the addresses be unknown after a restart.
            Ok(Err(error)) => {
                tracing::error!(error = %error.sentence(), "blocks of addresses can't be written down")
            }
            Err(error) => tracing::error!(%error, "writing down blocks of addresses was cut off"),
        }
        kept.send_replace(book);
        // Full: a scan is due anyway.
        let _ = news.try_send(());
    }
}
