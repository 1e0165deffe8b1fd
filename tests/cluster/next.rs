//! The version after this one: another program, with another version, that writes into the ledger what this version does
//! not know ([`next_version`]). It is this very executable under another name, as an image or as the hook has it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};
use sriov_dra::cli::{Cli, hook};
use sriov_dra::prepare::next_version;

use crate::node::Node;

/// Its image.
pub const NEXT: &str = "localhost/sriov-dra:next";
/// What it says of itself.
pub const VERSION: &str = "next";

/// Runs as the agent or the hook, where that is what this process was started as.
pub fn played() -> Option<ExitCode> {
    let own = std::env::current_exe().ok()?;
    let is_the_suite = own.file_name()?.to_string_lossy().starts_with(concat!(env!("CARGO_CRATE_NAME"), "-"));
    (!is_the_suite).then(|| match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn run() -> Result<ExitCode> {
    next_version::play();
    let arguments = hook::without_later_flags(std::env::args_os().collect());
    let matches = Cli::command().version(VERSION).get_matches_from(arguments);
    Cli::from_arg_matches(&matches)?.run()
}

impl Node {
    /// Loads the next version's image.
    ///
    /// # Errors
    /// As [`add_agent`](Self::add_agent).
    pub fn add_next_version(&self) -> Result<()> {
        let own = std::env::current_exe().context("this executable")?;
        self.add_agent(NEXT, &own)
    }
}
