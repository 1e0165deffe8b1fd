//! An agent while pods come and go: what it holds and how long its calls take, every few seconds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::curves::{Curve, Curves, median};
use crate::held::Held;

/// Minutes that pods come and go.
pub const MINUTES: &str = "SRIOV_DRA_SOAK_MINUTES";
/// Where the picture goes; none without it.
pub const PICTURE: &str = "SRIOV_DRA_SOAK_SVG";
const EVERY: Duration = Duration::from_secs(10);
/// A connection that is opened because one is busy is kept for a while.
const DESCRIPTORS: f64 = 3.0;
/// Of the blocking ones, which end when they idle.
const THREADS: f64 = 2.0;
/// A report waits as a file until the API server has it.
const FILES: f64 = 2.0;

/// How long is asked for.
///
/// # Errors
/// When it is no number of minutes.
pub fn asked() -> Result<Option<Duration>> {
    let Ok(text) = std::env::var(MINUTES) else { return Ok(None) };
    let minutes =
        text.parse::<f64>().ok().and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    minutes.map(Some).with_context(|| format!("{MINUTES} is {text:?}, and not a number of minutes"))
}

/// An agent that is looked at.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    folders: Vec<PathBuf>,
    time: Duration,
    began: Instant,
    sampled: Instant,
    /// Whether all network namespaces of the machine are those of its pods.
    alone: bool,
    /// Pods that came so far.
    pub pods: usize,
    /// Milliseconds of Prepare, RunPodSandbox, Unprepare since the last sample.
    calls: [Vec<f64>; 3],
    pub curves: Curves,
}

impl Watch {
    /// From now on. Its own memory may grow by so many MiB.
    pub fn start(pid: u32, folders: Vec<PathBuf>, time: Duration, memory: f64, alone: bool) -> Self {
        let now = Instant::now();
        let mut curves = vec![
            Curve::new("own memory", "MiB", Some(memory)),
            Curve::new("resident memory", "MiB", None),
            Curve::new("descriptors", "", Some(DESCRIPTORS)),
            Curve::new("threads", "", Some(THREADS)),
            Curve::new("files", "", Some(FILES)),
            Curve::new("Prepare, median", "ms", None),
            Curve::new("RunPodSandbox, median", "ms", None),
            Curve::new("Unprepare, median", "ms", None),
        ];
        if alone {
            curves.push(Curve::new("network namespaces", "", Some(0.0)));
        }
        Self {
            pid,
            folders,
            time,
            began: now,
            sampled: now,
            alone,
            pods: 0,
            calls: Default::default(),
            curves: Curves::new(curves),
        }
    }

    /// Whether the time is over; on a slow machine not before there is something to say.
    pub fn is_over(&self) -> bool {
        self.began.elapsed() >= self.time && self.curves.enough()
    }

    /// A pod runs; Prepare and RunPodSandbox took so long.
    pub fn came(&mut self, prepare: Duration, run: Duration) {
        self.pods += 1;
        self.calls[0].push(milliseconds(prepare));
        self.calls[1].push(milliseconds(run));
    }

    /// One is gone; Unprepare took so long.
    pub fn went(&mut self, unprepare: Duration) {
        self.calls[2].push(milliseconds(unprepare));
    }

    /// What is so now.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn held(&self) -> Result<Held> {
        Held::of(self.pid, &self.folders)
    }

    /// Looks, if it is time and pods came and went since the last look.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn look(&mut self) -> Result<()> {
        // Short ones have a few samples, too.
        if self.sampled.elapsed() < EVERY.min(self.time / 20) || self.calls.iter().any(Vec::is_empty) {
            return Ok(());
        }
        self.sampled = Instant::now();
        let held = self.held()?;
        let [prepare, run, unprepare] = std::mem::take(&mut self.calls).map(|took| median(&took));
        let (descriptors, threads, files) =
            (held.descriptors.len() as f64, held.threads as f64, held.files.len() as f64);
        let mut values = vec![held.own, held.resident, descriptors, threads, files, prepare, run, unprepare];
        if self.alone {
            values.push(held.namespaces.len() as f64);
        }
        let at = self.began.elapsed();
        self.curves.push(at, values);
        println!(
            "{:.1} min, {} pods, own memory {:.1} MiB, {descriptors} descriptors, {threads} threads, {files} files, \
             Prepare {prepare:.1} ms, RunPodSandbox {run:.1} ms, Unprepare {unprepare:.1} ms",
            at.as_secs_f64() / 60.0,
            self.pods,
            held.own,
        );
        Ok(())
    }

    /// What was done.
    pub fn title(&self, alive: usize) -> String {
        format!(
            "{} pods in {:.0} minutes, {alive} at a time",
            self.pods,
            self.began.elapsed().as_secs_f64() / 60.0
        )
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
