//! `sriov-dra node`: flags to configuration.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::app::{NodeConfig, Places, run_node};
use crate::device::is_subdomain;
use crate::observe::{self, LogFormat};
use crate::policy::cel::Selector;
use crate::policy::{Rails, Rules};

/// How VFs get into pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Attach {
    /// When the runtime tells of the pod's sandbox (NRI), and in a hook before each container should that fail
    #[default]
    Nri,
    /// In the hook alone, for runtimes without NRI: a VF comes with the first container that uses its claim, and a
    /// default interface name that is taken in the pod is an error
    Hook,
}

impl Attach {
    fn attribute(self) -> &'static str {
        match self {
            Self::Nri => "nri",
            Self::Hook => "hook",
        }
    }
}

/// What is offered, and from where: shared by every command that looks at the node.
#[derive(Debug, Clone, clap::Args)]
pub struct SourceArgs {
    /// Driver name: the domain of attributes, the name of sockets and folders
    #[arg(long, env = "DRIVER_NAME", default_value = crate::DEFAULT_DRIVER_NAME)]
    pub driver_name: String,
    /// The kubelet's root directory; sockets and durable state are below its plugins/ and plugins_registry/
    #[arg(long, env = "KUBELET_DIR", default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub kubelet_dir: PathBuf,
    /// Where sysfs is
    #[arg(long, env = "SYSFS_ROOT", default_value = "/sys", value_name = "DIR")]
    pub sysfs_root: PathBuf,
    /// Offer only VFs for which this CEL expression over the published attributes is true, for example
    /// 'device.attributes["sriov-dra.io"].pfName == "ens1f0"'
    #[arg(long, env = "DEVICES", value_name = "CEL")]
    pub devices: Option<String>,
    /// How VFs get into pods on this node; published as the attribute attach
    #[arg(long, env = "ATTACH", value_enum, default_value_t)]
    pub attach: Attach,
    /// On which rail a PF is, published as the attribute rail: ens1f0=1,ens1f1=2 says it of ports by name or PCI address;
    /// what a name begins with and then n in braces, as in README.md, takes the number there
    #[arg(long, env = "RAILS", value_name = "RULES", default_value = "")]
    pub rails: String,
}

impl SourceArgs {
    /// Checks names and expressions.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn rules(&self) -> anyhow::Result<Rules> {
        let name = &self.driver_name;
        if name.len() > 63 || !is_subdomain(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            bail!(
                "--driver-name {name:?} is not a driver name: a DNS name such as sriov-dra.io, at most 63 characters, starting with a letter"
            );
        }
        let devices =
            self.devices.as_deref().filter(|text| !text.trim().is_empty()).map(Selector::compile).transpose();
        let devices = devices.context("--devices is not a CEL expression")?;
        let rails = Rails::parse(&self.rails).context("--rails can't be read")?;
        Ok(Rules {
            driver_name: name.clone(),
            devices,
            attach: Some(self.attach.attribute().to_owned()),
            rails,
        })
    }
}

/// Flags of the agent; each has an environment twin.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// Name of this node's Node object; its pool of devices is called the same
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// What is offered
    #[command(flatten)]
    pub source: SourceArgs,
    /// State that is void after a reboot [default: /run/DRIVER_NAME]
    #[arg(long, env = "RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where CDI specs are written
    #[arg(long, env = "CDI_DIR", default_value = "/var/run/cdi", value_name = "DIR")]
    pub cdi_dir: PathBuf,
    /// The container runtime's NRI socket
    #[arg(long, env = "NRI_SOCKET", default_value = "/var/run/nri/nri.sock", value_name = "FILE")]
    pub nri_socket: PathBuf,
    /// Place among the runtime's NRI plugins, two digits
    #[arg(long, env = "NRI_INDEX", default_value = "50", value_name = "NN")]
    pub nri_index: String,
    /// How to reach the API server; inside a pod its service account is used
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// UID of the agent's own pod: gives each instance its own sockets, so that one can take over from another
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// How log lines look
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or a filter such as sriov_dra=debug,kube=info
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When something is missing that nothing can work without.
pub fn run(args: NodeArgs) -> anyhow::Result<()> {
    let NodeArgs {
        node_name,
        source,
        run_dir,
        cdi_dir,
        nri_socket,
        nri_index,
        kubeconfig,
        pod_uid,
        log_format,
        log_level,
    } = args;
    observe::start(log_format, &log_level)?;
    if node_name.is_empty() {
        bail!("--node-name (NODE_NAME) is empty: it has to be the name of this node's Node object");
    }
    let rules = Arc::new(source.rules()?);
    let SourceArgs { driver_name, kubelet_dir, sysfs_root, devices: _, attach, rails: _ } = source;
    let places = Places {
        run_dir: run_dir.unwrap_or_else(|| PathBuf::from("/run").join(&driver_name)),
        driver_name,
        kubelet_dir,
        cdi_dir,
        sysfs_root,
    };
    let config = NodeConfig {
        node_name,
        places,
        nri: (attach == Attach::Nri).then_some((nri_socket, nri_index)),
        kubeconfig: kubeconfig.filter(|path| !path.as_os_str().is_empty()),
        pod_uid: pod_uid.filter(|uid| !uid.is_empty()),
        rules,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(128)
        .enable_all()
        .build()
        .context("the async runtime can't be started")?;
    let done = runtime.block_on(run_node(config));
    // Work that still blocks has been told about; nobody waits for it.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}
