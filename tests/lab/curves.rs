//! Things over time: a picture of them, and whether they are flat.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};

/// Of the samples. The first tenth is the start: caches fill, and what only a start needs is given back.
const PART: f64 = 0.1;
/// Samples; fewer say nothing.
const LEAST: usize = 3;

/// One thing over time.
#[derive(Debug, Clone)]
pub struct Curve {
    pub name: &'static str,
    pub unit: &'static str,
    /// What the least of the last tenth may be above the least of the second; `None`: anything. What is in use comes and
    /// goes; what is kept for good raises the least.
    pub growth: Option<f64>,
    values: Vec<f64>,
}

impl Curve {
    pub fn new(name: &'static str, unit: &'static str, growth: Option<f64>) -> Self {
        Self { name, unit, growth, values: Vec::new() }
    }

    /// Of the second tenth and of the last.
    fn ends(&self, one: fn(&[f64]) -> f64) -> (f64, f64) {
        let tenth = (self.values.len() as f64 * PART).ceil() as usize;
        let second = self.values.get(tenth..2 * tenth).unwrap_or(&self.values);
        let last = &self.values[self.values.len().saturating_sub(tenth)..];
        (one(second), one(last))
    }

    /// Medians, for people.
    pub fn drift(&self) -> String {
        self.pair(self.ends(median))
    }

    fn pair(&self, (second, last): (f64, f64)) -> String {
        let number =
            |value: f64| if value.fract() == 0.0 { value.to_string() } else { format!("{value:.2}") };
        format!("{} → {} {}", number(second), number(last), self.unit).trim_end().to_owned()
    }
}

/// The middle one; not a number if there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().min_by(f64::total_cmp).unwrap_or(f64::NAN)
}

/// Things that are looked at together.
#[derive(Debug, Clone)]
pub struct Curves {
    minutes: Vec<f64>,
    curves: Vec<Curve>,
}

impl Curves {
    pub fn new(curves: Vec<Curve>) -> Self {
        Self { minutes: Vec::new(), curves }
    }

    /// One value for each curve, in their order.
    pub fn push(&mut self, at: Duration, values: impl IntoIterator<Item = f64>) {
        self.minutes.push(at.as_secs_f64() / 60.0);
        self.curves.iter_mut().zip(values).for_each(|(curve, value)| curve.values.push(value));
    }

    /// Whether they can say something.
    pub fn enough(&self) -> bool {
        self.minutes.len() >= LEAST
    }

    /// A line each; of those that have to be flat also the least.
    pub fn drifts(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.curves.iter().map(|curve| {
            let least = curve.growth.map(|_| format!(", the least {}", curve.pair(curve.ends(least))));
            (curve.name, curve.drift() + &least.unwrap_or_default())
        })
    }

    /// # Errors
    /// Names each curve that grew by more than it may.
    pub fn ensure_flat(&self) -> Result<()> {
        ensure!(self.enough(), "{} samples say nothing", self.minutes.len());
        let grown: Vec<String> = self
            .curves
            .iter()
            .filter_map(|curve| {
                let (growth, (second, last)) = (curve.growth?, curve.ends(least));
                // Whatever is no number is not flat either.
                let flat = last <= second + growth;
                (!flat).then(|| {
                    let from_to = curve.pair((second, last));
                    format!("{}: {from_to}, {growth} {} more are allowed", curve.name, curve.unit)
                })
            })
            .collect();
        ensure!(
            grown.is_empty(),
            "from the second tenth of the time to the last the least grew of {}",
            grown.join("; ")
        );
        Ok(())
    }

    /// A panel for each curve, each from zero to the most.
    pub fn svg(&self, title: &str) -> String {
        let height = (HEIGHT + GAP) * self.curves.len() as f64 + TOP + 15.0;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\">{title}</text>\n",
            LEFT + WIDTH + 20.0
        );
        for (number, curve) in self.curves.iter().enumerate() {
            self.panel(&mut text, curve, TOP + number as f64 * (HEIGHT + GAP));
        }
        let end = self.minutes.last().copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "<text x=\"{LEFT}\" y=\"{y}\" fill=\"#666\">0 min</text>\n\
             <text x=\"{x}\" y=\"{y}\" fill=\"#666\" text-anchor=\"end\">{end:.0} min</text>",
            x = LEFT + WIDTH,
            y = height - 10.0
        );
        text + "</svg>\n"
    }

    fn panel(&self, text: &mut String, curve: &Curve, top: f64) {
        let bottom = top + HEIGHT;
        let most = curve.values.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let end = self.minutes.last().copied().unwrap_or_default().max(f64::MIN_POSITIVE);
        let points: Vec<String> = self
            .minutes
            .iter()
            .zip(&curve.values)
            .map(|(at, value)| {
                format!("{:.1},{:.1}", LEFT + WIDTH * at / end, bottom - HEIGHT * value / most)
            })
            .collect();
        let _ = write!(
            text,
            "<text x=\"10\" y=\"{:.0}\">{}</text>\n<text x=\"10\" y=\"{:.0}\" fill=\"#666\">{}</text>\n\
             <text x=\"{scale}\" y=\"{:.0}\" fill=\"#666\" text-anchor=\"end\">{:.0}</text>\n\
             <text x=\"{scale}\" y=\"{bottom}\" fill=\"#666\" text-anchor=\"end\">0</text>\n\
             <line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"#999\"/>\n\
             <polyline fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"1\" points=\"{}\"/>\n",
            top + 35.0,
            curve.name,
            top + 52.0,
            curve.drift(),
            top + 10.0,
            most,
            LEFT + WIDTH,
            points.join(" "),
            scale = LEFT - 5.0,
        );
    }
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 80.0;
const GAP: f64 = 25.0;
const LEFT: f64 = 230.0;
const TOP: f64 = 35.0;
