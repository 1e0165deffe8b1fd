//! Veth pairs on the running kernel in the place of VFs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use sriov_dra::device::{HwAddr, PciAddress, VfSettings};
use sriov_dra::host::{Link, Linux, NetnsId};
use sriov_dra::prepare::fake::FakeFunctions;
use sriov_dra::prepare::functions::{Functions, Life};
use sriov_dra::prepare::netdevs::Netdevs;
use sriov_dra::prepare::site::Site;

use crate::life::ground::double::{folder, functions, rebind_by_hand, site_of};
use crate::life::ground::running::{Namespaces, lacks};
use crate::life::ground::{Born, Ground, Lack, Meddling, Routing};
use crate::life::node::{VFS, book, driver};
use crate::life::ops::{Bound, Op};

/// A veth pair keeps the number of its queues for life, and whoever moves or renames it can't change it: by that the witness
/// tells VF `n`, which the driver tells by other things.
const QUEUES: u64 = 20;

/// Lives of this process so far: what one left must be nothing to the next.
static LIVES: AtomicU16 = AtomicU16::new(0);

thread_local! {
    /// Of the life that this thread tells.
    static PF: std::cell::Cell<PciAddress> = const { std::cell::Cell::new(PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 }) };
}

pub struct Veths {
    wires: Arc<Wires>,
    functions: FakeFunctions,
    linux: Arc<Linux>,
    dir: tempfile::TempDir,
}

/// The pairs, as drivers make them and take them away.
#[derive(Debug)]
struct Wires {
    spaces: Namespaces,
    pf: PciAddress,
}

fn name(n: u8) -> String {
    format!("ens1v{n}")
}

fn alt_name(n: u8) -> String {
    format!("enp129s0v{n}")
}

fn tell(link: &Value) -> Option<PciAddress> {
    let n = u8::try_from(link["num_tx_queues"].as_u64()?.checked_sub(QUEUES)?).ok()?;
    (1..=VFS).contains(&n).then(|| PciAddress { function: n, ..PF.get() })
}

impl Wires {
    fn ip(&self, commands: &str) {
        self.spaces.ip(self.spaces.host(), commands).unwrap_or_else(|why| panic!("{commands}: {why}"));
    }

    fn on_host(&self) -> Vec<Link> {
        self.spaces.look_anew();
        let links = self.spaces.links_of(self.spaces.host());
        links.into_values().map(|(link, _)| link).collect()
    }

    /// The other end of the pair is always on the host.
    fn exists(&self, n: u8) -> bool {
        self.on_host().iter().any(|link| link.name == format!("wire{n}"))
    }

    /// Addresses that no other life on this machine has.
    fn mac(&self, n: u8) -> HwAddr {
        let [_, _, a, b] = self.pf.domain.to_be_bytes();
        HwAddr::new([2, 0, a, b, 0, n])
    }
}

impl Netdevs for Wires {
    fn driver(&self, vf: PciAddress) -> Option<String> {
        Some(driver(vf.function).to_owned())
    }

    fn make(&self, vf: PciAddress, given: Option<HwAddr>) {
        let n = vf.function;
        if self.exists(n) {
            return;
        }
        let taken: Vec<String> = self
            .on_host()
            .into_iter()
            .flat_map(|link| link.alt_names.into_iter().chain([link.name]))
            .collect();
        // udev gives it the name that it always has, if that is free.
        let names = [name(n)].into_iter().chain((0..).map(|i| format!("eth{i}")));
        let name = { names }.find(|name| !taken.contains(name)).unwrap();
        let (mac, queues) = (given.unwrap_or_else(|| self.mac(n)), QUEUES + u64::from(n));
        let mut commands = format!(
            "link add {name} numtxqueues {queues} numrxqueues 1 address {mac} type veth \
             peer name wire{n} numtxqueues 1 numrxqueues 1\nlink set {name} alias {vf}\nlink set wire{n} up\n"
        );
        if !taken.contains(&alt_name(n)) {
            commands += &format!("link property add dev {name} altname {}\n", alt_name(n));
        }
        self.ip(&commands);
        self.spaces.look_anew();
    }

    fn take(&self, vf: PciAddress) {
        if self.exists(vf.function) {
            self.ip(&format!("link delete wire{}", vf.function));
            self.spaces.look_anew();
        }
    }

    fn is_on_host(&self, vf: PciAddress) -> bool {
        self.on_host().iter().any(|link| link.pci == Some(vf))
    }
}

impl Veths {
    /// In a network namespace of its own.
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("namespaces need root or user namespaces: run under unshare -Urnm");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        // The driver looks for a lost VF in all namespaces of the machine, where others may play VFs too.
        let life = LIVES.fetch_add(1, Ordering::Relaxed);
        let [.., b] = std::process::id().to_be_bytes();
        let domain = u32::from(b) << 8 | u32::from(life.to_be_bytes()[1]);
        let pf = PciAddress { domain, bus: 0x81, device: 0, function: 0 };
        PF.set(pf);
        let pci = |n: u8| PciAddress { function: n, ..pf };
        let dir = folder();
        for n in 1..=VFS {
            let shown = format!("sys/bus/pci/devices/{}/net/{}", pci(n), name(n));
            std::fs::create_dir_all(dir.path().join(shown)).unwrap();
        }
        let wires = Arc::new(Wires { spaces: Namespaces::beside_this(tell), pf });
        let functions = functions(pf, &pci);
        functions.join_with(Arc::clone(&wires) as Arc<dyn Netdevs>);
        functions.know(book(&[pf]));
        let linux = Arc::new(Linux::new(dir.path().join("sys")).unwrap());
        let veths = Self { wires, functions, linux, dir };
        veths.power_on();
        veths
    }

    fn pci(&self, n: u8) -> PciAddress {
        PciAddress { function: n, ..self.wires.pf }
    }

    fn power_on(&self) {
        (1..=VFS).for_each(|n| self.functions.make_anew(self.pci(n)));
        self.functions.unbind(self.pci(5)).unwrap();
    }

    /// In whatever namespace its interface is, by its name there.
    fn change(&self, n: u8, command: impl Fn(&str) -> String) {
        if let Some((id, link, _)) = self.wires.spaces.vf(self.pci(n)) {
            let command = command(&link.name);
            let done = self.wires.spaces.ip(id, &command);
            done.unwrap_or_else(|why| panic!("{command}: {why}"));
            self.wires.spaces.look_anew();
        }
    }

    /// As the kernel brings hardware back (`default_device_exit_net`, net/core/dev.c): under the name it had, or as `devN`
    /// when that is taken. A pair would end with the namespace.
    fn bring_home(&self, id: NetnsId) {
        self.wires.spaces.look_anew();
        let on_host = self.wires.on_host();
        let taken = |name: &String| on_host.iter().any(|l| l.name == *name || l.alt_names.contains(name));
        for (name, (link, _)) in self.wires.spaces.links_of(id) {
            if link.pci.is_none() {
                continue;
            }
            let alt_names = link.alt_names.iter().filter(|name| taken(name));
            let mut commands: String =
                alt_names.map(|alt| format!("link property del dev {name} altname {alt}\n")).collect();
            let new = { 0.. }.map(|i| format!("dev{i}")).find(|name| !taken(name)).unwrap();
            let new = if taken(&name) { format!(" name {new}") } else { String::new() };
            commands += &format!("link set dev {name} netns {}{new}\n", self.wires.spaces.host_path());
            let done = self.wires.spaces.ip(id, &commands);
            done.unwrap_or_else(|why| panic!("{commands}: {why}"));
        }
        self.wires.spaces.look_anew();
    }
}

impl Ground for Veths {
    fn lacks(&self) -> Vec<Lack> {
        let [hosted, rdma] = lacks();
        vec![
            hosted,
            rdma,
            Lack::op(
                "aliases that pods give to VFs: a stand-in is told by its alias",
                |op| matches!(op, Op::Meddle { what, .. } if what % 6 == 5),
            ),
            Lack::shown(
                "settings, drivers and vfio of VFs: they hold state, and `make_anew`, bind and unbind delete and make pairs",
            ),
            Lack::shown(
                "the kernel's own return of a VF whose namespace ended: a veth pair ends with it, so it is taken out before",
            ),
        ]
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn site(&self, boot: u32) -> Result<Site, String> {
        site_of(self.dir.path(), Arc::clone(&self.linux) as _, &self.functions, &self.boot_id(boot))
    }

    fn boot_id(&self, boot: u32) -> String {
        format!("boot-{boot}")
    }

    /// Waiting takes no time, but the kernel does.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn host(&self) -> NetnsId {
        self.wires.spaces.host()
    }

    fn places(&self) -> Vec<PciAddress> {
        (1..=VFS).map(|n| self.pci(n)).collect()
    }

    fn pfs(&self) -> Vec<PciAddress> {
        vec![self.wires.pf]
    }

    fn born(&self, n: u8) -> Born {
        Born {
            // Nobody gave the fifth a driver.
            driver: (n != 5).then(|| driver(n).to_owned()),
            name: name(n),
            hw_addr: Some(self.wires.mac(n)),
            alias: self.pci(n).to_string(),
            alt_names: vec![alt_name(n)],
            settings: VfSettings::untouched(),
        }
    }

    fn life(&self, n: u8) -> Option<Life> {
        self.functions.life(self.pci(n))
    }

    fn settings_of(&self, n: u8) -> VfSettings {
        self.functions.settings_of(self.pci(n))
    }

    fn rdma_of(&self, _n: u8) -> Option<String> {
        None
    }

    fn rdma_place(&self, _name: &str) -> Option<(NetnsId, u32)> {
        None
    }

    fn vf(&self, n: u8) -> Option<(NetnsId, Link, Vec<IpNet>)> {
        self.wires.spaces.vf(self.pci(n))
    }

    fn rename(&self, n: u8, name: &str) {
        self.change(n, |now| format!("link set dev {now} name {name}"));
    }

    fn meddle(&self, n: u8, what: &Meddling) {
        self.change(n, |dev| what.command(dev));
    }

    fn rebind(&self, n: u8, driver: Bound) {
        rebind_by_hand(&self.functions, self.pci(n), driver);
    }

    fn make_anew(&self, n: u8) -> Vec<u8> {
        self.functions.make_anew(self.pci(n));
        vec![n]
    }

    fn lose_power(&self, _rdma_is_shared: bool) {
        // Before their namespaces: those end some time later.
        (1..=VFS).for_each(|n| self.wires.take(self.pci(n)));
        self.wires.spaces.all().into_iter().for_each(|id| self.wires.spaces.end(id));
        self.power_on();
    }

    fn add_namespace(&self, number: u32) -> (PathBuf, NetnsId, i32) {
        self.wires.spaces.add(number)
    }

    fn kill_users(&self, id: NetnsId) {
        self.wires.spaces.kill_users(id);
    }

    fn let_go(&self, id: NetnsId) {
        self.wires.spaces.let_go(id);
    }

    fn destroy(&self, id: NetnsId) {
        self.bring_home(id);
        self.wires.spaces.end(id);
    }

    fn exists(&self, id: NetnsId) -> bool {
        self.wires.spaces.exists(id)
    }

    fn links_of(&self, id: NetnsId) -> BTreeMap<String, (Link, Vec<IpNet>)> {
        self.wires.spaces.links_of(id)
    }

    fn routing_of(&self, id: NetnsId) -> Routing {
        self.wires.spaces.routing_of(id)
    }

    fn look_anew(&self) {
        self.wires.spaces.look_anew();
    }
}
