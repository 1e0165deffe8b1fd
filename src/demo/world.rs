//! A simulated node: a sysfs tree of rails on 2 NUMA nodes, veth pairs as their VFs' netdevs, the far ends joined rail by
//! rail in a network namespace of their own, the fabric, so that pods on one rail reach each other and pods on two do not.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getgid, getuid};

use super::pod::Process;
use crate::device::{HwAddr, IfName, PciAddress};
use crate::host::sysfs::tree::{Card, Tree};
use crate::host::wire::{self, End};
use crate::host::{Kernel, Linux, Netns};

/// What a rail can carry; bytes.
const MTU: u32 = 9000;
/// Most rails of a node: two ports on each of eight cards.
pub const MOST_RAILS: u8 = 16;
/// Most VFs of a rail: two ports with as many each have PCI addresses of their own on one bus.
pub const MOST_VFS: u32 = 16;

/// What a simulated node has. Rails are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Interface names of the PFs, one a rail, at most [`MOST_RAILS`].
    pub pfs: Vec<String>,
    /// VFs of each, at most [`MOST_VFS`].
    pub vfs: u32,
    /// The ports say that they are InfiniBand. Their links are veth all the same, and so Ethernet for the kernel.
    pub infiniband: bool,
    /// Tells the MAC addresses of one node from those of another that it is wired to.
    pub number: u8,
}

impl Default for Shape {
    fn default() -> Self {
        Self::cards(8)
    }
}

impl Shape {
    /// Two ports a card: `ens1f0`, `ens1f1`, `ens2f0`; 8 VFs each.
    pub fn cards(rails: u8) -> Self {
        let name = |rail: u8| format!("ens{}f{}", rail / 2 + 1, rail % 2);
        Self { pfs: (0..rails).map(name).collect(), vfs: 8, infiniband: false, number: 0 }
    }

    /// `--rails` of its agent.
    pub fn rails(&self) -> String {
        let rules = self.pfs.iter().zip(1..).map(|(pf, rail)| format!("{pf}={rail}"));
        rules.collect::<Vec<_>>().join(",")
    }

    /// PCIe root and NUMA node of each rail.
    pub fn places(&self) -> Vec<(String, i64)> {
        let cards = (0..).zip(&self.pfs).map(|(at, pf)| self.card(at, pf));
        cards.map(|card| (card.path.into_iter().next().unwrap_or_default(), card.numa_node.into())).collect()
    }

    /// Rails 1 to 8 of 16, and all of 8, on the first and second socket by halves; two ports a card, a PCIe root for
    /// each card.
    fn card(&self, at: u8, pf: &str) -> Card {
        const BUSES: [&str; 8] = ["17", "29", "3b", "5e", "86", "af", "c3", "d9"];
        let half_of = if self.pfs.len() > 8 { 0 } else { 2 };
        let bus = BUSES.get(usize::from(at / 2) + half_of).copied().unwrap_or("e0");
        let port = at % 2;
        let pci = format!("0000:{bus}:00.{port}");
        let card = match self.infiniband {
            true => Card::infiniband(&pci, pf, &format!("mlx5_{at}")),
            false => Card::ethernet(&pci, pf, "mlx5_core"),
        };
        let mut card = Card {
            // Two ports of one card: the second port's VFs follow the first's.
            offset: 2 + u32::from(port) * self.vfs.saturating_sub(1),
            total_vfs: self.vfs,
            ..card
        }
        .vfs(self.vfs, |_, vf| vf);
        if let Some(root) = card.path.first_mut() {
            *root = root_of(bus);
        }
        for netdev in &mut card.netdevs {
            netdev.mtu = MTU;
        }
        card
    }
}

/// The PCIe root complex that a bus hangs below.
fn root_of(bus: &str) -> String {
    format!("pci0000:{:02x}", u8::from_str_radix(bus, 16).unwrap_or_default() & 0xf8)
}

/// Makes this process root of network (and, without root, user) namespaces of its own. Call it before any thread is
/// started: the kernel gives user namespaces to single-threaded processes only.
///
/// # Errors
/// When the machine allows neither.
pub fn enter_private_namespaces() -> anyhow::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return loopback_up();
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context(
        "this machine gives no private network namespace: it takes root, or user namespaces (sysctl \
         kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces)",
    )?;
    map_ids(uid, gid).context("the user namespace can't be set up")?;
    loopback_up()
}

fn map_ids(uid: Uid, gid: Gid) -> std::io::Result<()> {
    // user_namespaces(7): an unprivileged process may map its own IDs only, the group after giving up setgroups.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn loopback_up() -> anyhow::Result<()> {
    let kernel = Linux::new("/sys")?;
    let mut links = kernel.enter(kernel.host())?;
    match links.by_name("lo")? {
        Some(lo) => Ok(links.set_up(&lo, true)?),
        None => bail!("the new network namespace has no loopback interface"),
    }
}

/// The simulated node; it ends with this value.
#[derive(Debug)]
pub struct World {
    sysfs: PathBuf,
    rails: String,
    fabric: Process,
}

impl World {
    /// Builds one of 8 rails below `folder`, in the network namespace of the calling thread. `progress` hears of each
    /// rail.
    ///
    /// # Errors
    /// When the folder can't be written, or the kernel has no veth.
    pub fn build(executable: &Path, folder: &Path, progress: &mut dyn FnMut(u8)) -> anyhow::Result<Self> {
        Self::build_as(&Shape::default(), executable, folder, progress)
    }

    /// One of this shape.
    ///
    /// # Errors
    /// As [`build`](Self::build), and when there is no room for so many rails or VFs.
    pub fn build_as(
        shape: &Shape,
        executable: &Path,
        folder: &Path,
        progress: &mut dyn FnMut(u8),
    ) -> anyhow::Result<Self> {
        if shape.pfs.len() > usize::from(MOST_RAILS) || shape.vfs > MOST_VFS {
            bail!("a simulated node has at most {MOST_RAILS} rails with {MOST_VFS} VFs each");
        }
        let kernel = Linux::new("/sys")?;
        let fabric = Process::start(executable)?;
        let far = kernel.open(&fabric.netns())?;
        let (mut tree, mut cards) = (Tree::new(), Vec::new());
        for (at, pf) in (0..).zip(&shape.pfs) {
            let card = shape.card(at, pf);
            lay(kernel.host(), &far, (shape.number, at + 1), &card)
                .with_context(|| format!("rail {} can't be laid", at + 1))?;
            tree = tree.card(card.clone());
            cards.push(card);
            progress(at + 1);
        }
        let tree =
            tree.build_in(folder).with_context(|| format!("the sysfs tree below {}", folder.display()))?;
        number(kernel.host(), tree.root(), &cards).context("the PFs can't be numbered")?;
        Ok(Self { sysfs: tree.root().to_owned(), rails: shape.rails(), fabric })
    }

    /// What `/sys` is on a real node.
    pub fn sysfs(&self) -> &Path {
        &self.sysfs
    }

    /// `--rails` of the node's agent.
    pub fn rails(&self) -> &str {
        &self.rails
    }

    /// Path of the network namespace where the far ends are: rail n is the bridge `rail<n>`.
    pub fn fabric(&self) -> PathBuf {
        self.fabric.netns()
    }
}

fn lay(host: &Netns, far: &Netns, (node, rail): (u8, u8), card: &Card) -> anyhow::Result<()> {
    let bridge = IfName::new(format!("rail{rail}"))?;
    wire::bridge(far, &bridge, MTU)?;
    let pf = card.netdevs.first().map(|netdev| netdev.name.clone()).unwrap_or_default();
    let pair = |near: &str, number: u8, up: bool, mtu: u32| -> anyhow::Result<()> {
        let (near, peer) = (IfName::new(near)?, IfName::new(format!("r{rail}p{number}"))?);
        let hw_addr = HwAddr::new([0x02, 0x5d, 0, node, rail, number]);
        let pair = End { name: &near, hw_addr: Some(&hw_addr) };
        wire::veth(host, &pair, far, &End { name: &peer, hw_addr: None }, mtu)?;
        wire::join(far, &peer, &bridge)?;
        wire::raise(far, &peer)?;
        if up {
            wire::raise(host, &near)?;
        }
        Ok(())
    };
    pair(&pf, 0, true, MTU)?;
    for (index, vf) in card.vfs.iter().enumerate() {
        let name = vf.netdevs.first().map(|netdev| netdev.name.as_str()).unwrap_or_default();
        pair(name, u8::try_from(index + 1)?, false, 1500)?;
    }
    let kernel = Linux::new("/sys")?;
    let mut links = kernel.enter(host)?;
    for (index, vf) in (0..).zip(&card.vfs) {
        let name = vf.netdevs.first().map(|netdev| netdev.name.as_str()).unwrap_or_default();
        let address: Option<PciAddress> = card.vf_address(index);
        if let (Some(link), Some(address)) = (links.by_name(name)?, address) {
            // A veth belongs to no bus: its alias says which VF it stands for.
            links.set_alias(&link, &address.to_string())?;
        }
    }
    Ok(())
}

/// The PFs' interfaces get the numbers in the tree that they have in the kernel, without which their addresses would be
/// taken for those of others.
fn number(host: &Netns, sysfs: &Path, cards: &[Card]) -> anyhow::Result<()> {
    let mut links = Linux::new("/sys")?.enter(host)?;
    for (card, pf) in
        cards.iter().flat_map(|card| card.netdevs.iter().map(move |netdev| (card, &netdev.name)))
    {
        let Some(link) = links.by_name(pf)? else { continue };
        let folder = sysfs.join("bus/pci/devices").join(&card.pci).join("net").join(pf);
        for file in ["ifindex", "iflink"] {
            std::fs::write(folder.join(file), format!("{}\n", link.index))?;
        }
    }
    Ok(())
}
