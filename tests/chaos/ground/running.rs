//! Network namespaces of a kernel that runs, with processes in them. What is in them is what `ip` says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use sriov_dra::device::{InstalledRoute, PciAddress, Route, Rule};
use sriov_dra::host::{Link, Netns, NetnsId};

use super::super::asks::Ask;
use super::super::ops::Op;
use super::{Lack, Routing};

/// Where namespaces have their names.
const NAMES: &str = "/run/netns";
/// What the kernel owes, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(20);

/// What no kernel that runs has of the double's.
pub fn lacks() -> [Lack; 2] {
    [
        Lack::op("pods on the host's network: the double has them", |op| {
            matches!(op, Op::PlaceOnHost { .. })
        }),
        Lack::ask("modes of RDMA devices: there are none", |_, ask| {
            matches!(ask, Ask::CharDevice | Ask::Umad)
        }),
    ]
}

/// What `ip` says of one namespace.
#[derive(Debug, Default)]
pub struct Picture {
    pub links: Vec<(Link, Vec<IpNet>)>,
    pub routing: Routing,
}

struct Space {
    path: PathBuf,
    process: Option<Child>,
    /// So that it ends when this says so, and not with its last process.
    held: File,
}

/// The host's namespace, and those of pods. They end with this value.
pub struct Namespaces {
    host: (NetnsId, File),
    spaces: Mutex<BTreeMap<NetnsId, Space>>,
    seen: Mutex<BTreeMap<NetnsId, Arc<Picture>>>,
    /// Where a VF was seen last: it is looked for there first.
    last: Mutex<BTreeMap<PciAddress, NetnsId>>,
    /// Whose interface a link is.
    tell: fn(&Value) -> Option<PciAddress>,
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "namespaces beside {}", self.host.0)
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits, in real time, for what the kernel or a process is about to do.
pub fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !look() {
        assert!(Instant::now() < until, "waited {} s for {what}", LIMIT.as_secs());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn opened(path: &Path) -> (NetnsId, File) {
    let file = File::open(path).unwrap();
    let meta = file.metadata().unwrap();
    (NetnsId { dev: meta.dev(), ino: meta.ino() }, file)
}

fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

impl Namespaces {
    /// The calling thread's namespace is the host's.
    pub fn beside_this(tell: fn(&Value) -> Option<PciAddress>) -> Self {
        fs::create_dir_all(NAMES).unwrap();
        let host = opened(Path::new("/proc/thread-self/ns/net"));
        Self { host, spaces: Mutex::default(), seen: Mutex::default(), last: Mutex::default(), tell }
    }

    pub fn host(&self) -> NetnsId {
        self.host.0
    }

    /// For whoever moves something to the host.
    pub fn host_path(&self) -> String {
        path_of(&self.host.1)
    }

    fn knows(&self, id: NetnsId) -> bool {
        id == self.host.0 || self.exists(id)
    }

    /// What `ip` prints that runs in a namespace, or what it complains of.
    fn run(&self, id: NetnsId, arguments: &[&str], commands: &str) -> Result<String, String> {
        let target = match id == self.host.0 {
            true => self.host.1.try_clone(),
            false => lock(&self.spaces).get(&id).ok_or("there is no such namespace")?.held.try_clone(),
        };
        let target = target.map_err(|error| error.to_string())?;
        let ip = || -> std::io::Result<Output> {
            // A child is where the thread is that makes it; this one ends with it.
            setns(target.as_fd(), CloneFlags::CLONE_NEWNET)?;
            let mut ip = Command::new("ip");
            let ip = ip.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut ip = ip.spawn()?;
            if let Some(mut stdin) = ip.stdin.take() {
                stdin.write_all(commands.as_bytes())?;
            }
            ip.wait_with_output()
        };
        let done = std::thread::scope(|scope| scope.spawn(ip).join().unwrap());
        let done = done.map_err(|error| format!("can't run ip: {error}"))?;
        match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    /// Changes something by `ip`, one command a line.
    pub fn ip(&self, id: NetnsId, commands: &str) -> Result<(), String> {
        self.run(id, &["-batch", "-"], &format!("{commands}\n")).map(drop)
    }

    /// A namespace with one process in it, and the network that a cluster gives it.
    pub fn add(&self, number: u32) -> (PathBuf, NetnsId, i32) {
        let path = Path::new(NAMES).join(format!("life-{number}"));
        File::create(&path).unwrap();
        let process = Command::new("unshare")
            .arg(format!("--net={}", path.display()))
            .args(["setpriv", "--pdeathsig", "KILL", "sleep", "1000000"])
            .spawn()
            .unwrap();
        wait_for("a namespace", || Netns::open(&path).is_ok());
        let (id, held) = opened(&path);
        let pid = i32::try_from(process.id()).unwrap();
        let process_in = format!("/proc/{pid}/ns/net");
        wait_for("a process in it", || Netns::open(Path::new(&process_in)).is_ok_and(|ns| ns.id() == id));
        lock(&self.spaces).insert(id, Space { path: path.clone(), process: Some(process), held });
        self.look_anew();
        self.ip(
            id,
            "link set lo up\n\
             link add eth0 numtxqueues 1 numrxqueues 1 type veth peer name eth0peer numtxqueues 1 numrxqueues 1\n\
             link set eth0peer up\n\
             address add 10.244.0.5/24 dev eth0\n\
             link set eth0 up\n\
             route add default via 10.244.0.1 dev eth0",
        )
        .unwrap();
        (path, id, pid)
    }

    pub fn kill_users(&self, id: NetnsId) {
        if let Some(mut process) = lock(&self.spaces).get_mut(&id).and_then(|space| space.process.take()) {
            end(&mut process);
        }
    }

    pub fn let_go(&self, id: NetnsId) {
        self.kill_users(id);
        if let Some(space) = lock(&self.spaces).get(&id) {
            unmount(&space.path);
        }
    }

    /// It ends, as far as this is concerned.
    pub fn end(&self, id: NetnsId) {
        self.let_go(id);
        lock(&self.spaces).remove(&id);
        self.look_anew();
    }

    pub fn exists(&self, id: NetnsId) -> bool {
        lock(&self.spaces).contains_key(&id)
    }

    /// All but the host's.
    pub fn all(&self) -> Vec<NetnsId> {
        lock(&self.spaces).keys().copied().collect()
    }

    pub fn look_anew(&self) {
        lock(&self.seen).clear();
    }

    /// As it was seen since the last change.
    pub fn look(&self, id: NetnsId) -> Arc<Picture> {
        if let Some(seen) = lock(&self.seen).get(&id) {
            return Arc::clone(seen);
        }
        let commands = "address show\nroute show table all\nrule show\n";
        let mut told = self.run(id, &["-json", "-details", "-batch", "-"], commands).unwrap();
        told += &self.run(id, &["-json", "-6", "rule", "show"], "").unwrap();
        let lists: Vec<Value> =
            serde_json::Deserializer::from_str(&told).into_iter::<Value>().collect::<Result<_, _>>().unwrap();
        let [links, routes, rules, rules6] = lists.as_slice() else { panic!("ip printed {told}") };
        let links: Vec<(Link, Vec<IpNet>)> =
            list(links).iter().map(|link| (link_of(link, (self.tell)(link)), addresses_of(link))).collect();
        let index = |name: &str| links.iter().find(|(link, _)| link.name == name).map(|(link, _)| link.index);
        let routes = list(routes).iter().filter_map(|route| {
            Some(InstalledRoute { link: index(route["dev"].as_str()?)?, route: route_of(route)? })
        });
        let routes = routes.collect();
        let rules = list(rules).iter().chain(list(rules6)).filter_map(rule_of).collect();
        let picture = Arc::new(Picture { routing: (routes, rules), links });
        lock(&self.seen).insert(id, Arc::clone(&picture));
        picture
    }

    /// Where a VF's interface is, and what it is there.
    pub fn vf(&self, vf: PciAddress) -> Option<(NetnsId, Link, Vec<IpNet>)> {
        let last = lock(&self.last).get(&vf).copied().filter(|id| self.knows(*id));
        let order = last.into_iter().chain([self.host.0]).chain(self.all());
        for id in order {
            let picture = self.look(id);
            if let Some((link, addresses)) = picture.links.iter().find(|(link, _)| link.pci == Some(vf)) {
                lock(&self.last).insert(vf, id);
                return Some((id, link.clone(), addresses.clone()));
            }
        }
        None
    }

    /// The links of a namespace with their addresses, by name.
    pub fn links_of(&self, id: NetnsId) -> BTreeMap<String, (Link, Vec<IpNet>)> {
        if !self.knows(id) {
            return BTreeMap::new();
        }
        let links = self.look(id).links.clone();
        links.into_iter().map(|(link, addresses)| (link.name.clone(), (link, addresses))).collect()
    }

    pub fn routing_of(&self, id: NetnsId) -> Routing {
        if !self.knows(id) { Routing::default() } else { self.look(id).routing.clone() }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.all().into_iter().for_each(|id| self.end(id));
    }
}

fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// Its name leads nowhere any more; done twice it is done.
fn unmount(path: &Path) {
    let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn link_of(told: &Value, pci: Option<PciAddress>) -> Link {
    let flag = |name: &str| list(&told["flags"]).iter().any(|flag| flag == name);
    let group = text(&told["group"]);
    Link {
        index: number(&told["ifindex"]),
        name: text(&told["ifname"]),
        alt_names: list(&told["altnames"]).iter().map(text).collect(),
        hw_addr: told["address"].as_str().and_then(|address| address.parse().ok()),
        mtu: number(&told["mtu"]),
        up: flag("UP"),
        carrier: flag("LOWER_UP"),
        promisc: flag("PROMISC"),
        allmulti: flag("ALLMULTI"),
        noarp: flag("NOARP"),
        xdp: !told["xdp"].is_null(),
        group: if group == "default" { 0 } else { group.parse().unwrap_or(u32::MAX) },
        alias: text(&told["ifalias"]),
        pci,
        ..Link::default()
    }
}

/// But those that the kernel makes by itself.
fn addresses_of(told: &Value) -> Vec<IpNet> {
    let address = |told: &Value| {
        let address: IpAddr = told["local"].as_str()?.parse().ok()?;
        IpNet::new(address, u8::try_from(told["prefixlen"].as_u64()?).ok()?).ok()
    };
    list(&told["addr_info"]).iter().filter(|told| told["scope"] != "link").filter_map(address).collect()
}

fn table(told: &Value) -> u32 {
    match told.as_str() {
        Some("default") => 253,
        Some("main") | None => 254,
        Some("local") => 255,
        Some(number) => number.parse().unwrap(),
    }
}

/// But those that the kernel makes by itself.
fn route_of(told: &Value) -> Option<Route> {
    if told["type"] != "unicast" || told["protocol"] == "kernel" || told["protocol"] == "ra" {
        return None;
    }
    // Only routes of IPv6 have a preference.
    let everywhere = if told["pref"].is_null() { "0.0.0.0/0" } else { "::/0" };
    let to = match told["dst"].as_str()? {
        "default" => everywhere.parse().unwrap(),
        to => to.parse().unwrap_or_else(|_| IpNet::from(to.parse::<IpAddr>().unwrap())),
    };
    let address = |told: &Value| told.as_str().and_then(|text| text.parse().ok());
    Some(Route {
        to,
        via: address(&told["gateway"]),
        on_link: list(&told["flags"]).iter().any(|flag| flag == "onlink"),
        table: table(&told["table"]),
        source: address(&told["prefsrc"]),
        metric: number(&told["metric"]),
    })
}

/// From one whole address to a table.
fn rule_of(told: &Value) -> Option<Rule> {
    let from = told["src"].as_str().filter(|_| told["srclen"].is_null())?.parse().ok()?;
    Some(Rule { from, table: table(&told["table"]), priority: number(&told["priority"]) })
}
