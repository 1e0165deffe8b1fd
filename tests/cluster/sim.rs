//! The simulated node: a sysfs tree with two PFs of four VFs, and a veth pair for each VF.
//!
//! A stand-in's alias is the VF's PCI address, by which the driver knows it in any namespace. The other ends of all
//! pairs are ports of one bridge, as VFs of two ports of a NIC reach each other through the switch they are wired to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sriov_dra::device::PciAddress;
use sriov_dra::host::sysfs::tree::{Card, FakeSysfs, Tree};

use crate::process::{run, wait_for};

/// PFs by address and netdev, as the examples name them.
pub const PFS: [(&str, &str); 2] = [("0000:81:00.0", "ens1f0"), ("0000:82:00.0", "ens1f1")];
/// VFs of each.
pub const VFS_EACH: u32 = 4;

/// The hardware.
#[derive(Debug)]
pub struct Sim {
    tree: FakeSysfs,
    /// What each VF is like while nobody owns it.
    pub clean: BTreeMap<PciAddress, Link>,
}

/// A link by `ip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Link-layer address.
    pub mac: String,
    /// Bytes.
    pub mtu: u64,
    /// Administratively up.
    pub up: bool,
    /// `ifalias`
    pub alias: String,
    /// With prefix length; link-local ones left out.
    pub addresses: Vec<String>,
}

impl Sim {
    /// Builds it in a folder and in this network namespace.
    ///
    /// # Errors
    /// When the folder or a link can't be made.
    pub fn build(folder: &Path) -> Result<Self> {
        run("ip", &["link", "add", "tor", "type", "bridge"])?;
        run("ip", &["link", "set", "tor", "up"])?;
        let mut plan = Tree::new();
        for (index, (pci, netdev)) in PFS.into_iter().enumerate() {
            let numa_node = i32::try_from(index)?;
            let card = Card { numa_node, ..Card::ethernet(pci, netdev, "igb") };
            plan = plan.card(card.vfs(VFS_EACH, |_, vf| vf));
        }
        let tree = plan.build_in(folder)?;
        let sim = Self { tree, clean: BTreeMap::new() };
        for (pf, netdev) in PFS {
            // A bridge without ports: kernels without the dummy driver have that too.
            sim.add_link(pf, netdev, &["type", "bridge"])?;
            for index in 0..VFS_EACH {
                let (vf, name) = (sim.vf(pf, index)?, format!("{netdev}v{index}"));
                let peer = format!("{netdev}w{index}");
                sim.add_link(&vf.to_string(), &name, &["type", "veth", "peer", "name", &peer])?;
                run("ip", &["link", "set", &name, "alias", &vf.to_string()])?;
                run("ip", &["link", "set", &peer, "master", "tor", "up"])?;
            }
        }
        let clean = sim.on_host()?;
        ensure!(clean.len() == PFS.len() * VFS_EACH as usize, "{} VFs were made", clean.len());
        Ok(Self { clean, ..sim })
    }

    /// Address and number of netlink and of sysfs are to be the same.
    fn add_link(&self, pci: &str, name: &str, kind: &[&str]) -> Result<()> {
        let mac = self.tree.read(&format!("bus/pci/devices/{pci}/net/{name}/address"));
        run("ip", &[&["link", "add", name, "address", &mac], kind].concat())?;
        let shown: Value = serde_json::from_str(&run("ip", &["-json", "link", "show", name])?)?;
        let number = shown[0]["ifindex"].as_u64().context("an ifindex")?;
        self.tree.set(pci, &format!("net/{name}/ifindex"), &number.to_string())?;
        Ok(())
    }

    fn vf(&self, pf: &str, index: u32) -> Result<PciAddress> {
        let card = Card::ethernet(pf, "", "igb");
        card.vf_address(index).with_context(|| format!("VF {index} of {pf}"))
    }

    /// For `--sysfs-root`.
    pub fn root(&self) -> PathBuf {
        self.tree.root().to_owned()
    }

    /// VFs whose stand-in is on the host now.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn on_host(&self) -> Result<BTreeMap<PciAddress, Link>> {
        let named = links(None)?.into_iter().filter_map(|link| Some((link.alias.parse().ok()?, link)));
        Ok(named.collect())
    }

    /// A namespace ends with a VF in it, and nobody took it out. The kernel brings links of hardware back to the host,
    /// down, under the name they had in it; a veth pair it removes. Waits for that, and makes the stand-in as the kernel
    /// would leave a VF.
    ///
    /// # Errors
    /// When the link is not removed within a minute, or can't be made.
    pub async fn come_home(&self, vf: PciAddress, name: &str) -> Result<()> {
        wait_for(Duration::from_secs(60), "a namespace to end", async || {
            ensure!(self.lost()?.contains(&vf), "the pair of {vf} is still there");
            Ok(())
        })
        .await?;
        self.bring_home(vf, name)
    }

    /// Does the same for each VF that is lost, for ever.
    ///
    /// # Errors
    /// When a link can't be made.
    pub async fn keep_bringing_home(&self, name: &str) -> Result<()> {
        loop {
            for vf in self.lost()? {
                let is_taken = links(None)?.iter().any(|link| link.name == name);
                let other = format!("dev{}{}", vf.bus, vf.function);
                self.bring_home(vf, if is_taken { &other } else { name })?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Name of the other end of a VF's pair, which is always on the host.
    fn peer(clean: &Link) -> String {
        clean.name.replace('v', "w")
    }

    fn lost(&self) -> Result<Vec<PciAddress>> {
        let there = links(None)?;
        let is_lost = |clean: &Link| there.iter().all(|link| link.name != Self::peer(clean));
        Ok(self.clean.iter().filter(|(_, clean)| is_lost(clean)).map(|(vf, _)| *vf).collect())
    }

    fn bring_home(&self, vf: PciAddress, name: &str) -> Result<()> {
        let clean = self.clean.get(&vf).with_context(|| format!("there is no VF {vf}"))?;
        let peer = Self::peer(clean);
        let number = self.tree.read(&format!("bus/pci/devices/{vf}/net/{}/ifindex", clean.name));
        let link = ["link", "add", name, "index", number.trim(), "address", &clean.mac];
        run("ip", &[&link[..], &["type", "veth", "peer", "name", &peer]].concat())?;
        if let Err(error) = run("ip", &["link", "set", name, "alias", &vf.to_string()])
            && links(None)?.iter().any(|link| link.name == name)
        {
            return Err(error);
        }
        // Else the agent was faster: it knows the VF by its address, and has made it what it was, alias and all.
        run("ip", &["link", "set", &peer, "master", "tor", "up"]).map(drop)
    }

    /// Moves a VF to another NUMA node.
    ///
    /// # Errors
    /// When there is no such VF.
    pub fn set_numa_node(&self, vf: PciAddress, node: u32) -> Result<()> {
        Ok(self.tree.set(&vf.to_string(), "numa_node", &node.to_string())?)
    }

    /// Waits until every VF is on the host as it was made.
    ///
    /// # Errors
    /// Names those that are not.
    pub async fn wait_clean(&self, limit: Duration) -> Result<()> {
        wait_for(limit, "all VFs to be as before", async || {
            let now = self.on_host()?;
            let differs = |(pci, was): (&PciAddress, &Link)| {
                (now.get(pci) != Some(was)).then(|| format!("{pci} was {was:?} and is {:?}", now.get(pci)))
            };
            let differences: Vec<String> = self.clean.iter().filter_map(differs).collect();
            ensure!(differences.is_empty(), "{}", differences.join("; "));
            Ok(())
        })
        .await
    }
}

/// Links of this network namespace, or of the one in a file.
///
/// # Errors
/// What `ip` says.
pub fn links(netns: Option<&Path>) -> Result<Vec<Link>> {
    let show = ["-json", "-details", "address", "show"];
    let shown = match netns {
        None => run("ip", &show)?,
        Some(path) => {
            let option = format!("--net={}", path.display());
            run("nsenter", &[&[option.as_str(), "ip"], &show[..]].concat())?
        }
    };
    let shown: Vec<Value> = serde_json::from_str(&shown)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let link = |link: &Value| Link {
        name: text(&link["ifname"]),
        mac: text(&link["address"]),
        mtu: link["mtu"].as_u64().unwrap_or_default(),
        up: list(&link["flags"]).iter().any(|flag| flag == "UP"),
        alias: text(&link["ifalias"]),
        addresses: list(&link["addr_info"])
            .iter()
            .filter(|address| address["scope"] != "link")
            .map(|address| format!("{}/{}", text(&address["local"]), address["prefixlen"]))
            .collect(),
    };
    Ok(shown.iter().map(link).filter(|link| link.name != "lo").collect())
}
