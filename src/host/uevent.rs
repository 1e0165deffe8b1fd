//! Kernel events: wakes whoever wants to look at the node again.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};

use super::HostError;

/// The kernel's own multicast group (lib/kobject_uevent.c); udev's is 2.
const KERNEL_GROUP: u32 = 1;

/// A socket that hears the kernel's events.
#[derive(Debug)]
pub struct Uevents {
    socket: Socket,
}

impl Uevents {
    /// Listens in the calling thread's network namespace; network events are only heard in the host's.
    ///
    /// # Errors
    /// When the socket can't be opened (user namespaces hear nothing).
    pub fn open() -> Result<Self, HostError> {
        let fail = |source| HostError::Netlink { what: "listen for kernel events".to_owned(), source };
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT).map_err(fail)?;
        socket.bind(&SocketAddr::new(0, KERNEL_GROUP)).map_err(fail)?;
        Ok(Self { socket })
    }

    /// Blocks until something about PCI, network or RDMA devices changed.
    ///
    /// # Errors
    /// When the socket breaks; an overrun is news, not an error.
    pub fn wait(&self) -> Result<(), HostError> {
        loop {
            let (event, _) = match self.socket.recv_from_full() {
                Ok(received) => received,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(()),
                Err(source) => {
                    return Err(HostError::Netlink { what: "receive a kernel event".to_owned(), source });
                }
            };
            if concerns_us(&event) {
                return Ok(());
            }
        }
    }
}

/// `action@devpath`, and fields with a zero behind each.
pub(super) fn concerns_us(event: &[u8]) -> bool {
    let ours = |field: &[u8]| matches!(field, b"SUBSYSTEM=pci" | b"SUBSYSTEM=net" | b"SUBSYSTEM=infiniband");
    event.split(|byte| *byte == 0).any(ours)
}
