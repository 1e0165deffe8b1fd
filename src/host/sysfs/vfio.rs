//! Which vfio groups and devices some process has open.
//!
//! Opening a group tells too (a second open is EBUSY), but for that moment the rightful user would get the EBUSY. So
//! the descriptors of all processes are looked at instead, which needs the host's `/proc` and disturbs nobody. A
//! process whose descriptors may not be read counts as having none.

use std::collections::BTreeSet;
use std::fs;

use super::Sysfs;

impl Sysfs {
    /// Names below `/dev/vfio` that are open somewhere: `42` or `noiommu-3` for a group, `devices/vfio0` for a device.
    pub fn open_vfio(&self) -> BTreeSet<String> {
        let mut open = BTreeSet::new();
        let Ok(processes) = fs::read_dir(&self.proc) else {
            return open;
        };
        for process in processes.flatten() {
            if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
                continue;
            };
            for descriptor in descriptors.flatten() {
                let Ok(target) = fs::read_link(descriptor.path()) else {
                    continue;
                };
                open.extend(target.to_str().and_then(below_dev_vfio).map(str::to_owned));
            }
        }
        open
    }
}

/// The link is as the process's mount namespace names the node, so the part before `vfio/` may differ from `/dev/`.
fn below_dev_vfio(target: &str) -> Option<&str> {
    let (_, name) = target.rsplit_once("/vfio/")?;
    let id = name.strip_prefix("noiommu-").or_else(|| name.strip_prefix("devices/vfio")).unwrap_or(name);
    (!id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_and_devices_count_as_open_vfio_nodes() {
        for (target, name) in [
            ("/dev/vfio/42", Some("42")),
            ("/dev/vfio/noiommu-3", Some("noiommu-3")),
            ("/dev/vfio/devices/vfio0", Some("devices/vfio0")),
            ("/run/libvirt/qemu/1.dev/vfio/7", Some("7")),
            ("/newroot/dev/vfio/7", Some("7")),
            ("/dev/vfio/vfio", None),
            ("/dev/vfio/", None),
            ("/dev/null", None),
            ("socket:[1234]", None),
        ] {
            assert_eq!(below_dev_vfio(target), name, "{target}");
        }
    }

    #[test]
    fn a_group_is_open_while_some_process_holds_it_and_processes_without_descriptors_are_passed_over() {
        let proc = tempfile::tempdir().unwrap();
        let fds = proc.path().join("4711/fd");
        fs::create_dir_all(&fds).unwrap();
        fs::create_dir_all(proc.path().join("4712")).unwrap();
        fs::create_dir_all(proc.path().join("self/fd")).unwrap();
        std::os::unix::fs::symlink("/dev/vfio/42", fds.join("9")).unwrap();
        std::os::unix::fs::symlink("/dev/vfio/1", proc.path().join("self/fd/3")).unwrap();
        let sysfs = Sysfs::at("/nowhere").with_proc(proc.path());
        assert_eq!(sysfs.open_vfio().into_iter().collect::<Vec<_>>(), ["42"]);
        fs::remove_file(fds.join("9")).unwrap();
        assert!(sysfs.open_vfio().is_empty());
    }
}
