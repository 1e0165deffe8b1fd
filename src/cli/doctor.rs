//! `sriov-dra doctor`: what this node has and lacks, and the commands that mend it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::explain::Format;
use super::node::{Attach, SourceArgs};
use crate::app::{doctor_roots, examine};
use crate::doctor::{Line, Report, Settings, State, judge};
use crate::observe::wants_colour;

/// Arguments of `sriov-dra doctor`. Those of the agent mean the same here; give what the agent is given.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// What the agent offers, and from where
    #[command(flatten)]
    pub source: SourceArgs,
    /// Where CDI specs are written
    #[arg(long, env = "CDI_DIR", default_value = "/var/run/cdi", value_name = "DIR")]
    pub cdi_dir: PathBuf,
    /// The container runtime's NRI socket
    #[arg(long, env = "NRI_SOCKET", default_value = "/var/run/nri/nri.sock", value_name = "FILE")]
    pub nri_socket: PathBuf,
    /// The node's root folder, with proc and dev in it [default: this machine's, from within a pod too]
    #[arg(long, value_name = "DIR")]
    pub node_root: Option<PathBuf>,
}

/// Status when the worst is a warning, or something that could not be looked at. 1 and 2 are errors and bad usage.
const WARNING: u8 = 3;
/// Status when there is a fault.
const FAULT: u8 = 4;

/// Runs the command.
///
/// # Errors
/// A flag is wrong, or nothing can be printed.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let DoctorArgs { output, source, cdi_dir, nri_socket, node_root } = args;
    let rules = match source.rules() {
        Ok(rules) => rules,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            return Ok(ExitCode::from(super::BAD_INPUT));
        }
    };
    let roots =
        doctor_roots(&source.sysfs_root, &source.kubelet_dir, &source.driver_name, node_root.as_deref());
    let settings = Settings {
        driver: source.driver_name.clone(),
        kubelet_dir: source.kubelet_dir.clone(),
        cdi_dir: cdi_dir.clone(),
        nri_socket: (source.attach == Attach::Nri).then(|| nri_socket.clone()),
    };
    let report = judge(&examine(&roots, settings, rules)?);
    let text = match output {
        Format::Text => render(&report, wants_colour(&std::io::stdout())),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    super::print(&text)?;
    Ok(status(report.worst))
}

fn status(worst: State) -> ExitCode {
    match worst {
        State::Ok => ExitCode::SUCCESS,
        State::Unknown | State::Warning => ExitCode::from(WARNING),
        State::Fault => ExitCode::from(FAULT),
    }
}

/// Columns before what was seen.
const LEFT: usize = 24;
/// Columns in all.
const WIDTH: usize = 120;

/// For people: a line for each check, commands below it, at most 120 columns but for commands, which are copied.
pub fn render(report: &Report, colour: bool) -> String {
    let mut text = String::new();
    for Line { check, state, seen, mend } in &report.lines {
        let code = match state {
            State::Ok => "32",
            State::Unknown => "2",
            State::Warning => "33",
            State::Fault => "31",
        };
        let word = format!("{state:7}");
        let word = if colour { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word };
        let mut lines = wrapped(seen).into_iter();
        let _ = writeln!(text, "{word}  {check:15}{}", lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(text, "{:LEFT$}{line}", "");
        }
        for command in mend {
            let _ =
                writeln!(text, "{:LEFT$}{}{command}", "", if command.starts_with('#') { "" } else { "$ " });
        }
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let of = |state: State| report.lines.iter().filter(|line| line.state == state).count();
    let _ =
        write!(text, "\n{} ok, {} warnings, {} faults", of(State::Ok), of(State::Warning), of(State::Fault));
    let _ = match of(State::Unknown) {
        0 => writeln!(text),
        number => writeln!(text, ", {number} not to be seen from here"),
    };
    text
}

fn wrapped(sentence: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in sentence.split(' ') {
        match lines.last_mut() {
            Some(line) if LEFT + line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
