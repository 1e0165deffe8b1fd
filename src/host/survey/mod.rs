//! One look at a whole node: what its kernel, files and processes say of it beside PFs and VFs.
//!
//! In: where `/sys`, `/proc` and the node's own files are, as values, so that trees in a folder serve as well. Out: a
//! [`Survey`] of facts; what can't be read is absent. It changes nothing and takes no privilege. Never here: what is good or
//! bad about a fact (`doctor`).

mod files;
mod kernel;
mod processes;
mod services;

use std::fs;
use std::path::{Path, PathBuf};

pub use files::NodeFiles;
pub use kernel::{Gpu, Iommu, Kernel, Modules, RdmaOption, gpus};
pub use processes::{Memlock, Process, capabilities};
pub use services::{Checkpoint, HookFile, RuntimeConfig, Services};

/// Where to look.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`, best with the node's processes in it.
    pub proc: PathBuf,
    /// The node's `/`; `None` where it can't be reached from here.
    pub files: Option<PathBuf>,
    /// `/dev/kmsg`
    pub kernel_log: PathBuf,
    /// The kubelet's root directory, as the node names it.
    pub kubelet_dir: PathBuf,
    /// The driver's name.
    pub driver: String,
}

impl Roots {
    /// Those of the machine that this process runs on. In a pod with the host's process IDs, process 1 has the node's files;
    /// a container's own files are no node's.
    pub fn of_this_machine(sys: PathBuf, kubelet_dir: PathBuf, driver: String) -> Self {
        let is_node = |root: &Path| fs::metadata(root.join("usr")).is_ok_and(|usr| usr.is_dir());
        let candidates = ["/proc/1/root", "/"].map(PathBuf::from);
        let files = candidates.into_iter().find(|root| is_node(root));
        Self { sys, proc: "/proc".into(), files, kernel_log: "/dev/kmsg".into(), kubelet_dir, driver }
    }

    /// A path of the node as a path of this process; without the node's files, and where only root may follow links, the
    /// path itself below the root.
    pub fn node_path(&self, path: &Path) -> PathBuf {
        let Some(root) = &self.files else { return path.to_owned() };
        let below = NodeFiles::at(root).path(path);
        below.unwrap_or_else(|_| root.join(path.strip_prefix("/").unwrap_or(path)))
    }
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Kernel and machine.
    pub kernel: Kernel,
    /// Kernel modules.
    pub modules: Modules,
    /// GPUs, by address.
    pub gpus: Vec<Gpu>,
    /// What was set for RDMA namespaces at boot, by file.
    pub rdma_options: Vec<RdmaOption>,
    /// Lines of the kernel's log about VFs that could not be made; `None` when the log can't be read.
    pub refused_vfs: Option<Vec<String>>,
    /// Kubelet, runtime, other device plugins.
    pub services: Services,
    /// Mounts of the node (proc(5), mountinfo).
    pub mounts: Option<String>,
    /// Programs that a mend may name.
    pub programs: Vec<&'static str>,
    /// The node's own files could be looked at.
    pub sees_files: bool,
    /// Processes of other users could be seen.
    pub sees_processes: bool,
}

/// Programs that set kernel parameters or make initial RAM disks, of which a distribution has some.
const PROGRAMS: [&str; 4] = ["grubby", "update-grub", "dracut", "update-initramfs"];
/// Folders of programs for administrators.
const FOLDERS: [&str; 3] = ["usr/sbin", "usr/bin", "sbin"];

/// Looks at everything once.
pub fn take(roots: &Roots) -> Survey {
    // Without the node's files, lookups go into an empty place and find nothing.
    let files = NodeFiles::at(roots.files.clone().unwrap_or_else(|| PathBuf::from("/dev/null")));
    let mountinfo = |process: &str| fs::read_to_string(roots.proc.join(process).join("mountinfo")).ok();
    let has = |program: &&str| FOLDERS.iter().any(|folder| files.has(Path::new(folder).join(program)));
    let kernel = Kernel::read(&roots.sys, &roots.proc);
    Survey {
        modules: Modules::read(&roots.sys, &roots.proc, &files, &kernel.release),
        gpus: kernel::gpus(&roots.sys),
        rdma_options: kernel::rdma_options(&files, &kernel.command_line),
        refused_vfs: kernel::refused_vfs(&roots.kernel_log),
        services: Services::read(roots, &files),
        // Others' mounts only root may see; without files of process 1, this process is no pod's.
        mounts: mountinfo("1")
            .or_else(|| mountinfo("self").filter(|_| roots.files.as_deref() == Some(Path::new("/")))),
        programs: PROGRAMS.into_iter().filter(has).collect(),
        sees_files: roots.files.is_some(),
        sees_processes: sees_kernel_threads(&roots.proc),
        kernel,
    }
}

/// Whether `/proc` has the node's processes and not a container's own: kernel threads live in the first PID namespace
/// only, and process 2 is the first of them.
fn sees_kernel_threads(proc: &Path) -> bool {
    fs::read_to_string(proc.join("2/comm")).is_ok_and(|name| name.trim() == "kthreadd")
}
