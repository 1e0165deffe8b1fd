//! Parses the command line, runs one command, prints the error chain.

use std::process::ExitCode;

use clap::Parser;
use sriov_dra::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            ExitCode::FAILURE
        }
    }
}
