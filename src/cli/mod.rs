//! The commands.
//!
//! In: arguments and their environment twins. Out: one command run to its end. Never here: how a command does its work
//! beyond its own file.

pub mod check;
pub mod demo;
pub mod doctor;
pub mod documents;
pub mod explain;
pub mod hook;
pub mod image;
pub mod inventory;
pub mod node;
pub mod schema;
pub mod tar;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "sriov-dra", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of one node: publish its VFs, prepare claims, attach VFs to pods
    Node(Box<node::NodeArgs>),
    /// Show the whole story here and now: a simulated node, claims, pods; no cluster and no hardware needed
    Demo(demo::DemoArgs),
    /// Show this machine's PFs and VFs: what is offered, what is withheld and why
    Inventory(inventory::InventoryArgs),
    /// Say what this node has and lacks, and the commands that mend it (exit status 0; 3 with warnings; 4 with faults)
    Doctor(doctor::DoctorArgs),
    /// A pod of the demonstration: waits in a network namespace of its own
    #[command(name = crate::demo::pod::PAUSE, hide = true)]
    Pause,
    /// Let a container start with the VFs of its claim, or not at all; container runtimes call it (OCI createRuntime hook)
    Hook(hook::HookArgs),
    /// Say which devices a claim would get, or why it gets none (exit status 0 or 1; 2 when the input is wrong)
    Explain(explain::ExplainArgs),
    /// Find what is wrong in files of classes, claims and templates (exit status 0 or 1; 2 when a file can't be read)
    Check(check::CheckArgs),
    /// Print the JSON Schema of a config's parameters, or the admission policy made of it
    Schema(schema::SchemaArgs),
    /// Write the container image as an archive (OCI layout and Docker archive in one)
    Image(image::ImageArgs),
}

/// Status for input nobody can work with.
const BAD_INPUT: u8 = 2;

/// Prints what a command has to say. A reader that has seen enough (head, less) is no error.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

impl Cli {
    /// Runs the command; its exit status, where that says more than an error.
    ///
    /// # Errors
    /// The command's own, as a chain for people.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Node(args) => node::run(*args)?,
            Command::Inventory(args) => inventory::run(&args)?,
            Command::Doctor(args) => return doctor::run(&args),
            Command::Demo(args) => return demo::run(&args),
            Command::Pause => crate::demo::pod::pause()?,
            Command::Hook(args) => hook::run(args)?,
            Command::Explain(args) => return Ok(explain::run(&args)),
            Command::Check(args) => return Ok(check::run(&args)),
            Command::Schema(args) => schema::run(&args)?,
            Command::Image(args) => image::run(&args)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
