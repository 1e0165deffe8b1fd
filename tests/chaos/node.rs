//! A node that tests break: six VFs of one PF on a kernel, functions and a disk that outlive every agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sriov_dra::address::{Book, Page, Parent, read};
use sriov_dra::attach::{Attacher, Outbox};
use sriov_dra::device::{MAIN_TABLE, PciAddress, RdmaNetnsMode, Route, VfSettings};
use sriov_dra::host::fake::FakeKernel;
use sriov_dra::host::{Kernel, NetnsId, clock};
use sriov_dra::prepare::engine::Engine;
use sriov_dra::prepare::fake::{FakeFunctions, pf, site};
use sriov_dra::prepare::ledger::Ledger;
use sriov_dra::prepare::vfio::VfioFacts;

/// VFs are numbered 1 to 6.
pub const VFS: u8 = 6;
const PF: PciAddress = PciAddress { domain: 0, bus: 0x81, device: 0, function: 0 };

pub fn pci(n: u8) -> PciAddress {
    PciAddress { function: n, ..PF }
}

/// What calls of kubelet and runtime are given. Waiting takes no time here.
pub fn soon() -> Instant {
    clock::now() + Duration::from_secs(1)
}

/// What a VF that nobody has is to be: as it was made, but for what an administrator did to it since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    pub driver: Option<String>,
    pub forced: Option<String>,
    pub name: String,
}

/// An agent: what it has in memory. It ends by being dropped.
#[derive(Clone)]
pub struct Agent {
    pub engine: Engine,
    pub attacher: Attacher,
}

pub struct Node {
    pub kernel: FakeKernel,
    pub functions: FakeFunctions,
    pub dir: tempfile::TempDir,
    pub truth: BTreeMap<u8, Truth>,
    boot: u32,
    namespaces: u32,
}

/// The network driver of a VF: one that loses its VF when the PF sets its address, and one that does not.
fn driver(n: u8) -> &'static str {
    if n <= 2 { "igbvf" } else { "iavf" }
}

fn born(n: u8) -> Truth {
    // Nobody gave the fifth a driver.
    Truth { driver: (n != 5).then(|| driver(n).to_owned()), forced: None, name: format!("ens1v{n}") }
}

fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}

impl Node {
    pub fn new() -> Self {
        clock::play();
        let memory = PathBuf::from("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let (kernel, functions) = (FakeKernel::default(), FakeFunctions::default());
        let mut node = Self { kernel, functions, dir, truth: BTreeMap::new(), boot: 1, namespaces: 0 };
        for n in 1..=VFS {
            node.functions.add(pci(n));
            node.functions.change(pci(n), |facts| {
                facts.vf.pf = Some(PF);
                facts.vf.index = Some(u32::from(n) - 1);
                facts.vf.driver = Some(driver(n).to_owned());
                facts.pf = Some(pf(PF));
            });
            let group = Some(u32::from(n));
            node.functions.set_vfio(pci(n), VfioFacts { group, driver: true, ..Default::default() });
        }
        node.power_on();
        node.functions.join(&node.kernel);
        node.leave_unbound();
        node.functions.know(book());
        let ledger = Ledger::open(node.dir.path().join("durable"), node.dir.path().join("run")).unwrap();
        node.functions.withhold_by(ledger);
        node
    }

    /// The VFs are made, and udev has named them.
    fn power_on(&mut self) {
        self.kernel.set_rdma_mode(RdmaNetnsMode::Exclusive);
        // The lowest number of a character device is another's.
        self.kernel.add_rdma(PF, "pf");
        for n in 1..=VFS {
            self.kernel.add_vf(pci(n), &format!("ens1v{n}"), 1500, &mac(n));
            self.kernel.meddle(pci(n), |link| link.alt_names = vec![format!("enp129s0v{n}")]);
            if n.is_multiple_of(2) {
                self.kernel.add_rdma(pci(n), &format!("mlx5_{n}"));
            }
            self.truth.insert(n, born(n));
        }
    }

    fn leave_unbound(&self) {
        use sriov_dra::prepare::functions::Functions;
        self.functions.unbind(pci(5)).unwrap();
    }

    /// Power is lost, and comes again: `/run` is empty, the VFs are new.
    pub fn reboot(&mut self) {
        self.boot += 1;
        self.kernel.lose_power();
        std::fs::remove_dir_all(self.dir.path().join("run")).unwrap();
        self.power_on();
        (1..=VFS).for_each(|n| self.functions.make_anew(pci(n)));
        self.leave_unbound();
    }

    /// An administrator writes `sriov_numvfs` again, as far as this VF is concerned.
    pub fn make_anew(&mut self, n: u8) {
        self.functions.make_anew(pci(n));
        // udev loads the driver for each.
        self.truth.insert(n, Truth { driver: Some(driver(n).to_owned()), ..born(n) });
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// A process that can work on claims: an agent, or a hook.
    pub fn process(&self) -> Result<Agent, String> {
        let kernel = Arc::new(self.kernel.clone());
        let site = site(self.dir.path(), kernel, self.functions.clone(), &self.boot_id());
        let site = site.map_err(|error| error.sentence())?;
        let (outbox, _) = Outbox::at(site.ledger.outbox_folder());
        Ok(Agent { engine: Engine { site: site.clone() }, attacher: Attacher { site, outbox } })
    }

    /// The namespace of a pod's sandbox, with the network that the cluster gives it.
    pub fn add_namespace(&mut self) -> (PathBuf, NetnsId, i32) {
        self.namespaces += 1;
        let path = format!("/run/netns/{}", self.namespaces);
        let pid = 1000 + i32::try_from(self.namespaces).unwrap();
        let netns = self.kernel.add_netns(&path, pid);
        self.kernel.add_other(netns.id(), "eth0");
        let mut links = self.kernel.enter(&netns).unwrap();
        let eth0 = links.by_name("eth0").unwrap().unwrap();
        links.add_route(&eth0, &default_route()).unwrap();
        (path.into(), netns.id(), pid)
    }

    /// What is not as it should be of a VF that nobody has.
    pub fn faults_of(&self, n: u8) -> Vec<String> {
        use sriov_dra::prepare::functions::Functions;
        let truth = &self.truth[&n];
        let mut faults = Vec::new();
        let mut expect = |what: &str, is: String, wanted: String| {
            if is != wanted {
                faults.push(format!("VF {n}: {what} is {is}, was {wanted}"));
            }
        };
        let life = self.functions.life(pci(n)).unwrap();
        expect("driver", format!("{:?}", life.driver), format!("{:?}", truth.driver));
        expect("forced driver", format!("{:?}", life.forced), format!("{:?}", truth.forced));
        let settings = self.functions.settings_of(pci(n));
        expect("settings", format!("{settings:?}"), format!("{:?}", VfSettings::untouched()));
        let network = truth.driver.as_ref().is_some_and(|driver| driver != "vfio-pci");
        let Some((place, link, addresses)) = self.kernel.vf(pci(n)) else {
            expect("interface", "nowhere".into(), if network { "on the host" } else { "nowhere" }.into());
            return faults;
        };
        expect("interface", "somewhere".into(), if network { "somewhere" } else { "nowhere" }.into());
        expect("place", place.to_string(), self.kernel.host().id().to_string());
        expect("name", link.name.clone(), truth.name.clone());
        expect("MTU", link.mtu.to_string(), "1500".into());
        expect(
            "address",
            format!("{:?}", link.hw_addr.map(|a| a.to_string())),
            format!("{:?}", Some(mac(n))),
        );
        expect("alias", link.alias.clone(), String::new());
        expect("alternative names", link.alt_names.join(","), format!("enp129s0v{n}"));
        let flags = (link.up, link.promisc, link.allmulti, link.noarp, link.xdp, link.group);
        expect("flags", format!("{flags:?}"), format!("{:?}", (false, false, false, false, false, 0)));
        expect("addresses", format!("{addresses:?}"), "[]".into());
        if n.is_multiple_of(2) {
            let rdma = self.kernel.rdma_place(&format!("mlx5_{n}")).map(|(place, _)| place.to_string());
            expect(
                "RDMA device",
                format!("{rdma:?}"),
                format!("{:?}", Some(self.kernel.host().id().to_string())),
            );
        }
        faults
    }

    /// Names in a folder of the node's, sorted.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(folder)).into_iter().flatten().flatten();
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

/// Pool `rail`, of which the PF has a block.
fn book() -> Book {
    let spec = json!({
        "mode": "sharedSubnet", "routes": [{"to": "172.16.0.0/16"}],
        "ipv4": {"cidr": "172.16.7.0/24", "blockSize": 8, "gateway": "172.16.7.254"},
        "ipv6": {"cidr": "fd00:7::/64", "blockSize": 8, "gatewayIndex": 1},
    });
    let pool = read("rail", "uid-7", &spec).unwrap();
    let parent = Parent { pci: PF, name: None, rail: None, addresses: Vec::new() };
    let block = pool.block(3, "node-a", &parent).unwrap();
    let page = Page { uid: "uid-7".into(), spec, blocks: [(PF, block)].into(), without: BTreeMap::new() };
    Book { pools: [("rail".to_owned(), page)].into() }
}
