//! Attach of 1, 8 and 16 VFs (veth pairs stand in) into one pod, three ways in turn: the attacher with its ledger and
//! locks, the bare system calls, and a CNI plugin run once for each VF.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::IpNet;
use sriov_dra::attach::nri::Sandbox;
use sriov_dra::attach::{Attacher, Outbox};
use sriov_dra::claim::{ClaimId, ClaimSpec, NameSpec, PodRef, ResultSpec, WantedRouting};
use sriov_dra::demo::pod::Process;
use sriov_dra::device::{IfName, PciAddress};
use sriov_dra::host::wire::{self, End};
use sriov_dra::host::{Kernel, Linux};
use sriov_dra::prepare::engine::Engine;
use sriov_dra::prepare::fake::{FakeFunctions, site};

use crate::bare::{self, Extent};
use crate::cni::HostDevice;
use crate::measure::{Samples, Table, ms};
use crate::node;

const ROUNDS: usize = 30;
const WARM_UP: usize = 2;
const MOST: u8 = 16;
/// Neither what a link has anyway nor too much for a veth.
pub const MTU: u32 = 4200;

/// A stand-in on the host, and what it is to be in the pod.
#[derive(Debug, Clone)]
pub struct Device {
    pub pci: PciAddress,
    pub host_name: IfName,
    pub pod_name: IfName,
    pub address: IpNet,
}

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    node::leave()?;
    let host = Host::new()?;
    let cni = HostDevice::find();
    if cni.is_none() {
        println!(
            "not measured beside the host-device CNI plugin: no host-device and static in {}",
            HostDevice::PLACES.join(" or ")
        );
    }
    for count in [1, 8, 16] {
        let mut samples: [Samples; 4] = Default::default();
        for round in 0..WARM_UP + ROUNDS {
            // Nobody always comes first.
            for way in (0..4).map(|way| (way + round) % 4) {
                let pod = Process::start(binary)?;
                let took = match way {
                    0 => host.attach(&pod, count, round, &|_| WantedRouting::default(), &|_| Ok(()))?,
                    1 => host.bare(&pod, count, Extent::Netlink)?,
                    2 => host.bare(&pod, count, Extent::NetlinkAndSysctls)?,
                    _ => match &cni {
                        Some(cni) => host.cni(cni, &pod, count)?,
                        None => continue,
                    },
                };
                host.reset()?;
                if round >= WARM_UP {
                    samples[way].push(took);
                }
            }
        }
        show(table, count, &samples, cni.is_some());
    }
    Ok(())
}

fn show(table: &mut Table, count: u8, [ours, netlink, same, cni]: &[Samples; 4], has_cni: bool) {
    let vfs = if count == 1 { "1 VF".to_owned() } else { format!("{count} VFs") };
    let of = |samples: &Samples| {
        format!("{} in all, {} per VF", ms(samples.median()), ms(samples.median() / u32::from(count)))
    };
    table.figure(format!("Attach of {vfs}, median"), of(ours));
    table.figure("… bare netlink", of(netlink));
    table.figure("… bare netlink and the two sysctls", of(same));
    let ratio = ours.ratio_to(netlink);
    table.aim(format!("{vfs}: attach ÷ bare netlink"), "≤ 1.3", format!("{ratio:.2}"), ratio <= 1.3);
    let ratio = ours.ratio_to(same);
    table.figure(format!("{vfs}: attach ÷ bare netlink and sysctls"), format!("{ratio:.2}"));
    if has_cni {
        table.figure("… host-device and static, one run per VF", of(cni));
        let ratio = cni.ratio_to(ours);
        table.aim(format!("{vfs}: host-device ÷ attach"), "≥ 10", format!("{ratio:.1}"), ratio >= 10.0);
    } else {
        table.figure("… host-device and static, one run per VF", "not installed");
    }
}

/// The host with its stand-ins; its sysfs has no more than the attacher looks at.
pub struct Host {
    pub kernel: Arc<dyn Kernel>,
    engine: Engine,
    attacher: Attacher,
    devices: Vec<Device>,
    _folder: tempfile::TempDir,
}

impl Host {
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let functions = FakeFunctions::default();
        let plain = Linux::new("/sys")?;
        let mut devices = Vec::new();
        for number in 1..=MOST {
            let pci = PciAddress { domain: 0, bus: 0x81, device: number >> 3, function: number & 7 };
            let host_name = IfName::new(format!("ens1v{number}"))?;
            let wire = IfName::new(format!("wire{number}"))?;
            let end = |name| End { name, hw_addr: None };
            // With room for the MTU on both ends, as a wire has.
            wire::veth(plain.host(), &end(&host_name), plain.host(), &end(&wire), 1500)?;
            wire::raise(plain.host(), &wire)?;
            let net = folder.path().join(format!("sys/bus/pci/devices/{pci}/net/{host_name}"));
            std::fs::create_dir_all(net)?;
            functions.add(pci);
            let pod_name = IfName::new(format!("net{number}"))?;
            devices.push(Device {
                pci,
                host_name,
                pod_name,
                address: format!("10.7.{number}.5/24").parse()?,
            });
        }
        let kernel: Arc<dyn Kernel> = Arc::new(Linux::new(folder.path().join("sys"))?);
        let site = site(folder.path(), kernel.clone(), functions, &sriov_dra::host::boot::boot_id()?)?;
        let (outbox, _) = Outbox::at(site.ledger.outbox_folder());
        let engine = Engine { site: site.clone() };
        let attacher = Attacher { site, outbox };
        let host = Self { kernel, engine, attacher, devices, _folder: folder };
        host.reset()?;
        Ok(host)
    }

    pub fn first(&self, count: u8) -> &[Device] {
        self.devices.get(..usize::from(count)).unwrap_or(&self.devices)
    }

    /// Everything between the runtime's event and its answer; Prepare was before.
    pub fn attach(
        &self,
        pod: &Process,
        count: u8,
        round: usize,
        routing: &dyn Fn(&Device) -> WantedRouting,
        check: &dyn Fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let uid = format!("pod-{count}-{round}");
        let results = self.first(count).iter().map(|device| ResultSpec {
            request: device.pod_name.to_string(),
            pool: "node-a".to_owned(),
            device: device.pci.device_name(),
            pci: device.pci,
            share_id: None,
            admin_access: false,
            interface_asked: true,
            name: NameSpec::Template("net{n}".to_owned()),
            mtu: Some(MTU),
            addresses: vec![device.address],
            settings: Default::default(),
            bind: Default::default(),
            address_pool: None,
            routing: routing(device),
            rdma: Default::default(),
        });
        let claim = ClaimSpec {
            id: ClaimId { uid: format!("claim-{uid}"), namespace: "ns".into(), name: "rails".into() },
            pod_claim_name: "rails".into(),
            pod: Some(PodRef { uid: uid.clone(), name: "worker".into() }),
            results: results.collect(),
        };
        let sandbox = Sandbox {
            id: format!("sandbox-{uid}"),
            pod_uid: uid,
            pod_name: "worker".into(),
            pod_namespace: "ns".into(),
            netns: Some(pod.netns()),
            lists_namespaces: true,
            pid: pod.pid(),
        };
        let soon = || Instant::now() + Duration::from_secs(5);
        self.engine.prepare(&claim, soon()).map_err(|error| anyhow::anyhow!(error.sentence()))?;
        let started = Instant::now();
        self.attacher.run(&sandbox, soon()).map_err(|error| anyhow::anyhow!(error.sentence()))?;
        let took = started.elapsed();
        self.assert_inside(&pod.netns(), count)?;
        check(&pod.netns())?;
        self.attacher.stop(&sandbox, soon()).map_err(|error| anyhow::anyhow!(error.sentence()))?;
        self.attacher.release(&claim.id.uid, soon()).map_err(|error| anyhow::anyhow!(error.sentence()))?;
        self.engine.unprepare(&claim.id, soon()).map_err(|error| anyhow::anyhow!(error.sentence()))?;
        Ok(took)
    }

    fn bare(&self, pod: &Process, count: u8, extent: Extent) -> anyhow::Result<Duration> {
        let mut host = self.kernel.enter(self.kernel.host())?;
        let mut indexes = Vec::new();
        for device in self.first(count) {
            let link = host.by_name(device.host_name.as_str())?.context("a stand-in is not on the host")?;
            indexes.push((link.index, device));
        }
        drop(host);
        let netns = pod.netns();
        let started = Instant::now();
        bare::attach(&netns, &indexes, extent)?;
        let took = started.elapsed();
        self.assert_inside(&netns, count)?;
        self.bring_back(&netns, count)?;
        Ok(took)
    }

    pub fn cni(&self, plugin: &HostDevice, pod: &Process, count: u8) -> anyhow::Result<Duration> {
        let netns = pod.netns();
        let started = Instant::now();
        for device in self.first(count) {
            plugin.run("ADD", device, &netns)?;
        }
        let took = started.elapsed();
        self.assert_inside(&netns, count)?;
        for device in self.first(count) {
            plugin.run("DEL", device, &netns)?;
        }
        Ok(took)
    }

    /// A way that does half the work must not win.
    fn assert_inside(&self, netns: &Path, count: u8) -> anyhow::Result<()> {
        let mut inside = self.kernel.enter(&self.kernel.open(netns)?)?;
        for device in self.first(count) {
            let link = inside.by_name(device.pod_name.as_str())?.context("a VF is not in the pod")?;
            let addresses = inside.addresses(link.index)?;
            anyhow::ensure!(
                link.up && addresses.contains(&device.address),
                "{} is up: {}, has {addresses:?}",
                link.name,
                link.up
            );
        }
        Ok(())
    }

    fn bring_back(&self, netns: &Path, count: u8) -> anyhow::Result<()> {
        let mut inside = self.kernel.enter(&self.kernel.open(netns)?)?;
        for device in self.first(count) {
            let link = inside.by_name(device.pod_name.as_str())?.context("a VF is not in the pod")?;
            inside.set_up(&link, false)?;
            inside.move_to(&link, self.kernel.host(), &device.host_name)?;
        }
        Ok(())
    }

    /// The same start for whoever is next.
    pub fn reset(&self) -> anyhow::Result<()> {
        let mut host = self.kernel.enter(self.kernel.host())?;
        for device in &self.devices {
            let link = host.by_name(device.host_name.as_str())?.context("a stand-in did not come back")?;
            if link.up {
                host.set_up(&link, false)?;
            }
            if link.mtu != 1500 {
                host.set_mtu(&link, 1500)?;
            }
            // What tells a stand-in; the CNI plugin keeps a name there.
            host.set_alias(&link, &device.pci.to_string())?;
        }
        Ok(())
    }
}
