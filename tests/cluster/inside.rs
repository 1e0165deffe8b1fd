//! The second half: makes the namespaces a machine, starts a cluster on it, tells the stories.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::assets::Assets;
use crate::containerd;
use crate::lab::Lab;
use crate::outside::LEFT;
use crate::plane::SERVICE_ADDRESS;
use crate::process::run as run_program;
use crate::told::{tell, wanted};

/// Everything that has no usual path; in memory.
const FOLDER: &str = "/run/lab";
/// The kubelet writes these, and they are in no namespace.
const SYSCTLS: [&str; 5] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Tells the stories whose names contain one of the filters (no filter: all).
///
/// # Errors
/// When the cluster does not start.
pub fn run(assets: &Assets, logs: &Path, filter: &[String]) -> Result<ExitCode> {
    let stories = wanted(filter);
    settle().context("the machine for the cluster can't be made")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let told = runtime.block_on(async {
        let lab = Lab::on_kubernetes(assets, Path::new(FOLDER), logs);
        tell(lab, &stories, |_| None).await
    });
    fs::write(logs.join(LEFT), containerd::left().join("\n"))?;
    told
}

/// The usual places become this suite's own; what was there stays as it is, for everybody else.
fn settle() -> Result<()> {
    let tmpfs = |target: &str| {
        let none: Option<&str> = None;
        mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), none)
            .with_context(|| format!("tmpfs on {target}"))
    };
    let bind = |from: &Path, to: &str| {
        let none: Option<&str> = None;
        mount(Some(from), to, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("{} on {to}", from.display()))
    };
    tmpfs("/run")?;
    if fs::canonicalize("/var/run")? != Path::new("/run") {
        bind(Path::new("/run"), "/var/run")?;
    }
    tmpfs("/var/log")?;
    let folder = Path::new(FOLDER);
    for name in ["upper", "work", "kubelet", "sysctl"] {
        fs::create_dir_all(folder.join(name))?;
    }
    // The kubelet's folder need not exist here, and shall not come to exist.
    let options = format!("lowerdir=/var/lib,upperdir={FOLDER}/upper,workdir={FOLDER}/work");
    mount(Some("overlay"), "/var/lib", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("overlay on /var/lib")?;
    fs::create_dir_all("/var/lib/kubelet")?;
    bind(&folder.join("kubelet"), "/var/lib/kubelet")?;
    // A file system of their own: the kubelet looks its folders up by their device.
    tmpfs(&format!("{FOLDER}/sysctl"))?;
    for sysctl in SYSCTLS {
        let (real, copy) =
            (Path::new("/proc/sys").join(sysctl), folder.join("sysctl").join(sysctl.replace('/', ".")));
        fs::write(&copy, fs::read(&real)?)?;
        bind(&copy, &real.display().to_string())?;
    }
    // As on a machine with systemd: pods can ask for mounts that come later.
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    run_program("ip", &["link", "set", "lo", "up"])?;
    run_program("ip", &["address", "add", &format!("{SERVICE_ADDRESS}/32"), "dev", "lo"])?;
    Ok(())
}
