//! Stories of pods that get VFs, on two grounds.
//!
//! **A real Kubernetes**: a control plane, a kubelet and containerd of the folder that [`ASSETS_ENV`] names, the
//! DaemonSet of `manifests/` on them. It is started in network, mount and PID namespaces of its own (`outside`,
//! `inside`). There every path and port may be the usual one, so that the manifests need no change but where sysfs is;
//! the machine's own interfaces, kubelet and containerd are neither seen nor touched; and with the end of the process
//! inside everything it started is gone.
//!
//! **The embedded API server** with stand-ins for everything but the agent (`beside`, `standins`): any Linux machine, a
//! few seconds. What holds on the real one has to hold here; where it does not, `src/demo/apiserver` is wrong.
//!
//! VFs are simulated on both: a sysfs tree, and veth pairs as netdevs (`sim`). Real ones are the guest suite's.
//!
//! A story is an async function that asserts end states, and is the same on both grounds; `stories/mod.rs` says which
//! are for the real one only, and why. After each one the node must be as before it: every VF on the host with its name,
//! address and MTU, and no file left (`lab`).
//!
//! `./test cluster` and `./test namespaces` call it. By hand:
//!
//!     KUBE_ASSETS=DIR cargo test --test cluster -- kubelet      both grounds
//!     cargo test --test cluster -- --stand-ins kubelet          the second

mod api;
mod apply;
mod assets;
mod beside;
#[path = "../lab/busybox.rs"]
mod busybox;
#[path = "../parameters/cases.rs"]
mod cases;
mod containerd;
mod inside;
mod lab;
mod next;
mod node;
mod outside;
mod plane;
mod pods;
mod process;
mod real;
mod runtime;
mod sim;
mod stages;
mod standins;
mod stories;
mod told;

use std::process::ExitCode;

use assets::Assets;

/// A folder with the binaries of Kubernetes, and those of containerd, runc and CNI plugins where the machine has none.
const ASSETS_ENV: &str = "KUBE_ASSETS";
/// Set inside: the folder for logs.
const INSIDE_ENV: &str = "SRIOV_DRA_CLUSTER_LOGS";
/// Only the ground without Kubernetes.
const STAND_INS: &str = "--stand-ins";
/// Only the real one.
const REAL: &str = "--real";

fn main() -> ExitCode {
    if let Some(code) = next::played() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--list") {
        for story in stories::ALL {
            println!("{}: test", story.name);
        }
        return ExitCode::SUCCESS;
    }
    let assets = Assets::find();
    // For ./test: nothing, or why there is nothing to run on the real ground.
    if has("--why-not") {
        print!("{}", assets.err().unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let filter: Vec<String> = arguments.iter().filter(|a| !a.starts_with('-')).cloned().collect();
    if let (Some(logs), Ok(assets)) = (std::env::var_os(INSIDE_ENV), &assets) {
        return said(inside::run(assets, logs.as_ref(), &filter));
    }
    let mut codes = Vec::new();
    if !has(STAND_INS) {
        codes.push(match assets {
            Ok(_) => said(outside::run(&filter)),
            Err(reason) => {
                println!("cluster: skipped: {reason}");
                println!("test result: ok. 0 passed; 0 failed; {} ignored", stories::ALL.len());
                ExitCode::SUCCESS
            }
        });
    }
    if !has(REAL) {
        codes.push(said(beside::run(&filter)));
    }
    codes.into_iter().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
}

fn said(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        println!("cluster: {error:#}");
        ExitCode::FAILURE
    })
}
