//! `sriov-dra hook`: what a container runtime runs before a container of a claim starts.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

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

/// Arguments of the hook without flags of later versions: after `kubectl rollout undo` an older hook is named by the CDI
/// files of a newer agent, and their containers must start all the same. CDI files have every flag as `--name=value`.
pub fn without_later_flags(arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_none_or(|command| command != "hook") {
        return arguments;
    }
    let hook = HookArgs::augment_args(clap::Command::new("hook"));
    let known = |name: &str| {
        matches!(name, "help" | "version") || hook.get_arguments().any(|a| a.get_long() == Some(name))
    };
    let is_known = |argument: &OsString| {
        let flag = argument.to_str().and_then(|text| text.strip_prefix("--")?.split_once('='));
        flag.is_none_or(|(name, _)| known(name))
    };
    arguments.into_iter().filter(is_known).collect()
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let all = ["sriov-dra", "hook"].iter().chain(arguments).map(OsString::from).collect();
        Cli::try_parse_from(without_later_flags(all))
    }

    #[test]
    fn flags_of_later_versions_are_passed_over_wherever_they_stand() {
        for arguments in [
            &["--kubelet-dir=/k", "--claim-uid=c1"][..],
            &["--later=1", "--kubelet-dir=/k", "--claim-uid=c1"],
            &["--kubelet-dir=/k", "--claim-uid=c1", "--later=--claim-uid=c2"],
        ] {
            let Command::Hook(hook) = parse(arguments).unwrap().command else { panic!("{arguments:?}") };
            assert_eq!(
                (hook.claim_uid.as_str(), hook.kubelet_dir.to_str()),
                ("c1", Some("/k")),
                "{arguments:?}"
            );
        }
        assert!(parse(&["--later=1"]).is_err(), "without a claim there is nothing to guard");
        let other: Vec<OsString> = ["sriov-dra", "node", "--later=1"].map(OsString::from).to_vec();
        assert_eq!(without_later_flags(other.clone()), other, "people who mistype are told");
    }
}
