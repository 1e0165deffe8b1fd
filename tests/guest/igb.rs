//! Emulated `igb` VFs of this guest as the ground of random lives: nothing holds state but the kernel. `ip` and sysfs are the
//! witnesses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use sriov_dra::DEFAULT_DRIVER_NAME;
use sriov_dra::app::NodeFunctions;
use sriov_dra::device::{HwAddr, Incarnation, LinkState, PciAddress, Rate, VfSettings, Vlan};
use sriov_dra::host::sysfs::Sysfs;
use sriov_dra::host::{Kernel, Link, Linux, NetnsId, boot};
use sriov_dra::policy::Rules;
use sriov_dra::prepare::cdi::HookCommand;
use sriov_dra::prepare::functions::{Functions, Life};
use sriov_dra::prepare::ledger::Ledger;
use sriov_dra::prepare::locks::Locks;
use sriov_dra::prepare::site::Site;

use crate::host::{Vf, driver, make_vfs, netdev, pfs, run, settings_of, vfs_of};
use crate::life::asks::Ask;
use crate::life::ground::double::folder;
use crate::life::ground::running::{Namespaces, lacks, wait_for};
use crate::life::ground::{Born, Ground, Lack, Meddling, Routing};
use crate::life::node::{VFS, book};
use crate::life::ops::{Bound, Op};

/// VFs of each PF: two of them make six.
const OF_EACH: u32 = 3;
/// VFs whose IOMMU group is their own; the last PF's are in one.
const IN_GROUPS_OF_THEIR_OWN: u8 = 3;
/// So begin addresses that claims ask for (`Ask::Mac`), and none that igbvf chooses.
const ASKED: [u8; 5] = [2, 0xaa, 0, 0, 0];
/// As claims ask for (`Ask::Mtu`).
const LARGE: &str = "9000";
/// A file of a VF: what binds no driver, and what the next bind obeys.
const FORCE: &str = "driver_override";

/// The guest's VFs by number.
pub struct Igb {
    spaces: Namespaces,
    vfs: Vec<Vf>,
    kernel: Arc<Linux>,
    functions: Arc<dyn Functions>,
    born: RefCell<BTreeMap<u8, Born>>,
    dir: tempfile::TempDir,
}

/// No VF's may be larger.
pub fn set_mtu(pfs: &[PciAddress], mtu: &str) {
    for pf in pfs {
        run("ip", &["link", "set", &netdev(*pf).unwrap().unwrap(), "mtu", mtu]).unwrap();
    }
}

fn device(vf: PciAddress) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(vf.to_string())
}

fn tell(link: &Value) -> Option<PciAddress> {
    link["parentdev"].as_str()?.parse().ok()
}

fn name(n: u8) -> String {
    format!("ens1v{n}")
}

fn alt_name(n: u8) -> String {
    format!("enp129s0v{n}")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {text:?} to {}: {error}", path.display()));
}

impl Igb {
    /// On new VFs of all PFs.
    pub fn new() -> Self {
        run("modprobe", &["vfio-pci"]).unwrap();
        let pfs = pfs().unwrap();
        set_mtu(&pfs, LARGE);
        let vfs = make_vfs(&pfs, OF_EACH).unwrap();
        assert_eq!(vfs.len(), usize::from(VFS), "two PFs with three VFs each");
        let dir = folder();
        let kernel = Arc::new(Linux::new("/sys").unwrap());
        let ledger = Ledger::open(dir.path().join("durable"), dir.path().join("run")).unwrap();
        let rules = Rules {
            driver_name: DEFAULT_DRIVER_NAME.to_owned(),
            devices: None,
            attach: None,
            rails: Default::default(),
        };
        let of = Arc::clone(&kernel) as Arc<dyn Kernel>;
        let functions = NodeFunctions::new(Sysfs::at("/sys"), of, Arc::new(rules), Some(ledger));
        let (_, known) = tokio::sync::watch::channel(Arc::new(book(&pfs)));
        let functions = Arc::new(functions.with_book(known));
        let spaces = Namespaces::beside_this(tell);
        let igb = Self { spaces, vfs, kernel, functions, born: RefCell::default(), dir };
        (1..=VFS).for_each(|n| igb.note_born(n));
        igb
    }

    fn at(&self, n: u8) -> Vf {
        self.vfs[usize::from(n) - 1]
    }

    fn pci(&self, n: u8) -> PciAddress {
        self.at(n).pci
    }

    fn note_born(&self, n: u8) {
        self.name_as_udev(n);
        let born = Born {
            driver: driver(self.pci(n)).unwrap(),
            name: name(n),
            // igbvf makes up another one each time.
            hw_addr: None,
            alias: String::new(),
            alt_names: vec![alt_name(n)],
            settings: self.settings_of(n),
        };
        self.born.borrow_mut().insert(n, born);
    }

    /// There is no udev in the guest: as it does with a new interface, where the names are free.
    fn name_as_udev(&self, n: u8) {
        let Some(now) = netdev(self.pci(n)).unwrap() else { return };
        let host = self.spaces.host();
        let _ = self.spaces.ip(host, &format!("link set dev {now} name {}", name(n)));
        let now = netdev(self.pci(n)).unwrap().unwrap_or(now);
        let _ = self.spaces.ip(host, &format!("link property add dev {now} altname {}", alt_name(n)));
        self.spaces.look_anew();
    }

    fn forced(&self, n: u8) -> Option<String> {
        let text = fs::read_to_string(device(self.pci(n)).join(FORCE)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty() && text != "(null)")
    }

    fn change(&self, n: u8, command: impl Fn(&str) -> String) {
        if let Some((id, link, _)) = self.vf(n) {
            let command = command(&link.name);
            let done = self.spaces.ip(id, &command);
            done.unwrap_or_else(|why| panic!("{command}: {why}"));
            self.spaces.look_anew();
        }
    }
}

impl Ground for Igb {
    fn lacks(&self) -> Vec<Lack> {
        let [hosted, rdma] = lacks();
        vec![
            hosted,
            rdma,
            Lack::op(
                "losses of power: the guest would end with its life (stories/reboot.rs has one)",
                |op| matches!(op, Op::Reboot { .. }),
            ),
            Lack::ask("link states: igb refuses them", |_, ask| ask == Ask::LinkState),
            Lack::ask("vfio of the second PF's VFs: they are in one group with others", |n, ask| {
                ask == Ask::Vfio && n > IN_GROUPS_OF_THEIR_OWN
            }),
            Lack::shown("RDMA devices: stories/rdma.rs has soft ones"),
            Lack::shown("VFs made anew one by one: all of the PF's are"),
        ]
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn site(&self, boot: u32) -> Result<Site, String> {
        let ledger = Ledger::open(self.dir.path().join("durable"), self.dir.path().join("run"))
            .map_err(|error| error.to_string())?;
        Ok(Site {
            kernel: Arc::clone(&self.kernel) as _,
            functions: Arc::clone(&self.functions),
            locks: Locks::at(ledger.lock_folder()),
            ledger,
            driver: DEFAULT_DRIVER_NAME.to_owned(),
            cdi_dir: self.dir.path().join("cdi"),
            runtime: Default::default(),
            hook: HookCommand { path: "/hook".into(), args: Vec::new(), timeout_s: 15 },
            boot_id: self.boot_id(boot),
        })
    }

    fn boot_id(&self, _boot: u32) -> String {
        boot::boot_id().unwrap()
    }

    fn real_waits(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(8)
    }

    fn host(&self) -> NetnsId {
        self.spaces.host()
    }

    fn places(&self) -> Vec<PciAddress> {
        self.vfs.iter().map(|vf| vf.pci).collect()
    }

    fn pfs(&self) -> Vec<PciAddress> {
        self.vfs.iter().map(|vf| vf.pf).collect()
    }

    fn born(&self, n: u8) -> Born {
        self.born.borrow()[&n].clone()
    }

    fn life(&self, n: u8) -> Option<Life> {
        let incarnation = Incarnation(fs::metadata(device(self.pci(n))).ok()?.ino());
        Some(Life { incarnation, driver: driver(self.pci(n)).ok()?, forced: self.forced(n) })
    }

    fn settings_of(&self, n: u8) -> VfSettings {
        let vf = self.at(n);
        let told = &settings_of(&netdev(vf.pf).unwrap().unwrap()).unwrap()[vf.index as usize];
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        let small = |value: &Value| u16::try_from(number(value)).unwrap_or_default();
        let mac = told["address"].as_str().or(told["mac"].as_str()).and_then(|text| text.parse().ok());
        // igb tells what the VF chose where nobody gave it an address.
        let given = mac.filter(|mac: &HwAddr| mac.bytes().starts_with(&ASKED));
        let vlan = &told["vlan_list"][0];
        let qos = u8::try_from(small(&vlan["qos"])).unwrap_or_default();
        let link_state = match told["link_state"].as_str() {
            Some("enable") => LinkState::Enable,
            Some("disable") => LinkState::Disable,
            _ => LinkState::Auto,
        };
        VfSettings {
            mac: Some(given.unwrap_or_else(|| HwAddr::new([0; 6]))),
            vlan: Some(Vlan { id: small(&vlan["vlan"]), qos, ..Vlan::default() }),
            spoof_check: told["spoofchk"].as_bool(),
            trust: told["trust"].as_bool(),
            link_state: Some(link_state),
            rate: Some(Rate {
                min_mbps: number(&told["rate"]["min_tx"]),
                max_mbps: number(&told["rate"]["max_tx"]),
            }),
        }
    }

    fn rdma_of(&self, _n: u8) -> Option<String> {
        None
    }

    fn rdma_place(&self, _name: &str) -> Option<(NetnsId, u32)> {
        None
    }

    fn vf(&self, n: u8) -> Option<(NetnsId, Link, Vec<IpNet>)> {
        self.spaces.vf(self.pci(n))
    }

    fn rename(&self, n: u8, name: &str) {
        self.change(n, |now| format!("link set dev {now} name {name}"));
    }

    fn meddle(&self, n: u8, what: &Meddling) {
        self.change(n, |dev| what.command(dev));
    }

    fn rebind(&self, n: u8, to: Bound) {
        let (vf, folder) = (self.pci(n), device(self.pci(n)));
        let bound = driver(vf).unwrap();
        let wanted = match to {
            Bound::Nothing => None,
            Bound::Netdev => Some("igbvf"),
            Bound::Userspace => Some("vfio-pci"),
        };
        if wanted.is_some() {
            let force = if to == Bound::Userspace { "vfio-pci" } else { "\n" };
            write(&folder.join(FORCE), force);
        }
        if bound.as_deref() == wanted {
            return;
        }
        if bound.is_some() {
            write(&folder.join("driver/unbind"), &vf.to_string());
        }
        if wanted.is_some() {
            write(Path::new("/sys/bus/pci/drivers_probe"), &vf.to_string());
        }
        if to == Bound::Netdev {
            wait_for("an interface", || netdev(vf).is_ok_and(|name| name.is_some()));
            self.name_as_udev(n);
        }
        self.spaces.look_anew();
    }

    fn make_anew(&self, n: u8) -> Vec<u8> {
        let pf = self.at(n).pf;
        make_vfs(&[pf], OF_EACH).unwrap();
        assert!(vfs_of(pf).unwrap().iter().all(|vf| self.vfs.contains(vf)), "VFs have other addresses now");
        self.spaces.look_anew();
        let new: Vec<u8> = (1..=VFS).filter(|n| self.at(*n).pf == pf).collect();
        new.iter().for_each(|n| self.note_born(*n));
        new
    }

    fn lose_power(&self, _rdma_is_shared: bool) {
        panic!("a life here has none of it");
    }

    fn add_namespace(&self, number: u32) -> (PathBuf, NetnsId, i32) {
        self.spaces.add(number)
    }

    fn kill_users(&self, id: NetnsId) {
        self.spaces.kill_users(id);
    }

    fn let_go(&self, id: NetnsId) {
        self.spaces.let_go(id);
    }

    fn destroy(&self, id: NetnsId) {
        self.spaces.look_anew();
        let inside: Vec<PciAddress> =
            self.spaces.links_of(id).into_values().filter_map(|(link, _)| link.pci).collect();
        self.spaces.end(id);
        for vf in inside {
            // The kernel takes its time.
            wait_for("a VF whose namespace ended", || netdev(vf).is_ok_and(|name| name.is_some()));
        }
        self.spaces.look_anew();
    }

    fn exists(&self, id: NetnsId) -> bool {
        self.spaces.exists(id)
    }

    fn links_of(&self, id: NetnsId) -> BTreeMap<String, (Link, Vec<IpNet>)> {
        self.spaces.links_of(id)
    }

    fn routing_of(&self, id: NetnsId) -> Routing {
        self.spaces.routing_of(id)
    }

    fn look_anew(&self) {
        self.spaces.look_anew();
    }
}
