//! Stories on a real Kubernetes: a control plane, a kubelet and containerd of the folder that [`ASSETS_ENV`] names, the
//! DaemonSet of `manifests/` on them, and pods of `examples/` that get VFs.
//!
//! One executable, two halves. The first looks for what is needed and starts the second in network, mount and PID
//! namespaces of its own (`outside`). There every path and port may be the usual one, so that the manifests need no
//! change but where sysfs is; the machine's own interfaces, kubelet and containerd are neither seen nor touched; and
//! with the second half's end everything it started is gone. VFs are simulated: a sysfs tree, and veth pairs as netdevs
//! (`sim`). Real ones are the guest suite's.
//!
//! A story is an async function that asserts end states. After each one the node must be as before it: every VF on the
//! host with its name, address and MTU, and no file left (`lab`).
//!
//! `./test cluster` calls it. By hand: `KUBE_ASSETS=DIR cargo test --test cluster -- kubelet`

mod api;
mod apply;
mod assets;
#[path = "../lab/busybox.rs"]
mod busybox;
mod inside;
mod lab;
mod node;
mod outside;
mod plane;
mod pods;
mod process;
mod runtime;
mod sim;
mod stories;

use std::process::ExitCode;

use assets::Assets;

/// A folder with the binaries of Kubernetes, and those of containerd, runc and CNI plugins where the machine has none.
const ASSETS_ENV: &str = "KUBE_ASSETS";
/// Set inside: the folder for logs.
const INSIDE_ENV: &str = "SRIOV_DRA_CLUSTER_LOGS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--list") {
        for story in stories::ALL {
            println!("{}: test", story.name);
        }
        return ExitCode::SUCCESS;
    }
    let assets = Assets::find();
    // For ./test: nothing, or why there is nothing to run.
    if has("--why-not") {
        print!("{}", assets.err().unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let assets = match assets {
        Ok(assets) => assets,
        Err(reason) => {
            println!("cluster: skipped: {reason}");
            println!("test result: ok. 0 passed; 0 failed; {} ignored", stories::ALL.len());
            return ExitCode::SUCCESS;
        }
    };
    let filter: Vec<String> = arguments.into_iter().filter(|a| !a.starts_with('-')).collect();
    let done = match std::env::var_os(INSIDE_ENV) {
        Some(logs) => inside::run(assets, logs.as_ref(), &filter),
        None => outside::run(&filter),
    };
    done.unwrap_or_else(|error| {
        println!("cluster: {error:#}");
        ExitCode::FAILURE
    })
}
