//! Kernel modules, loaded by the kernel itself.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::HostError;

/// Has the kernel load a module if it knows it. It runs the node's own modprobe in the node's own root for that, so nothing
/// of the node has to be mounted here: an interface name that nobody has is looked for among modules, too (`dev_load`,
/// net/core/dev_ioctl.c; needs CAP_SYS_MODULE). Whether the module is there afterwards is for the caller to see.
///
/// # Errors
/// A name that could be no interface's (16 characters or more), or no socket.
pub fn load(name: &str) -> Result<(), HostError> {
    let failed = |source: std::io::Error| HostError::Netlink { what: format!("load module {name}"), source };
    // SAFETY: all-zero is a valid `struct ifreq`: a name and a union of plain data.
    #[allow(unsafe_code)]
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    let slots = request.ifr_name.iter_mut().take(nix::libc::IFNAMSIZ - 1);
    if name.len() >= nix::libc::IFNAMSIZ {
        return Err(failed(nix::errno::Errno::ENAMETOOLONG.into()));
    }
    for (slot, byte) in slots.zip(name.bytes()) {
        *slot = byte.cast_signed() as nix::libc::c_char;
    }
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| failed(errno.into()))?;
    // SAFETY: the kernel reads and writes one `struct ifreq`, which outlives the call. That there is no such interface is
    // the usual answer.
    #[allow(unsafe_code)]
    let _ = unsafe { nix::libc::ioctl(fd.as_raw_fd(), nix::libc::SIOCGIFFLAGS, &raw mut request) };
    Ok(())
}
