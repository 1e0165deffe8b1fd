//! Samples, their medians and percentiles, and the table they end in.

use std::fmt;
use std::time::{Duration, Instant};

/// Durations of one thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The smallest duration that `percent` of the samples do not exceed (nearest rank).
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    pub fn most(&self) -> Duration {
        self.percentile(100)
    }

    /// Median of the ratios of pairs: sample by sample, as machines change their speed in between.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        let mut ratios: Vec<f64> =
            self.0.iter().zip(&other.0).map(|(own, other)| own.as_secs_f64() / other.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Calls `work` some times unmeasured and `rounds` times measured.
pub fn time<T>(rounds: usize, mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..rounds + rounds.div_ceil(10) {
        let started = Instant::now();
        let done = std::hint::black_box(work()?);
        let took = started.elapsed();
        drop(done);
        if round >= rounds.div_ceil(10) {
            samples.push(took);
        }
    }
    Ok(samples)
}

/// Milliseconds for people.
pub fn ms(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.1} ms") }
}

/// What was measured, with its aim if it has one.
#[derive(Debug, Default)]
pub struct Table(Vec<[String; 4]>);

impl Table {
    /// A figure without aim.
    pub fn figure(&mut self, what: impl Into<String>, measured: impl Into<String>) {
        let row = [what.into(), String::new(), measured.into(), String::new()];
        println!("{}: {}", row[0], row[2]);
        self.0.push(row);
    }

    /// A figure with its aim, and whether it is met.
    pub fn aim(
        &mut self,
        what: impl Into<String>,
        aim: impl Into<String>,
        measured: impl Into<String>,
        met: bool,
    ) {
        let row = [what.into(), aim.into(), measured.into(), if met { "met" } else { "missed" }.to_owned()];
        println!("{}: {} (aim {}: {})", row[0], row[2], row[1], row[3]);
        self.0.push(row);
    }

    /// A duration with its aim.
    pub fn limit(&mut self, what: impl Into<String>, limit: Duration, measured: Duration) {
        self.aim(what, format!("< {} ms", limit.as_millis()), ms(measured), measured < limit);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| What | Aim | Measured | |\n|---|---|---|---|")?;
        self.0.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}
