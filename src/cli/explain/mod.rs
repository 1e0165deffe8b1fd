//! `sriov-dra explain`: which devices a claim would get and why, or why it gets none.
//!
//! The claim comes from a file; devices from a cluster, a file of slices, or this machine. `pods` knows which
//! claims a pod has; `plan` asks the allocator, `render` prints.

mod plan;
mod pods;
mod render;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::documents::Documents;
use super::node::SourceArgs;
use crate::app::{Supply, read_cluster, read_machine};
use crate::observe::wants_colour;
pub use plan::{Answer, Given, Origin, Subject, answer};
pub use pods::{PodClaim, Source, claims_of, pod_name, template_spec};
pub use render::{render_json, render_text};

/// Shape of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; fields are added, never renamed.
    Json,
}

/// Arguments of `sriov-dra explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// ResourceClaims, ResourceClaimTemplates, Pods that use them, DeviceClasses; - is standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Take devices from this file of ResourceSlices, as kubectl get resourceslices -o yaml writes it; ResourceClaims
    /// and DeviceClasses in it are the cluster's
    #[arg(long, value_name = "FILE", conflicts_with = "kubeconfig")]
    pub slices: Option<PathBuf>,
    /// Take devices, classes and claims from this cluster; without this and --slices, devices are this machine's own
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Look at this node only; this machine's own name is its host name unless this says otherwise
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Which driver, and this machine's devices
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Runs the command. Status 0: everything can be allocated; 1: something can't; 2: the question is wrong.
pub fn run(args: &ExplainArgs) -> ExitCode {
    match question(args).and_then(|(given, driver)| print(&answer(&given, &driver)?, args.output)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            ExitCode::from(super::BAD_INPUT)
        }
    }
}

/// Reads everything.
fn question(args: &ExplainArgs) -> anyhow::Result<(Given, String)> {
    let ExplainArgs { files, slices, kubeconfig, node, output: _, source } = args;
    let rules = source.rules()?;
    let driver = source.driver_name.clone();
    let mut asked = Documents::default();
    for file in files {
        asked.read(file, &driver)?;
    }
    let (supply, from) = match (slices, kubeconfig) {
        (Some(file), _) => {
            let mut there = Documents::default();
            there.read(file, &driver)?;
            if !there.faults.is_empty() {
                bail!("{}", there.sentences());
            }
            let Documents { slices, classes, claims, templates, .. } = there;
            if slices.is_empty() {
                bail!(
                    "{} has no ResourceSlice in it, so there is no device; --slices takes a file as kubectl get \
                     resourceslices -o yaml writes it where a driver publishes some",
                    file.display()
                );
            }
            (Supply { slices, classes, claims, templates, ..Supply::default() }, Origin::File(file.clone()))
        }
        (None, Some(kubeconfig)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let supply =
                runtime.context("the async runtime can't be started")?.block_on(read_cluster(kubeconfig))?;
            (supply, Origin::Cluster)
        }
        (None, None) => {
            let name = match node {
                Some(name) => name.clone(),
                None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                    .context("this machine's name can't be read; give it with --node")?
                    .trim()
                    .to_owned(),
            };
            let durable = source.kubelet_dir.join("plugins").join(&driver);
            (read_machine(&source.sysfs_root, &durable, rules, &name)?, Origin::Machine)
        }
    };
    Ok((Given { asked, supply, from, node: node.clone() }, driver))
}

fn print(answer: &Answer, format: Format) -> anyhow::Result<bool> {
    let text = match format {
        Format::Text => render_text(answer, wants_colour(&std::io::stdout())),
        Format::Json => render_json(answer)?,
    };
    super::print(&text)?;
    Ok(answer.allocatable)
}
