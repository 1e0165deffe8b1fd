//! Parses the command line, runs one command, prints the error chain.

use std::process::ExitCode;

use clap::Parser;
use sriov_dra::cli::{Cli, hook};

fn main() -> ExitCode {
    let arguments = hook::without_later_flags(std::env::args_os().collect());
    match Cli::parse_from(arguments).run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            ExitCode::FAILURE
        }
    }
}
