//! The only room that touches the kernel: sysfs, netlink, network namespaces, bind and unbind.
//!
//! In: paths, PCI addresses, file descriptors of namespaces. Out: nouns of `device`, or an error that names the thing
//! and keeps the errno. Never here: decisions, Kubernetes, state that outlives a call.
//!
//! [`Kernel`] is the seam: [`Linux`] is the real one, `fake::FakeKernel` holds state and can fail on purpose.

pub mod age;
pub mod announce;
pub mod boot;
pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod decoders;
pub mod devlink;
pub mod disk;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod fate;
mod find;
pub mod flock;
pub mod limits;
mod link;
mod linux;
pub mod memory;
pub mod modules;
mod netlink;
mod netns;
pub mod probe;
mod raw;
pub mod rdma;
pub mod routes;
pub mod survey;
pub mod sysfs;
pub mod topology;
pub mod uevent;
pub mod vf_admin;
pub mod wire;

pub use error::HostError;
pub use find::{FoundVf, VfHandle, find_vf, find_vf_on_host};
pub use link::Link;
pub use linux::Linux;
pub use netns::{Netns, NetnsId};
pub use rdma::{Rdma, RdmaLink};

use std::fmt::Debug;
use std::path::Path;

use ipnet::IpNet;

use crate::device::{HwAddr, IfName, InstalledRoute, PciAddress, Route, Rule};

/// What the engine needs of the kernel besides discovery.
pub trait Kernel: Debug + Send + Sync + 'static {
    /// The host's network namespace.
    fn host(&self) -> &Netns;
    /// Opens a namespace by path.
    ///
    /// # Errors
    /// When the path can't be opened or is not a network namespace (a mount point whose namespace this process can't
    /// see looks like a plain file).
    fn open(&self, path: &Path) -> Result<Netns, HostError>;
    /// A namespace that is no longer (or not here) reachable by its path: through a process that lives in it.
    fn find(&self, id: NetnsId) -> Option<Netns>;
    /// Some process that lives in the namespace, by PID.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    fn user_of(&self, id: NetnsId) -> Result<Option<i32>, HostError>;
    /// Every network namespace this process can see, the host's left out.
    fn namespaces(&self) -> Vec<Netns>;
    /// VFs are played by stand-ins without bus (veth below a simulated sysfs tree), which are told by alias, or by name
    /// and link-layer address. Never so on real hardware: a pod can give those to any link.
    fn has_stand_ins(&self) -> bool;
    /// A session inside a namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    fn enter(&self, netns: &Netns) -> Result<Box<dyn Links>, HostError>;
    /// Names of the VF's netdevs as sysfs shows them in the host's namespace; none when it is lent.
    fn netdev_names(&self, vf: PciAddress) -> Vec<String>;
    /// RDMA devices of this kernel.
    fn rdma(&self) -> &dyn Rdma;
}

/// Links of one namespace. A session stays in its namespace whatever the calling thread does.
pub trait Links: Send {
    /// Every link.
    fn all(&mut self) -> Result<Vec<Link>, HostError>;
    /// One link; `None` when there is none of that name.
    fn by_name(&mut self, name: &str) -> Result<Option<Link>, HostError>;
    /// Addresses with prefix length on a link.
    fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, HostError>;
    /// Moves a link into another namespace under a name, in one message: the name is taken in the target, the link is
    /// never seen there under another one (`do_setlink`, net/core/rtnetlink.c). The link arrives down, without
    /// addresses.
    fn move_to(&mut self, link: &Link, target: &Netns, name: &IfName) -> Result<(), HostError>;
    /// Administratively up or down.
    fn set_up(&mut self, link: &Link, up: bool) -> Result<(), HostError>;
    /// Bytes.
    fn set_mtu(&mut self, link: &Link, mtu: u32) -> Result<(), HostError>;
    /// Effective link-layer address.
    fn set_hw_addr(&mut self, link: &Link, address: &HwAddr) -> Result<(), HostError>;
    /// Another name. The link should be down: kernels before 6.2 refuse otherwise.
    fn rename(&mut self, link: &Link, name: &IfName) -> Result<(), HostError>;
    /// `ifalias`; an empty one removes it.
    fn set_alias(&mut self, link: &Link, alias: &str) -> Result<(), HostError>;
    /// Takes back what a former user may have left on the link and no VF has by itself: promiscuity, all-multicast,
    /// NOARP, an XDP program, a group.
    fn scrub(&mut self, link: &Link) -> Result<(), HostError>;
    /// `txqueuelen`, packets.
    fn set_queue_length(&mut self, link: &Link, packets: u32) -> Result<(), HostError>;
    /// Adds an alternative name.
    fn add_alt_name(&mut self, link: &Link, name: &str) -> Result<(), HostError>;
    /// Removes an alternative name.
    fn remove_alt_name(&mut self, link: &Link, name: &str) -> Result<(), HostError>;
    /// Adds an address; one that is there already is fine. IPv6 without duplicate address detection: the address is
    /// decided elsewhere, and a tentative one can't be used for a second.
    fn add_address(&mut self, link: &Link, address: IpNet) -> Result<(), HostError> {
        self.add_address_with_metric(link, address, 0)
    }
    /// The same, with a metric for the route to its own network (`IFA_RT_PRIORITY`); 0 is the kernel's own.
    fn add_address_with_metric(&mut self, link: &Link, address: IpNet, metric: u32) -> Result<(), HostError>;
    /// Removes an address.
    fn remove_address(&mut self, link: &Link, address: IpNet) -> Result<(), HostError>;
    /// Every unicast route, of all tables and both families.
    fn routes(&mut self) -> Result<Vec<InstalledRoute>, HostError>;
    /// Adds a route; one that is there already is EEXIST.
    fn add_route(&mut self, link: &Link, route: &Route) -> Result<(), HostError>;
    /// Removes a route through the link with this index; one that is not there is fine.
    fn remove_route(&mut self, link: u32, route: &Route) -> Result<(), HostError>;
    /// Rules from one whole address to a table, of both families.
    fn rules(&mut self) -> Result<Vec<Rule>, HostError>;
    /// Adds a rule; the very same that is there already is fine.
    fn add_rule(&mut self, rule: &Rule) -> Result<(), HostError>;
    /// Removes a rule; one that is not there is fine.
    fn remove_rule(&mut self, rule: &Rule) -> Result<(), HostError>;
    /// Tells the neighbours of an address ([`announce::announce`]).
    fn announce(&mut self, link: &Link, address: std::net::IpAddr) -> Result<(), HostError>;
    /// Asks the network who has addresses ([`probe::ask`]).
    fn ask(
        &mut self,
        questions: &[probe::Question],
        budget: std::time::Duration,
    ) -> Result<Vec<Option<HwAddr>>, HostError>;
    /// Reads `/proc/sys/net/<key>` of this namespace; `None` when the kernel has no such key.
    fn read_sysctl(&mut self, key: &str) -> Result<Option<String>, HostError>;
    /// Writes `/proc/sys/net/<key>` of this namespace. `false` when the kernel has no such key (IPv6 off).
    fn sysctl(&mut self, key: &str, value: &str) -> Result<bool, HostError>;
    /// Interfaces (by index) that carry a default route, in any table, IPv4 and IPv6.
    fn default_route_links(&mut self) -> Result<Vec<u32>, HostError>;
    /// Every address of the namespace as (interface index, address).
    fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, HostError>;
}
