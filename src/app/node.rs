//! `sriov-dra node`: the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::claims::{Claims, PREPARES};
use super::functions::NodeFunctions;
use super::hook::Places;
use super::strays::Strays;
use super::{addresses, advertise, checks, client, hook, pods::Pods};
use crate::address::Book;
use crate::attach::{Attacher, Outbox, nri, status};
use crate::controller::Controller;
use crate::controller::blocks::Blocks;
use crate::host::boot::boot_id;
use crate::host::sysfs::Sysfs;
use crate::host::uevent::Uevents;
use crate::host::{Kernel, Linux};
use crate::kubelet::{self, Registration};
use crate::policy::Rules;
use crate::prepare::engine::Engine;
use crate::prepare::ledger::Ledger;
use crate::prepare::locks::Locks;
use crate::prepare::runtime::RuntimeFacts;
use crate::prepare::site::Site;

/// How long parts get to end after the kubelet has let go.
const DRAIN: Duration = Duration::from_secs(5);

/// The agent's whole configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name of the Node object; the pool is called the same.
    pub node_name: String,
    /// Names and folders.
    pub places: Places,
    /// The runtime's NRI socket and the place among its plugins; none where the hook alone attaches.
    pub nri: Option<(PathBuf, String)>,
    /// None: in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// UID of the agent's own pod, where several instances may live beside each other.
    pub pod_uid: Option<String>,
    /// What is offered, and how VFs get into pods.
    pub rules: Arc<Rules>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When something is missing that nothing can work without.
pub async fn run_node(config: NodeConfig) -> anyhow::Result<()> {
    let NodeConfig { node_name, places, nri, kubeconfig, pod_uid, rules } = config;
    let Places { driver_name, kubelet_dir, run_dir, cdi_dir, sysfs_root } = places.clone();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), node = %node_name, driver = %driver_name,
        kubelet_dir = %kubelet_dir.display(), run_dir = %run_dir.display(), cdi_dir = %cdi_dir.display(),
        nri_socket = ?nri.as_ref().map(|(socket, _)| socket), sysfs_root = %sysfs_root.display(), "starting"
    );
    let findings = checks::check(&sysfs_root, nri.as_ref().map(|(socket, _)| socket.as_path()));
    let config = |(socket, index)| nri::Config::new(socket, driver_name.clone(), index);
    let runtime = nri.map(config).map(nri::Plugin::new).transpose()?;
    for warning in &findings.warnings {
        tracing::warn!("{warning}");
    }
    if !findings.faults.is_empty() {
        bail!("the agent can't work here: {}", findings.faults.join("; "));
    }

    // What everything stands on: the kernel, the memory, the API server.
    let kernel: Arc<dyn Kernel> =
        Arc::new(Linux::new(&sysfs_root).context("the host's network namespace can't be opened")?);
    let ledger = Ledger::open(places.plugin_dir(), &run_dir)?;
    let boot_id = boot_id()?;
    let survey = ledger.survey(&boot_id)?;
    tracing::info!(
        prepared_claims = survey.entries,
        quarantined = survey.quarantined.len(),
        newer = survey.newer.len(),
        "ledger read"
    );
    std::fs::create_dir_all(&cdi_dir)
        .with_context(|| format!("the CDI folder {} can't be made", cdi_dir.display()))?;
    let client = client::client(kubeconfig.as_deref()).await?;
    let known = ledger.book().unwrap_or_else(|error| {
        tracing::error!(error = %error.sentence(), "addresses of pools are not known before the API server tells them");
        Book::default()
    });
    let (kept, book) = watch::channel(Arc::new(known.clone()));
    let functions = NodeFunctions::new(Sysfs::at(&sysfs_root), kernel.clone(), rules, Some(ledger.clone()));
    let functions = functions.with_book(book);

    let runtime_facts = RuntimeFacts::default();
    if runtime.is_none() {
        runtime_facts.attached_by_hook();
    }
    let (outbox, woken) = Outbox::at(ledger.outbox_folder());
    let locks = Locks::at(ledger.lock_folder());
    let site = Site {
        kernel,
        functions: Arc::new(functions.clone()),
        locks: locks.clone(),
        ledger: ledger.clone(),
        driver: driver_name.clone(),
        cdi_dir: cdi_dir.clone(),
        runtime: runtime_facts,
        hook: hook::install(&places)?,
        boot_id,
    };
    let engine = Arc::new(Engine { site: site.clone() });
    let attacher = Arc::new(Attacher { site, outbox: outbox.clone() });

    let stop = CancellationToken::new();
    let mut parts = tokio::task::JoinSet::new();

    // Serve: runtime events first, then the kubelet, which may call at once.
    let pods = Arc::new(Pods { client: client.clone(), attacher: attacher.clone() });
    let connection = runtime.as_ref().map(nri::Plugin::connection);
    if let Some(runtime) = runtime {
        parts.spawn(named("NRI plugin", runtime.run(pods, stop.clone())));
    }
    let writer = status::run(client.clone(), driver_name.clone(), outbox, locks, woken, stop.clone());
    parts.spawn(named("status writer", writer));
    let service = Claims {
        runtime: connection,
        prepares: Arc::new(Semaphore::new(PREPARES)),
        client: client.clone(),
        engine,
        attacher,
        node: node_name.clone(),
    };
    let strays = Strays::new(service.clone(), kubelet_dir.clone());
    let sockets = kubelet::Config { pod_uid, ..kubelet::Config::new(driver_name.clone(), kubelet_dir) };
    let plugin = kubelet::Plugin::start(sockets, Arc::new(service)).await?;
    parts.spawn(named("look for strays", strays.run(stop.clone())));

    // Advertise.
    let (offers, offered) = watch::channel(None);
    let (news, news_queue) = mpsc::channel(1);
    listen_for_changes(news.clone());
    let (pfs, seen_pfs) = watch::channel(None);
    let blocks = Blocks::new(client.clone(), &node_name, known);
    let keep = addresses::keep(ledger.clone(), blocks.book(), kept, news, stop.clone());
    parts.spawn(named("keeper of addresses", keep));
    let scan = advertise::run(functions, ledger, offers, pfs, news_queue, stop.clone());
    parts.spawn(named("inventory scan", scan));
    parts.spawn(named("controller of address blocks", blocks.run(seen_pfs, stop.clone())));
    let controller = Controller::new(client, &driver_name, &node_name);
    parts.spawn(named("slice controller", advertise::publish(controller, offered, stop.clone())));

    let ended = tokio::select! {
        ended = until_told(plugin.registration()) => ended,
        // A part that is gone leaves an agent that looks well and is not.
        part = parts.join_next() => Err(match part {
            Some(Ok(name)) => anyhow::anyhow!("the {name} ended by itself"),
            Some(Err(error)) => anyhow::anyhow!("a part of the agent broke off: {error}"),
            None => anyhow::anyhow!("no part of the agent is left"),
        }),
    };
    tracing::info!("stopping");
    let unfinished = plugin.shutdown().await;
    if !unfinished.is_empty() {
        tracing::warn!(claims = ?unfinished, "work on these claims is cut off; the kubelet will call again");
    }
    stop.cancel();
    let all = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("some parts did not end within {} s", DRAIN.as_secs());
    }
    tracing::info!("stopped");
    ended
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// Kernel events wake the scan. Where they can't be heard the scan comes by itself.
fn listen_for_changes(news: mpsc::Sender<()>) {
    let heard = std::thread::Builder::new().name("uevents".to_owned()).spawn(move || {
        let listen = || {
            let events = Uevents::open()?;
            while !news.is_closed() {
                events.wait()?;
                // Full: a scan is due anyway.
                let _ = news.try_send(());
            }
            Ok::<(), crate::host::HostError>(())
        };
        if let Err(error) = listen() {
            tracing::warn!(error = %error.sentence(), "kernel events are not heard; changes are seen with the next scan");
        }
    });
    if let Err(error) = heard {
        tracing::warn!(%error, "no thread for kernel events; changes are seen with the next scan");
    }
}

/// A signal, or the kubelet's refusal: then the next start is a new try.
async fn until_told(mut registration: watch::Receiver<Registration>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be handled")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            changed = registration.changed() => {
                let now = registration.borrow_and_update().clone();
                match now {
                    Registration::Refused(reason) => bail!("the kubelet refused the registration: {reason}"),
                    other => tracing::info!(registration = ?other, "registration"),
                }
                if changed.is_err() {
                    bail!("the registration task ended");
                }
            }
        }
    }
}
