//! The real kernel.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{SYSFS_MAGIC, statfs};

use super::netlink::Session;
use super::{HostError, Kernel, Links, Netns, NetnsId, Rdma};
use crate::device::PciAddress;

/// The kernel this process runs on.
#[derive(Debug)]
pub struct Linux {
    host: Netns,
    pub(super) sysfs: PathBuf,
    proc: PathBuf,
    stand_ins: bool,
    /// This process may look at every process: what it can't look at is an error, not an absence.
    sees_all: bool,
}

impl Linux {
    /// Takes the calling thread's network namespace as the host's. `sysfs` is `/sys`, or a tree of the same shape.
    ///
    /// # Errors
    /// When the namespace can't be opened.
    pub fn new(sysfs: impl Into<PathBuf>) -> Result<Self, HostError> {
        let sysfs = sysfs.into();
        let stand_ins = statfs(&sysfs).is_ok_and(|fs| fs.filesystem_type() != SYSFS_MAGIC);
        // user_namespaces(7): the initial one maps all IDs to themselves.
        let ids = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let sees_all = ids.split_whitespace().eq(["0", "0", "4294967295"]);
        let host = Netns::open(Path::new(super::netns::CURRENT))?;
        Ok(Self { host, sysfs, proc: PathBuf::from("/proc"), stand_ins, sees_all })
    }

    /// PIDs with the namespace they live in; a process that ends meanwhile is left out.
    fn processes(&self) -> Result<impl Iterator<Item = (i32, PathBuf)>, HostError> {
        let entries = std::fs::read_dir(&self.proc).map_err(|source| HostError::File {
            what: "read",
            path: self.proc.clone(),
            source,
        })?;
        Ok(entries.flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, entry.path().join("ns/net")))
        }))
    }
}

impl Kernel for Linux {
    fn host(&self) -> &Netns {
        &self.host
    }

    fn open(&self, path: &Path) -> Result<Netns, HostError> {
        Netns::open(path)
    }

    fn find(&self, id: NetnsId) -> Option<Netns> {
        let mut paths: Vec<PathBuf> = self
            .processes()
            .ok()?
            .filter(|(_, path)| matches!(inode_of(path), Ok(Some(inode)) if inode == id.ino))
            .map(|(_, path)| path)
            .collect();
        paths.extend(named_namespaces());
        paths.iter().filter_map(|path| Netns::open(path).ok()).find(|netns| netns.id() == id)
    }

    fn user_of(&self, id: NetnsId) -> Result<Option<i32>, HostError> {
        let mut hidden = None;
        for (pid, path) in self.processes()? {
            match inode_of(&path) {
                Ok(Some(inode)) if inode == id.ino => return Ok(Some(pid)),
                Ok(_) => {}
                Err(source) => hidden = Some(HostError::File { what: "read", path, source }),
            }
        }
        // Who can't be looked at may live there.
        hidden.filter(|_| self.sees_all).map_or(Ok(None), Err)
    }

    fn namespaces(&self) -> Vec<Netns> {
        let mut paths: Vec<PathBuf> =
            self.processes().map(|all| all.map(|(_, path)| path).collect()).unwrap_or_default();
        paths.extend(named_namespaces());
        let mut seen = std::collections::BTreeSet::from([self.host.id()]);
        let open = paths.iter().filter_map(|path| Netns::open(path).ok());
        open.filter(|netns| seen.insert(netns.id())).collect()
    }

    fn has_stand_ins(&self) -> bool {
        self.stand_ins
    }

    fn enter(&self, netns: &Netns) -> Result<Box<dyn Links>, HostError> {
        Ok(Box::new(Session::open(netns)?))
    }

    fn netdev_names(&self, vf: PciAddress) -> Vec<String> {
        let device = self.sysfs.join("bus/pci/devices").join(vf.to_string());
        let names = |folder: PathBuf| {
            std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
        };
        let mut found: Vec<String> = names(device.join("net")).collect();
        if found.is_empty() {
            // virtio: the netdev belongs to the virtio device one level below.
            let virtio = names(device.clone()).filter(|name| name.starts_with("virtio"));
            found = virtio.flat_map(|name| names(device.join(name).join("net"))).collect();
        }
        found.sort();
        found
    }

    fn rdma(&self) -> &dyn Rdma {
        self
    }
}

/// Namespaces that `ip netns` and runtimes keep by name.
fn named_namespaces() -> impl Iterator<Item = PathBuf> {
    let folders =
        ["/run/netns", "/var/run/netns"].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    folders.flat_map(|entries| entries.flatten().map(|entry| entry.path()))
}

/// The inode in the namespace link of a process (`net:[4026531840]`); `None` for one that ended. Reading the link needs
/// no open and so pins nothing.
fn inode_of(link: &Path) -> std::io::Result<Option<u64>> {
    let target = match std::fs::read_link(link) {
        Ok(target) => target,
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let text = target.to_string_lossy();
    Ok(text
        .strip_prefix("net:[")
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|inode| inode.parse().ok()))
}

/// A text in a field of fixed size, which it may fill.
pub(super) fn until_zero(field: &[u8]) -> String {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// `bus_info` of `ETHTOOL_GDRVINFO` (include/uapi/linux/ethtool.h): the PCI address on kernels that do not put it into
/// netlink. `None` when the driver does not say.
pub(super) fn ethtool_bus_info(netns: &Netns, name: &str) -> Option<String> {
    const SIOCETHTOOL: nix::libc::Ioctl = 0x8946;
    const ETHTOOL_GDRVINFO: u32 = 3;
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        version: [u8; 32],
        firmware: [u8; 32],
        bus_info: [u8; 32],
        rest: [u8; 64],
    }
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut DriverInfo,
        // struct ifreq is 40 bytes on 64-bit kernels
        padding: [u8; 16],
    }
    let mut request_name = [0; 16];
    request_name.get_mut(..name.len()).filter(|slot| slot.len() < 16)?.copy_from_slice(name.as_bytes());
    let text = netns.run(|| {
        let fail = |source| HostError::Netns { name: "ethtool socket".to_owned(), source };
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|errno| fail(errno.into()))?;
        let mut info = DriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus_info: [0; 32],
            rest: [0; 64],
        };
        let mut request = Request { name: request_name, data: &raw mut info, padding: [0; 16] };
        // SAFETY: `request` has the layout of struct ifreq and points to a struct ethtool_drvinfo (196 bytes); both
        // outlive the call, and the kernel writes no further than these.
        #[allow(unsafe_code)]
        let answer = unsafe { nix::libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if answer != 0 {
            return Err(fail(std::io::Error::last_os_error()));
        }
        Ok(until_zero(&info.bus_info))
    });
    text.ok().filter(|text| !text.is_empty())
}
