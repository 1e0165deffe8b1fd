//! Pods that come and go for an hour, some always there; what the agent holds and how long its calls take, every few
//! seconds, as a picture. `./bench soak` runs it, and nothing else does.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use sriov_dra::demo::stage::{Part, Running, Stage};

use crate::agent::mib;
use crate::cycles::{claim, pod};
use crate::measure::{Samples, Table, ms};
use crate::node;

/// Minutes; 60 without it.
const MINUTES: &str = "SRIOV_DRA_SOAK_MINUTES";
/// Where the picture goes; none without it.
const PICTURE: &str = "SRIOV_DRA_SOAK_SVG";
/// Pods that are there at a time.
const ALIVE: usize = 8;
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Of the stand-in for the runtime.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// Caches are filled, and memory that a start needs is given back by then.
const SETTLED: f64 = 0.1;

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let minutes = std::env::var(MINUTES).ok().map_or(Ok(60.0), |text| text.parse::<f64>())?;
    let tree = node::large()?;
    let folder = tempfile::Builder::new().prefix("sdra").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // What a busy machine is late with is in the picture; nothing has to be tried again.
        let part = Part { request_timeout: PATIENCE, ..Part::default() };
        let stage = Stage::start_part(part, binary, folder.path(), tree.root()).await?;
        let (pods, curves) = soak(&stage, folder.path(), Duration::from_secs_f64(minutes * 60.0)).await?;
        table.figure("Soak", format!("{pods} pods in {minutes} min, {ALIVE} at a time"));
        for curve in &curves {
            table.figure(format!("… {}, first tenth to last tenth, medians", curve.name), curve.drift());
        }
        if let Some(path) = std::env::var_os(PICTURE) {
            std::fs::write(&path, svg(&curves, pods, minutes))
                .with_context(|| format!("{}", path.display()))?;
        }
        stage.end().await?;
        Ok(())
    })
}

/// One thing over time.
struct Curve {
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

impl Curve {
    fn median(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn drift(&self) -> String {
        let tenth = (self.values.len() as f64 * SETTLED).ceil() as usize;
        // The very first tenth is the start.
        let first = self.values.get(tenth..2 * tenth).unwrap_or(&self.values);
        let last = &self.values[self.values.len().saturating_sub(tenth)..];
        format!("{:.2} → {:.2} {}", Self::median(first), Self::median(last), self.unit)
    }
}

async fn soak(stage: &Stage, folder: &Path, time: Duration) -> anyhow::Result<(usize, Vec<Curve>)> {
    let curve = |name, unit| Curve { name, unit, values: Vec::new() };
    let mut curves = vec![
        curve("own memory", "MiB"),
        curve("resident memory", "MiB"),
        curve("descriptors", ""),
        curve("threads", ""),
        curve("files", ""),
        curve("Prepare, median", "ms"),
        curve("RunPodSandbox, median", "ms"),
        curve("Unprepare, median", "ms"),
    ];
    let started = Instant::now();
    let (mut number, mut sampled) = (0, Instant::now());
    let mut alive: VecDeque<(Running, k8s_openapi::api::resource::v1::ResourceClaim)> = VecDeque::new();
    let (mut prepares, mut runs, mut returns) = (Samples::default(), Samples::default(), Samples::default());
    while started.elapsed() < time {
        let name = format!("soak-{number}");
        let pod = pod(stage, &name).await?;
        // Always other VFs, whose pods are gone for long.
        let claim = claim(stage, &name, number % (4 * ALIVE), &pod).await?;
        let at = Instant::now();
        let prepared = stage.prepare(&claim).await?;
        prepares.push(at.elapsed());
        let at = Instant::now();
        let running = stage.run(&pod).await?;
        runs.push(at.elapsed());
        stage.create_container(&running, "main", &[&prepared]).await?;
        alive.push_back((running, claim));
        if alive.len() > ALIVE
            && let Some((running, claim)) = alive.pop_front()
        {
            stage.stop(running).await?;
            let at = Instant::now();
            stage.unprepare(&claim).await?;
            returns.push(at.elapsed());
        }
        number += 1;
        if sampled.elapsed() >= SAMPLE_EVERY {
            sampled = Instant::now();
            let took = [&mut prepares, &mut runs, &mut returns]
                .map(|samples| std::mem::take(samples).median().as_secs_f64() * 1000.0);
            let now = held(stage, folder)?.into_iter().chain(took);
            curves.iter_mut().zip(now).for_each(|(curve, value)| curve.values.push(value));
            let minutes = started.elapsed().as_secs() / 60;
            println!(
                "{minutes} min, {number} pods, Prepare {}",
                ms(Duration::from_secs_f64(took[0] / 1000.0))
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
    for (running, claim) in alive {
        stage.stop(running).await?;
        stage.unprepare(&claim).await?;
    }
    Ok((number, curves))
}

/// In the order of the curves.
fn held(stage: &Stage, folder: &Path) -> anyhow::Result<[f64; 5]> {
    let process = Path::new("/proc").join(stage.agent_pid().to_string());
    let status = std::fs::read_to_string(process.join("status"))?;
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
    let descriptors = std::fs::read_dir(process.join("fd"))?.count();
    let mut files = 0;
    let mut folders = ["kubelet", "run", "cdi"].map(|name| folder.join(name)).to_vec();
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)?.flatten() {
            // Of files that go meanwhile nothing is known, and need not be.
            match entry.file_type().map(|kind| kind.is_dir()) {
                Ok(true) => folders.push(entry.path()),
                Ok(false) => files += 1,
                Err(_) => {}
            }
        }
    }
    let threads = threads.context("no Threads in /proc/<pid>/status")?;
    Ok([mib(&status, "RssAnon"), mib(&status, "VmRSS"), descriptors as f64, threads, f64::from(files)])
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 90.0;
const LEFT: f64 = 190.0;

/// A panel for each curve, each from zero.
fn svg(curves: &[Curve], pods: usize, minutes: f64) -> String {
    let height = (HEIGHT + 20.0) * curves.len() as f64 + 40.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\">{pods} pods in {minutes} minutes, {ALIVE} at a time</text>\n",
        LEFT + WIDTH + 20.0
    );
    for (number, curve) in curves.iter().enumerate() {
        let top = 35.0 + number as f64 * (HEIGHT + 20.0);
        let most = curve.values.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let step = WIDTH / (curve.values.len().max(2) - 1) as f64;
        let points: Vec<String> = curve
            .values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                format!("{:.1},{:.1}", LEFT + at as f64 * step, top + HEIGHT * (1.0 - value / (most * 1.1)))
            })
            .collect();
        let bottom = top + HEIGHT;
        let _ = write!(
            text,
            "<text x=\"10\" y=\"{:.0}\">{}</text>\n<text x=\"10\" y=\"{:.0}\" fill=\"#666\">{}</text>\n\
             <line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"#999\"/>\n\
             <polyline fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"1\" points=\"{}\"/>\n",
            top + 35.0,
            curve.name,
            top + 52.0,
            curve.drift(),
            LEFT + WIDTH,
            points.join(" ")
        );
    }
    text + "</svg>\n"
}
