//! The hook: its binary at one stable place on the host, and one run of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::functions::NodeFunctions;
use crate::attach::{Attacher, Outbox, hook};
use crate::host::Linux;
use crate::host::boot::boot_id;
use crate::host::sysfs::Sysfs;
use crate::policy::Rules;
use crate::prepare::cdi::HookCommand;
use crate::prepare::ledger::Ledger;
use crate::prepare::locks::Locks;
use crate::prepare::site::Site;

/// What one run may take: an agent may be at work on the same claim.
const BUDGET: Duration = Duration::from_secs(10);
/// When the runtime gives up; the hook has said its sentence before.
const TIMEOUT_S: i64 = 15;

/// Where the driver's folders are, for the agent and for the hook that it installs.
#[derive(Debug, Clone)]
pub struct Places {
    /// Driver name.
    pub driver_name: String,
    /// The kubelet's root directory.
    pub kubelet_dir: PathBuf,
    /// Boot-scoped state.
    pub run_dir: PathBuf,
    /// CDI specs.
    pub cdi_dir: PathBuf,
    /// sysfs, or a tree of its shape.
    pub sysfs_root: PathBuf,
}

impl Places {
    /// The durable store, sockets, the hook.
    pub fn plugin_dir(&self) -> PathBuf {
        self.kubelet_dir.join("plugins").join(&self.driver_name)
    }

    /// The hook as CDI files name it: with every place, so that it depends on no default of its version.
    fn hook(&self) -> HookCommand {
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        HookCommand {
            path: self.plugin_dir().join("bin/hook"),
            args: vec![
                format!("--driver-name={}", self.driver_name),
                option("kubelet-dir", &self.kubelet_dir),
                option("run-dir", &self.run_dir),
                option("cdi-dir", &self.cdi_dir),
                option("sysfs-root", &self.sysfs_root),
            ],
            timeout_s: TIMEOUT_S,
        }
    }
}

/// Puts this very binary where CDI files say the hook is. It is replaced by rename: a hook that runs goes on, and there
/// is never half a one. Without fsync: one that a power loss cut short lets no container start, and the next agent
/// finds that it differs.
///
/// # Errors
/// When it can't be written, or can't be run there.
pub(super) fn install(places: &Places) -> anyhow::Result<HookCommand> {
    let command = places.hook();
    let own = Path::new("/proc/self/exe");
    let shown = command.path.display();
    if !same_content(own, &command.path).unwrap_or(false) {
        let temporary = command.path.with_extension(format!("{}.tmp", std::process::id()));
        let installed = (|| {
            fs::create_dir_all(command.path.parent().unwrap_or(Path::new("/")))?;
            fs::copy(own, &temporary)?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
            fs::rename(&temporary, &command.path)
        })();
        if installed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        installed.with_context(|| format!("the hook can't be installed as {shown}"))?;
        tracing::info!(path = %shown, "hook installed");
    }
    let run = Command::new(&command.path).arg("--version").env_clear().output();
    match run {
        Ok(output) if output.status.success() => Ok(command),
        Ok(output) => bail!("the hook {shown} does not run: {}", output.status),
        Err(error) => {
            let error = anyhow::Error::new(error);
            Err(error.context(format!("the hook {shown} can't be run (is its file system mounted noexec?)")))
        }
    }
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() || other.metadata()?.permissions().mode() & 0o111 == 0
    {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(true);
        }
        let (left, right) =
            (left.get(..length).unwrap_or_default(), right.get_mut(..length).unwrap_or_default());
        other.read_exact(right)?;
        if left != right {
            return Ok(false);
        }
    }
}

/// One run of the hook for a container's state.
///
/// # Errors
/// One sentence why the container must not start.
pub fn run_hook(places: &Places, claim_uid: &str, state: &str) -> anyhow::Result<()> {
    let pid = hook::process_of(state)?;
    let cgroups = |who: &str| fs::read_to_string(format!("/proc/{who}/cgroup")).unwrap_or_default();
    let sandbox = hook::sandbox_of(state, &cgroups(&pid.to_string()), &cgroups("self"))?;
    let attacher = attacher(places)?;
    attacher.guard(&sandbox, claim_uid, Instant::now() + BUDGET).map_err(|error| {
        let (namespace, name) = (&sandbox.pod_namespace, &sandbox.pod_name);
        anyhow::anyhow!("pod {namespace}/{name} must not start without its VFs: {}", error.sentence())
    })
}

fn attacher(places: &Places) -> anyhow::Result<Attacher> {
    let kernel = Arc::new(Linux::new(&places.sysfs_root)?);
    let ledger = Ledger::open(places.plugin_dir(), &places.run_dir)?;
    let rules = Arc::new(Rules { driver_name: places.driver_name.clone(), devices: None, attach: None });
    let functions = NodeFunctions::new(Sysfs::at(&places.sysfs_root), kernel.clone(), rules, None);
    let (outbox, _) = Outbox::at(ledger.outbox_folder());
    let site = Site {
        kernel,
        functions: Arc::new(functions),
        locks: Locks::at(ledger.lock_folder()),
        ledger,
        driver: places.driver_name.clone(),
        cdi_dir: places.cdi_dir.clone(),
        hook: places.hook(),
        boot_id: boot_id()?,
    };
    Ok(Attacher { site, outbox })
}
