//! A node that tests break: six VFs on a kernel, functions and a disk that outlive every agent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;
use sriov_dra::address::{Book, Page, Parent, read};
use sriov_dra::attach::{Attacher, Outbox};
use sriov_dra::device::{HwAddr, MAIN_TABLE, PciAddress, Route};
use sriov_dra::host::{NetnsId, clock};
use sriov_dra::prepare::engine::Engine;
use sriov_dra::prepare::functions::Life;
use sriov_dra::prepare::ledger::Ledger;

use super::ground::{Ground, Routing};

/// VFs are numbered 1 to 6.
pub const VFS: u8 = 6;
/// The PF of VFs that hold state.
pub const PF: PciAddress = PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 };

thread_local! {
    /// Where the VFs of the node are that this thread plays; and how long its calls may take.
    static PLACES: RefCell<(Vec<PciAddress>, Duration)> = const { RefCell::new((Vec::new(), Duration::from_secs(1))) };
}

pub fn pci(n: u8) -> PciAddress {
    let at = |(places, _): &(Vec<PciAddress>, Duration)| places.get(usize::from(n) - 1).copied();
    PLACES.with_borrow(at).unwrap_or(PciAddress { function: n, ..PF })
}

/// Which VF is at an address; 0 is none.
pub fn number(vf: PciAddress) -> u8 {
    (1..=VFS).find(|n| pci(*n) == vf).unwrap_or_default()
}

/// What calls of kubelet and runtime are given. Waiting takes no time here.
pub fn soon() -> Instant {
    clock::now() + PLACES.with_borrow(|(_, patience)| *patience)
}

/// What a VF that nobody has is to be: as it was made, but for what an administrator did to it since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    pub driver: Option<String>,
    pub forced: Option<String>,
    pub name: String,
    pub hw_addr: Option<HwAddr>,
}

/// An agent: what it has in memory. It ends by being dropped.
#[derive(Clone)]
pub struct Agent {
    pub engine: Engine,
    pub attacher: Attacher,
}

pub struct Node {
    pub ground: Rc<dyn Ground>,
    pub truth: BTreeMap<u8, Truth>,
    /// Namespaces as they were before any VF came.
    pub bare: BTreeMap<NetnsId, Routing>,
    /// For looks at files. Whoever works on claims opens its own.
    pub ledger: Ledger,
    /// How RDMA devices relate to network namespaces, from the next boot on.
    pub rdma_is_shared: bool,
    boot: u32,
    namespaces: u32,
}

/// The network driver of a VF: one that loses its VF when the PF sets its address, and one that does not.
pub fn driver(n: u8) -> &'static str {
    if n <= 2 { "igbvf" } else { "iavf" }
}

impl Node {
    pub fn on(ground: Rc<dyn Ground>) -> Self {
        clock::play_from(ground.real_waits());
        PLACES.set((ground.places(), ground.patience()));
        // Whoever looks at VFs knows those that are withheld.
        ground.site(1).unwrap();
        let ledger = Ledger::open(ground.dir().join("durable"), ground.dir().join("run")).unwrap();
        let (truth, bare) = Default::default();
        let mut node = Self { ground, truth, bare, ledger, rdma_is_shared: false, boot: 1, namespaces: 0 };
        node.note_born(1..=VFS);
        node
    }

    fn note_born(&mut self, vfs: impl IntoIterator<Item = u8>) {
        for n in vfs {
            let born = self.ground.born(n);
            let hw_addr = born.hw_addr.or_else(|| self.ground.vf(n)?.1.hw_addr);
            self.truth.insert(n, Truth { driver: born.driver, forced: None, name: born.name, hw_addr });
        }
    }

    /// Power is lost, and comes again: `/run` is empty, the VFs are new.
    pub fn reboot(&mut self) {
        self.boot += 1;
        self.ground.lose_power(self.rdma_is_shared);
        self.bare.clear();
        // Not there when no process came since the last time.
        let _ = std::fs::remove_dir_all(self.path("run"));
        self.note_born(1..=VFS);
    }

    /// An administrator writes `sriov_numvfs` again, as far as this VF is concerned. These are new then.
    pub fn make_anew(&mut self, n: u8) -> Vec<u8> {
        let new = self.ground.make_anew(n);
        self.note_born(new.iter().copied());
        for n in &new {
            // udev loads the driver for each.
            let driver = self.life(*n).and_then(|life| life.driver);
            self.truth.get_mut(n).unwrap().driver = driver;
        }
        new
    }

    pub fn boot_id(&self) -> String {
        self.ground.boot_id(self.boot)
    }

    pub fn life(&self, n: u8) -> Option<Life> {
        self.ground.life(n)
    }

    /// A process that can work on claims: an agent, or a hook.
    pub fn process(&self) -> Result<Agent, String> {
        let site = self.ground.site(self.boot)?;
        let (outbox, _) = Outbox::at(site.ledger.outbox_folder());
        Ok(Agent { engine: Engine { site: site.clone() }, attacher: Attacher { site, outbox } })
    }

    /// The namespace of a pod's sandbox, with the network that the cluster gives it.
    pub fn add_namespace(&mut self) -> (PathBuf, NetnsId, i32) {
        self.namespaces += 1;
        let (path, id, pid) = self.ground.add_namespace(self.namespaces);
        self.bare.insert(id, self.ground.routing_of(id));
        (path, id, pid)
    }

    /// What a pod on the host's network has for a namespace: path, identity, and a process there.
    pub fn own_namespace(&self) -> (PathBuf, NetnsId, i32) {
        ("/proc/1/ns/net".into(), self.ground.host(), 1)
    }

    /// What is not as it should be of a VF that nobody has.
    pub fn faults_of(&self, n: u8) -> Vec<String> {
        let (truth, born) = (&self.truth[&n], self.ground.born(n));
        let mut faults = Vec::new();
        let mut expect = |what: &str, is: String, wanted: String| {
            if is != wanted {
                faults.push(format!("VF {n}: {what} is {is}, was {wanted}"));
            }
        };
        let life = self.life(n).unwrap();
        expect("driver", format!("{:?}", life.driver), format!("{:?}", truth.driver));
        expect("forced driver", format!("{:?}", life.forced), format!("{:?}", truth.forced));
        let settings = self.ground.settings_of(n);
        expect("settings", format!("{settings:?}"), format!("{:?}", born.settings));
        let network = truth.driver.as_ref().is_some_and(|driver| driver != "vfio-pci");
        let Some((place, link, addresses)) = self.ground.vf(n) else {
            expect("interface", "nowhere".into(), if network { "on the host" } else { "nowhere" }.into());
            return faults;
        };
        expect("interface", "somewhere".into(), if network { "somewhere" } else { "nowhere" }.into());
        let host = self.ground.host();
        expect("place", place.to_string(), host.to_string());
        expect("name", link.name.clone(), truth.name.clone());
        expect("MTU", link.mtu.to_string(), "1500".into());
        let text = |address: &Option<HwAddr>| format!("{:?}", address.as_ref().map(ToString::to_string));
        expect("address", text(&link.hw_addr), text(&truth.hw_addr));
        expect("alias", link.alias.clone(), born.alias);
        expect("alternative names", link.alt_names.join(","), born.alt_names.join(","));
        let flags = (link.up, link.promisc, link.allmulti, link.noarp, link.xdp, link.group);
        expect("flags", format!("{flags:?}"), format!("{:?}", (false, false, false, false, false, 0)));
        expect("addresses", format!("{addresses:?}"), "[]".into());
        if let Some(name) = self.ground.rdma_of(n) {
            let rdma = self.ground.rdma_place(&name).map(|(place, _)| place.to_string());
            expect("RDMA device", format!("{rdma:?}"), format!("{:?}", Some(host.to_string())));
        }
        faults
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.ground.dir().join(below)
    }

    /// Names in a folder of the node's, sorted.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn default_route() -> Route {
    Route {
        to: "0.0.0.0/0".parse().unwrap(),
        via: "10.244.0.1".parse().ok(),
        on_link: false,
        table: MAIN_TABLE,
        source: None,
        metric: 0,
    }
}

/// Pool `rail`, of which each of these PFs has a block.
pub fn book(pfs: &[PciAddress]) -> Book {
    let spec = json!({
        "mode": "sharedSubnet", "routes": [{"to": "172.16.0.0/16"}],
        "ipv4": {"cidr": "172.16.7.0/24", "blockSize": 8, "gateway": "172.16.7.254"},
        "ipv6": {"cidr": "fd00:7::/64", "blockSize": 8, "gatewayIndex": 1},
    });
    let pool = read("rail", "uid-7", &spec).unwrap();
    let block = |(pf, number): (&PciAddress, u64)| {
        let parent = Parent { pci: *pf, name: None, rail: None, addresses: Vec::new() };
        (*pf, pool.block(number, "node-a", &parent).unwrap())
    };
    let blocks = pfs.iter().zip(3_u64..).map(block).collect();
    let page = Page { uid: "uid-7".into(), spec, blocks, without: BTreeMap::new() };
    Book { pools: [("rail".to_owned(), page)].into() }
}
