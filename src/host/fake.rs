//! A kernel that holds state and can fail on purpose: namespaces, links, addresses, processes.
//!
//! It follows what real kernels were seen to do: a moved link arrives down and without addresses; a name or alternative
//! name that is taken is EEXIST; hardware links of a namespace that ends go back to the host under the name they had,
//! or as `devN` when that is taken.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;

use super::fate::{self, Kind};
use super::probe::Question;
use super::rdma::fake::FakeRdma;
use super::{HostError, Kernel, Link, Links, Netns, NetnsId, Rdma};
use crate::device::{HwAddr, IfName, InstalledRoute, PciAddress, Route, Rule};

/// The namespace every fake host lives in.
pub(super) const HOST: NetnsId = NetnsId { dev: 4, ino: 1 };

#[derive(Debug, Default)]
struct Namespace {
    links: Vec<(Link, Vec<IpNet>)>,
    path: Option<PathBuf>,
    users: Vec<i32>,
    sysctls: BTreeMap<String, String>,
    routes: Vec<InstalledRoute>,
    rules: Vec<Rule>,
    announced: Vec<IpAddr>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) rdma: FakeRdma,
    /// Who else answers for an address.
    neighbours: BTreeMap<IpAddr, HwAddr>,
    namespaces: BTreeMap<NetnsId, Namespace>,
    next: u64,
    changes: u64,
    fail_at: Option<(u64, Errno)>,
}

/// Clones share one state.
#[derive(Debug, Clone)]
pub struct FakeKernel {
    host: Netns,
    state: Arc<Mutex<State>>,
}

impl Default for FakeKernel {
    fn default() -> Self {
        let mut state = State { next: 100, ..State::default() };
        state.namespaces.insert(HOST, Namespace { users: vec![1], ..Namespace::default() });
        Self { host: Netns::fake(HOST), state: Arc::new(Mutex::new(state)) }
    }
}

impl FakeKernel {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a VF's netdev on the host.
    pub fn add_vf(&self, pci: PciAddress, name: &str, mtu: u32, hw_addr: &str) {
        let mut state = self.state();
        state.next += 1;
        let index = u32::try_from(state.next).unwrap_or(u32::MAX);
        let link = Link {
            index,
            name: name.to_owned(),
            hw_addr: hw_addr.parse().ok(),
            mtu,
            pci: Some(pci),
            ..Link::default()
        };
        state.namespaces.entry(HOST).or_default().links.push((link, Vec::new()));
    }

    /// Makes a pod's namespace with one process in it.
    pub fn add_netns(&self, path: &str, pid: i32) -> Netns {
        let mut state = self.state();
        state.next += 1;
        let id = NetnsId { dev: 4, ino: state.next };
        let namespace = Namespace { path: Some(path.into()), users: vec![pid], ..Namespace::default() };
        state.namespaces.insert(id, namespace);
        Netns::fake(id)
    }

    /// The processes of a namespace end; the namespace stays. Some process always lives in the host's.
    pub fn kill_users(&self, id: NetnsId) {
        if id == HOST {
            return;
        }
        if let Some(namespace) = self.state().namespaces.get_mut(&id) {
            namespace.users.clear();
        }
    }

    /// Its processes end, and no path leads to it any more. It is there as long as somebody has it open.
    pub fn let_go(&self, id: NetnsId) {
        if id == HOST {
            return;
        }
        if let Some(namespace) = self.state().namespaces.get_mut(&id) {
            namespace.users.clear();
            namespace.path = None;
        }
    }

    /// The namespace ends: hardware comes back to the host as the kernel brings it back. The host's does not end.
    pub fn destroy(&self, id: NetnsId) {
        if id == HOST {
            return;
        }
        let mut state = self.state();
        let Some(gone) = state.namespaces.remove(&id) else { return };
        state.rdma.bring_home(id);
        for (mut link, _) in gone.links {
            if link.pci.is_none() {
                continue;
            }
            let host = state.namespaces.entry(HOST).or_default();
            if name_taken(host, &link.name, None) {
                link.name =
                    (0..).map(|n| format!("dev{n}")).find(|n| !name_taken(host, n, None)).unwrap_or_default();
            }
            link.up = false;
            host.links.push((link, Vec::new()));
        }
    }

    /// The links of a namespace with their addresses, by name.
    pub fn links_of(&self, id: NetnsId) -> BTreeMap<String, (Link, Vec<IpNet>)> {
        let state = self.state();
        let links = state.namespaces.get(&id).map(|namespace| namespace.links.clone()).unwrap_or_default();
        links.into_iter().map(|(link, addresses)| (link.name.clone(), (link, addresses))).collect()
    }

    /// Routes and rules of a namespace, what was announced in it, and a sysctl.
    pub fn routing_of(&self, id: NetnsId) -> (Vec<InstalledRoute>, Vec<Rule>, Vec<IpAddr>) {
        let state = self.state();
        let namespace = state.namespaces.get(&id);
        namespace.map(|n| (n.routes.clone(), n.rules.clone(), n.announced.clone())).unwrap_or_default()
    }

    /// What a sysctl of a namespace is.
    pub fn sysctl_of(&self, id: NetnsId, key: &str) -> Option<String> {
        self.state().namespaces.get(&id)?.sysctls.get(key).cloned()
    }

    /// Sets a sysctl behind everybody's back.
    pub fn put_sysctl(&self, id: NetnsId, key: &str, value: &str) {
        if let Some(namespace) = self.state().namespaces.get_mut(&id) {
            namespace.sysctls.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Changes a link behind everybody's back.
    pub fn meddle(&self, pci: PciAddress, change: impl FnOnce(&mut Link)) {
        let mut state = self.state();
        let links = state.namespaces.values_mut().flat_map(|namespace| &mut namespace.links);
        if let Some((link, _)) = links.into_iter().find(|(link, _)| link.pci == Some(pci)) {
            change(link);
        }
    }

    /// A VF's driver goes, and its netdev with it, wherever it is.
    pub fn take_netdev(&self, pci: PciAddress) {
        let mut state = self.state();
        for namespace in state.namespaces.values_mut() {
            let gone = namespace.links.iter().position(|(link, _)| link.pci == Some(pci));
            if let Some((link, _)) = gone.map(|at| namespace.links.remove(at)) {
                namespace.routes.retain(|installed| installed.link != link.index);
            }
        }
    }

    /// A driver makes a VF's netdev, on the host; udev gives it the name that it always has, if that is free.
    pub fn put_netdev(&self, like: &Link) {
        let mut state = self.state();
        state.next += 1;
        let index = u32::try_from(state.next).unwrap_or(u32::MAX);
        let mut link = Link { index, up: false, ..like.clone() };
        let host = state.namespaces.entry(HOST).or_default();
        link.alt_names.retain(|alt| !name_taken(host, alt, None));
        if name_taken(host, &link.name, None) {
            link.name =
                (0..).map(|n| format!("eth{n}")).find(|n| !name_taken(host, n, None)).unwrap_or_default();
        }
        host.links.push((link, Vec::new()));
    }

    /// Where a VF's netdev is, and what it is there.
    pub fn vf(&self, pci: PciAddress) -> Option<(NetnsId, Link, Vec<IpNet>)> {
        let state = self.state();
        state.namespaces.iter().find_map(|(id, namespace)| {
            let (link, addresses) = namespace.links.iter().find(|(link, _)| link.pci == Some(pci))?;
            Some((*id, link.clone(), addresses.clone()))
        })
    }

    /// The power is lost: there is the host's namespace, with nothing in it.
    pub fn lose_power(&self) {
        let mut state = self.state();
        state.namespaces.clear();
        state.namespaces.insert(HOST, Namespace { users: vec![1], ..Namespace::default() });
        state.rdma.forget();
    }

    /// Puts a link that is no VF into a namespace.
    pub fn add_other(&self, id: NetnsId, name: &str) {
        let mut state = self.state();
        state.next += 1;
        let index = u32::try_from(state.next).unwrap_or(u32::MAX);
        let link =
            Link { index, name: name.to_owned(), kind: Some("veth".to_owned()), up: true, ..Link::default() };
        if let Some(namespace) = state.namespaces.get_mut(&id) {
            namespace.links.push((link, Vec::new()));
        }
    }

    /// Whoever is asked for the address hears of this one.
    pub fn put_neighbour(&self, address: IpAddr, hw_addr: &str) {
        if let Ok(hw_addr) = hw_addr.parse() {
            self.state().neighbours.insert(address, hw_addr);
        }
    }

    /// The k-th change from now (0 is the next) fails with this errno.
    pub fn fail_change(&self, k: u64, errno: Errno) {
        let mut state = self.state();
        state.fail_at = Some((state.changes + k, errno));
    }

    /// Changes made so far.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Counts a change, and fails it if it was asked to.
    pub(super) fn count_change(&self, what: &str) -> Result<(), HostError> {
        fate::effect(Kind::Kernel, format_args!("{what}"))
            .map_err(|source| HostError::Netlink { what: what.to_owned(), source })?;
        let mut state = self.state();
        let number = state.changes;
        state.changes += 1;
        match state.fail_at {
            Some((at, errno)) if at == number => Err(refused(what, errno)),
            _ => Ok(()),
        }
    }

    fn open_id(&self, wanted: impl Fn(&NetnsId, &Namespace) -> bool) -> Option<Netns> {
        self.state()
            .namespaces
            .iter()
            .find(|(id, namespace)| wanted(id, namespace))
            .map(|(id, _)| Netns::fake(*id))
    }
}

fn name_taken(namespace: &Namespace, name: &str, but: Option<u32>) -> bool {
    namespace.links.iter().any(|(link, _)| {
        Some(link.index) != but && (link.name == name || link.alt_names.iter().any(|alt| alt == name))
    })
}

impl Kernel for FakeKernel {
    fn host(&self) -> &Netns {
        &self.host
    }

    fn open(&self, path: &Path) -> Result<Netns, HostError> {
        let is = |namespace: &Namespace| {
            let of_process = |pid: &i32| path == Path::new(&format!("/proc/{pid}/ns/net"));
            namespace.path.as_deref() == Some(path) || namespace.users.iter().any(of_process)
        };
        self.open_id(|_, namespace| is(namespace)).ok_or_else(|| HostError::Netns {
            name: path.display().to_string(),
            source: Errno::ENOENT.into(),
        })
    }

    fn find(&self, wanted: NetnsId) -> Option<Netns> {
        // Through a process that lives there, or a path that still leads to it.
        self.open_id(|id, namespace| {
            *id == wanted && (namespace.path.is_some() || !namespace.users.is_empty())
        })
    }

    fn user_of(&self, id: NetnsId) -> Result<Option<i32>, HostError> {
        Ok(self.state().namespaces.get(&id).and_then(|namespace| namespace.users.first().copied()))
    }

    fn namespaces(&self) -> Vec<Netns> {
        let state = self.state();
        let seen = state.namespaces.iter().filter(|(id, namespace)| {
            **id != HOST && (namespace.path.is_some() || !namespace.users.is_empty())
        });
        seen.map(|(id, _)| Netns::fake(*id)).collect()
    }

    fn has_stand_ins(&self) -> bool {
        false
    }

    fn enter(&self, netns: &Netns) -> Result<Box<dyn Links>, HostError> {
        Ok(Box::new(FakeLinks { kernel: self.clone(), id: netns.id() }))
    }

    fn netdev_names(&self, vf: PciAddress) -> Vec<String> {
        self.links_of(HOST)
            .into_iter()
            .filter(|(_, (link, _))| link.pci == Some(vf))
            .map(|(name, _)| name)
            .collect()
    }

    fn rdma(&self) -> &dyn Rdma {
        self
    }
}

struct FakeLinks {
    kernel: FakeKernel,
    id: NetnsId,
}

pub(super) fn refused(what: &str, errno: Errno) -> HostError {
    HostError::Netlink { what: what.to_owned(), source: io::Error::from(errno) }
}

impl FakeLinks {
    /// One change: counted, failed if asked to, applied to the namespace and the position of the link in it.
    fn change<T>(
        &mut self,
        what: &str,
        link: &Link,
        apply: impl FnOnce(&mut Namespace, usize) -> Result<T, Errno>,
    ) -> Result<T, HostError> {
        self.kernel.count_change(what)?;
        let mut state = self.kernel.state();
        let namespace = state.namespaces.get_mut(&self.id).ok_or_else(|| refused(what, Errno::ENODEV))?;
        let position = namespace.links.iter().position(|(l, _)| l.index == link.index);
        apply(namespace, position.ok_or_else(|| refused(what, Errno::ENODEV))?)
            .map_err(|errno| refused(what, errno))
    }

    /// A change of the namespace rather than of a link.
    fn change_namespace(&mut self, what: &str, apply: impl FnOnce(&mut Namespace)) -> Result<(), HostError> {
        self.kernel.count_change(what)?;
        let mut state = self.kernel.state();
        apply(state.namespaces.get_mut(&self.id).ok_or_else(|| refused(what, Errno::ENODEV))?);
        Ok(())
    }

    fn set(&mut self, what: &str, link: &Link, set: impl FnOnce(&mut Link)) -> Result<(), HostError> {
        self.change(what, link, |namespace, at| {
            set(&mut namespace.links[at].0);
            Ok(())
        })
    }
}

impl Links for FakeLinks {
    fn all(&mut self) -> Result<Vec<Link>, HostError> {
        Ok(self.kernel.links_of(self.id).into_values().map(|(link, _)| link).collect())
    }

    fn by_name(&mut self, name: &str) -> Result<Option<Link>, HostError> {
        Ok(self.kernel.links_of(self.id).remove(name).map(|(link, _)| link))
    }

    fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, HostError> {
        let mut links = self.kernel.links_of(self.id).into_values();
        Ok(links.find(|(link, _)| link.index == index).map(|(_, addresses)| addresses).unwrap_or_default())
    }

    fn move_to(&mut self, link: &Link, target: &Netns, name: &IfName) -> Result<(), HostError> {
        let target = target.id();
        let what = format!("move link {}", link.name);
        let (arrives_as, then) = {
            let state = self.kernel.state();
            let there = state.namespaces.get(&target).ok_or_else(|| refused(&what, Errno::EBADF))?;
            let taken = |name: &str| name_taken(there, name, None);
            if link.alt_names.iter().any(|alt| taken(alt)) {
                return Err(refused(&what, Errno::EEXIST));
            }
            match (taken(&link.name), taken(name.as_str())) {
                (true, true) => return Err(refused(&what, Errno::EEXIST)),
                // The move goes through, the renaming after it does not.
                (false, true) => (link.name.clone(), Err(refused(&what, Errno::EEXIST))),
                (_, false) => (name.to_string(), Ok(())),
            }
        };
        let (mut moved, _) = self.change(&what, link, |namespace, at| {
            namespace.routes.retain(|installed| installed.link != link.index);
            Ok(namespace.links.remove(at))
        })?;
        moved.name = arrives_as;
        moved.up = false;
        if let Some(there) = self.kernel.state().namespaces.get_mut(&target) {
            there.links.push((moved, Vec::new()));
        }
        then
    }

    fn set_up(&mut self, link: &Link, up: bool) -> Result<(), HostError> {
        self.set(&format!("set link {} up={up}", link.name), link, |link| (link.up, link.carrier) = (up, up))
    }

    fn set_mtu(&mut self, link: &Link, mtu: u32) -> Result<(), HostError> {
        self.set(&format!("set MTU {mtu} on link {}", link.name), link, |link| link.mtu = mtu)
    }

    fn set_hw_addr(&mut self, link: &Link, address: &HwAddr) -> Result<(), HostError> {
        self.set(&format!("set address {address}"), link, |link| link.hw_addr = Some(address.clone()))
    }

    fn rename(&mut self, link: &Link, name: &IfName) -> Result<(), HostError> {
        let index = link.index;
        self.change(&format!("rename link {} to {name}", link.name), link, |namespace, at| {
            // Its own alternative name counts as taken too (dev_change_name, net/core/dev.c).
            let own = namespace.links[at].0.alt_names.iter().any(|alt| alt == name.as_str());
            if own || name_taken(namespace, name.as_str(), Some(index)) {
                return Err(Errno::EEXIST);
            }
            namespace.links[at].0.name = name.to_string();
            Ok(())
        })
    }

    fn set_alias(&mut self, link: &Link, alias: &str) -> Result<(), HostError> {
        self.set("set alias", link, |link| link.alias = alias.to_owned())
    }

    fn scrub(&mut self, link: &Link) -> Result<(), HostError> {
        if !(link.promisc || link.allmulti || link.noarp || link.xdp || link.group != 0) {
            return Ok(());
        }
        self.set("scrub", link, |link| {
            (link.promisc, link.allmulti, link.noarp, link.xdp, link.group) = (false, false, false, false, 0);
        })
    }

    fn set_queue_length(&mut self, link: &Link, packets: u32) -> Result<(), HostError> {
        self.set("set queue length", link, |link| link.queue_length = packets)
    }

    fn add_alt_name(&mut self, link: &Link, name: &str) -> Result<(), HostError> {
        self.change("add alternative name", link, |namespace, at| {
            if name_taken(namespace, name, None) {
                return Err(Errno::EEXIST);
            }
            namespace.links[at].0.alt_names.push(name.to_owned());
            Ok(())
        })
    }

    fn remove_alt_name(&mut self, link: &Link, name: &str) -> Result<(), HostError> {
        self.set("remove alternative name", link, |link| link.alt_names.retain(|alt| alt != name))
    }

    fn add_address_with_metric(
        &mut self,
        link: &Link,
        address: IpNet,
        _metric: u32,
    ) -> Result<(), HostError> {
        self.change(&format!("add address {address}"), link, |namespace, at| {
            let addresses = &mut namespace.links[at].1;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            Ok(())
        })
    }

    fn remove_address(&mut self, link: &Link, address: IpNet) -> Result<(), HostError> {
        self.change(&format!("remove address {address}"), link, |namespace, at| {
            namespace.links[at].1.retain(|a| *a != address);
            Ok(())
        })
    }

    fn routes(&mut self) -> Result<Vec<InstalledRoute>, HostError> {
        Ok(self.kernel.state().namespaces.get(&self.id).map(|n| n.routes.clone()).unwrap_or_default())
    }

    fn add_route(&mut self, link: &Link, route: &Route) -> Result<(), HostError> {
        let installed = InstalledRoute { link: link.index, route: route.clone() };
        self.change(&format!("add route {route}"), link, |namespace, _| {
            let key = |route: &Route| (route.to, route.table, route.metric);
            if namespace.routes.iter().any(|known| key(&known.route) == key(route)) {
                return Err(Errno::EEXIST);
            }
            namespace.routes.push(installed);
            Ok(())
        })
    }

    fn remove_route(&mut self, link: u32, route: &Route) -> Result<(), HostError> {
        let gone = InstalledRoute { link, route: route.clone() };
        self.change_namespace(&format!("remove route {route}"), |namespace| {
            namespace.routes.retain(|known| *known != gone);
        })
    }

    fn rules(&mut self) -> Result<Vec<Rule>, HostError> {
        Ok(self.kernel.state().namespaces.get(&self.id).map(|n| n.rules.clone()).unwrap_or_default())
    }

    fn add_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        self.change_namespace(&format!("add rule {rule}"), |namespace| {
            if !namespace.rules.contains(rule) {
                namespace.rules.push(rule.clone());
            }
        })
    }

    fn remove_rule(&mut self, rule: &Rule) -> Result<(), HostError> {
        self.change_namespace(&format!("remove rule {rule}"), |namespace| {
            namespace.rules.retain(|known| known != rule);
        })
    }

    fn announce(&mut self, _link: &Link, address: IpAddr) -> Result<(), HostError> {
        let what = format!("announce {address}");
        fate::effect(Kind::Kernel, format_args!("{what}"))
            .map_err(|source| HostError::Netlink { what, source })?;
        if let Some(namespace) = self.kernel.state().namespaces.get_mut(&self.id) {
            namespace.announced.push(address);
        }
        Ok(())
    }

    fn ask(&mut self, questions: &[Question], _budget: Duration) -> Result<Vec<Option<HwAddr>>, HostError> {
        let what = "ask the neighbours".to_owned();
        fate::effect(Kind::Kernel, format_args!("{what}"))
            .map_err(|source| HostError::Netlink { what, source })?;
        let state = self.kernel.state();
        Ok(questions.iter().map(|question| state.neighbours.get(&question.address).cloned()).collect())
    }

    fn read_sysctl(&mut self, key: &str) -> Result<Option<String>, HostError> {
        let state = self.kernel.state();
        let set = state.namespaces.get(&self.id).and_then(|namespace| namespace.sysctls.get(key).cloned());
        Ok(Some(set.unwrap_or_else(|| "0".to_owned())))
    }

    fn sysctl(&mut self, key: &str, value: &str) -> Result<bool, HostError> {
        let path = PathBuf::from(format!("/proc/sys/net/{key}"));
        fate::effect(Kind::Kernel, format_args!("write {value} to {key}"))
            .map_err(|source| HostError::File { what: "write", path, source })?;
        if let Some(namespace) = self.kernel.state().namespaces.get_mut(&self.id) {
            namespace.sysctls.insert(key.to_owned(), value.to_owned());
        }
        Ok(true)
    }

    fn default_route_links(&mut self) -> Result<Vec<u32>, HostError> {
        Ok(Vec::new())
    }

    fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, HostError> {
        let links = self.kernel.links_of(self.id).into_values();
        Ok(links.flat_map(|(link, addresses)| addresses.into_iter().map(move |a| (link.index, a))).collect())
    }
}
