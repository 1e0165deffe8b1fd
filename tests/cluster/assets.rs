//! The binaries: those of Kubernetes from one folder, the others from there or from the machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{ASSETS_ENV, busybox};

/// What only the folder may hold: versions must fit each other.
const KUBERNETES: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet"];
/// What the machine may have as well.
const OTHERS: [&str; 6] = ["containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "unshare"];
/// CNI plugins for pods' own interfaces.
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Assets {
    folder: PathBuf,
    /// CNI plugins.
    pub cni: PathBuf,
}

impl Assets {
    /// Looks for all of it.
    ///
    /// # Errors
    /// One sentence: what is missing.
    pub fn find() -> Result<Self, String> {
        let Some(folder) = std::env::var_os(ASSETS_ENV).filter(|folder| !folder.is_empty()) else {
            return Err(format!(
                "{ASSETS_ENV} is not set (a folder with {}, and containerd and runc where the machine has none)",
                KUBERNETES.join(", ")
            ));
        };
        let folder = std::path::absolute(&folder).map_err(|error| format!("{ASSETS_ENV}: {error}"))?;
        if let Some(missing) = KUBERNETES.iter().find(|name| !is_executable(&folder.join(name))) {
            return Err(format!("{ASSETS_ENV} has no executable {missing}"));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err("a kubelet runs as root only".to_owned());
        }
        let places = [folder.join("cni"), PathBuf::from("/usr/lib/cni"), PathBuf::from("/opt/cni/bin")];
        let cni =
            places.into_iter().find(|place| PLUGINS.iter().all(|name| is_executable(&place.join(name))));
        let Some(cni) = cni else {
            return Err(format!(
                "the CNI plugins {} are neither in {ASSETS_ENV}/cni nor in /usr/lib/cni",
                PLUGINS.join(", ")
            ));
        };
        let assets = Self { folder, cni };
        if let Some(missing) = OTHERS.iter().find(|name| assets.path(name).is_none()) {
            return Err(format!("{missing} is neither in {ASSETS_ENV} nor in PATH"));
        }
        if busybox::binary().is_none() {
            return Err("there is no static busybox (package busybox-static) to make an image of".to_owned());
        }
        assets.check_containerd()?;
        Ok(assets)
    }

    /// Configuration of version 3, CDI and NRI without further ado came with 2.0.
    fn check_containerd(&self) -> Result<(), String> {
        let said = self.command("containerd").arg("--version").output();
        let said = said.map_err(|error| format!("containerd --version: {error}"))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        // "containerd github.com/containerd/containerd/v2 v2.1.9 <commit>"
        let version = said.split_whitespace().nth(2).unwrap_or_default().trim_start_matches('v');
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        if major < 2 { Err(format!("containerd is {version}, and 2.0 or newer is needed")) } else { Ok(()) }
    }

    /// A binary of the folder, else of the machine.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let own = self.folder.join(name);
        if is_executable(&own) { Some(own) } else { in_path(name) }
    }

    /// A command that finds its helpers in the folder first, as containerd does its shim.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.path(name).unwrap_or_else(|| PathBuf::from(name)));
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
        let folders = std::iter::once(self.folder.clone()).chain(std::env::split_paths(&usual)).chain(system);
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
    }
}

/// A binary of the machine.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&usual).map(|folder| folder.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
