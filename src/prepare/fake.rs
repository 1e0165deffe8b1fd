//! PCI functions as plain data, and a node below one folder, for tests of what works on claims.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::PrepareError;
use super::cdi::HookCommand;
use super::functions::{Facts, Functions, Life, VfioNodes};
use super::ledger::Ledger;
use super::locks::Locks;
use super::netdevs::{Netdevs, OnFake};
use super::site::Site;
use super::vfio::VfioFacts;
use crate::DEFAULT_DRIVER_NAME;
use crate::address::{Assigned, Book, NoAddress, Parent};
use crate::claim::{NameSpec, ResultSpec};
use crate::device::{
    Incarnation, LinkType, Netdev, PciAddress, Pf, PfLink, Place, Setting, Vf, VfSettings, is_userspace,
};
use crate::host::fake::FakeKernel;
use crate::host::fate::{self, Kind};
use crate::host::topology::{Function, Topology};
use crate::host::{HostError, Kernel};

/// A node that keeps all of its state below one folder. Its hook is never run.
///
/// # Errors
/// When the ledger's folders can't be made.
pub fn site(
    folder: &Path,
    kernel: Arc<dyn Kernel>,
    functions: FakeFunctions,
    boot_id: &str,
) -> Result<Site, PrepareError> {
    let ledger = Ledger::open(folder.join("durable"), folder.join("run"))?;
    Ok(Site {
        kernel,
        functions: Arc::new(functions),
        locks: Locks::at(ledger.lock_folder()),
        ledger,
        driver: DEFAULT_DRIVER_NAME.to_owned(),
        cdi_dir: folder.join("cdi"),
        runtime: Default::default(),
        hook: HookCommand { path: "/hook".into(), args: Vec::new(), timeout_s: 15 },
        boot_id: boot_id.to_owned(),
    })
}

/// One allocated VF that asks for nothing, in request `vf<function>`.
pub fn plain_result(pci: PciAddress) -> ResultSpec {
    ResultSpec {
        request: format!("vf{}", pci.function),
        pool: "node-a".to_owned(),
        device: pci.device_name(),
        pci,
        share_id: None,
        admin_access: false,
        interface_asked: false,
        name: NameSpec::Template("net{n}".to_owned()),
        mtu: None,
        addresses: Vec::new(),
        settings: Default::default(),
        bind: Default::default(),
        address_pool: None,
        routing: Default::default(),
        rdma: Default::default(),
    }
}

/// A PF of Ethernet with a netdev, for VFs to be below of.
pub fn pf(pci: PciAddress) -> Pf {
    Pf {
        pci,
        vendor: 0x8086,
        device: 0x10c9,
        driver: Some("igb".into()),
        link_type: Some(LinkType::Ethernet),
        netdev: Some(Netdev {
            name: "ens1f0".into(),
            ifindex: 3,
            arphrd: 1,
            hw_addr: None,
            mtu: Some(9000),
            max_mtu: None,
            oper_state: None,
            up: true,
            speed_mbps: None,
            phys_port_name: None,
            phys_switch_id: None,
            master: None,
            uppers: Vec::new(),
            addresses: Vec::new(),
            uplink: false,
        }),
        rdma: Vec::new(),
        total_vfs: 7,
        num_vfs: 7,
        numa_node: None,
        pcie_root: None,
        pcie_switch: None,
        eswitch_mode: None,
        iommu_group: None,
        drivers_autoprobe: Some(true),
    }
}

/// Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct FakeFunctions {
    state: Arc<Mutex<BTreeMap<PciAddress, Facts>>>,
    settings: Arc<Mutex<BTreeMap<PciAddress, VfSettings>>>,
    vfio: Arc<Mutex<BTreeMap<PciAddress, VfioFacts>>>,
    /// VFs whose address is their own choice.
    choosers: Arc<Mutex<BTreeSet<PciAddress>>>,
    forced: Arc<Mutex<BTreeMap<PciAddress, String>>>,
    /// VFs that the next bind leaves without driver.
    refused_binds: Arc<Mutex<BTreeSet<PciAddress>>>,
    book: Arc<Mutex<Book>>,
    /// Who has the netdevs of the VFs, and makes them.
    netdevs: Arc<Mutex<Option<Arc<dyn Netdevs>>>>,
    /// Knows the VFs that could not be cleaned.
    ledger: Arc<Mutex<Option<Ledger>>>,
    /// The k-th set from now (0 is the next) fails with this errno.
    refusal: Arc<Mutex<Option<(u32, Errno)>>>,
}

impl FakeFunctions {
    fn state(&self) -> MutexGuard<'_, BTreeMap<PciAddress, Facts>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of pools of addresses from now on.
    pub fn know(&self, book: Book) {
        *self.book.lock().unwrap_or_else(PoisonError::into_inner) = book;
    }

    /// Adds a VF below no PF, bound to a network driver.
    pub fn add(&self, pci: PciAddress) {
        let vf = Vf {
            pci,
            pf: None,
            index: None,
            vendor: 0x8086,
            device: 0x10ca,
            driver: Some("igbvf".to_owned()),
            link_type: Some(LinkType::Ethernet),
            netdev: None,
            rdma: Vec::new(),
            numa_node: None,
            pcie_root: None,
            pcie_switch: None,
            iommu_group: None,
            vfio_open: false,
            incarnation: Incarnation(1),
            place: Place::Host,
        };
        self.state().insert(pci, Facts { vf, pf: None, rail: None, withheld: None });
    }

    /// From now on VFs have the netdevs and RDMA devices that they have on this kernel now, as long as a network driver is
    /// bound, and are where those are.
    pub fn join(&self, kernel: &FakeKernel) {
        let of = |(pci, facts): (&PciAddress, &Facts)| Some((*pci, facts.vf.driver.clone()?));
        let drivers = self.state().iter().filter_map(of).collect();
        self.join_with(Arc::new(OnFake::of(kernel, drivers)));
    }

    /// The same, with whoever has them.
    pub fn join_with(&self, netdevs: Arc<dyn Netdevs>) {
        *self.netdevs.lock().unwrap_or_else(PoisonError::into_inner) = Some(netdevs);
    }

    /// From now on VFs are withheld that this ledger says could not be cleaned, as by the agent.
    pub fn withhold_by(&self, ledger: Ledger) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = Some(ledger);
    }

    fn netdevs(&self) -> Option<Arc<dyn Netdevs>> {
        self.netdevs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The driver that the kernel chooses.
    fn network_driver(&self, pci: PciAddress) -> String {
        self.netdevs().and_then(|netdevs| netdevs.driver(pci)).unwrap_or_else(|| "igbvf".to_owned())
    }

    /// The VF is removed and made again, as by `sriov_numvfs`: nothing of what it was is left.
    pub fn make_anew(&self, pci: PciAddress) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).remove(&pci);
        self.forced.lock().unwrap_or_else(PoisonError::into_inner).remove(&pci);
        self.change(pci, |facts| facts.vf.incarnation.0 += 1);
        self.put_driver(pci, None);
        self.put_driver(pci, Some(self.network_driver(pci)));
    }

    /// What follows of a driver that is bound, or let go.
    fn put_driver(&self, pci: PciAddress, driver: Option<String>) {
        let network = driver.clone().filter(|driver| driver != "vfio-pci");
        match self.netdevs() {
            Some(netdevs) if network.is_none() => netdevs.take(pci),
            Some(netdevs) => {
                // The PF tells the driver which address to have.
                let given = self.settings_of(pci).mac;
                netdevs.make(pci, given.filter(|mac| mac.bytes().iter().any(|byte| *byte != 0)));
            }
            None => {}
        }
        self.change(pci, |facts| {
            facts.vf.place = match (&driver, &network) {
                (None, _) => Place::Unbound,
                (_, None) => Place::Userspace,
                _ => Place::Host,
            };
            facts.vf.driver = driver;
        });
    }

    /// Changes a VF, or removes it.
    pub fn change(&self, pci: PciAddress, change: impl FnOnce(&mut Facts)) {
        if let Some(facts) = self.state().get_mut(&pci) {
            change(facts);
        }
    }

    /// What its PF says of a VF; at first what most drivers say of a new one.
    pub fn settings_of(&self, pci: PciAddress) -> VfSettings {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.get(&pci).cloned().unwrap_or_else(VfSettings::untouched)
    }

    /// Has the PF say something else of a VF, behind everybody's back.
    pub fn say(&self, pci: PciAddress, settings: VfSettings) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).insert(pci, settings);
    }

    /// The VF's address is of its own choice until its PF gives it one.
    pub fn let_choose(&self, pci: PciAddress) {
        self.choosers.lock().unwrap_or_else(PoisonError::into_inner).insert(pci);
    }

    /// What stands between a VF and vfio-pci.
    pub fn set_vfio(&self, pci: PciAddress, facts: VfioFacts) {
        self.vfio.lock().unwrap_or_else(PoisonError::into_inner).insert(pci, facts);
    }

    /// The k-th setting from now (0 is the next) is refused.
    pub fn refuse_set(&self, k: u32, errno: Errno) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some((k, errno));
    }

    /// The next bind fails, and leaves the VF without driver.
    pub fn refuse_bind(&self, pci: PciAddress) {
        self.refused_binds.lock().unwrap_or_else(PoisonError::into_inner).insert(pci);
    }

    /// The VF vanishes.
    pub fn remove(&self, pci: PciAddress) {
        self.state().remove(&pci);
    }
}

fn asked(what: String) -> Result<(), HostError> {
    fate::effect(Kind::Function, format_args!("{what}")).map_err(|source| HostError::Netlink { what, source })
}

impl Functions for FakeFunctions {
    fn topology(&self, functions: &[PciAddress]) -> Topology {
        let plain = |pci: &PciAddress| (*pci, Function { class: "0x020000".into(), ..Function::default() });
        Topology { functions: functions.iter().map(plain).collect(), ..Topology::default() }
    }

    fn facts(&self, vfs: &BTreeSet<PciAddress>) -> Result<BTreeMap<PciAddress, Facts>, HostError> {
        let mut facts = self.state().clone();
        facts.retain(|vf, _| vfs.contains(vf));
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (vf, unclean) in ledger.and_then(|ledger| ledger.unclean().ok()).unwrap_or_default() {
            if let Some(found) = facts.get_mut(&vf).filter(|f| f.vf.incarnation == unclean.incarnation) {
                found.withheld = Some(unclean.reason);
            }
        }
        if let Some(netdevs) = self.netdevs() {
            for (vf, facts) in facts.iter_mut().filter(|(_, facts)| facts.vf.place == Place::Host) {
                facts.vf.place = if netdevs.is_on_host(*vf) { Place::Host } else { Place::Elsewhere };
            }
        }
        Ok(facts)
    }

    fn address(&self, pool: &str, pf: &Pf, vf_index: u32) -> Result<Assigned, NoAddress> {
        let netdev = pf.netdev.as_ref();
        let addresses = netdev.map(|netdev| netdev.addresses.clone()).unwrap_or_default();
        let name = netdev.map(|netdev| netdev.name.clone());
        let parent = Parent { pci: pf.pci, name, rail: None, addresses };
        self.book.lock().unwrap_or_else(PoisonError::into_inner).assign(pool, &parent, vf_index)
    }

    fn life(&self, vf: PciAddress) -> Option<Life> {
        let facts = self.state().get(&vf).cloned()?;
        let forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner).get(&vf).cloned();
        Some(Life { incarnation: facts.vf.incarnation, driver: facts.vf.driver, forced })
    }

    fn bind(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError> {
        if self.refused_binds.lock().unwrap_or_else(PoisonError::into_inner).remove(&vf) {
            self.unbind(vf)?;
            let what = format!("bind VF {vf}");
            return Err(HostError::Netlink { what, source: Errno::EIO.into() });
        }
        // As `host::sysfs::bind` does it.
        let life = self.life(vf);
        let bound = life.as_ref().and_then(|life| life.driver.clone());
        let forced = life.and_then(|life| life.forced);
        let right = match driver {
            Some(driver) => bound.as_deref() == Some(driver),
            None => bound.as_deref().is_some_and(|bound| !is_userspace(bound)) && bound != forced,
        };
        if forced.as_deref() != driver {
            self.force(vf, driver)?;
        }
        if right {
            return Ok(());
        }
        self.unbind(vf)?;
        asked(format!("probe VF {vf}"))?;
        self.put_driver(vf, Some(driver.map_or_else(|| self.network_driver(vf), str::to_owned)));
        Ok(())
    }

    fn unbind(&self, vf: PciAddress) -> Result<(), HostError> {
        if self.life(vf).is_some_and(|life| life.driver.is_some()) {
            asked(format!("unbind VF {vf}"))?;
            self.put_driver(vf, None);
        }
        Ok(())
    }

    fn force(&self, vf: PciAddress, driver: Option<&str>) -> Result<(), HostError> {
        asked(format!("force driver {driver:?} for VF {vf}"))?;
        let mut forced = self.forced.lock().unwrap_or_else(PoisonError::into_inner);
        match driver {
            Some(driver) => forced.insert(vf, driver.to_owned()),
            None => forced.remove(&vf),
        };
        Ok(())
    }

    fn settings(&self, vf: PciAddress, _pf: &PfLink, _index: u32) -> Result<VfSettings, HostError> {
        Ok(self.settings_of(vf))
    }

    fn chose_its_address(&self, vf: PciAddress) -> bool {
        self.choosers.lock().unwrap_or_else(PoisonError::into_inner).contains(&vf)
    }

    fn set(&self, vf: PciAddress, pf: &PfLink, index: u32, setting: &Setting) -> Result<(), HostError> {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        *refusal = match *refusal {
            Some((0, errno)) => {
                *refusal = None;
                let what = format!("set {} {setting} on VF {index} of PF {}", setting.field(), pf.name);
                return Err(HostError::Netlink { what, source: errno.into() });
            }
            other => other.map(|(k, errno)| (k - 1, errno)),
        };
        asked(format!("set {} {setting} on VF {index} of PF {}", setting.field(), pf.name))?;
        if matches!(setting, Setting::Mac(_)) {
            self.choosers.lock().unwrap_or_else(PoisonError::into_inner).remove(&vf);
        }
        let mut settings = self.settings_of(vf);
        settings.put(setting.clone());
        self.say(vf, settings);
        Ok(())
    }

    fn vfio(&self, vf: PciAddress) -> Result<VfioFacts, HostError> {
        Ok(self.vfio.lock().unwrap_or_else(PoisonError::into_inner).get(&vf).cloned().unwrap_or_default())
    }

    fn group_others(&self, vf: PciAddress) -> Result<Vec<PciAddress>, HostError> {
        let vfio = self.vfio.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = vfio.get(&vf).and_then(|facts| facts.group) else { return Ok(Vec::new()) };
        let same = vfio.iter().filter(|(other, facts)| **other != vf && facts.group == Some(group));
        Ok(same.map(|(other, _)| *other).collect())
    }

    fn vfio_nodes(&self, vf: PciAddress) -> Result<VfioNodes, HostError> {
        let group = self.vfio(vf)?.group.unwrap_or_default().to_string();
        let paths = vec![PathBuf::from("/dev/vfio/vfio"), PathBuf::from(format!("/dev/vfio/{group}"))];
        Ok(VfioNodes { group: Some(group), paths })
    }

    fn vhost_nodes(&self) -> Result<Vec<PathBuf>, HostError> {
        Ok(["/dev/vhost-net", "/dev/net/tun"].map(PathBuf::from).to_vec())
    }
}
