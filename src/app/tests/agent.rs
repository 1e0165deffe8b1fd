//! What prepares claims, on the kernel that holds state and beside the embedded API server.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::claims::Claims;
use crate::attach::{Attacher, Outbox};
use crate::demo::apiserver::ApiServer;
use crate::device::PciAddress;
use crate::host::fake::FakeKernel;
use crate::prepare::engine::Engine;
use crate::prepare::fake::{FakeFunctions, site};

/// The one VF of the node.
pub(super) const VF: PciAddress = PciAddress { domain: 0, bus: 0x81, device: 2, function: 1 };

/// The agent of node-a, with `--attach=hook`, in a folder.
pub(super) fn agent(server: &ApiServer, folder: &Path, kernel: &FakeKernel) -> Claims {
    let functions = FakeFunctions::default();
    kernel.add_vf(VF, "ens1v1", 1500, "02:00:00:00:00:01");
    functions.add(VF);
    let site = site(folder, Arc::new(kernel.clone()), functions, "boot-1").unwrap();
    let (outbox, _) = Outbox::at(site.ledger.outbox_folder());
    Claims {
        runtime: None,
        prepares: Arc::new(Semaphore::new(1)),
        client: server.client().unwrap(),
        engine: Arc::new(Engine { site: site.clone() }),
        attacher: Arc::new(Attacher { site, outbox }),
        node: "node-a".into(),
    }
}
