//! Measures what `docs/performance.md` states aims for, and prints one table. `./bench` builds what it needs and calls
//! it; words after that choose sections (`discovery`, `allocator`, `prepare`, `attach`, `rails`, `fleet`, `agent`, `cycles`, `soak`).
//!
//! Nothing here can fail because something is slow: a slow machine gives other figures, not a red build.
#![allow(missing_docs)]

mod agent;
mod allocator;
mod attach;
mod bare;
mod cni;
#[path = "../../tests/lab/curves.rs"]
mod curves;
mod cycles;
mod discovery;
mod fleet;
#[path = "../../tests/lab/held.rs"]
mod held;
mod measure;
mod node;
mod prepare;
mod rails;
mod soak;
#[path = "../../tests/lab/watch.rs"]
mod watch;

use std::path::{Path, PathBuf};

use measure::Table;
use sriov_dra::demo::world::enter_private_namespaces;

/// Name of the variable that says which binary is the agent.
const BINARY: &str = "SRIOV_DRA_BENCH_BINARY";

/// Takes an hour: only for those who ask for it.
const SOAK: &str = "soak";

type Section = (&'static str, fn(&Path, &mut Table) -> anyhow::Result<()>);

const SECTIONS: [Section; 9] = [
    ("discovery", discovery::measure),
    ("allocator", allocator::measure),
    ("prepare", prepare::measure),
    ("attach", attach::measure),
    ("rails", rails::measure),
    ("fleet", fleet::measure),
    ("agent", agent::measure),
    ("cycles", cycles::measure),
    (SOAK, soak::measure),
];

fn main() -> anyhow::Result<()> {
    // Before any thread: see there.
    enter_private_namespaces()?;
    let binary = match std::env::var_os(BINARY) {
        Some(path) => PathBuf::from(path),
        None => {
            println!(
                "{BINARY} is not set: the agent is the one cargo built for tests, with the doubles in it"
            );
            PathBuf::from(env!("CARGO_BIN_EXE_sriov-dra"))
        }
    };
    // cargo passes --bench to every target.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = words.iter().find(|word| SECTIONS.iter().all(|(name, _)| name != word)) {
        let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("there is no section {unknown}; there are {}", known.join(", "));
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
    let mut table = Table::default();
    for (name, section) in SECTIONS {
        if words.is_empty() && name != SOAK || words.iter().any(|word| word == name) {
            println!("--- {name}");
            section(&binary, &mut table)?;
        }
    }
    println!("\n{table}");
    Ok(())
}
