//! RDMA devices of the real kernel.

use std::os::fd::AsRawFd;
use std::path::Path;

use super::{
    NETLINK_RDMA, RDMA_NLDEV_CMD_GET, RDMA_NLDEV_CMD_GET_CHARDEV, RDMA_NLDEV_CMD_SET, Rdma, RdmaLink,
    char_device_of, char_device_request, kind, link_of, move_request, netns_mode,
};
use crate::device::{CharDevice, PciAddress, RdmaNetnsMode};
use crate::host::fate::{self, Kind};
use crate::host::raw::{ask, dump};
use crate::host::{HostError, Kernel, Linux, Netns};

impl Rdma for Linux {
    fn mode(&self) -> Option<RdmaNetnsMode> {
        if self.has_stand_ins() { None } else { netns_mode(self.host()) }
    }

    fn names_of(&self, function: PciAddress) -> Vec<String> {
        if self.has_stand_ins() {
            return Vec::new();
        }
        let folder = self.sysfs.join("bus/pci/devices").join(function.to_string());
        let mut names = entries(&folder.join("infiniband"));
        // Classes of character devices know no namespaces (ib_uverbs_add_one, drivers/infiniband/core/uverbs_main.c): they
        // name a device that is hidden here.
        let verbs = folder.join("infiniband_verbs");
        for device in entries(&verbs) {
            let name = std::fs::read_to_string(verbs.join(device).join("ibdev")).unwrap_or_default();
            names.extend(Some(name.trim().to_owned()).filter(|name| !name.is_empty()));
        }
        names.sort();
        names.dedup();
        names
    }

    fn find(&self, netns: &Netns, name: &str) -> Result<Option<RdmaLink>, HostError> {
        let answers = dump(netns, NETLINK_RDMA, kind(RDMA_NLDEV_CMD_GET), "list RDMA devices")?;
        Ok(answers.iter().filter_map(|answer| link_of(answer)).find(|link| link.name == name))
    }

    fn move_to(&self, from: &Netns, device: &RdmaLink, to: &Netns) -> Result<(), HostError> {
        let what = format!("move RDMA device {} to network namespace {}", device.name, to.id());
        let request = move_request(device.index, to.fd()?.as_raw_fd());
        fate::effect(Kind::Kernel, format_args!("{what}"))
            .map_err(|source| HostError::Netlink { what: what.clone(), source })?;
        ask(from, NETLINK_RDMA, kind(RDMA_NLDEV_CMD_SET), &request, &what).map(drop)
    }

    fn char_devices(
        &self,
        netns: &Netns,
        device: &RdmaLink,
        umad: bool,
    ) -> Result<Vec<CharDevice>, HostError> {
        let get = |client: &str, index: Option<u32>, port: Option<u32>| {
            let what = format!("ask for the {client} device of {}", device.name);
            let request = char_device_request(client, index, port);
            let answer = ask(netns, NETLINK_RDMA, kind(RDMA_NLDEV_CMD_GET_CHARDEV), &request, &what)?;
            answer
                .as_deref()
                .and_then(char_device_of)
                .ok_or_else(|| HostError::Protocol { what, reason: "no number".to_owned() })
        };
        let mut devices = vec![get("uverbs", Some(device.index), None)?];
        // For the whole node; only programs that connect by address need it.
        devices.extend(get("rdma_cm", None, None).ok());
        if umad {
            for port in 1..=device.ports {
                devices.push(get("umad", Some(device.index), Some(port))?);
            }
        }
        Ok(devices)
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
