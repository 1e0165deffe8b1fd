//! Logging: one line per outcome, fixed keys (`claim`, `pod`, `vf`, `pf`), text for people or JSON for machines.
//!
//! In: format and level. Out: lines on standard error. Never here: what is worth a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A log level or filter nobody understands.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level {given:?} is no level (error, warn, info, debug, trace) and no filter such as sriov_dra=debug,kube=info: {source}"
)]
pub struct BadLevel {
    given: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When `level` is neither a level nor a filter.
pub fn start(format: LogFormat, level: &str) -> Result<(), BadLevel> {
    let filter = EnvFilter::try_new(level).map_err(|source| BadLevel { given: level.to_owned(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}
