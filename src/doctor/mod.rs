//! What a node has and lacks for this driver, and how it is mended. Pure.
//!
//! In: [`Facts`], collected once. Out: a [`Report`]: one [`Line`] for each thing a node needs, with what was seen and the
//! commands that mend it. A line is a fault where claims or pods with VFs don't work, a warning where something that claims
//! can ask for doesn't. Never here: looking at anything, cluster objects.

mod hardware;
mod mounts;
mod node;
mod rdma;
mod runtime;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::device::{PciAddress, Snapshot};
use crate::host::survey::Survey;

pub use mounts::no_propagation;

/// Everything that is judged.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Kernel, files, processes.
    pub survey: Survey,
    /// PFs and VFs, or why they can't be read.
    pub functions: Result<Functions, String>,
    /// What the container runtime says of itself, or why it can't be asked.
    pub runtime: Result<Runtime, String>,
    /// What the agent is, or would be, started with.
    pub settings: Settings,
    /// What could not be looked at, a sentence each.
    pub hidden: Vec<String>,
}

/// PFs and VFs, and what is offered of them.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    /// All of them.
    pub snapshot: Snapshot,
    /// Number of VFs that are offered.
    pub offered: usize,
    /// Others, with the reasons.
    pub withheld: Vec<(PciAddress, String)>,
}

/// A container runtime by its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd`, `cri-o`.
    pub name: String,
    /// As it writes it.
    pub version: String,
    /// It reads CDI files; `None` where it doesn't say.
    pub cdi: Option<bool>,
    /// Folders of CDI files; `None` where it doesn't say.
    pub cdi_dirs: Option<Vec<String>>,
}

/// Flags of the agent that a node has to match.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The driver's name.
    pub driver: String,
    /// The kubelet's root directory.
    pub kubelet_dir: PathBuf,
    /// Where CDI files are written.
    pub cdi_dir: PathBuf,
    /// The runtime's NRI socket; `None` with `--attach=hook`.
    pub nri_socket: Option<PathBuf>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it has to be, or not needed here.
    Ok,
    /// It could not be looked at from here.
    Unknown,
    /// Something that claims can ask for doesn't work.
    Warning,
    /// Claims, or pods with VFs, don't work.
    Fault,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fault => "FAULT",
        })
    }
}

/// One thing and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// A word for programs, stable.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen, and what follows from it.
    pub seen: String,
    /// Shell commands, one after the other; what no command does is a shell comment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mend: Vec<String>,
}

impl Line {
    fn new(check: &'static str, state: State, seen: impl Into<String>) -> Self {
        Self { check, state, seen: seen.into(), mend: Vec::new() }
    }

    fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Ok, seen)
    }

    fn unknown(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Unknown, seen)
    }

    fn warning(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Warning, seen)
    }

    fn fault(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Fault, seen)
    }

    fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend.push(command.into());
        self
    }

    fn mends(mut self, commands: impl IntoIterator<Item = String>) -> Self {
        self.mend.extend(commands);
        self
    }
}

/// The node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Raised when a field changes its meaning or goes.
    pub format_version: u32,
    /// The worst of all lines.
    pub worst: State,
    /// From the hardware upwards.
    pub lines: Vec<Line>,
    /// What could not be looked at, a sentence each.
    pub notes: Vec<String>,
}

/// Judges everything.
pub fn judge(facts: &Facts) -> Report {
    let lines = vec![
        hardware::kernel(facts),
        hardware::iommu(facts),
        hardware::sriov(facts),
        hardware::vfs(facts),
        hardware::drivers(facts),
        hardware::offered(facts),
        hardware::uplink(facts),
        node::modules(facts),
        rdma::devices(facts),
        rdma::mode(facts),
        rdma::gpudirect(facts),
        rdma::memlock(facts),
        runtime::version(facts),
        runtime::nri(facts),
        runtime::cdi(facts),
        node::kubelet(facts),
        node::hook(facts),
        node::propagation(facts),
        node::agent(facts),
        node::device_plugin(facts),
    ];
    let worst = lines.iter().map(|line| line.state).max().unwrap_or(State::Ok);
    Report { format_version: 1, worst, lines, notes: facts.hidden.clone() }
}

/// At most that many things are named in a sentence.
const NAMED: usize = 4;

/// `a, b and 3 more`.
fn named<T: ToString>(all: &[T]) -> String {
    let shown: Vec<String> = all.iter().take(NAMED).map(ToString::to_string).collect();
    match all.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 VF`, `2 VFs`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The first two or three numbers of a version, whatever stands around them.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut parts = digits.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    Some((major, minor, parts.next().and_then(Result::ok).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (text, wanted) in [
            ("v2.1.4", Some((2, 1, 4))),
            ("1.7.28~ds1-1", Some((1, 7, 28))),
            ("2.0.5-k3s1.32", Some((2, 0, 5))),
            ("6.12.48+deb13-amd64", Some((6, 12, 48))),
            ("1.34", Some((1, 34, 0))),
            ("next", None),
        ] {
            assert_eq!(numbers(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_fault_is_worse_than_a_warning_and_what_is_unknown_worse_than_ok() {
        assert!(
            State::Fault > State::Warning && State::Warning > State::Unknown && State::Unknown > State::Ok
        );
        assert_eq!(format!("{:7}|", State::Ok), "ok     |");
    }
}
