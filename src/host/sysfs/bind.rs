//! Which driver a VF is bound to, and the writes that change it (Documentation/ABI/testing/sysfs-bus-pci).
//!
//! `drivers_probe` succeeds when no driver wants the device, and a driver's own `probe` may fail later than the write
//! returns: read [`Sysfs::driver`] afterwards. With the PF's `sriov_drivers_autoprobe` off, `drivers_probe` and `bind`
//! are refused unless the VF's `driver_override` is set.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Sysfs, SysfsError};
use crate::device::{Incarnation, PciAddress, is_userspace};
use crate::host::fate::{self, Kind};

impl Sysfs {
    /// The bound driver, read now.
    pub fn driver(&self, pci: PciAddress) -> Option<String> {
        let target = fs::read_link(self.function_dir(pci).join("driver")).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The driver that is forced for the VF; the kernel prints `(null)` for none.
    pub fn driver_override(&self, pci: PciAddress) -> Option<String> {
        let text = fs::read_to_string(self.function_dir(pci).join("driver_override")).ok()?;
        Some(text.trim()).filter(|name| !name.is_empty() && *name != "(null)").map(str::to_owned)
    }

    /// Which life of the VF this is, read now; `None` when there is no such VF.
    pub fn incarnation(&self, pci: PciAddress) -> Option<Incarnation> {
        fs::metadata(self.function_dir(pci)).ok().map(|m| Incarnation(m.ino()))
    }

    /// Forces a driver for the VF, or with `None` leaves it to the IDs of the drivers again. Takes effect with the
    /// next probe.
    ///
    /// # Errors
    /// The write failed: ENOENT when the VF is gone.
    pub fn set_driver_override(&self, pci: PciAddress, driver: Option<&str>) -> Result<(), SysfsError> {
        let action = match driver {
            Some(driver) => format!("force driver {driver}"),
            None => "clear the forced driver".to_owned(),
        };
        // A line feed alone is what clears it (`driver_set_override`, drivers/base/driver.c).
        let value = driver.unwrap_or("\n");
        self.write(pci, self.function_dir(pci).join("driver_override"), value, action)
    }

    /// Takes the VF from its driver; nothing to do when none is bound. Blocks until the driver let go, for vfio until
    /// its user closed the device.
    ///
    /// # Errors
    /// The write failed.
    pub fn unbind(&self, pci: PciAddress) -> Result<(), SysfsError> {
        let Some(driver) = self.driver(pci) else {
            return Ok(());
        };
        let path = self.function_dir(pci).join("driver/unbind");
        match self.write(pci, path, &pci.to_string(), format!("unbind it from driver {driver}")) {
            // Somebody else was faster; what was wanted holds.
            Err(_) if self.driver(pci).is_none() => Ok(()),
            result => result,
        }
    }

    /// Lets the kernel look for a driver, as it does for a new device. Finding none is no error.
    ///
    /// # Errors
    /// The write failed: ENODEV when the VF is gone, EINVAL where the driver's probe failed.
    pub fn probe(&self, pci: PciAddress) -> Result<(), SysfsError> {
        let path = self.root.join("bus/pci/drivers_probe");
        self.write(pci, path, &pci.to_string(), "have it probed".to_owned())
    }

    /// Binds the VF to a driver that knows its ID or is forced for it.
    ///
    /// # Errors
    /// The driver is not loaded, or the write failed: EBUSY when another driver is bound, ENODEV when the driver does
    /// not take it.
    pub fn bind(&self, pci: PciAddress, driver: &str) -> Result<(), SysfsError> {
        let path = self.root.join("bus/pci/drivers").join(driver);
        if !path.is_dir() {
            return Err(SysfsError::NoDriver { pci, driver: driver.to_owned(), path });
        }
        self.write(pci, path.join("bind"), &pci.to_string(), format!("bind driver {driver}"))
    }

    /// Gives the VF to one driver, or with `None` back to the driver that knows its ID, and makes sure that it is bound
    /// afterwards. Nothing is written when it is so already. A forced driver stays forced, so that no later probe
    /// takes the VF back.
    ///
    /// # Errors
    /// A write failed, or no driver or another one is bound at the end: its module is not loaded, its probe failed,
    /// or the PF's `sriov_drivers_autoprobe` is off and no driver is forced.
    pub fn rebind(&self, pci: PciAddress, driver: Option<&str>) -> Result<(), SysfsError> {
        let forced = self.driver_override(pci);
        let bound = self.driver(pci);
        let right = match driver {
            Some(driver) => bound.as_deref() == Some(driver),
            // A forced driver is bound because it is forced. One that makes no netdev is not what the kernel chooses: it was
            // bound by hand, or whoever lifted its force was killed before it was unbound.
            None => bound.as_deref().is_some_and(|bound| !is_userspace(bound)) && bound != forced,
        };
        if forced.as_deref() != driver {
            self.set_driver_override(pci, driver)?;
        }
        if right {
            return Ok(());
        }
        self.unbind(pci)?;
        self.probe(pci)?;
        match (self.driver(pci), driver) {
            (Some(now), Some(wanted)) if now == wanted => Ok(()),
            // A module option may have had vfio-pci take it again.
            (Some(now), None) if !is_userspace(&now) => Ok(()),
            (now, wanted) => Err(SysfsError::NotBound {
                pci,
                wanted: wanted
                    .map_or_else(|| "its network driver".to_owned(), |wanted| format!("driver {wanted}")),
                bound: now.map_or_else(|| "no driver".to_owned(), |now| format!("driver {now}")),
            }),
        }
    }

    fn write(&self, pci: PciAddress, path: PathBuf, value: &str, action: String) -> Result<(), SysfsError> {
        let allowed = fate::effect(Kind::Function, format_args!("VF {pci}: {action}"));
        let written = allowed.and_then(|()| OpenOptions::new().write(true).truncate(true).open(&path));
        written.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|source| SysfsError::Write {
            pci,
            action,
            value: value.trim().to_owned(),
            path,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::host::sysfs::tree::{Card, Tree, VfPlan};

    #[test]
    fn binding_writes_what_the_kernel_expects_where_it_expects_it() {
        let pf = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core");
        let sysfs = Tree::new()
            .card(pf.vfs(1, |_, vf| VfPlan { driver: Some("vfio-pci".into()), ..vf }))
            .build()
            .unwrap();
        let vf = "0000:81:00.1".parse().unwrap();
        let host = sysfs.sysfs();
        assert_eq!(host.driver(vf).as_deref(), Some("vfio-pci"));
        assert_eq!(host.driver_override(vf), None);
        host.set_driver_override(vf, Some("mlx5_core")).unwrap();
        assert_eq!(host.driver_override(vf).as_deref(), Some("mlx5_core"));
        host.unbind(vf).unwrap();
        host.probe(vf).unwrap();
        host.bind(vf, "mlx5_core").unwrap();
        for file in ["drivers/vfio-pci/unbind", "drivers_probe", "drivers/mlx5_core/bind"] {
            assert_eq!(sysfs.read(&format!("bus/pci/{file}")), "0000:81:00.1", "{file}");
        }
        host.set_driver_override(vf, None).unwrap();
        assert_eq!(host.driver_override(vf), None);
    }

    #[test]
    fn a_vf_on_a_driver_without_netdev_is_not_on_its_network_driver_though_nothing_is_forced() {
        let pf = Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core");
        let tree = Tree::new().card(pf.vfs(2, |n, vf| match n {
            0 => VfPlan { driver: Some("vfio-pci".into()), ..vf },
            _ => vf,
        }));
        let tree = tree.build().unwrap();
        // Nobody answers the writes here: what was written is what counts.
        let _ = tree.sysfs().rebind("0000:81:00.1".parse().unwrap(), None);
        assert_eq!(tree.read("bus/pci/drivers/vfio-pci/unbind"), "0000:81:00.1");
        assert_eq!(tree.read("bus/pci/drivers_probe"), "0000:81:00.1");
        tree.sysfs().rebind("0000:81:00.2".parse().unwrap(), None).unwrap();
        assert_eq!(tree.read("bus/pci/drivers_probe"), "0000:81:00.1", "that one has its network driver");
    }

    #[test]
    fn a_refused_write_names_vf_file_and_errno_and_a_missing_driver_is_named() {
        let tree = Tree::new().card(Card::ethernet("0000:81:00.0", "ens1f0", "mlx5_core")).build().unwrap();
        let gone = "0000:81:00.7".parse().unwrap();
        let error = tree.sysfs().set_driver_override(gone, Some("vfio-pci")).unwrap_err().to_string();
        for part in
            ["VF 0000:81:00.7", "force driver vfio-pci", "driver_override", "No such file", "os error 2"]
        {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        let error = tree.sysfs().bind(gone, "nosuch").unwrap_err().to_string();
        assert!(error.contains("VF 0000:81:00.7: can't bind driver nosuch"), "{error}");
        assert!(error.contains("module is not loaded"), "{error}");
        assert!(tree.sysfs().unbind(gone).is_ok(), "nothing is bound, so nothing is to do");
    }
}
