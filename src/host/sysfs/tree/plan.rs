//! What a fake machine has, as plain data with the defaults of common hardware.

use crate::device::PciAddress;

/// A PF and its VFs.
#[derive(Debug, Clone)]
pub struct Card {
    /// Address of the PF.
    pub pci: String,
    /// Components of the real path between `devices/` and the PF.
    pub path: Vec<String>,
    /// 24-bit PCI class.
    pub class: u32,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID of the PF.
    pub device: u16,
    /// PCI device ID of the VFs.
    pub vf_device: u16,
    /// Driver of the PF.
    pub driver: Option<String>,
    /// The PF's `net/`: its own netdev, representors, IPoIB children.
    pub netdevs: Vec<NetdevPlan>,
    /// RDMA device of the PF.
    pub rdma: Option<String>,
    /// `link_layer` of RDMA devices is InfiniBand.
    pub infiniband: bool,
    /// As the kernel prints it; -1 is unknown.
    pub numa_node: i32,
    /// IOMMU group of the PF; VF n has the one n + 1 above. `None`: no IOMMU.
    pub iommu_group: Option<u32>,
    /// `sriov_totalvfs`
    pub total_vfs: u32,
    /// `sriov_offset`
    pub offset: u32,
    /// `sriov_stride`
    pub stride: u32,
    /// By index.
    pub vfs: Vec<VfPlan>,
}

/// A VF of a [`Card`].
#[derive(Debug, Clone)]
pub struct VfPlan {
    /// Bound driver.
    pub driver: Option<String>,
    /// Its `net/`.
    pub netdevs: Vec<NetdevPlan>,
    /// RDMA device.
    pub rdma: Option<String>,
}

/// A function without SR-IOV capability.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its address.
    pub pci: String,
    /// 24-bit PCI class.
    pub class: u32,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub device: u16,
    /// Bound driver; below `virtio-pci` the netdev sits in `virtio0/net/`.
    pub driver: Option<String>,
    /// Its netdev.
    pub netdev: Option<NetdevPlan>,
}

/// One netdev.
#[derive(Debug, Clone)]
pub struct NetdevPlan {
    /// Name.
    pub name: String,
    /// ARPHRD type.
    pub arphrd: u16,
    /// Bytes.
    pub mtu: u32,
    /// IFF_UP.
    pub up: bool,
    /// What `speed` prints; `None`: the file can't be read.
    pub speed: Option<i64>,
    /// `phys_port_name`
    pub phys_port_name: Option<String>,
    /// `phys_switch_id`
    pub phys_switch_id: Option<String>,
    /// Bond, bridge or team it is a port of.
    pub master: Option<String>,
    /// Links stacked on it, the master not included.
    pub uppers: Vec<String>,
    /// `dev_port`
    pub dev_port: u32,
    /// Name of the interface `iflink` points to; `None`: itself.
    pub child_of: Option<String>,
}

impl NetdevPlan {
    /// An Ethernet netdev that is up.
    pub fn ethernet(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            arphrd: 1,
            mtu: 1500,
            up: true,
            speed: None,
            phys_port_name: None,
            phys_switch_id: None,
            master: None,
            uppers: Vec::new(),
            dev_port: 0,
            child_of: None,
        }
    }

    /// An IPoIB netdev.
    pub fn ipoib(name: &str) -> Self {
        Self { arphrd: 32, mtu: 2044, ..Self::ethernet(name) }
    }

    /// A representor as a switchdev PF's `net/` has them.
    pub fn representor(name: &str, port: &str, switch: &str) -> Self {
        Self {
            phys_port_name: Some(port.into()),
            phys_switch_id: Some(switch.into()),
            ..Self::ethernet(name)
        }
    }
}

impl Card {
    /// An Ethernet PF below a bridge of its own, without VFs.
    pub fn ethernet(pci: &str, netdev: &str, driver: &str) -> Self {
        let (vendor, device, vf_device) = match driver {
            "mlx5_core" => (0x15b3, 0x101d, 0x101e),
            "ice" => (0x8086, 0x1592, 0x1889),
            "igb" => (0x8086, 0x10c9, 0x10ca),
            _ => (0x1af4, 0x1041, 0x1041),
        };
        let domain = pci.split(':').next().unwrap_or("0000");
        let bus = pci.split(':').nth(1).unwrap_or("00");
        // Buses 0x80 and up hang below the second root, as on two-socket servers.
        let root = if bus >= "80" { "80" } else { "00" };
        Self {
            pci: pci.to_owned(),
            path: vec![format!("pci{domain}:{root}"), format!("{domain}:{root}:{}.0", slot_for(bus))],
            class: 0x02_0000,
            vendor,
            device,
            vf_device,
            driver: Some(driver.to_owned()),
            netdevs: vec![NetdevPlan { speed: Some(100_000), ..NetdevPlan::ethernet(netdev) }],
            rdma: None,
            infiniband: false,
            numa_node: i32::from(bus >= "80"),
            iommu_group: Some(first_group(pci)),
            total_vfs: 128,
            offset: 1,
            stride: 1,
            vfs: Vec::new(),
        }
    }

    /// An InfiniBand PF with IPoIB.
    pub fn infiniband(pci: &str, netdev: &str, rdma: &str) -> Self {
        let own = NetdevPlan { speed: Some(200_000), ..NetdevPlan::ipoib(netdev) };
        Self {
            class: 0x02_0700,
            netdevs: vec![own],
            rdma: Some(rdma.to_owned()),
            infiniband: true,
            ..Self::ethernet(pci, netdev, "mlx5_core")
        }
    }

    /// Gives PF and, in [`vfs`](Self::vfs) called afterwards, VFs an RDMA device.
    #[must_use]
    pub fn rdma(mut self, name: &str) -> Self {
        self.rdma = Some(name.to_owned());
        self
    }

    /// Makes `count` VFs like this driver's, each changed as wanted.
    #[must_use]
    pub fn vfs(mut self, count: u32, change: impl Fn(u32, VfPlan) -> VfPlan) -> Self {
        let own = self.netdevs.first().cloned();
        let driver = match self.driver.as_deref() {
            Some("ice") => Some("iavf"),
            Some("igb") => Some("igbvf"),
            other => other,
        };
        self.vfs = (0..count)
            .map(|index| {
                let netdev = own.as_ref().map(|own| NetdevPlan {
                    up: false,
                    arphrd: own.arphrd,
                    mtu: if own.arphrd == 32 { 2044 } else { 1500 },
                    ..NetdevPlan::ethernet(&format!("{}v{index}", own.name))
                });
                let plan = VfPlan {
                    driver: driver.map(str::to_owned),
                    netdevs: netdev.into_iter().collect(),
                    rdma: self.rdma.as_ref().map(|name| format!("{name}v{index}")),
                };
                change(index, plan)
            })
            .collect();
        self
    }

    /// Address of the VF with an index.
    pub fn vf_address(&self, index: u32) -> Option<PciAddress> {
        let pf: PciAddress = self.pci.parse().ok()?;
        let rid = u32::from(pf.bus) << 8 | u32::from(pf.device) << 3 | u32::from(pf.function);
        let rid = rid + self.offset + index * self.stride;
        Some(PciAddress {
            domain: pf.domain,
            bus: u8::try_from(rid >> 8).ok()?,
            device: u8::try_from(rid >> 3 & 0x1f).ok()?,
            function: u8::try_from(rid & 7).ok()?,
        })
    }
}

impl VfPlan {
    /// On vfio-pci: no netdev, no RDMA device.
    pub fn vfio() -> Self {
        Self { driver: Some("vfio-pci".to_owned()), netdevs: Vec::new(), rdma: None }
    }

    /// Without driver.
    pub fn unbound() -> Self {
        Self { driver: None, netdevs: Vec::new(), rdma: None }
    }
}

impl Nic {
    /// A VF as a VM sees it.
    pub fn passed_through(pci: &str, netdev: &str, vendor: u16, device: u16, driver: &str) -> Self {
        Self {
            pci: pci.to_owned(),
            class: 0x02_0000,
            vendor,
            device,
            driver: Some(driver.to_owned()),
            netdev: Some(NetdevPlan::ethernet(netdev)),
        }
    }

    /// A paravirtual NIC.
    pub fn virtio(pci: &str, netdev: &str) -> Self {
        Self::passed_through(pci, netdev, 0x1af4, 0x1041, "virtio-pci")
    }
}

/// Room for the groups of a PF and its VFs: no two PFs share one.
fn first_group(pci: &str) -> u32 {
    let address: Option<PciAddress> = pci.parse().ok();
    address.map_or(0, |a| u32::from(a.bus) * 8000 + u32::from(a.function) * 1000)
}

/// A bridge per bus, so that cards have different switches.
fn slot_for(bus: &str) -> String {
    let bus = u8::from_str_radix(bus, 16).unwrap_or_default();
    format!("{:02x}", bus % 31 + 1)
}
