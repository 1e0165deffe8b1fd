//! A process that uses a VF through vfio, as DPDK or a virtual machine does, as far as the VF's configuration space.
#![allow(unsafe_code)] // there is no other way to talk to vfio

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

// include/uapi/linux/vfio.h
nix::ioctl_none_bad!(api_version, nix::request_code_none!(b';', 100));
nix::ioctl_write_int_bad!(set_iommu, nix::request_code_none!(b';', 102));
nix::ioctl_read_bad!(group_status, nix::request_code_none!(b';', 103), [u32; 2]);
nix::ioctl_write_ptr_bad!(set_container, nix::request_code_none!(b';', 104), i32);
nix::ioctl_read_bad!(device_fd, nix::request_code_none!(b';', 106), u8);
nix::ioctl_readwrite_bad!(region_info, nix::request_code_none!(b';', 108), RegionInfo);
const TYPE1_IOMMU: i32 = 1;
const VIABLE: u32 = 1;
const CONFIG_REGION: u32 = 7;

/// `struct vfio_region_info`
#[derive(Default)]
#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("open {path}"))
}

/// Opens a group, puts it behind the IOMMU, reads from the device's configuration space: `VENDOR:DEVICE, N bytes`.
///
/// # Errors
/// Which step was refused.
pub fn read_configuration(group: &str, pci: &str) -> Result<String> {
    let container = open("/dev/vfio/vfio")?;
    let group = open(&format!("/dev/vfio/{group}"))?;
    let mut status: [u32; 2] = [8, 0];
    let mut region = RegionInfo { argsz: 32, index: CONFIG_REGION, ..RegionInfo::default() };
    let mut name = pci.as_bytes().to_vec();
    name.push(0);
    // SAFETY: each call is given what vfio.h says it reads or writes, and all of that lives until it returns.
    let device = unsafe {
        let version = api_version(container.as_raw_fd()).context("VFIO_GET_API_VERSION")?;
        ensure!(version == 0, "vfio speaks version {version}");
        group_status(group.as_raw_fd(), &raw mut status).context("VFIO_GROUP_GET_STATUS")?;
        ensure!(status[1] & VIABLE != 0, "the group is not viable");
        set_container(group.as_raw_fd(), &container.as_raw_fd()).context("VFIO_GROUP_SET_CONTAINER")?;
        set_iommu(container.as_raw_fd(), TYPE1_IOMMU).context("VFIO_SET_IOMMU")?;
        let fd = device_fd(group.as_raw_fd(), name.as_mut_ptr()).context("VFIO_GROUP_GET_DEVICE_FD")?;
        region_info(fd, &raw mut region).context("VFIO_DEVICE_GET_REGION_INFO")?;
        File::from(OwnedFd::from_raw_fd(fd))
    };
    let mut ids = [0; 4];
    device.read_exact_at(&mut ids, region.offset).context("read the configuration space")?;
    let word = |n: usize| u16::from_le_bytes([ids[n], ids[n + 1]]);
    Ok(format!("{:04x}:{:04x}, {} bytes", word(0), word(2), region.size))
}

/// Makes a node of a device that the kernel has under `/sys/class/misc`, and opens it: only the device cgroup can say no.
///
/// # Errors
/// That it did.
pub fn open_made(name: &str) -> Result<String> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let number = std::fs::read_to_string(format!("/sys/class/misc/{name}/dev"))?;
    let (major, minor) = number.trim().split_once(':').context("a device number")?;
    let path = format!("/tmp/{name}");
    mknod(path.as_str(), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(major.parse()?, minor.parse()?))
        .context("make the node")?;
    open(&path).map(|_| "opened".to_owned())
}
