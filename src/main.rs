//! Parses the command line, runs one command, prints the error chain.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "sriov-dra", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the container image as an archive (OCI layout and Docker archive in one)
    Image(sriov_dra::cli::image::ImageArgs),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let done = match command {
        Command::Image(args) => sriov_dra::cli::image::run(&args).map_err(anyhow::Error::new),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            ExitCode::FAILURE
        }
    }
}
