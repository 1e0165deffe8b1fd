//! The ground without Kubernetes: needs nothing but a network namespace of its own, and is in this process.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use sriov_dra::demo::world::enter_private_namespaces;
use tokio::signal::unix::{SignalKind, signal};

use crate::lab::Lab;
use crate::stories::On;
use crate::told::{tell, wanted};

/// Tells the stories that are for both grounds and whose names contain one of the filters (no filter: all).
///
/// # Errors
/// When the machine gives no namespaces, or the stand-ins do not start.
pub fn run(filter: &[String]) -> Result<ExitCode> {
    let stories = wanted(filter);
    // Before any thread is started.
    enter_private_namespaces()?;
    // Short: the sockets below it may have 107 bytes.
    let folder = tempfile::Builder::new().prefix("sdra").tempdir().context("a folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let told = runtime.block_on(async {
        let stopped = stopped()?;
        let told = tell(Lab::on_stand_ins(folder.path()), &stories, |on| match on {
            On::Both => None,
            On::Real(why) => Some(why),
        });
        // Dropped on the way out: agent, containers and folder go with it.
        tokio::select! {
            told = told => told,
            error = stopped => Err(error),
        }
    });
    if matches!(told, Ok(code) if code != ExitCode::SUCCESS) {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-ins-agent.log");
        std::fs::copy(folder.path().join("agent.log"), &log).context("the agent's log")?;
        println!("the agent's log: {}", log.display());
    }
    told
}

/// SIGINT or SIGTERM.
fn stopped() -> Result<impl Future<Output = anyhow::Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        anyhow::anyhow!("stopped")
    })
}
