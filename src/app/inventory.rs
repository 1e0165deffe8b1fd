//! `sriov-dra inventory`: one scan and one judgement, with what the ledger owns, if there is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::functions::NodeFunctions;
use crate::device::{PciAddress, Place, Snapshot};
use crate::host::sysfs::Sysfs;
use crate::host::{Kernel, Linux};
use crate::policy::{Rules, Verdict};
use crate::prepare::ledger::Ledger;

/// This machine's VFs, judged.
#[derive(Debug)]
pub struct Looked {
    /// What there is.
    pub snapshot: Snapshot,
    /// In publishing order.
    pub verdicts: Vec<Verdict>,
    /// VFs in claims, with the claim (`namespace/name`).
    pub holders: BTreeMap<PciAddress, String>,
    /// What only root may look at and so is missing, a sentence each.
    pub hidden: Vec<String>,
}

/// Reads this machine's VFs and judges them. `durable` is the agent's ledger; it is only read. It takes no privilege:
/// what the kernel or the ledger keeps to root is left out and named.
///
/// # Errors
/// When sysfs, netlink or the ledger can't be read.
pub fn take_inventory(sysfs: &Path, durable: &Path, rules: Rules) -> anyhow::Result<Looked> {
    let kernel: Arc<dyn Kernel> =
        Arc::new(Linux::new(sysfs).context("the network namespace can't be opened")?);
    let mut hidden = Vec::new();
    let ledger = Ledger::existing(durable).or_else(|error| match error.is_denied() {
        true => {
            hidden.push(format!(
                "which VFs are in claims only root can see ({}): those in claims are judged as if they were free; \
                 sudo shows them",
                error.sentence()
            ));
            Ok(None)
        }
        false => Err(anyhow::Error::msg(error.sentence())),
    })?;
    let functions = NodeFunctions::new(Sysfs::at(sysfs), kernel, Arc::new(rules), ledger.clone());
    let functions = match &ledger {
        Some(ledger) => functions.with_book_of(ledger),
        None => functions,
    };
    let snapshot = functions.snapshot().context("the node's PCI functions can't be read")?;
    let owned = match &ledger {
        Some(ledger) => ledger.owned().map_err(|error| anyhow::Error::msg(error.sentence()))?,
        None => Vec::new(),
    };
    let holders = owned
        .iter()
        .map(|(vf, owner)| (*vf, format!("{}/{}", owner.claim.namespace, owner.claim.name)))
        .collect();
    let clean = owned.into_iter().map(|(vf, owner)| (vf, owner.clean)).collect();
    let verdicts = functions.judge(&snapshot, &clean);
    if functions.mode_was_refused() && snapshot.pfs.iter().any(|pf| pf.eswitch_mode.is_none()) {
        hidden.push(
            "the eswitch mode of a PF only root may ask for (CAP_NET_ADMIN), so the attribute eswitchMode is \
             missing; sudo shows it"
                .to_owned(),
        );
    }
    let is_passed_on = |place: &Place| *place == Place::Userspace;
    if snapshot.vfs.iter().any(|vf| is_passed_on(&vf.place)) && !sees_open_files() {
        hidden.push(
            "which VFs on vfio-pci a process has open only root can see (CAP_SYS_PTRACE): those in use are judged \
             as if they were free; sudo shows them"
                .to_owned(),
        );
    }
    Ok(Looked { snapshot, verdicts, holders, hidden })
}

/// Whether other users' processes show what they have open; process 1 is root's. To list descriptors takes the user only,
/// to see behind them takes CAP_SYS_PTRACE.
fn sees_open_files() -> bool {
    let is_hidden = |path: std::path::PathBuf| {
        std::fs::read_link(path).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    std::fs::read_dir("/proc/1/fd")
        .is_ok_and(|descriptors| !descriptors.flatten().any(|descriptor| is_hidden(descriptor.path())))
}
