//! Attach of 16 VFs (veth pairs stand in) with addresses, routes, rules and sysctls into one pod, beside the CNI plugins
//! that do the same: `host-device`, `tuning`, `sbr` and `static`, executed for each device as a runtime does.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use sriov_dra::claim::{WantedRoute, WantedRouting};
use sriov_dra::demo::pod::Process;

use crate::attach::{Device, Host, MTU};
use crate::cni::HostDevice;
use crate::measure::{Samples, Table, ms};
use crate::node;

const COUNT: u8 = 16;
const ROUNDS: usize = 20;
const WARM_UP: usize = 2;

/// Those of the preset `multirail`.
pub const SYSCTLS: [(&str, u32); 5] =
    [("rp_filter", 2), ("arp_ignore", 1), ("arp_announce", 2), ("arp_filter", 1), ("accept_local", 1)];

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    node::leave()?;
    let host = Host::new()?;
    let cni = HostDevice::find_chain();
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..WARM_UP + ROUNDS {
        // Nobody always comes first.
        for way in (0..2).map(|way| (way + round) % 2) {
            let pod = Process::start(binary)?;
            let check = |netns: &Path| is_routed(&host, netns);
            let took = match (way, &cni) {
                (0, _) => host.attach(&pod, COUNT, round, &routing, &check)?,
                (_, None) => continue,
                (_, Some(cni)) => {
                    let netns = pod.netns();
                    let started = std::time::Instant::now();
                    for device in host.first(COUNT) {
                        cni.chain("ADD", device, gateway(device), &netns)?;
                    }
                    let took = started.elapsed();
                    check(&netns).context("after the CNI plugins")?;
                    for device in host.first(COUNT) {
                        cni.chain("DEL", device, gateway(device), &netns)?;
                    }
                    took
                }
            };
            host.reset()?;
            if round >= WARM_UP {
                if way == 0 { ours.push(took) } else { theirs.push(took) }
            }
        }
    }
    let of = |samples: &Samples| {
        format!("{} in all, {} per VF", ms(samples.median()), ms(samples.median() / u32::from(COUNT)))
    };
    let what = format!("Attach of {COUNT} VFs with addresses, routes, rules, sysctls, median");
    table.figure(what, of(&ours));
    match cni {
        Some(_) => {
            table.figure("… host-device, tuning, sbr and static, three runs per VF", of(&theirs));
            table.figure("… CNI chain ÷ attach", format!("{:.1}", theirs.ratio_to(&ours)));
        }
        None => table.figure("… host-device, tuning, sbr and static", "not installed"),
    }
    Ok(())
}

/// The first host of the device's network.
fn gateway(device: &Device) -> IpAddr {
    device.address.hosts().next().unwrap_or(device.address.addr())
}

fn routing(device: &Device) -> WantedRouting {
    let via = Some(gateway(device));
    let everything = IpNet::V4(ipnet::Ipv4Net::default());
    WantedRouting {
        routes: vec![WantedRoute { to: everything, via }],
        source_routing: true,
        sysctls: SYSCTLS.map(|(name, value)| (name.to_owned(), value)).into(),
        ..WantedRouting::default()
    }
}

/// Whoever did the work: each VF has a rule to a table with a default route through it, its MTU and its sysctls.
fn is_routed(host: &Host, netns: &Path) -> anyhow::Result<()> {
    let mut inside = host.kernel.enter(&host.kernel.open(netns)?)?;
    let (rules, routes) = (inside.rules()?, inside.routes()?);
    for device in host.first(COUNT) {
        let name = device.pod_name.as_str();
        let link = inside.by_name(name)?.context("a VF is not in the pod")?;
        let rule = rules.iter().find(|rule| rule.from == device.address.addr());
        let table = rule.with_context(|| format!("no rule from {} in {rules:?}", device.address))?.table;
        let leads = routes.iter().any(|installed| {
            (installed.link, installed.route.table) == (link.index, table)
                && installed.route.is_default()
                && installed.route.via == Some(gateway(device))
        });
        ensure!(leads, "table {table} has no default route through {name}: {routes:?}");
        ensure!(link.mtu == MTU, "{name} has MTU {}", link.mtu);
        for (key, value) in SYSCTLS {
            let is = inside.read_sysctl(&format!("ipv4/conf/{name}/{key}"))?;
            ensure!(is == Some(value.to_string()), "{key} of {name} is {is:?}");
        }
    }
    Ok(())
}
