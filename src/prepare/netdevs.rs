//! Interfaces of VFs whose functions hold state: made and taken away as drivers do it, on the kernel that holds state or,
//! by whoever has stand-ins, on one that runs.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::device::{HwAddr, PciAddress};
use crate::host::fake::FakeKernel;
use crate::host::{Kernel, Link};

/// Where they are.
pub trait Netdevs: Debug + Send + Sync {
    /// The driver that the kernel chooses for a VF.
    fn driver(&self, vf: PciAddress) -> Option<String>;
    /// A network driver is bound: the VF has an interface, on the host if it had none. Its PF may have given it an address.
    fn make(&self, vf: PciAddress, given: Option<HwAddr>);
    /// The driver goes, and with it the interface, wherever it is.
    fn take(&self, vf: PciAddress);
    /// Nobody has moved it.
    fn is_on_host(&self, vf: PciAddress) -> bool;
}

/// What a driver makes of a VF.
#[derive(Debug, Clone)]
struct Born {
    driver: String,
    link: Link,
    rdma: Vec<String>,
}

/// On the kernel that holds state.
#[derive(Debug)]
pub(super) struct OnFake {
    kernel: FakeKernel,
    born: BTreeMap<PciAddress, Born>,
}

impl OnFake {
    /// VFs with these drivers, as they are there now.
    pub(super) fn of(kernel: &FakeKernel, drivers: BTreeMap<PciAddress, String>) -> Self {
        let born = drivers.into_iter().filter_map(|(vf, driver)| {
            let (_, link, _) = kernel.vf(vf)?;
            Some((vf, Born { driver, link, rdma: kernel.rdma().names_of(vf) }))
        });
        Self { kernel: kernel.clone(), born: born.collect() }
    }
}

impl Netdevs for OnFake {
    fn driver(&self, vf: PciAddress) -> Option<String> {
        self.born.get(&vf).map(|born| born.driver.clone())
    }

    fn make(&self, vf: PciAddress, given: Option<HwAddr>) {
        let Some(born) = self.born.get(&vf).filter(|_| self.kernel.vf(vf).is_none()) else { return };
        let hw_addr = given.or_else(|| born.link.hw_addr.clone());
        self.kernel.put_netdev(&Link { hw_addr, ..born.link.clone() });
        born.rdma.iter().for_each(|name| self.kernel.add_rdma(vf, name));
    }

    fn take(&self, vf: PciAddress) {
        let Some(born) = self.born.get(&vf) else { return };
        self.kernel.take_netdev(vf);
        born.rdma.iter().for_each(|name| self.kernel.remove_rdma(name));
    }

    fn is_on_host(&self, vf: PciAddress) -> bool {
        self.kernel.vf(vf).is_some_and(|(netns, ..)| netns == self.kernel.host().id())
    }
}
