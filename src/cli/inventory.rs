//! `sriov-dra inventory`: PFs and VFs with what was decided about them, as a table, JSON or YAML.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::node::SourceArgs;
use crate::app::{Looked, take_inventory};
use crate::device::{LinkType, Pf, Place, RdmaNetnsMode, Snapshot, Vf};
use crate::policy::{AttributeValue, Verdict};

/// Shape of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people, at most 120 columns wide.
    #[default]
    Table,
    /// For programs; fields are added, never renamed.
    Json,
    /// The same as JSON.
    Yaml,
}

/// Arguments of `sriov-dra inventory`.
#[derive(Debug, Clone, clap::Args)]
pub struct InventoryArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// What is looked at, and what would be offered of it
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Runs the command: one scan, one judgement, one print.
///
/// # Errors
/// When sysfs, netlink or the agent's ledger can't be read, or a flag is wrong.
pub fn run(args: &InventoryArgs) -> anyhow::Result<()> {
    let InventoryArgs { output, source } = args;
    let durable = source.kubelet_dir.join("plugins").join(&source.driver_name);
    let Looked { snapshot, verdicts, hidden, .. } =
        take_inventory(&source.sysfs_root, &durable, source.rules()?)?;
    for missing in hidden {
        eprintln!("sriov-dra: note: {missing}");
    }
    let text = render(&Inventory::new(&snapshot, &verdicts), *output)?;
    Ok(super::print(&text)?)
}

/// Everything the command shows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Raised when a field changes its meaning or goes.
    pub format_version: u32,
    /// `shared`, `exclusive`, or null without RDMA.
    pub rdma_netns: Option<RdmaNetnsMode>,
    /// By address.
    pub pfs: Vec<Pf>,
    /// In publishing order.
    pub vfs: Vec<JudgedVf>,
}

/// A VF and its verdict.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedVf {
    /// DRA device name.
    pub device_name: String,
    /// Published.
    pub offered: bool,
    /// A claim owns it.
    pub owned: bool,
    /// Why it is not offered.
    pub withheld: Vec<Reason>,
    /// As published, or as it would be; keys and values as in a ResourceSlice.
    pub attributes: BTreeMap<String, AttributeValue>,
    /// Attributes that don't fit and were left out.
    pub dropped_attributes: Vec<String>,
    /// What was found.
    #[serde(flatten)]
    pub vf: Vf,
}

/// A reason for programs and for people.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// One word, stable.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Output that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// JSON.
    #[error("can't write the inventory as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// YAML.
    #[error("can't write the inventory as YAML: {0}")]
    Yaml(#[from] serde_saphyr::SerializeError),
}

impl Inventory {
    /// Puts a snapshot and the verdicts about it together. A verdict about a VF that the snapshot lacks is passed over.
    pub fn new(snapshot: &Snapshot, verdicts: &[Verdict]) -> Self {
        let judged = |verdict: &Verdict| {
            let vf = snapshot.vf(verdict.device.pci)?.clone();
            let reason = |reason: &crate::policy::WithheldReason| Reason {
                reason: reason.word(),
                message: reason.to_string(),
            };
            Some(JudgedVf {
                device_name: verdict.device.name.clone(),
                offered: verdict.is_offered(),
                owned: verdict.owned,
                withheld: verdict.withheld.iter().map(reason).collect(),
                attributes: verdict.device.attributes.clone(),
                dropped_attributes: verdict.dropped.clone(),
                vf,
            })
        };
        Self {
            format_version: 1,
            rdma_netns: snapshot.rdma_netns,
            pfs: snapshot.pfs.clone(),
            vfs: verdicts.iter().filter_map(judged).collect(),
        }
    }
}

/// The inventory as text, with a line feed at its end.
///
/// # Errors
/// The serialiser fails, which no inventory makes it do.
pub fn render(inventory: &Inventory, format: Format) -> Result<String, RenderError> {
    Ok(match format {
        Format::Table => table(inventory),
        Format::Json => serde_json::to_string_pretty(inventory)? + "\n",
        Format::Yaml => serde_saphyr::to_string(inventory)?,
    })
}

fn table(inventory: &Inventory) -> String {
    let Inventory { pfs, vfs, .. } = inventory;
    if pfs.is_empty() && vfs.is_empty() {
        return "No SR-IOV here: there is no network function with the SR-IOV capability, and no VF that was passed \
                into this VM.\nSR-IOV may be switched off in the firmware of the machine or of the card (then lspci -vv \
                shows no \"Single Root I/O Virtualization\").\n"
            .to_owned();
    }
    let offered = vfs.iter().filter(|vf| vf.offered).count();
    let owned = vfs.iter().filter(|vf| vf.owned).count();
    let mut text = format!(
        "{}, {}: {offered} offered ({owned} of them in claims), {} withheld\n",
        count(pfs.len(), "PF"),
        count(vfs.len(), "VF"),
        vfs.len() - offered
    );
    if !pfs.is_empty() {
        text.push('\n');
        align(&mut text, std::iter::once(PF_HEAD.map(str::to_owned)).chain(pfs.iter().map(pf_row)));
    }
    if vfs.is_empty() {
        let example =
            pfs.iter().find_map(|pf| pf.netdev.as_ref()).map_or("ens1f0", |netdev| netdev.name.as_str());
        let _ = write!(
            text,
            "\nNo PF has VFs. To make some: echo 8 > /sys/class/net/{example}/device/sriov_numvfs (as root)\n"
        );
        return text;
    }
    text.push('\n');
    let rows = vfs.iter().map(|vf| vf_row(vf, pfs));
    align(&mut text, std::iter::once(VF_HEAD.map(str::to_owned)).chain(rows));

    let reasons: Vec<_> =
        vfs.iter().flat_map(|vf| vf.withheld.iter().map(move |reason| (vf, reason))).collect();
    if !reasons.is_empty() {
        text.push_str("\nWithheld because\n");
        for (vf, reason) in reasons {
            let _ = writeln!(text, "  {}: {}", vf.vf.pci, reason.message);
        }
    }
    text
}

const PF_HEAD: [&str; 10] =
    ["PF", "NETDEV", "DRIVER", "LINK", "MBIT/S", "MTU", "VFS", "NUMA", "ESWITCH", "RDMA"];
const VF_HEAD: [&str; 10] = ["VF", "PF", "NO", "NETDEV", "DRIVER", "MTU", "NUMA", "RDMA", "PLACE", "VERDICT"];

fn pf_row(pf: &Pf) -> [String; 10] {
    let netdev = pf.netdev.as_ref();
    [
        pf.pci.to_string(),
        or_dash(netdev.map(|netdev| &netdev.name)),
        or_dash(pf.driver.as_ref()),
        or_dash(pf.link_type.map(|link| match link {
            LinkType::Ethernet => "ethernet",
            LinkType::Infiniband => "infiniband",
        })),
        or_dash(netdev.and_then(|netdev| netdev.speed_mbps)),
        or_dash(netdev.and_then(|netdev| netdev.mtu)),
        format!("{}/{}", pf.num_vfs, pf.total_vfs),
        or_dash(pf.numa_node),
        or_dash(pf.eswitch_mode.map(|mode| match mode {
            crate::device::EswitchMode::Legacy => "legacy",
            crate::device::EswitchMode::Switchdev => "switchdev",
        })),
        or_dash(pf.rdma.first().map(|device| &device.name)),
    ]
}

fn vf_row(judged: &JudgedVf, pfs: &[Pf]) -> [String; 10] {
    let vf = &judged.vf;
    let pf = vf.pf.map(|address| {
        let netdev = pfs.iter().find(|pf| pf.pci == address).and_then(|pf| pf.netdev.as_ref());
        netdev.map_or_else(|| address.to_string(), |netdev| netdev.name.clone())
    });
    let words: Vec<&str> = judged.withheld.iter().map(|reason| reason.reason).collect();
    [
        vf.pci.to_string(),
        or_dash(pf),
        or_dash(vf.index),
        or_dash(vf.netdev.as_ref().map(|netdev| &netdev.name)),
        or_dash(vf.driver.as_ref()),
        or_dash(vf.netdev.as_ref().and_then(|netdev| netdev.mtu)),
        or_dash(vf.numa_node),
        or_dash(vf.rdma.first().map(|device| &device.name)),
        match vf.place {
            Place::Host => "host",
            Place::Elsewhere => "elsewhere",
            Place::Unbound => "unbound",
            Place::Userspace => "userspace",
        }
        .to_owned(),
        match (judged.offered, judged.owned) {
            (true, true) => "offered, in a claim".to_owned(),
            (true, false) => "offered".to_owned(),
            (false, _) => format!("withheld: {}", words.join(" ")),
        },
    ]
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn align<const N: usize>(text: &mut String, rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<[String; N]> = rows.collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
