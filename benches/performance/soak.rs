//! Pods that come and go for an hour, some always there; what the agent holds and how long its calls take, every few
//! seconds, as a picture. `./bench soak` runs it, and nothing else does.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::resource::v1::ResourceClaim;
use sriov_dra::demo::stage::{Part, Running, Stage};

use crate::cycles::{Left, claim, folders, pod};
use crate::measure::Table;
use crate::node;
use crate::watch::{PICTURE, Watch, asked};

/// Without [`crate::watch::MINUTES`].
const HOUR: Duration = Duration::from_secs(3600);
/// Pods that are there at a time.
const ALIVE: usize = 8;
/// Of the stand-in for the runtime.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// MiB. It goes up and down by more than ten; half a KiB that each pod left for good would be more in an hour.
const MEMORY: f64 = 2.0;

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let time = asked()?.unwrap_or(HOUR);
    let tree = node::large()?;
    let folder = tempfile::Builder::new().prefix("sdra").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // What a busy machine is late with is in the picture; nothing has to be tried again.
        let part = Part { request_timeout: PATIENCE, ..Part::default() };
        let stage = Stage::start_part(part, binary, folder.path(), tree.root()).await?;
        let before = Left::of(&stage, folder.path())?;
        let mut watch = Watch::start(stage.agent_pid(), folders(folder.path()), time, MEMORY, false);
        let soaked = soak(&stage, &mut watch).await;
        let title = watch.title(ALIVE);
        // Of one that failed it shows most.
        if let Some(path) = std::env::var_os(PICTURE) {
            std::fs::write(&path, watch.curves.svg(&title))
                .with_context(|| path.to_string_lossy().into_owned())?;
        }
        soaked?;
        table.figure("Soak", title);
        for (name, drift) in watch.curves.drifts() {
            table.figure(format!("… {name}, second tenth to last, medians"), drift);
        }
        let away = Left::of(&stage, folder.path())?.away(&before);
        table.figure("… VFs that are not back on the host", away.to_string());
        ensure!(away == 0, "{away} links are not back");
        watch.curves.ensure_flat()?;
        stage.end().await?;
        Ok(())
    })
}

async fn soak(stage: &Stage, watch: &mut Watch) -> anyhow::Result<()> {
    let mut alive: VecDeque<(Running, ResourceClaim)> = VecDeque::new();
    while !watch.is_over() {
        let name = format!("soak-{}", watch.pods);
        let pod = pod(stage, &name).await?;
        // Always other VFs, whose pods are gone for long.
        let claim = claim(stage, &name, watch.pods % (4 * ALIVE), &pod).await?;
        let at = Instant::now();
        let prepared = stage.prepare(&claim).await?;
        let prepare = at.elapsed();
        let at = Instant::now();
        let running = stage.run(&pod).await?;
        watch.came(prepare, at.elapsed());
        stage.create_container(&running, "main", &[&prepared]).await?;
        alive.push_back((running, claim));
        if alive.len() > ALIVE
            && let Some((running, claim)) = alive.pop_front()
        {
            stage.stop(running).await?;
            let at = Instant::now();
            stage.unprepare(&claim).await?;
            watch.went(at.elapsed());
        }
        watch.look()?;
        tokio::time::sleep(PAUSE).await;
    }
    for (running, claim) in alive {
        stage.stop(running).await?;
        stage.unprepare(&claim).await?;
    }
    Ok(())
}
