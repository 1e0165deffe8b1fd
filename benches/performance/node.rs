//! The large node: 8 PFs with 127 VFs each. sysfs is a tree of folders; the netdevs are real links of this namespace,
//! two VFs being the two ends of one veth pair.

use anyhow::Context;
use nix::sched::{CloneFlags, unshare};
use sriov_dra::device::IfName;
use sriov_dra::host::sysfs::tree::{Card, FakeSysfs, Tree};
use sriov_dra::host::wire::{self, End};
use sriov_dra::host::{Kernel, Linux};

pub const PFS: usize = 8;
pub const VFS_PER_PF: u32 = 127;

/// Builds it in a new network namespace that the calling thread enters.
pub fn large() -> anyhow::Result<FakeSysfs> {
    leave()?;
    let cards: Vec<Card> = (0..PFS).map(card).collect();
    let kernel = Linux::new("/sys")?;
    let names: Vec<&str> = cards
        .iter()
        .flat_map(|card| card.netdevs.iter().chain(card.vfs.iter().flat_map(|vf| &vf.netdevs)))
        .map(|netdev| netdev.name.as_str())
        .collect();
    for pair in names.chunks_exact(2) {
        let (near, far) = (IfName::new(pair[0])?, IfName::new(pair[1])?);
        let end = |name| End { name, hw_addr: None };
        wire::veth(kernel.host(), &end(&near), kernel.host(), &end(&far), 1500)?;
    }
    let tree = cards.into_iter().fold(Tree::new(), Tree::card).build()?;
    let mut host = kernel.enter(kernel.host())?;
    for function in std::fs::read_dir(tree.root().join("bus/pci/devices"))?.flatten() {
        for netdev in std::fs::read_dir(function.path().join("net")).into_iter().flatten().flatten() {
            let link = host.by_name(&netdev.file_name().to_string_lossy())?.context("a link is missing")?;
            // What tells a stand-in.
            host.set_alias(&link, &function.file_name().to_string_lossy())?;
        }
    }
    Ok(tree)
}

fn card(number: usize) -> Card {
    let pci = format!("0000:{:02x}:00.0", 0x41 + number * 0x10);
    Card::ethernet(&pci, &format!("ens{number}f0"), "mlx5_core")
        .rdma(&format!("mlx5_{number}"))
        .vfs(VFS_PER_PF, |_, vf| vf)
}

/// A namespace with nothing but loopback in it, for the next section.
pub fn leave() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no new network namespace")?;
    // The stand-in for the API server listens there.
    Ok(wire::raise(Linux::new("/sys")?.host(), &IfName::new("lo")?)?)
}
