//! A simulated node: a sysfs tree of 8 rails on 2 NUMA nodes with 8 VFs each, veth pairs as their netdevs, the far ends
//! joined rail by rail, so that pods on one rail reach each other and pods on two do not.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getgid, getuid};

use super::pod::Process;
use crate::device::{HwAddr, IfName, PciAddress};
use crate::host::sysfs::tree::{Card, Tree};
use crate::host::wire::{self, End};
use crate::host::{Kernel, Linux, Netns};

/// PFs of the simulated node.
pub const RAILS: u8 = 8;
/// VFs of each.
pub const VFS_PER_RAIL: u32 = 8;
/// What a rail can carry; bytes.
const MTU: u32 = 9000;

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
    // Holds the far ends.
    _fabric: Process,
}

impl World {
    /// Builds it below `folder`, in the network namespace of the calling thread. `progress` hears of each rail.
    ///
    /// # Errors
    /// When the folder can't be written, or the kernel has no veth.
    pub fn build(executable: &Path, folder: &Path, progress: &mut dyn FnMut(u8)) -> anyhow::Result<Self> {
        let kernel = Linux::new("/sys")?;
        let fabric = Process::start(executable)?;
        let far = kernel.open(&fabric.netns())?;
        let mut tree = Tree::new();
        for rail in 0..RAILS {
            let card = card(rail);
            lay(kernel.host(), &far, rail, &card).with_context(|| format!("rail {rail} can't be laid"))?;
            tree = tree.card(card);
            progress(rail + 1);
        }
        let tree =
            tree.build_in(folder).with_context(|| format!("the sysfs tree below {}", folder.display()))?;
        Ok(Self { sysfs: tree.root().to_owned(), _fabric: fabric })
    }

    /// What `/sys` is on a real node.
    pub fn sysfs(&self) -> &Path {
        &self.sysfs
    }
}

/// Rails 0 to 3 on the first socket, 4 to 7 on the second, two ports a card.
fn card(rail: u8) -> Card {
    const BUSES: [&str; 4] = ["3b", "5e", "86", "af"];
    let bus = BUSES.get(usize::from(rail / 2)).copied().unwrap_or("e0");
    let (slot, port) = (rail / 2 + 1, rail % 2);
    let card = Card::ethernet(&format!("0000:{bus}:00.{port}"), &format!("ens{slot}f{port}"), "mlx5_core");
    // Two ports of one card: the second port's VFs follow the first's.
    let offset = 2 + u32::from(port) * (VFS_PER_RAIL - 1);
    let mut card = Card { offset, total_vfs: VFS_PER_RAIL, ..card }.vfs(VFS_PER_RAIL, |_, vf| vf);
    for netdev in &mut card.netdevs {
        netdev.mtu = MTU;
    }
    card
}

fn lay(host: &Netns, far: &Netns, rail: u8, card: &Card) -> anyhow::Result<()> {
    let bridge = IfName::new(format!("rail{rail}"))?;
    wire::bridge(far, &bridge, MTU)?;
    let pf = card.netdevs.first().map(|netdev| netdev.name.clone()).unwrap_or_default();
    let pair = |near: &str, number: u8, up: bool, mtu: u32| -> anyhow::Result<()> {
        let (near, peer) = (IfName::new(near)?, IfName::new(format!("r{rail}p{number}"))?);
        let hw_addr = HwAddr::new([0x02, 0x5d, 0, 0, rail, number]);
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
