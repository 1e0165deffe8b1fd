//! The hook: its binary at one stable place on the host, and one run of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::functions::NodeFunctions;
use crate::attach::bundle::Bundle;
use crate::attach::{AttachError, Attacher, Outbox, PodSandbox, hook};
use crate::device::MemlockRoom;
use crate::host::Linux;
use crate::host::age::is_older;
use crate::host::boot::boot_id;
use crate::host::limits;
use crate::host::sysfs::Sysfs;
use crate::policy::Rules;
use crate::prepare::cdi::HookCommand;
use crate::prepare::ledger::Ledger;
use crate::prepare::locks::Locks;
use crate::prepare::rdma::Limit;
use crate::prepare::site::Site;

/// What one run may take: an agent may be at work on the same claim.
const BUDGET: Duration = Duration::from_secs(10);
/// When the runtime gives up; the hook has said its sentence before.
const TIMEOUT_S: i64 = 15;
/// Where the node's system log listens (syslog(3); systemd-journald and rsyslog alike).
const SYSTEM_LOG: &str = "/dev/log";

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
/// is never half a one, nor an empty one after a loss of power: crun starts hooks with `execvpe(3)`, which hands a file
/// that is no program to the shell, and an empty script lets every container start.
///
/// # Errors
/// When it can't be written, or can't be run there.
pub(super) fn install(places: &Places) -> anyhow::Result<HookCommand> {
    let command = places.hook();
    let own = Path::new("/proc/self/exe");
    let shown = command.path.display();
    if !same_content(own, &command.path).unwrap_or(false) {
        put(own, &command.path).with_context(|| format!("the hook can't be installed as {shown}"))?;
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

fn put(own: &Path, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(folder)?;
    remove_half_copies(folder);
    let copied = (|| {
        fs::copy(own, &temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}

/// Left of agents that were killed while they copied; a copy takes a second, and another agent may be at it.
fn remove_half_copies(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "tmp") && is_older(&path, Duration::from_secs(60))
        {
            let _ = fs::remove_file(path);
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

/// One run of the hook for a container's state. Why the container must not start goes to the node's system log too: a
/// runtime may throw away what a hook says (crun does by default).
///
/// # Errors
/// One sentence why the container must not start.
pub fn run_hook(places: &Places, claim_uid: &str, state: &str) -> anyhow::Result<()> {
    let done = guard(places, claim_uid, state);
    if let Err(error) = &done {
        let line = format!("claim {claim_uid}: {error:#}");
        // Where there is no system log there is nobody to tell; the runtime has its answer anyway.
        let _ = tell(Path::new(SYSTEM_LOG), &places.driver_name, &line);
    }
    done
}

/// One message of facility daemon, severity error, as syslog(3) sends it (RFC 3164 section 4.1.1: 3 * 8 + 3).
fn tell(log: &Path, driver: &str, line: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A log that is behind must not hold up the pod.
    socket.set_nonblocking(true)?;
    let message = format!("<27>{driver}-hook[{}]: {line}", std::process::id());
    socket.send_to(message.as_bytes(), log).map(drop)
}

fn guard(places: &Places, claim_uid: &str, state: &str) -> anyhow::Result<()> {
    // Whatever the runtime's is: the ledger is written here.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let pid = hook::process_of(state)?;
    let cgroups = |who: &str| fs::read_to_string(format!("/proc/{who}/cgroup")).unwrap_or_default();
    let sandbox = hook::sandbox_of(state, &cgroups(&pid.to_string()), &cgroups("self"))?;
    let attacher = attacher(places)?;
    let refused = |error: AttachError| {
        let (namespace, name) = (&sandbox.pod_namespace, &sandbox.pod_name);
        anyhow::anyhow!("pod {namespace}/{name} must not start without its VFs: {}", error.sentence())
    };
    attacher.guard(&sandbox, claim_uid, Instant::now() + BUDGET).map_err(refused)?;
    if !attacher.has_rdma(claim_uid).map_err(refused)? {
        return Ok(());
    }
    let config = hook::config_of(state)?;
    let shown = config.display();
    let text =
        fs::read_to_string(&config).with_context(|| format!("the container's {shown} can't be read"))?;
    let bundle = Bundle::parse(&text).with_context(|| format!("the container's {shown} can't be read"))?;
    let pod = PodSandbox::open(attacher.site.kernel.as_ref(), &sandbox).map_err(refused)?;
    let netns = pod.netns.as_ref().map(|(_, netns)| netns);
    match attacher.check_bundle(claim_uid, &bundle, netns).map_err(refused)? {
        Some(limit) => let_lock(pid, limit),
        None => Ok(()),
    }
}

/// Without NRI the main process alone is given its limit, and what it starts: the runtime sets none over it.
fn let_lock(pid: u32, limit: Limit) -> anyhow::Result<()> {
    let wanted = Some(limit.bytes).filter(|bytes| *bytes != u64::MAX);
    match limits::set_memlock(pid, wanted) {
        Ok(()) => Ok(()),
        Err(error) if limit.auto && error.errno() == Some(nix::libc::EPERM) => {
            let most = match limits::memlock_room(i32::try_from(std::process::id())?)? {
                MemlockRoom::Bytes(bytes) => Some(bytes),
                MemlockRoom::All => None,
            };
            Ok(limits::set_memlock(pid, most)?)
        }
        Err(error) => bail!(
            "rdma.memlock: the container runtime can't let the container lock that much memory ({}); start it with \
             LimitMEMLOCK=infinity (in its systemd unit), or set rdma.memlock to auto",
            error.sentence()
        ),
    }
}

fn attacher(places: &Places) -> anyhow::Result<Attacher> {
    let kernel = Arc::new(Linux::new(&places.sysfs_root)?);
    let ledger = Ledger::open(places.plugin_dir(), &places.run_dir)?;
    let rules = Arc::new(Rules {
        driver_name: places.driver_name.clone(),
        devices: None,
        attach: None,
        rails: Default::default(),
    });
    let functions = NodeFunctions::new(Sysfs::at(&places.sysfs_root), kernel.clone(), rules, None);
    let (outbox, _) = Outbox::at(ledger.outbox_folder());
    let site = Site {
        kernel,
        functions: Arc::new(functions),
        locks: Locks::at(ledger.lock_folder()),
        ledger,
        driver: places.driver_name.clone(),
        cdi_dir: places.cdi_dir.clone(),
        runtime: Default::default(),
        hook: places.hook(),
        boot_id: boot_id()?,
    };
    Ok(Attacher { site, outbox })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_put_in_place_whole_and_what_killed_agents_left_beside_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (own, path) = (dir.path().join("own"), dir.path().join("bin/hook"));
        fs::write(&own, "program").unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let (left, fresh) = (dir.path().join("bin/hook.7.tmp"), dir.path().join("bin/hook.8.tmp"));
        for (file, age_s) in [(&left, 3600), (&fresh, 0)] {
            let file = File::create(file).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        }
        put(&own, &path).unwrap();
        assert!(!left.exists());
        assert!(fresh.exists(), "another agent may be at it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(same_content(&own, &path).unwrap());
        fs::write(&own, "another").unwrap();
        assert!(!same_content(&own, &path).unwrap());
        put(&own, &path).unwrap();
        assert!(same_content(&own, &path).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("bin")).unwrap().count(), 2);
    }

    #[test]
    fn a_refusal_reaches_the_system_log_as_one_message_and_its_absence_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(tell(&path, "sriov-dra.io", "x").is_err(), "nobody listens");
        let log = UnixDatagram::bind(&path).unwrap();
        tell(&path, "sriov-dra.io", "claim c1: no VF").unwrap();
        let mut heard = [0; 200];
        let length = log.recv(&mut heard).unwrap();
        let heard = String::from_utf8_lossy(&heard[..length]).into_owned();
        assert_eq!(heard, format!("<27>sriov-dra.io-hook[{}]: claim c1: no VF", std::process::id()));
    }
}
