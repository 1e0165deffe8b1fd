//! `sriov-dra hook`: what a container runtime runs before a container of a claim starts.

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;

use crate::app::{Places, run_hook};

/// More than any container's state has; what is longer is no state.
const MOST: u64 = 4 << 20;

/// Flags of the hook. CDI files name them all; a flag that is taken away would stop the pods of older files.
#[derive(Debug, Clone, clap::Args)]
pub struct HookArgs {
    /// UID of the claim whose VFs the container is to find
    #[arg(long, value_name = "UID")]
    pub claim_uid: String,
    /// Driver name
    #[arg(long, default_value = crate::DEFAULT_DRIVER_NAME)]
    pub driver_name: String,
    /// The kubelet's root directory
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub kubelet_dir: PathBuf,
    /// State that is void after a reboot [default: /run/DRIVER_NAME]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where CDI specs are written
    #[arg(long, default_value = "/var/run/cdi", value_name = "DIR")]
    pub cdi_dir: PathBuf,
    /// Where sysfs is
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    pub sysfs_root: PathBuf,
}

/// Reads the container's state from standard input and guards its claim.
///
/// # Errors
/// Why the container must not start.
pub fn run(args: HookArgs) -> anyhow::Result<()> {
    let HookArgs { claim_uid, driver_name, kubelet_dir, run_dir, cdi_dir, sysfs_root } = args;
    let run_dir = run_dir.unwrap_or_else(|| PathBuf::from("/run").join(&driver_name));
    let places = Places { driver_name, kubelet_dir, run_dir, cdi_dir, sysfs_root };
    let mut state = String::new();
    std::io::stdin()
        .take(MOST)
        .read_to_string(&mut state)
        .context("the container's state can't be read from standard input")?;
    run_hook(&places, &claim_uid, &state)
}
