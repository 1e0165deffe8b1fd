//! Writes functions the way the kernel lays them out.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::plan::NetdevPlan;

/// Where one function goes and what it has.
#[derive(Debug)]
pub(super) struct FunctionPlan<'a> {
    pub pci: String,
    /// Components between `devices/` and the function.
    pub path: &'a [String],
    pub class: u32,
    pub vendor: u16,
    pub device: u16,
    pub driver: Option<&'a str>,
    pub netdevs: &'a [NetdevPlan],
    pub rdma: Option<&'a str>,
    pub infiniband: bool,
    pub numa_node: i32,
    pub iommu_group: Option<u32>,
    /// Last bytes of the hardware address.
    pub mac_tail: [u8; 4],
}

/// A tree's root and the numbers of its interfaces.
#[derive(Debug)]
pub(super) struct Writer {
    pub root: PathBuf,
    ifindexes: Vec<String>,
}

/// First ifindex given; `lo` and the like are below.
const FIRST_IFINDEX: usize = 10;

impl Writer {
    pub fn new(root: PathBuf) -> io::Result<Self> {
        for folder in
            ["bus/pci/devices", "bus/pci/drivers", "class/net", "class/infiniband", "devices", "module"]
        {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("bus/pci/drivers_probe"), "")?;
        Ok(Self { root, ifindexes: Vec::new() })
    }

    /// The number of an interface; the same for a name for ever.
    pub fn ifindex(&mut self, name: &str) -> u32 {
        let at = self.ifindexes.iter().position(|known| known == name).unwrap_or_else(|| {
            self.ifindexes.push(name.to_owned());
            self.ifindexes.len() - 1
        });
        u32::try_from(at + FIRST_IFINDEX).unwrap_or(u32::MAX)
    }

    pub fn known_ifindex(&self, name: &str) -> Option<u32> {
        let at = self.ifindexes.iter().position(|known| known == name)?;
        u32::try_from(at + FIRST_IFINDEX).ok()
    }

    /// The function's real folder.
    pub fn place(&self, plan: &FunctionPlan<'_>) -> PathBuf {
        plan.path.iter().fold(self.root.join("devices"), |path, part| path.join(part)).join(&plan.pci)
    }

    /// Writes the folder aside, moves it to its place at once and lists it on the bus.
    pub fn function(&mut self, plan: &FunctionPlan<'_>) -> io::Result<PathBuf> {
        let place = self.place(plan);
        let made = self.root.join("devices/.made");
        fs::create_dir(&made)?;
        let up = "../".repeat(plan.path.len() + 2);
        for (file, text) in [
            ("class", format!("0x{:06x}", plan.class)),
            ("vendor", format!("0x{:04x}", plan.vendor)),
            ("device", format!("0x{:04x}", plan.device)),
            ("numa_node", plan.numa_node.to_string()),
            ("driver_override", "(null)".to_owned()),
            ("subsystem_vendor", format!("0x{:04x}", plan.vendor)),
            ("subsystem_device", "0x0001".to_owned()),
        ] {
            line(&made, file, &text)?;
        }
        if let Some(driver) = plan.driver {
            let folder = self.root.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&folder)?;
            for file in ["bind", "unbind"] {
                if !folder.join(file).exists() {
                    fs::write(folder.join(file), "")?;
                }
            }
            symlink(format!("{up}bus/pci/drivers/{driver}"), made.join("driver"))?;
        }
        if let Some(group) = plan.iommu_group {
            let devices = self.root.join(format!("kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&devices)?;
            relink(&place, &devices.join(&plan.pci))?;
            symlink(format!("{up}kernel/iommu_groups/{group}"), made.join("iommu_group"))?;
        }
        self.netdevs(plan, &made)?;
        if let Some(name) = plan.rdma {
            let device = made.join("infiniband").join(name);
            let layer = if plan.infiniband { "InfiniBand" } else { "Ethernet" };
            line(&device.join("ports/1"), "link_layer", layer)?;
            let [a, b, c, d] = plan.mac_tail;
            line(&device, "node_guid", &format!("0200:{a:02x}{b:02x}:00ff:{c:02x}{d:02x}"))?;
            line(&device, "fw_ver", "22.41.1000")?;
            line(
                &device.join("ports/1/gids"),
                "0",
                &format!("fe80:0000:0000:0000:0200:{a:02x}{b:02x}:00ff:{c:02x}{d:02x}"),
            )?;
            for (class, node) in [("infiniband_verbs", "uverbs"), ("infiniband_mad", "umad")] {
                let node =
                    format!("{node}{}", name.trim_start_matches(|c: char| c != '_').trim_start_matches('_'));
                line(&made.join(class).join(node), "ibdev", name)?;
            }
            relink(&place.join("infiniband").join(name), &self.root.join("class/infiniband").join(name))?;
        }
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&made, &place)?;
        let target = plan.path.iter().fold(PathBuf::from("../../../devices"), |path, part| path.join(part));
        symlink(target.join(&plan.pci), self.root.join("bus/pci/devices").join(&plan.pci))?;
        Ok(place)
    }

    /// `net/` of a function; nothing for a VF that is elsewhere.
    pub fn netdevs(&mut self, plan: &FunctionPlan<'_>, folder: &Path) -> io::Result<()> {
        let net = if plan.driver == Some("virtio-pci") { "virtio0/net" } else { "net" };
        for netdev in plan.netdevs {
            let dir = folder.join(net).join(&netdev.name);
            let ifindex = self.ifindex(&netdev.name);
            let iflink = match &netdev.child_of {
                Some(parent) => self.ifindex(parent),
                None => ifindex,
            };
            let [a, b, c, d] = plan.mac_tail;
            let mac = match netdev.arphrd {
                32 => {
                    format!("00:00:10:29:fe:80:00:00:00:00:00:00:02:00:{a:02x}:{b:02x}:00:ff:{c:02x}:{d:02x}")
                }
                _ => format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            };
            for (file, text) in [
                ("ifindex", ifindex.to_string()),
                ("iflink", iflink.to_string()),
                ("type", netdev.arphrd.to_string()),
                ("address", mac),
                ("mtu", netdev.mtu.to_string()),
                ("operstate", if netdev.up { "up" } else { "down" }.to_owned()),
                ("flags", format!("0x{:x}", 0x1002 | u32::from(netdev.up))),
                ("dev_port", netdev.dev_port.to_string()),
            ] {
                line(&dir, file, &text)?;
            }
            let optional = [
                ("speed", netdev.speed.map(|speed| speed.to_string())),
                ("phys_port_name", netdev.phys_port_name.clone()),
                ("phys_switch_id", netdev.phys_switch_id.clone()),
            ];
            for (file, text) in optional {
                if let Some(text) = text {
                    line(&dir, file, &text)?;
                }
            }
            if let Some(master) = &netdev.master {
                symlink(format!("../{master}"), dir.join("master"))?;
            }
            for upper in netdev.uppers.iter().chain(&netdev.master) {
                symlink(format!("../{upper}"), dir.join(format!("upper_{upper}")))?;
            }
            relink(
                &self.place(plan).join(net).join(&netdev.name),
                &self.root.join("class/net").join(&netdev.name),
            )?;
        }
        Ok(())
    }
}

/// An attribute with the line feed that the kernel ends it with; makes the folder if need be.
pub(super) fn line(folder: &Path, file: &str, text: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(file), format!("{text}\n"))
}

/// A symbolic link, in place of one that may be there.
fn relink(target: &Path, link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => symlink(target, link),
    }
}
