//! `sriov-dra inventory`: one scan and one judgement, with what the ledger owns, if there is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::functions::NodeFunctions;
use crate::device::Snapshot;
use crate::host::sysfs::Sysfs;
use crate::host::{Kernel, Linux};
use crate::policy::{Rules, Verdict};
use crate::prepare::ledger::Ledger;

/// Reads this machine's VFs and judges them. `durable` is the agent's ledger; it is only read.
///
/// # Errors
/// When sysfs, netlink or the ledger can't be read.
pub fn take_inventory(
    sysfs: &Path,
    durable: &Path,
    rules: Rules,
) -> anyhow::Result<(Snapshot, Vec<Verdict>)> {
    let kernel: Arc<dyn Kernel> =
        Arc::new(Linux::new(sysfs).context("the network namespace can't be opened")?);
    let ledger = Ledger::existing(durable);
    let functions = NodeFunctions::new(Sysfs::at(sysfs), kernel, Arc::new(rules), ledger.clone());
    let snapshot = functions.snapshot().context("the node's PCI functions can't be read")?;
    let owned = match ledger {
        Some(ledger) => super::advertise::owned(&ledger).map_err(anyhow::Error::msg)?,
        None => BTreeMap::new(),
    };
    let verdicts = functions.judge(&snapshot, &owned);
    Ok((snapshot, verdicts))
}
