//! Stories on real SR-IOV: a QEMU guest with `igb` PFs, real containerd and runc, the agent as users run it.
//!
//! One executable, two halves. On the machine it boots a guest for each shape of hardware (`lab`) and hands itself and
//! the `sriov-dra` binary in over a shared folder; in the guest, told so by [`GUEST_ENV`], it runs the stories of that
//! shape one after another and writes a line for each to the share. A story is an async function that asserts end
//! states with witnesses of its own (`ip`, `ping`, sysfs, containerd). What a story needs done by a process of its own,
//! in a container or under strace, is a third call of the same executable (`tools`).
//!
//! `./test guest` calls it. By hand, with the image made by `tests/guest/build`:
//! `SRIOV_DRA_GUEST_IMAGE=$(tests/guest/build) cargo test --test guest -- two_pods`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod api;
#[path = "../lab/busybox.rs"]
mod busybox;
mod containerd;
#[path = "../lab/curves.rs"]
mod curves;
#[path = "../lab/held.rs"]
mod held;
mod host;
mod igb;
mod inside;
mod kubelet;
mod lab;
#[allow(dead_code, reason = "tests/chaos uses the rest")]
#[path = "../chaos/mod.rs"]
mod life;
mod node;
mod release;
mod stories;
mod suite;
mod tools;
#[path = "../lab/watch.rs"]
mod watch;

use std::process::ExitCode;

/// Set in the guest: the stories to run, separated by commas.
const GUEST_ENV: &str = "SRIOV_DRA_GUEST_STORIES";
/// Set on the machine: the folder `tests/guest/build` printed.
const IMAGE_ENV: &str = "SRIOV_DRA_GUEST_IMAGE";
/// Set on the machine: the agent, if it shall not be the one that cargo built for tests.
const AGENT_ENV: &str = "SRIOV_DRA_GUEST_AGENT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = tools::run(&arguments) {
        return code;
    }
    if let Ok(stories) = std::env::var(GUEST_ENV) {
        return inside::run(&stories);
    }
    if arguments.iter().any(|a| a == "--list") {
        for story in stories::ALL {
            println!("{}: test", story.name);
        }
        return ExitCode::SUCCESS;
    }
    let Ok(image) = std::env::var(IMAGE_ENV) else {
        println!(
            "guest: skipped: {IMAGE_ENV} is not set; run ./test guest, which makes the image and sets it"
        );
        return ExitCode::SUCCESS;
    };
    let filter: Vec<String> = arguments.into_iter().filter(|a| !a.starts_with('-')).collect();
    match suite::run(image.as_ref(), &filter) {
        Ok(code) => code,
        Err(error) => {
            println!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
