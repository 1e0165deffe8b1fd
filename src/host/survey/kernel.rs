//! The kernel, its parameters and modules, the machine below it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::NodeFiles;
use crate::device::PciAddress;

/// Kernel and machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// `uname -r`
    pub release: String,
    /// Parameters it was booted with.
    pub command_line: Vec<String>,
    /// `GenuineIntel`, `AuthenticAMD`; nothing on other architectures.
    pub cpu: Option<String>,
    /// `cpu family` of the first processor.
    pub cpu_family: Option<u32>,
    /// `model` of the first processor.
    pub cpu_model: Option<u32>,
    /// This is a virtual machine, as far as the processor says.
    pub virtual_machine: bool,
    /// Its IOMMU.
    pub iommu: Iommu,
}

/// What keeps a function's memory accesses in bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Iommu {
    /// Number of groups; none without an IOMMU in use.
    pub groups: usize,
    /// Units in use, as `dmar0` or `ivhd0`.
    pub units: Vec<String>,
    /// The firmware tells of IOMMUs: ACPI table DMAR (Intel), IVRS (AMD) or IORT (Arm).
    pub table: Option<String>,
}

/// Kernel modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// Loaded, or built in with parameters; `_` for `-`.
    pub loaded: BTreeSet<String>,
    /// Installed for this kernel or built into it; `None` when its module folder can't be seen.
    pub known: Option<BTreeSet<String>>,
    /// `/proc/driver/nvidia/version` says that the open modules are used.
    pub open_nvidia: bool,
}

/// A graphics or compute processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Where.
    pub pci: PciAddress,
    /// 10de NVIDIA, 1002 AMD.
    pub vendor: u16,
}

/// `netns_mode` of ib_core as something sets it at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaOption {
    /// The file, or `the kernel command line`.
    pub place: String,
    /// 0.
    pub exclusive: bool,
}

impl Modules {
    pub(super) fn read(sys: &Path, proc: &Path, files: &NodeFiles, release: &str) -> Self {
        let names = fs::read_dir(sys.join("module")).into_iter().flatten().flatten();
        let loaded = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let folder = ["lib/modules", "usr/lib/modules"].map(|folder| Path::new(folder).join(release));
        let folder = folder.iter().find(|folder| files.has(folder.join("modules.builtin")));
        let known = folder.map(|folder| {
            let list = |file: &str| files.text(folder.join(file)).unwrap_or_default();
            // `kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/…` in one, the same without `:` in the other.
            let name = |line: &str| {
                let file = line.split(':').next()?.rsplit('/').next()?;
                Some(file.split(".ko").next()?.replace('-', "_"))
            };
            let lists = [list("modules.dep"), list("modules.builtin")];
            lists.iter().flat_map(|text| text.lines()).filter_map(name).collect()
        });
        let nvidia = fs::read_to_string(proc.join("driver/nvidia/version")).unwrap_or_default();
        Self { loaded, known, open_nvidia: nvidia.contains("Open Kernel Module") }
    }

    /// Loaded, or built in.
    pub fn is_loaded(&self, name: &str) -> bool {
        self.loaded.contains(name)
    }

    /// Loaded, or to be had; `None` when only the first is known, and it is not.
    pub fn is_known(&self, name: &str) -> Option<bool> {
        if self.is_loaded(name) {
            return Some(true);
        }
        self.known.as_ref().map(|known| known.contains(name))
    }
}

impl Kernel {
    /// What these folders say.
    pub fn read(sys: &Path, proc: &Path) -> Self {
        let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let processor = text(proc.join("cpuinfo"));
        let field = |name: &str| {
            let line = processor
                .lines()
                .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let names = |folder: &str| {
            let entries = fs::read_dir(sys.join(folder)).into_iter().flatten().flatten();
            let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
            names.sort_unstable();
            names
        };
        let tables = names("firmware/acpi/tables");
        let table =
            ["DMAR", "IVRS", "IORT"].into_iter().find(|table| tables.iter().any(|name| name == table));
        Self {
            release: text(proc.join("sys/kernel/osrelease")).trim().to_owned(),
            command_line: text(proc.join("cmdline")).split_whitespace().map(str::to_owned).collect(),
            cpu: field("vendor_id"),
            cpu_family: field("cpu family").and_then(|number| number.parse().ok()),
            cpu_model: field("model").and_then(|number| number.parse().ok()),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
            iommu: Iommu {
                groups: names("kernel/iommu_groups").len(),
                units: names("class/iommu"),
                table: table.map(str::to_owned),
            },
        }
    }

    /// The value of a parameter, the last one where it is given more than once.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let value = |word: &String| {
            word.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let at = self.command_line.iter().rposition(|word| value(word).is_some())?;
        self.command_line.get(at)?.split_once('=').map(|(_, value)| value)
    }
}

/// `0x0300` VGA compatible, `0x0302` 3D controller.
const GPU_CLASSES: [&str; 2] = ["0x0300", "0x0302"];
/// NVIDIA, AMD. Other vendors' display controllers compute nothing here.
const GPU_VENDORS: [u16; 2] = [0x10de, 0x1002];

/// GPUs on the PCI bus.
pub fn gpus(sys: &Path) -> Vec<Gpu> {
    let entries = fs::read_dir(sys.join("bus/pci/devices")).into_iter().flatten().flatten();
    let mut gpus: Vec<Gpu> = entries
        .filter_map(|entry| {
            let text = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
            let class = text("class")?;
            GPU_CLASSES.iter().find(|prefix| class.starts_with(**prefix))?;
            let vendor = u16::from_str_radix(text("vendor")?.trim().trim_start_matches("0x"), 16).ok()?;
            let pci = entry.file_name().to_str()?.parse().ok()?;
            GPU_VENDORS.contains(&vendor).then_some(Gpu { pci, vendor })
        })
        .collect();
    gpus.sort_by_key(|gpu| gpu.pci);
    gpus
}

/// Where modprobe looks for options (modprobe.d(5)).
const OPTION_FOLDERS: [&str; 5] =
    ["etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"];

/// What sets the namespace mode of RDMA when ib_core is loaded.
pub(super) fn rdma_options(files: &NodeFiles, command_line: &[String]) -> Vec<RdmaOption> {
    // A parameter of type bool (drivers/infiniband/core/device.c): shared unless it says no.
    let exclusive = |value: &str| matches!(value, "0" | "n" | "N" | "off" | "no" | "false");
    let mut found: Vec<RdmaOption> = command_line
        .iter()
        .filter_map(|word| word.strip_prefix("ib_core.netns_mode="))
        .map(|value| RdmaOption { place: "the kernel command line".to_owned(), exclusive: exclusive(value) })
        .collect();
    for folder in OPTION_FOLDERS {
        for name in files.names(folder).into_iter().filter(|name| name.ends_with(".conf")) {
            let path = Path::new(folder).join(name);
            let text = files.text(&path).unwrap_or_default();
            for line in text.lines() {
                let mut words = line.split_whitespace();
                if (words.next(), words.next()) != (Some("options"), Some("ib_core")) {
                    continue;
                }
                let place = format!("/{}", path.display());
                let values = words.filter_map(|word| word.strip_prefix("netns_mode="));
                found.extend(values.map(|v| RdmaOption { place: place.clone(), exclusive: exclusive(v) }));
            }
        }
    }
    // On systems with one /usr both folders are the same.
    found.dedup_by(|a, b| a.place.trim_start_matches("/usr") == b.place.trim_start_matches("/usr"));
    found
}

/// What `sriov_enable` says when the firmware left no room (drivers/pci/iov.c).
const REFUSALS: [&str; 2] = ["not enough MMIO resources for SR-IOV", "VFs (bus "];

/// The kernel's log is a file of records `priority,number,time,flags;text` (Documentation/ABI/testing/dev-kmsg).
pub(super) fn refused_vfs(log: &Path) -> Option<Vec<String>> {
    let mut file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(log).ok()?;
    let mut text = Vec::new();
    // A record is at most that long, and one read gives one.
    let mut record = [0u8; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(record.get(..length).unwrap_or_default()),
            // Records that were overwritten meanwhile are passed over.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.split_once(';').map_or(line, |(_, text)| text))
        .filter(|line| REFUSALS.iter().any(|refusal| line.contains(refusal)))
        .map(str::to_owned)
        .collect();
    lines.dedup();
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_ib_core_are_found_in_every_folder_and_on_the_command_line() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/modprobe.d/a.conf", "# options ib_core netns_mode=1\noptions ib_core netns_mode=0\n");
        write("etc/modprobe.d/b.conf.bak", "options ib_core netns_mode=1\n");
        write(
            "usr/lib/modprobe.d/c.conf",
            "options mlx5_core x=1\noptions ib_core send_queue_size=2 netns_mode=Y\n",
        );
        let files = NodeFiles::at(root.path());
        let found = rdma_options(&files, &["quiet".into(), "ib_core.netns_mode=N".into()]);
        let found: Vec<_> = found.iter().map(|option| (option.place.as_str(), option.exclusive)).collect();
        assert_eq!(
            found,
            [
                ("the kernel command line", true),
                ("/etc/modprobe.d/a.conf", true),
                ("/usr/lib/modprobe.d/c.conf", false)
            ]
        );
    }

    #[test]
    fn the_kernel_log_tells_of_vfs_that_found_no_room() {
        let log = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            log.path(),
            "6,1,2,-;igb 0000:01:00.0: 7 VFs allocated\n\
             3,2,3,-;igb 0000:01:00.0: not enough MMIO resources for SR-IOV\n\
             3,3,4,-;ixgbe 0000:02:00.0: can't enable 63 VFs (bus 04 out of range of [bus 02-03])\n",
        )
        .unwrap();
        let said = refused_vfs(log.path()).unwrap();
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], "igb 0000:01:00.0: not enough MMIO resources for SR-IOV");
        assert_eq!(refused_vfs(Path::new("/nowhere")), None);
    }

    #[test]
    fn modules_are_known_by_their_own_name_however_files_are_called() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/modules/6.1");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(root.path().join("sys/module/ib_core")).unwrap();
        fs::write(
            folder.join("modules.dep"),
            "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/x/vfio.ko.xz\n",
        )
        .unwrap();
        fs::write(folder.join("modules.builtin"), "kernel/drivers/net/tun.ko\n").unwrap();
        let files = NodeFiles::at(root.path());
        let modules = Modules::read(&root.path().join("sys"), Path::new("/nowhere"), &files, "6.1");
        for (name, known) in [("vfio_pci", true), ("tun", true), ("ib_core", true), ("igbvf", false)] {
            assert_eq!(modules.is_known(name), Some(known), "{name}");
        }
        let elsewhere = Modules::read(&root.path().join("sys"), Path::new("/nowhere"), &files, "6.2");
        assert_eq!((elsewhere.is_known("ib_core"), elsewhere.is_known("tun")), (Some(true), None));
    }

    #[test]
    fn the_last_of_two_parameters_counts() {
        let words = ["iommu=off", "quiet", "iommu=pt"].map(str::to_owned);
        let kernel = Kernel { command_line: words.to_vec(), ..Kernel::default() };
        assert_eq!((kernel.parameter("iommu"), kernel.parameter("quiet")), (Some("pt"), None));
    }
}
