//! A built tree, and what a kernel does to one.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plan::{Card, Nic, VfPlan};
use super::write::{FunctionPlan, Writer, line};
use super::{NetdevPlan, Tree};
use crate::device::PciAddress;
use crate::host::sysfs::Sysfs;

/// How long a VF that is being removed stays visible without driver.
const DETACHING: Duration = Duration::from_micros(500);

/// A fake sysfs in a folder.
#[derive(Debug)]
pub struct FakeSysfs {
    folder: PathBuf,
    tree: Tree,
    writer: Writer,
    gone: u32,
    /// Deletes the folder at the end.
    #[cfg(any(test, feature = "testing"))]
    _temporary: Option<tempfile::TempDir>,
}

impl FakeSysfs {
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn temporary(tree: Tree) -> io::Result<Self> {
        // A thousand VFs are fifty thousand small files: in memory where that is possible.
        let memory = Path::new("/dev/shm");
        let temporary = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir())?;
        let mut built = Self::in_folder(tree, temporary.path().to_owned())?;
        built._temporary = Some(temporary);
        Ok(built)
    }

    pub(super) fn in_folder(tree: Tree, folder: PathBuf) -> io::Result<Self> {
        let mut writer = Writer::new(folder.join("sys"))?;
        fs::create_dir_all(folder.join("proc"))?;
        for module in &tree.modules {
            fs::create_dir_all(writer.root.join("module").join(module))?;
        }
        for card in &tree.cards {
            write_card(&mut writer, card)?;
        }
        for nic in &tree.nics {
            write_nic(&mut writer, nic)?;
        }
        Ok(Self {
            folder,
            tree,
            writer,
            gone: 0,
            #[cfg(any(test, feature = "testing"))]
            _temporary: None,
        })
    }

    /// The handle to read it with.
    pub fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.root()).with_proc(self.folder.join("proc"))
    }

    /// What `/sys` is on a real machine.
    pub fn root(&self) -> &Path {
        &self.writer.root
    }

    /// The number of an interface.
    pub fn ifindex(&self, name: &str) -> Option<u32> {
        self.writer.known_ifindex(name)
    }

    /// A file below the root, trimmed; empty when it can't be read.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_default().trim().to_owned()
    }

    /// Path of a PCI function's folder on the bus.
    pub fn function_dir(&self, pci: &str) -> PathBuf {
        self.root().join("bus/pci/devices").join(pci)
    }

    /// Overwrites an attribute of a function.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn set(&self, pci: &str, file: &str, text: &str) -> io::Result<()> {
        let path = self.function_dir(pci).join(file);
        match path.parent() {
            Some(folder) => line(folder, path.file_name().and_then(|n| n.to_str()).unwrap_or_default(), text),
            None => Ok(()),
        }
    }

    /// Takes a VF's netdev away, as a move into another namespace does; with `rdma` its RDMA device too (exclusive mode).
    ///
    /// # Errors
    /// The folder can't be changed.
    pub fn lend(&mut self, pci: &str, rdma: bool) -> io::Result<()> {
        for folder in if rdma { &["net", "infiniband"][..] } else { &["net"] } {
            let path = self.function_dir(pci).join(folder);
            if path.exists() {
                self.discard(&path)?;
            }
        }
        Ok(())
    }

    /// Gives a VF its first netdevs back.
    ///
    /// # Errors
    /// The folder can't be changed, or there is no such VF.
    pub fn give_back(&mut self, pci: &str) -> io::Result<()> {
        let Some((card, index)) = self.find(pci) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let vf = card.vfs.get(index as usize).cloned().unwrap_or_else(VfPlan::unbound);
        let plan = vf_plan(&card, index, &vf);
        let folder = self.function_dir(pci);
        self.writer.netdevs(&plan, &folder)
    }

    /// Removes a VF in the kernel's order: links between it and the PF, its driver and what that made, the function.
    ///
    /// # Errors
    /// The folder can't be changed, or there is no such VF.
    pub fn remove_vf(&mut self, pci: &str) -> io::Result<()> {
        let Some((card, index)) = self.find(pci) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        fs::remove_file(self.function_dir(&card.pci).join(format!("virtfn{index}")))?;
        let place = fs::canonicalize(self.function_dir(pci))?;
        fs::remove_file(place.join("physfn"))?;
        self.lend(pci, true)?;
        match fs::remove_file(place.join("driver")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // A driver takes its time to let go; readers meet the function without it.
        std::thread::sleep(DETACHING);
        fs::remove_file(self.function_dir(pci))?;
        self.discard(&place)
    }

    /// Makes a removed VF again, in the kernel's order: function first, then the links. It has a new incarnation.
    ///
    /// # Errors
    /// The folder can't be changed, or the tree never had such a VF.
    pub fn add_vf(&mut self, pci: &str) -> io::Result<()> {
        let Some((card, index)) = self.find(pci) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let vf = card.vfs.get(index as usize).cloned().unwrap_or_else(VfPlan::unbound);
        write_vf(&mut self.writer, &card, index, &vf)
    }

    /// Makes a process hold a node below `/dev/vfio`, such as `42` or `devices/vfio0`.
    ///
    /// # Errors
    /// The folder can't be changed.
    pub fn open_vfio(&self, node: &str) -> io::Result<()> {
        let descriptors = self.folder.join("proc/4711/fd");
        fs::create_dir_all(&descriptors)?;
        symlink(
            format!("/dev/vfio/{node}"),
            descriptors.join(fs::read_dir(&descriptors)?.count().to_string()),
        )
    }

    fn find(&self, pci: &str) -> Option<(Card, u32)> {
        let wanted: PciAddress = pci.parse().ok()?;
        self.tree.cards.iter().find_map(|card| {
            let count = u32::try_from(card.vfs.len()).ok()?;
            let index = (0..count).find(|index| card.vf_address(*index) == Some(wanted))?;
            Some((card.clone(), index))
        })
    }

    /// Moved, not deleted: file systems give a freed inode to the next folder, sysfs never does.
    fn discard(&mut self, path: &Path) -> io::Result<()> {
        self.gone += 1;
        let gone = self.folder.join("gone");
        fs::create_dir_all(&gone)?;
        fs::rename(path, gone.join(self.gone.to_string()))
    }
}

fn write_card(writer: &mut Writer, card: &Card) -> io::Result<()> {
    let address: Option<PciAddress> = card.pci.parse().ok();
    let plan = FunctionPlan {
        pci: card.pci.clone(),
        path: &card.path,
        class: card.class,
        vendor: card.vendor,
        device: card.device,
        driver: card.driver.as_deref(),
        netdevs: &card.netdevs,
        rdma: card.rdma.as_deref(),
        infiniband: card.infiniband,
        numa_node: card.numa_node,
        iommu_group: card.iommu_group,
        mac_tail: address.map_or([0; 4], |a| [a.bus, a.device << 3 | a.function, 0xff, 0xff]),
    };
    let place = writer.function(&plan)?;
    for (file, text) in [
        ("sriov_totalvfs", card.total_vfs.to_string()),
        ("sriov_numvfs", card.vfs.len().to_string()),
        ("sriov_offset", card.offset.to_string()),
        ("sriov_stride", card.stride.to_string()),
        ("sriov_drivers_autoprobe", "1".to_owned()),
        ("sriov_vf_device", format!("{:x}", card.vf_device)),
    ] {
        line(&place, file, &text)?;
    }
    for (index, vf) in (0..).zip(&card.vfs) {
        write_vf(writer, card, index, vf)?;
    }
    Ok(())
}

fn vf_plan<'a>(card: &'a Card, index: u32, vf: &'a VfPlan) -> FunctionPlan<'a> {
    let address: Option<PciAddress> = card.pci.parse().ok();
    let [high, low] = u16::try_from(index).unwrap_or_default().to_be_bytes();
    FunctionPlan {
        pci: card.vf_address(index).map(|a| a.to_string()).unwrap_or_default(),
        path: &card.path,
        class: card.class,
        vendor: card.vendor,
        device: card.vf_device,
        driver: vf.driver.as_deref(),
        netdevs: &vf.netdevs,
        rdma: vf.rdma.as_deref(),
        infiniband: card.infiniband,
        numa_node: card.numa_node,
        iommu_group: card.iommu_group.map(|group| group + 1 + index),
        mac_tail: address.map_or([0; 4], |a| [a.bus, a.device << 3 | a.function, high, low]),
    }
}

fn write_vf(writer: &mut Writer, card: &Card, index: u32, vf: &VfPlan) -> io::Result<()> {
    let plan = vf_plan(card, index, vf);
    let place = writer.function(&plan)?;
    symlink(format!("../{}", card.pci), place.join("physfn"))?;
    let pf = place.with_file_name(&card.pci);
    symlink(format!("../{}", plan.pci), pf.join(format!("virtfn{index}")))
}

fn write_nic(writer: &mut Writer, nic: &Nic) -> io::Result<()> {
    let address: Option<PciAddress> = nic.pci.parse().ok();
    let domain = nic.pci.split(':').next().unwrap_or("0000");
    let netdevs: Vec<NetdevPlan> = nic.netdev.iter().cloned().collect();
    let plan = FunctionPlan {
        pci: nic.pci.clone(),
        path: &[format!("pci{domain}:00")],
        class: nic.class,
        vendor: nic.vendor,
        device: nic.device,
        driver: nic.driver.as_deref(),
        netdevs: &netdevs,
        rdma: None,
        infiniband: false,
        numa_node: -1,
        iommu_group: None,
        mac_tail: address.map_or([0; 4], |a| [a.bus, a.device << 3 | a.function, 0, 0]),
    };
    writer.function(&plan).map(drop)
}
