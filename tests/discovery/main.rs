//! From a sysfs tree to verdicts: every case of discovery, and what is offered of it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy sees helpers of tests as no tests

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sriov_dra::cli::inventory::{Format, Inventory, render};
use sriov_dra::device::{
    CleanFacts, EswitchMode, IfName, LinkType, PciAddress, Place, RdmaNetnsMode, Snapshot, Vf,
};
use sriov_dra::host::sysfs::Sysfs;
use sriov_dra::host::sysfs::tree::{Card, FakeSysfs, NetdevPlan, Nic, Tree, VfPlan};
use sriov_dra::inventory::{HostLinks, scan, scan_only};
use sriov_dra::policy::{AttributeValue, Rails, Rules, Selector, Verdict, add_addresses, judge, offered};

mod command;
mod owned;
mod places;
mod published;
mod size;
mod vanishing;
mod withheld;

fn pci(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn look(tree: &FakeSysfs) -> Snapshot {
    look_with(tree, &HostLinks::default())
}

fn look_with(tree: &FakeSysfs, links: &HostLinks) -> Snapshot {
    scan(&tree.sysfs(), links, Some(RdmaNetnsMode::Exclusive), &|_| None).unwrap()
}

fn rules() -> Rules {
    Rules {
        driver_name: "sriov-dra.io".into(),
        devices: None,
        attach: Some("nri".into()),
        rails: Default::default(),
    }
}

fn verdicts(snapshot: &Snapshot) -> Vec<Verdict> {
    judge(snapshot, &BTreeMap::new(), &rules())
}

fn offered_addresses(verdicts: &[Verdict]) -> Vec<String> {
    offered(verdicts).iter().map(|device| device.pci.to_string()).collect()
}

/// Sentences about a VF, empty when it is offered.
fn reasons(verdicts: &[Verdict], vf: &str) -> Vec<String> {
    let verdict =
        verdicts.iter().find(|verdict| verdict.device.pci == pci(vf)).expect("no verdict about the VF");
    verdict.withheld.iter().map(ToString::to_string).collect()
}

/// What the ledger would hold of a VF.
fn clean(vf: &Vf) -> CleanFacts {
    let netdev = vf.netdev.as_ref();
    CleanFacts {
        incarnation: vf.incarnation,
        driver: vf.driver.clone(),
        forced: None,
        name: netdev.map(|netdev| IfName::new(netdev.name.as_str()).unwrap()),
        hw_addr: netdev.and_then(|netdev| netdev.hw_addr.clone()),
        mtu: netdev.and_then(|netdev| netdev.mtu),
        alt_names: vec![],
        alias: None,
        up: netdev.is_some_and(|netdev| netdev.up),
        queue_length: None,
        rdma: vf.rdma.clone(),
        settings: Default::default(),
    }
}

fn links_of(tree: &FakeSysfs, names: &[&str]) -> HostLinks {
    let names = names.iter().map(|name| (tree.ifindex(name).unwrap(), (*name).to_owned())).collect();
    HostLinks { names, ..HostLinks::default() }
}
