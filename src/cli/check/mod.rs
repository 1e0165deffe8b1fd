//! `sriov-dra check`: what is wrong in files of classes, claims and pools of addresses, before anybody applies them.
//!
//! `cli::documents` judges each object alone, `together` claims with the classes that stand in the files.

mod together;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::documents::{Documents, Finding};
use super::explain::Format;
use crate::DEFAULT_DRIVER_NAME;

/// Arguments of `sriov-dra check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// DeviceClasses, ResourceClaims, ResourceClaimTemplates, Pods that use them, AddressPools; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// The driver's name; configs for other drivers are not judged
    #[arg(long, env = "DRIVER_NAME", value_name = "NAME", default_value = DEFAULT_DRIVER_NAME)]
    pub driver_name: String,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Raised when a field changes its meaning or goes.
    pub format_version: u32,
    /// There is no fault.
    pub ok: bool,
    /// Objects that were judged.
    pub objects: usize,
    /// What is wrong.
    pub faults: Vec<Finding>,
    /// What could not be judged, and what is legal and rarely meant; a sentence each.
    pub notes: Vec<String>,
}

/// Runs the command. Status 0: no fault; 1: faults; 2: a file can't be read.
pub fn run(args: &CheckArgs) -> ExitCode {
    match judged(args).and_then(|report| print(&report, args.output).map(|()| report.ok)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            ExitCode::from(super::BAD_INPUT)
        }
    }
}

fn judged(args: &CheckArgs) -> anyhow::Result<Report> {
    let mut documents = Documents::default();
    for file in &args.files {
        documents.read(file, &args.driver_name)?;
    }
    Ok(report(documents, &args.driver_name, &args.namespace))
}

/// Everything that is wrong in what was read.
pub fn report(documents: Documents, driver: &str, namespace: &str) -> Report {
    let together::Found { faults, notes } = together::judge(&documents, driver, namespace);
    let Documents {
        claims,
        templates,
        pods,
        classes,
        slices,
        pools,
        passed_over,
        faults: mut all,
        notes: mut said,
        ..
    } = documents;
    for fault in faults {
        if !all.iter().any(|known| known.same(&fault)) {
            all.push(fault);
        }
    }
    said.extend(
        passed_over.into_iter().map(|place| format!("{place} was passed over: nothing is known of its kind")),
    );
    said.extend(notes);
    let objects = claims.len() + templates.len() + pods.len() + classes.len() + slices.len() + pools.len();
    Report { format_version: 1, ok: all.is_empty(), objects, faults: all, notes: said }
}

fn print(report: &Report, format: Format) -> anyhow::Result<()> {
    let text = match format {
        Format::Text => render(report)?,
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    Ok(super::print(&text)?)
}

/// For people: a line for each fault, then notes, then the count.
fn render(report: &Report) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for fault in &report.faults {
        writeln!(text, "{fault}")?;
    }
    for note in &report.notes {
        writeln!(text, "note: {note}")?;
    }
    let count = |number: usize, what: &str| match number {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    writeln!(text, "{} in {}", count(report.faults.len(), "fault"), count(report.objects, "object"))?;
    Ok(text)
}
