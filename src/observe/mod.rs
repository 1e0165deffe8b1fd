//! Logging: one line per outcome, fixed keys (`claim`, `pod`, `vf`, `pf`), text for people or JSON for machines.
//!
//! In: format and level. Out: lines on standard error. Never here: what is worth a line. Whether there may be colour is
//! said here for all that is printed.

use std::ffi::OsStr;
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
        LogFormat::Text => lines.with_ansi(wants_colour(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Whether what is written there may be coloured: it is a terminal, and nobody said otherwise.
pub fn wants_colour(stream: &impl IsTerminal) -> bool {
    is_coloured(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// <https://no-color.org>: any text but an empty one means no.
fn is_coloured(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_get_colour_and_no_color_takes_it_away_unless_it_is_empty() {
        let no_color = |text: &'static str| Some(OsStr::new(text));
        assert!(is_coloured(true, None) && is_coloured(true, no_color("")));
        assert!(!is_coloured(true, no_color("1")) && !is_coloured(true, no_color("0")));
        assert!(!is_coloured(false, None) && !is_coloured(false, no_color("")));
    }
}
