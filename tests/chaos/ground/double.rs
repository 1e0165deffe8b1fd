//! The kernel, functions and PF that hold state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sriov_dra::device::{Incarnation, PciAddress, RdmaNetnsMode, VfSettings};
use sriov_dra::host::fake::FakeKernel;
use sriov_dra::host::{Kernel, Link, NetnsId};
use sriov_dra::prepare::fake::{FakeFunctions, pf, site};
use sriov_dra::prepare::functions::{Functions, Life};
use sriov_dra::prepare::site::Site;
use sriov_dra::prepare::vfio::VfioFacts;

use super::super::node::{PF, VFS, book, default_route, driver, pci};
use super::super::ops::Bound;
use super::{Born, Ground, Lack, Meddling, Routing};

pub struct Double {
    kernel: FakeKernel,
    functions: FakeFunctions,
    dir: tempfile::TempDir,
}

/// A folder in memory, where the machine has such a place.
pub fn folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Six VFs of one PF as functions that hold state, each with a network driver and a group of its own.
pub fn functions(pf_at: PciAddress, pci: &dyn Fn(u8) -> PciAddress) -> FakeFunctions {
    let functions = FakeFunctions::default();
    for n in 1..=VFS {
        functions.add(pci(n));
        functions.change(pci(n), |facts| {
            facts.vf.pf = Some(pf_at);
            facts.vf.index = Some(u32::from(n) - 1);
            facts.vf.driver = Some(driver(n).to_owned());
            facts.vf.incarnation = Incarnation(1);
            facts.pf = Some(pf(pf_at));
        });
        let group = Some(u32::from(n));
        functions.set_vfio(pci(n), VfioFacts { group, driver: true, ..Default::default() });
    }
    functions
}

/// A site whose functions hold state, and know the VFs that it could not clean.
pub fn site_of(
    dir: &Path,
    kernel: Arc<dyn Kernel>,
    functions: &FakeFunctions,
    boot_id: &str,
) -> Result<Site, String> {
    let site = site(dir, kernel, functions.clone(), boot_id).map_err(|error| error.sentence())?;
    functions.withhold_by(site.ledger.clone());
    Ok(site)
}

/// What an administrator does by hand to a VF whose functions hold state.
pub fn rebind_by_hand(functions: &FakeFunctions, vf: PciAddress, driver: Bound) {
    match driver {
        Bound::Nothing => functions.unbind(vf).unwrap(),
        Bound::Netdev => functions.bind(vf, None).unwrap(),
        Bound::Userspace => functions.bind(vf, Some("vfio-pci")).unwrap(),
    }
}

fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}

fn alt_name(n: u8) -> String {
    format!("enp129s0v{n}")
}

impl Double {
    pub fn new() -> Self {
        let kernel = FakeKernel::default();
        let double = Self { kernel, functions: functions(PF, &pci), dir: folder() };
        double.power_on(false);
        double.functions.join(&double.kernel);
        double.functions.unbind(pci(5)).unwrap();
        double.functions.know(book(&[PF]));
        double
    }

    /// The VFs are made, and udev has named them.
    fn power_on(&self, rdma_is_shared: bool) {
        let mode = if rdma_is_shared { RdmaNetnsMode::Shared } else { RdmaNetnsMode::Exclusive };
        self.kernel.set_rdma_mode(mode);
        // The lowest number of a character device is another's.
        self.kernel.add_rdma(PF, "pf");
        for n in 1..=VFS {
            self.kernel.add_vf(pci(n), &format!("ens1v{n}"), 1500, &mac(n));
            self.kernel.meddle(pci(n), |link| link.alt_names = vec![alt_name(n)]);
            if let Some(name) = self.rdma_of(n) {
                self.kernel.add_rdma(pci(n), &name);
            }
        }
    }
}

impl Ground for Double {
    fn lacks(&self) -> Vec<Lack> {
        Vec::new()
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn site(&self, boot: u32) -> Result<Site, String> {
        site_of(self.dir.path(), Arc::new(self.kernel.clone()), &self.functions, &self.boot_id(boot))
    }

    fn boot_id(&self, boot: u32) -> String {
        format!("boot-{boot}")
    }

    /// Waiting takes no time here.
    fn patience(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn host(&self) -> NetnsId {
        self.kernel.host().id()
    }

    fn places(&self) -> Vec<PciAddress> {
        (1..=VFS).map(|n| PciAddress { function: n, ..PF }).collect()
    }

    fn pfs(&self) -> Vec<PciAddress> {
        vec![PF]
    }

    fn born(&self, n: u8) -> Born {
        Born {
            // Nobody gave the fifth a driver.
            driver: (n != 5).then(|| driver(n).to_owned()),
            name: format!("ens1v{n}"),
            hw_addr: mac(n).parse().ok(),
            alias: String::new(),
            alt_names: vec![alt_name(n)],
            settings: VfSettings::untouched(),
        }
    }

    fn life(&self, n: u8) -> Option<Life> {
        self.functions.life(pci(n))
    }

    fn settings_of(&self, n: u8) -> VfSettings {
        self.functions.settings_of(pci(n))
    }

    fn rdma_of(&self, n: u8) -> Option<String> {
        n.is_multiple_of(2).then(|| format!("mlx5_{n}"))
    }

    fn rdma_place(&self, name: &str) -> Option<(NetnsId, u32)> {
        self.kernel.rdma_place(name)
    }

    fn rdma_is_exclusive(&self) -> bool {
        self.kernel.rdma().mode() == Some(RdmaNetnsMode::Exclusive)
    }

    fn vf(&self, n: u8) -> Option<(NetnsId, Link, Vec<IpNet>)> {
        self.kernel.vf(pci(n))
    }

    fn rename(&self, n: u8, name: &str) {
        self.kernel.meddle(pci(n), |link| name.clone_into(&mut link.name));
    }

    fn meddle(&self, n: u8, what: &Meddling) {
        self.kernel.meddle(pci(n), |link| match what {
            Meddling::Promisc => link.promisc = true,
            Meddling::Mtu(mtu) => link.mtu = *mtu,
            Meddling::Down => link.up = false,
            Meddling::Name(name) => link.name.clone_from(name),
            Meddling::AltName(name) => link.alt_names = vec![name.clone()],
            Meddling::Alias(alias) => link.alias.clone_from(alias),
            Meddling::Other(command) => panic!("the double has no ip for {command}"),
        });
    }

    fn rebind(&self, n: u8, driver: Bound) {
        rebind_by_hand(&self.functions, pci(n), driver);
    }

    fn make_anew(&self, n: u8) -> Vec<u8> {
        self.functions.make_anew(pci(n));
        vec![n]
    }

    fn lose_power(&self, rdma_is_shared: bool) {
        self.kernel.lose_power();
        self.power_on(rdma_is_shared);
        (1..=VFS).for_each(|n| self.functions.make_anew(pci(n)));
        self.functions.unbind(pci(5)).unwrap();
    }

    fn add_namespace(&self, number: u32) -> (PathBuf, NetnsId, i32) {
        let path = format!("/run/netns/{number}");
        let pid = 1000 + i32::try_from(number).unwrap();
        let netns = self.kernel.add_netns(&path, pid);
        self.kernel.add_other(netns.id(), "eth0");
        let mut links = self.kernel.enter(&netns).unwrap();
        let eth0 = links.by_name("eth0").unwrap().unwrap();
        links.add_route(&eth0, &default_route()).unwrap();
        (path.into(), netns.id(), pid)
    }

    fn kill_users(&self, id: NetnsId) {
        self.kernel.kill_users(id);
    }

    fn let_go(&self, id: NetnsId) {
        self.kernel.let_go(id);
    }

    fn destroy(&self, id: NetnsId) {
        self.kernel.destroy(id);
    }

    fn exists(&self, id: NetnsId) -> bool {
        self.kernel.find(id).is_some()
    }

    fn links_of(&self, id: NetnsId) -> BTreeMap<String, (Link, Vec<IpNet>)> {
        self.kernel.links_of(id)
    }

    fn routing_of(&self, id: NetnsId) -> Routing {
        let (routes, rules, _) = self.kernel.routing_of(id);
        (routes, rules)
    }

    fn look_anew(&self) {}
}
