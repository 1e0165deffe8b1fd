//! RDMA devices of the kernel that holds state. Each move takes its character device away and makes another, with the
//! lowest number that is free then, as the kernel does.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{Rdma, RdmaLink};
use crate::device::{CharDevice, PciAddress, RdmaNetnsMode};
use crate::host::fake::{FakeKernel, HOST, refused};
use crate::host::{HostError, Netns, NetnsId};

/// Major number of uverbs (`IB_UVERBS_MAJOR`, drivers/infiniband/core/uverbs_main.c).
const UVERBS: u32 = 231;
/// First minor number of uverbs (`IB_UVERBS_BASE_MINOR`).
const FIRST: u32 = 192;

#[derive(Debug, Clone)]
struct Device {
    link: RdmaLink,
    functions: Vec<PciAddress>,
    place: NetnsId,
    number: u32,
    movable: bool,
}

/// Its part of the state.
#[derive(Debug, Default)]
pub struct FakeRdma {
    mode: Option<RdmaNetnsMode>,
    devices: BTreeMap<String, Device>,
}

impl FakeRdma {
    fn free_number(&self) -> u32 {
        (0..).find(|n| self.devices.values().all(|device| device.number != *n)).unwrap_or_default()
    }

    fn put(&mut self, name: &str, place: NetnsId) {
        let Some(mut device) = self.devices.remove(name) else { return };
        device.number = self.free_number();
        device.place = place;
        self.devices.insert(name.to_owned(), device);
    }

    /// The namespace ends: its devices go back to the host.
    pub(in crate::host) fn bring_home(&mut self, gone: NetnsId) {
        let all = self.devices.iter().filter(|(_, device)| device.place == gone);
        let names: Vec<String> = all.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.put(name, HOST));
    }

    /// The power is lost; the mode is an option of the module.
    pub(in crate::host) fn forget(&mut self) {
        self.devices.clear();
    }

    fn has(&self, device: &Device, netns: NetnsId) -> bool {
        self.mode == Some(RdmaNetnsMode::Shared) || device.place == netns
    }
}

impl FakeKernel {
    /// The mode that the node was booted with.
    pub fn set_rdma_mode(&self, mode: RdmaNetnsMode) {
        self.state().rdma.mode = Some(mode);
    }

    /// Gives a function an RDMA device, on the host; one that is there already is its, too.
    pub fn add_rdma(&self, function: PciAddress, name: &str) {
        let mut state = self.state();
        if let Some(device) = state.rdma.devices.get_mut(name) {
            device.functions.push(function);
            return;
        }
        let index = u32::try_from(state.rdma.devices.len()).unwrap_or(u32::MAX);
        let link = RdmaLink { index, name: name.to_owned(), ports: 1 };
        let number = state.rdma.free_number();
        let device = Device { link, functions: vec![function], place: HOST, number, movable: true };
        state.rdma.devices.insert(name.to_owned(), device);
    }

    /// Its driver can't let go of users.
    pub fn pin_rdma(&self, name: &str) {
        if let Some(device) = self.state().rdma.devices.get_mut(name) {
            device.movable = false;
        }
    }

    /// Its driver goes.
    pub fn remove_rdma(&self, name: &str) {
        self.state().rdma.devices.remove(name);
    }

    /// Where a device is, and the number of its uverbs.
    pub fn rdma_place(&self, name: &str) -> Option<(NetnsId, u32)> {
        self.state().rdma.devices.get(name).map(|device| (device.place, device.number))
    }
}

impl Rdma for FakeKernel {
    fn mode(&self) -> Option<RdmaNetnsMode> {
        self.state().rdma.mode
    }

    fn names_of(&self, function: PciAddress) -> Vec<String> {
        let state = self.state();
        let devices = state.rdma.devices.values().filter(|device| device.functions.contains(&function));
        devices.map(|device| device.link.name.clone()).collect()
    }

    fn find(&self, netns: &Netns, name: &str) -> Result<Option<RdmaLink>, HostError> {
        let state = self.state();
        let device = state.rdma.devices.get(name).filter(|device| state.rdma.has(device, netns.id()));
        Ok(device.map(|device| device.link.clone()))
    }

    fn move_to(&self, from: &Netns, device: &RdmaLink, to: &Netns) -> Result<(), HostError> {
        let what = format!("move RDMA device {} to network namespace {}", device.name, to.id());
        self.count_change(&what)?;
        let mut state = self.state();
        let found = state.rdma.devices.get(&device.name).cloned();
        let found = found.filter(|device| state.rdma.has(device, from.id()));
        let found = found.ok_or_else(|| refused(&what, Errno::ENODEV))?;
        if state.rdma.mode != Some(RdmaNetnsMode::Exclusive) || !found.movable {
            return Err(refused(&what, Errno::EOPNOTSUPP));
        }
        state.rdma.put(&device.name, to.id());
        Ok(())
    }

    fn char_devices(
        &self,
        netns: &Netns,
        device: &RdmaLink,
        umad: bool,
    ) -> Result<Vec<CharDevice>, HostError> {
        let what = format!("ask for the uverbs device of {}", device.name);
        let state = self.state();
        let found = state.rdma.devices.get(&device.name);
        let found = found.filter(|device| state.rdma.has(device, netns.id()));
        let n = found.ok_or_else(|| refused(&what, Errno::ENODEV))?.number;
        let node =
            |name: String, major, minor| CharDevice { path: format!("/dev/infiniband/{name}"), major, minor };
        let mut nodes =
            vec![node(format!("uverbs{n}"), UVERBS, FIRST + n), node("rdma_cm".to_owned(), 10, 120)];
        if umad {
            nodes.push(node(format!("umad{n}"), UVERBS, n));
        }
        Ok(nodes)
    }
}
