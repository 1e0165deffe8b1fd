//! IOMMU groups and vfio's own folders (Documentation/ABI/testing/sysfs-kernel-iommu_groups, drivers/vfio).

use std::fs;
use std::path::Path;

use super::{Sysfs, SysfsError};
use crate::device::PciAddress;

/// The driver that gives devices to processes.
const VFIO_PCI: &str = "vfio-pci";
/// Drivers that may stay beside a device that is given away: their DMA is not theirs (`driver_managed_dma`,
/// include/linux/pci.h), or they do none.
const BESIDE: [&str; 3] = [VFIO_PCI, "pci-stub", "pcieport"];

impl Sysfs {
    /// The number of a function's IOMMU group.
    pub fn iommu_group(&self, pci: PciAddress) -> Option<u32> {
        let target = fs::read_link(self.function_dir(pci).join("iommu_group")).ok()?;
        target.file_name()?.to_str()?.parse().ok()
    }

    /// The function's group is one that vfio made for it (`vfio_noiommu_group_alloc`, drivers/vfio/group.c): there is no
    /// IOMMU behind it.
    pub fn is_without_iommu(&self, pci: PciAddress) -> bool {
        let path = self.function_dir(pci).join("iommu_group/name");
        fs::read_to_string(path).is_ok_and(|name| name.trim() == "vfio-noiommu")
    }

    /// The other functions of a function's group; none without IOMMU.
    ///
    /// # Errors
    /// The group's folder can't be listed.
    pub fn group_others(&self, pci: PciAddress) -> Result<Vec<PciAddress>, SysfsError> {
        let folder = self.function_dir(pci).join("iommu_group/devices");
        let failed = |source| SysfsError::Read { pci, file: "iommu_group/devices".to_owned(), source };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut others = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let other = name.to_str().and_then(|name| name.parse::<PciAddress>().ok());
            others.extend(other.filter(|other| *other != pci));
        }
        others.sort();
        Ok(others)
    }

    /// Other functions of a group whose drivers don't bear that one of it is given away, with these drivers.
    ///
    /// # Errors
    /// The group's folder can't be listed.
    pub fn group_blockers(&self, pci: PciAddress) -> Result<Vec<(PciAddress, String)>, SysfsError> {
        let mut blockers = Vec::new();
        for other in self.group_others(pci)? {
            let driver = self.driver(other).filter(|driver| !BESIDE.contains(&driver.as_str()));
            blockers.extend(driver.map(|driver| (other, driver)));
        }
        Ok(blockers)
    }

    /// Whether the kernel knows the driver by now.
    pub fn has_vfio_pci(&self) -> bool {
        self.root.join("bus/pci/drivers").join(VFIO_PCI).is_dir()
    }

    /// Whether vfio gives devices away without an IOMMU (`enable_unsafe_noiommu_mode`, drivers/vfio/vfio_main.c).
    pub fn allows_no_iommu(&self) -> bool {
        let path = self.root.join("module/vfio/parameters/enable_unsafe_noiommu_mode");
        fs::read_to_string(path).is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
    }

    /// The group of a function that is bound to vfio, by its name below `/dev/vfio`; none where the kernel makes no nodes
    /// for groups.
    pub fn vfio_group(&self, pci: PciAddress) -> Option<String> {
        let group = self.iommu_group(pci)?;
        let names = [group.to_string(), format!("noiommu-{group}")];
        names.into_iter().find(|name| self.root.join("class/vfio").join(name).exists())
    }

    /// `vfioN` of a function that is bound to vfio: its node below `/dev/vfio/devices`, on kernels with iommufd (since 6.6).
    pub fn vfio_device(&self, pci: PciAddress) -> Option<String> {
        let entries = fs::read_dir(self.function_dir(pci).join("vfio-dev")).ok()?;
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).min()
    }

    /// Whether the kernel has a miscellaneous device of this name (`vfio`, `iommu`, `vhost-net`, `tun`).
    pub fn has_misc(&self, name: &str) -> bool {
        self.root.join("class/misc").join(name).exists()
    }

    /// Plays the kernel's part on a simulated tree: there a driver is bound because this says so.
    ///
    /// # Errors
    /// The tree can't be written.
    pub fn pretend_bound(&self, pci: PciAddress, driver: Option<&str>) -> Result<(), SysfsError> {
        let link = self.function_dir(pci).join("driver");
        let failed = |path: &Path, source| SysfsError::Write {
            pci,
            action: "bind a simulated driver".to_owned(),
            value: driver.unwrap_or("none").to_owned(),
            path: path.to_owned(),
            source,
        };
        match fs::remove_file(&link) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&link, source));
            }
            _ => {}
        }
        let Some(name) = driver else { return Ok(()) };
        let folder = self.root.join("bus/pci/drivers").join(name);
        fs::create_dir_all(&folder).map_err(|source| failed(&folder, source))?;
        std::os::unix::fs::symlink(&folder, &link).map_err(|source| failed(&link, source))
    }

    /// The network driver of a simulated VF that has lost its own: that of another VF of its PF.
    pub fn driver_of_siblings(&self, pci: PciAddress) -> Option<String> {
        let pf = self.function_dir(pci).join("physfn");
        let names = fs::read_dir(pf).ok()?.flatten().map(|entry| entry.path());
        let siblings =
            names.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("virtfn")));
        let drivers = siblings.filter_map(|path| fs::read_link(path.join("driver")).ok());
        let names = drivers.filter_map(|driver| Some(driver.file_name()?.to_str()?.to_owned()));
        names.into_iter().find(|driver| driver != VFIO_PCI)
    }

    /// What a simulated PF says of a VF; `None` when it was never told anything.
    pub fn pretended_settings(&self, pci: PciAddress) -> Option<String> {
        fs::read_to_string(self.function_dir(pci).join(SETTINGS)).ok()
    }

    /// Tells a simulated PF.
    ///
    /// # Errors
    /// The tree can't be written.
    pub fn pretend_settings(&self, pci: PciAddress, settings: &str) -> Result<(), SysfsError> {
        let path = self.function_dir(pci).join(SETTINGS);
        fs::write(&path, settings).map_err(|source| SysfsError::Write {
            pci,
            action: "note simulated settings".to_owned(),
            value: settings.to_owned(),
            path,
            source,
        })
    }
}

/// Only on simulated trees.
const SETTINGS: &str = "simulated_settings.json";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::sysfs::tree::{Card, Tree};

    #[test]
    fn whoever_shares_a_group_and_is_bound_to_a_driver_of_its_own_is_named() {
        let tree = Tree::new().card(Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core").vfs(3, |_, vf| vf));
        let tree = tree.build().unwrap();
        let (sysfs, root) = (tree.sysfs(), tree.root().to_owned());
        let pci = |n: u8| -> PciAddress { format!("0000:81:00.{n}").parse().unwrap() };
        let group = root.join("kernel/iommu_groups/77");
        fs::create_dir_all(group.join("devices")).unwrap();
        for n in 1..=3 {
            let place = fs::canonicalize(root.join(format!("bus/pci/devices/{}", pci(n)))).unwrap();
            symlink(&place, group.join(format!("devices/{}", pci(n)))).unwrap();
            let _ = fs::remove_file(place.join("iommu_group"));
            symlink(&group, place.join("iommu_group")).unwrap();
        }
        assert_eq!(sysfs.iommu_group(pci(1)), Some(77));
        let own = sysfs.driver(pci(2)).unwrap();
        assert_eq!(sysfs.group_blockers(pci(1)).unwrap(), [(pci(2), own.clone()), (pci(3), own.clone())]);
        sysfs.pretend_bound(pci(2), Some("vfio-pci")).unwrap();
        sysfs.pretend_bound(pci(3), None).unwrap();
        assert_eq!(sysfs.group_blockers(pci(1)).unwrap(), []);
        assert_eq!(sysfs.group_others(pci(1)).unwrap(), [pci(2), pci(3)], "whatever their drivers");
        assert!(!sysfs.is_without_iommu(pci(1)));
        fs::write(group.join("name"), "vfio-noiommu\n").unwrap();
        assert!(sysfs.is_without_iommu(pci(1)));
        assert!(sysfs.has_vfio_pci());
        assert_eq!(sysfs.vfio_group(pci(1)), None, "no node yet");
        fs::create_dir_all(root.join("class/vfio/noiommu-77")).unwrap();
        assert_eq!(sysfs.vfio_group(pci(1)).as_deref(), Some("noiommu-77"));
    }
}
