//! sysfs below a root path that is a value, so that a tree in a temporary folder serves as well as `/sys`.
//!
//! In: the root, PCI addresses. Out: [`Function`]s with the facts their files state, and the few writes that bind a
//! VF to a driver. A function that vanishes while it is read is left out; a fact that can't be read is absent. Running
//! out of files or memory is an error, since it would look like a node that lost its VFs. Never here: what the facts
//! mean together (`inventory`), caching.

mod bind;
mod dir;
mod function;
mod group;
mod netdev;
pub mod tree;
mod vfio;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::device::PciAddress;
pub use function::{Function, Kind, Sriov};
pub use netdev::FoundNetdev;

/// Threads that read functions; more gain nothing, the kernel's locks are shared.
const MOST_THREADS: usize = 4;
/// Functions below which a thread is not worth starting.
const LEAST_SHARE: usize = 64;

/// Handle on a sysfs mount. Cheap to clone; keeps nothing open.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
    proc: PathBuf,
}

/// What reading or writing sysfs can fail with; each names the thing and keeps the errno.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// The folder of PCI devices can't be listed.
    #[error(
        "can't list the PCI devices in {path}: {source} (is sysfs mounted at the folder given as --sysfs-root?)"
    )]
    List {
        /// The folder.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A file of a function can't be read for a reason that is not the function's.
    #[error("can't read {file} of PCI function {pci}: {source}")]
    Read {
        /// The function.
        pci: PciAddress,
        /// Path below the function's folder.
        file: String,
        /// The errno.
        source: io::Error,
    },
    /// The kernel refused a write.
    #[error("VF {pci}: can't {action}: writing {value:?} to {path} failed: {source}")]
    Write {
        /// The function.
        pci: PciAddress,
        /// What the write was for.
        action: String,
        /// What was written.
        value: String,
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The kernel took the writes, but the driver is not the wanted one.
    #[error(
        "VF {pci} is bound to {bound} instead of {wanted} (is the driver's module loaded? is drivers_autoprobe of the PF on? the kernel log says why a probe failed)"
    )]
    NotBound {
        /// The function.
        pci: PciAddress,
        /// `driver vfio-pci`, or `its network driver`.
        wanted: String,
        /// What is bound instead.
        bound: String,
    },
    /// A driver that is not there can't be bound.
    #[error(
        "VF {pci}: can't bind driver {driver}: {path} does not exist, so the driver's module is not loaded"
    )]
    NoDriver {
        /// The function.
        pci: PciAddress,
        /// The driver.
        driver: String,
        /// Its folder.
        path: PathBuf,
    },
}

impl Sysfs {
    /// sysfs at a folder, usually `/sys`. Processes are looked up in `/proc`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), proc: PathBuf::from("/proc") }
    }

    /// Looks processes up in another folder than `/proc`; only [`open_vfio`](Self::open_vfio) does.
    pub fn with_proc(self, proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), ..self }
    }

    /// The folder given to [`at`](Self::at).
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every PCI function of class 02 (network), by address.
    ///
    /// # Errors
    /// The folder can't be listed, or the process has no file descriptors or memory left. A machine with sysfs but
    /// without PCI has no functions; that is no error.
    pub fn functions(&self) -> Result<Vec<Function>, SysfsError> {
        let path = self.root.join("bus/pci/devices");
        let list = |source| SysfsError::List { path: path.clone(), source };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.join("bus").is_dir() => {
                return Ok(Vec::new());
            }
            Err(e) => return Err(list(e)),
        };
        let mut addresses = Vec::new();
        for entry in entries {
            let name = entry.map_err(list)?.file_name();
            addresses.extend(name.to_str().and_then(|name| name.parse::<PciAddress>().ok()));
        }
        addresses.sort_unstable();

        let devices = open_folder(&path).map_err(list)?;
        // Some seventy system calls for each VF, a millisecond for ten: nodes with a thousand VFs have idle cores.
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        let share = addresses.len().div_ceil(threads).max(LEAST_SHARE);
        let read = |share: &[PciAddress]| -> Result<Vec<Function>, SysfsError> {
            let read = share.iter().map(|pci| function::read(&devices, &path, *pci, None));
            read.filter_map(Result::transpose).collect()
        };
        std::thread::scope(|scope| {
            let mut shares = addresses.chunks(share);
            let own = shares.next().unwrap_or_default();
            let mut others = Vec::new();
            for share in shares {
                let reader = std::thread::Builder::new().name("sysfs".to_owned());
                others.push(reader.spawn_scoped(scope, move || read(share)).map_err(list)?);
            }
            let mut functions = read(own)?;
            for other in others {
                functions.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(functions)
        })
    }

    /// The network function at one address; `None` when there is none, or another class of device.
    ///
    /// # Errors
    /// As for [`functions`](Self::functions).
    pub fn function(&self, pci: PciAddress) -> Result<Option<Function>, SysfsError> {
        self.function_with(pci, None)
    }

    /// A PF with these of its VFs at least.
    ///
    /// # Errors
    /// As for [`functions`](Self::functions).
    pub fn pf_of(&self, pf: PciAddress, vfs: &BTreeSet<PciAddress>) -> Result<Option<Function>, SysfsError> {
        self.function_with(pf, Some(vfs))
    }

    fn function_with(
        &self,
        pci: PciAddress,
        wanted: Option<&BTreeSet<PciAddress>>,
    ) -> Result<Option<Function>, SysfsError> {
        let path = self.root.join("bus/pci/devices");
        match open_folder(&path) {
            Ok(devices) => function::read(&devices, &path, pci, wanted),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.join("bus").is_dir() => Ok(None),
            Err(source) => Err(SysfsError::List { path, source }),
        }
    }

    /// Whether a kernel module is loaded or built in with parameters.
    pub fn has_module(&self, name: &str) -> bool {
        self.root.join("module").join(name).is_dir()
    }

    /// Folder of a PCI function.
    pub fn function_dir(&self, pci: PciAddress) -> PathBuf {
        self.root.join("bus/pci/devices").join(pci.to_string())
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}
