//! The real kernel.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::netlink::Session;
use super::{HostError, Kernel, Links, Netns, NetnsId};
use crate::device::PciAddress;

/// The kernel this process runs on.
#[derive(Debug)]
pub struct Linux {
    host: Netns,
    sysfs: PathBuf,
    proc: PathBuf,
}

impl Linux {
    /// Takes the calling thread's network namespace as the host's. `sysfs` is `/sys`, or a tree of the same shape.
    ///
    /// # Errors
    /// When the namespace can't be opened.
    pub fn new(sysfs: impl Into<PathBuf>) -> Result<Self, HostError> {
        Ok(Self {
            host: Netns::open(Path::new("/proc/thread-self/ns/net"))?,
            sysfs: sysfs.into(),
            proc: PathBuf::from("/proc"),
        })
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
        let mut paths: Vec<PathBuf> =
            self.processes().ok()?.filter(|(_, path)| lives_in(path, id)).map(|(_, path)| path).collect();
        for folder in ["/run/netns", "/var/run/netns"] {
            paths.extend(std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        paths.iter().filter_map(|path| Netns::open(path).ok()).find(|netns| netns.id() == id)
    }

    fn user_of(&self, id: NetnsId) -> Result<Option<i32>, HostError> {
        Ok(self.processes()?.find(|(_, path)| lives_in(path, id)).map(|(pid, _)| pid))
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
}

/// Does the namespace link of a process (`net:[4026531840]`) name this namespace? Reading the link needs no open and so
/// pins nothing.
fn lives_in(link: &Path, id: NetnsId) -> bool {
    let Ok(target) = std::fs::read_link(link) else { return false };
    let Some(text) = target.to_str() else { return false };
    text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')).and_then(|ino| ino.parse().ok())
        == Some(id.ino)
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
        let end = info.bus_info.iter().position(|byte| *byte == 0).unwrap_or(info.bus_info.len());
        Ok(String::from_utf8_lossy(&info.bus_info[..end]).into_owned())
    });
    text.ok().filter(|text| !text.is_empty())
}
