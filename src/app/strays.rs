//! What nobody will come back for: put right at the start and every few minutes, told once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use crate::attach::nri::Connection;
use crate::claim::ClaimId;
use crate::kubelet::{self, ClaimRef, ClaimService};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(300);
/// How long a claim has to be over at the API server before it is undone without the kubelet: it tries an Unprepare again
/// about every minute, and may itself be away for a restart.
const GRACE: Duration = Duration::from_secs(600);

/// Looks for strays of one node.
#[derive(Debug)]
pub(super) struct Strays {
    claims: Claims,
    kubelet_dir: PathBuf,
    /// Claims with an entry that are over.
    over: BTreeMap<String, Over>,
}

/// A claim that is over.
#[derive(Debug)]
struct Over {
    /// Since when that is known.
    since: Instant,
    /// Whose it was then: a claim may be allocated again, to another pod, and be over again.
    pod_uid: Option<String>,
    told: bool,
}

impl Strays {
    pub(super) fn new(claims: Claims, kubelet_dir: PathBuf) -> Self {
        Self { claims, kubelet_dir, over: BTreeMap::new() }
    }

    /// Looks until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let engine = self.claims.engine.clone();
        match spawn_blocking(move || engine.renew_cdi()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(renewed)) => {
                tracing::info!(renewed, "CDI files of prepared claims were not as this version writes them")
            }
            Ok(Err(error)) => tracing::warn!(error = %error.sentence(), "CDI files can't be renewed"),
            Err(error) => tracing::warn!(%error, "renewing CDI files was cut off"),
        }
        let mut runtime = self.claims.runtime.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look(GRACE) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
                // A runtime that is new, or was away, has told of its pods.
                () = connected(runtime.as_mut()) => {}
            }
        }
    }

    pub(super) async fn look(&mut self, grace: Duration) {
        let (engine, kubelet_dir) = (self.claims.engine.clone(), self.kubelet_dir.clone());
        let swept = spawn_blocking(move || {
            for socket in kubelet::remove_dead_sockets(&kubelet_dir, &engine.site.driver) {
                tracing::warn!(socket = %socket.display(), "a socket on which nobody listened was removed");
            }
            match engine.sweep() {
                Ok(put_right) => put_right.iter().for_each(|what| tracing::warn!("{what}")),
                Err(error) => tracing::warn!(error = %error.sentence(), "strays can't be looked for"),
            }
            engine.site.ledger.claims()
        });
        let known = match swept.await {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::warn!(error = %error.sentence(), "the ledger can't be listed");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the look for strays was cut off");
                return;
            }
        };
        self.over.retain(|uid, _| known.contains(uid));
        for uid in known {
            if self.undo_if_over(&uid, grace).await.is_none() {
                // The others would wait for the same silence.
                return;
            }
        }
    }

    /// Undoes a claim that is over at the API server and that the kubelet does not give back, once no process can be using
    /// its VFs. `None`: the API server does not say.
    async fn undo_if_over(&mut self, uid: &str, grace: Duration) -> Option<()> {
        let Ok(Some(entry)) = self.claims.engine.site.ledger.entry(uid) else { return Some(()) };
        if !self.claims.is_over(&entry.claim).await? {
            self.over.remove(uid);
            return Some(());
        }
        let pod_uid = entry.pod.map(|pod| pod.uid);
        self.over.retain(|known, over| known != uid || over.pod_uid == pod_uid);
        let fresh = || Over { since: Instant::now(), pod_uid, told: false };
        let over = self.over.entry(uid.to_owned()).or_insert_with(fresh);
        if over.since.elapsed() < grace || !self.claims.nobody_lives(uid).await {
            return Some(());
        }
        let ClaimId { uid, namespace, name } = entry.claim;
        if !std::mem::replace(&mut over.told, true) {
            tracing::warn!(
                claim = %format!("{namespace}/{name}"), %uid, over_s = over.since.elapsed().as_secs(),
                "this claim is over and the kubelet does not give it back; it is undone"
            );
        }
        // What goes wrong is logged there, and tried again with the next look.
        if self.claims.unprepare(ClaimRef { uid: uid.clone(), namespace, name }).await.is_ok() {
            self.over.remove(&uid);
        }
        Some(())
    }
}

/// The next time that the runtime is connected anew.
async fn connected(runtime: Option<&mut watch::Receiver<Connection>>) {
    if let Some(runtime) = runtime {
        while runtime.changed().await.is_ok() {
            if matches!(&*runtime.borrow_and_update(), Connection::Connected { .. }) {
                return;
            }
        }
    }
    std::future::pending().await
}

#[cfg(test)]
#[path = "tests/strays.rs"]
mod tests;
