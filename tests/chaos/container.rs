//! What a runtime makes a container of: the claims' CDI files, and what the agent adds over NRI.

use std::cell::RefCell;
use std::rc::Rc;

use sriov_dra::attach::PodSandbox;
use sriov_dra::attach::bundle::Bundle;
use sriov_dra::attach::nri::{Adjustment, Container, Sandbox};
use sriov_dra::claim::RdmaMode;
use sriov_dra::device::CharDevice;
use sriov_dra::prepare::cdi;
use sriov_dra::prepare::records::{Entry, VfEntry};

use super::node::{Agent, Node, number, soon};
use super::pods::{Pod, Sb};

/// The container's configuration, which the agent may still add to.
#[derive(Clone, Default)]
pub struct Made(Rc<RefCell<Bundle>>);

/// Of the claims' CDI files; `None` where one is gone: then the runtime makes no container.
pub fn of_cdi(node: &Node, pod: &Pod) -> Option<Made> {
    let mut bundle = Bundle::default();
    for claim in &pod.claims {
        let path = node.path("cdi").join(cdi::file_name("sriov-dra.io", &claim.spec.id.uid));
        let spec = cdi::parse(&std::fs::read_to_string(path).ok()?).ok()?;
        bundle.env.extend(spec.container_edits.env);
        for edits in spec.devices.into_iter().map(|device| device.container_edits) {
            bundle.env.extend(edits.env);
            let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
            let numbered = edits.device_nodes.into_iter().filter_map(|node| {
                Some(CharDevice { path: node.path, major: number(node.major)?, minor: number(node.minor)? })
            });
            bundle.devices.extend(numbered);
        }
    }
    Some(Made(Rc::new(RefCell::new(bundle))))
}

impl Made {
    /// As the runtime tells the agent of it.
    pub fn container(&self, sb: &Sb) -> Container {
        let bundle = self.0.borrow();
        Container {
            id: "c".into(),
            sandbox_id: sb.id.clone(),
            name: "main".into(),
            env: bundle.env.clone(),
            live: false,
            devices: bundle.devices.clone(),
            memlock: None,
        }
    }

    /// Two plugins may both be asked.
    pub fn adjust(&self, adjustment: Adjustment) {
        let mut bundle = self.0.borrow_mut();
        for device in adjustment.devices {
            if !bundle.devices.contains(&device) {
                bundle.devices.push(device);
            }
        }
    }

    /// The hook of one claim, as `app::run_hook` does it.
    pub fn pass_the_hook(&self, hook: &Agent, sandbox: &Sandbox, uid: &str) -> Result<(), String> {
        let refused = |error: sriov_dra::attach::AttachError| error.sentence();
        hook.attacher.guard(sandbox, uid, soon()).map_err(refused)?;
        if !hook.attacher.has_rdma(uid).map_err(refused)? {
            return Ok(());
        }
        let pod = PodSandbox::open(hook.attacher.site.kernel.as_ref(), sandbox).map_err(refused)?;
        let netns = pod.netns.as_ref().map(|(_, netns)| netns);
        hook.attacher.check_bundle(uid, &self.0.borrow(), netns).map(drop).map_err(refused)
    }

    /// What is not as it should be of the RDMA devices that the container was given.
    pub fn faults(&self, node: &Node, entries: &[Entry], pod: &Pod) -> Vec<String> {
        let bundle = self.0.borrow();
        let mut faults = Vec::new();
        for result in pod.claims.iter().flat_map(|claim| &claim.spec.results) {
            let has_device = || {
                let name = node.ground.rdma_of(number(result.pci));
                name.is_some_and(|name| node.ground.rdma_place(&name).is_some())
            };
            let is_due = !result.admin_access && !result.bind.vfio && result.rdma.mode != RdmaMode::None;
            let is_known = |vf: &VfEntry| vf.pci == result.pci && vf.rdma.is_some();
            if is_due && has_device() && !entries.iter().flat_map(|entry| &entry.vfs).any(is_known) {
                faults.push(format!("pod {}: nothing of the RDMA device of {}", pod.uid, result.pci));
            }
        }
        let pod = &pod.uid;
        for vf in entries.iter().flat_map(|entry| &entry.vfs) {
            let Some(rdma) = &vf.rdma else { continue };
            for device in &rdma.devices {
                let Some((_, number)) = node.ground.rdma_place(device) else {
                    faults.push(format!("pod {pod}: RDMA device {device} is nowhere"));
                    continue;
                };
                for (name, wanted) in [("uverbs", true), ("umad", rdma.umad)] {
                    let path = format!("/dev/infiniband/{name}{number}");
                    if bundle.devices.iter().any(|node| node.path == path) != wanted {
                        faults.push(format!("pod {pod}: {path} of {device}: {:?}", bundle.devices));
                    }
                }
            }
        }
        faults
    }
}
