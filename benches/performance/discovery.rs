//! From sysfs and netlink to ResourceSlices, for 1,016 VFs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sriov_dra::controller::Limits;
use sriov_dra::controller::slices::{self, PoolIdentity};
use sriov_dra::host::devlink::Devlink;
use sriov_dra::host::{Kernel, Linux, rdma};
use sriov_dra::inventory::{self, HostLinks};
use sriov_dra::policy::{self, Rules};

use crate::measure::{Samples, Table, ms};
use crate::node;

const ROUNDS: usize = 60;
const WARM_UP: usize = 5;

pub fn measure(_binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let tree = node::large()?;
    let kernel = Linux::new(tree.root())?;
    let sysfs = tree.sysfs();
    let rules = Rules {
        driver_name: sriov_dra::DEFAULT_DRIVER_NAME.to_owned(),
        devices: None,
        attach: Some("nri".to_owned()),
        rails: Default::default(),
    };
    let pool = PoolIdentity {
        driver: rules.driver_name.clone(),
        node: "node-a".to_owned(),
        node_uid: "8a2f".to_owned(),
    };
    let devlink = Devlink::open(kernel.host());
    let mut parts: [Samples; 4] = Default::default();
    let mut whole = Samples::default();
    for round in 0..WARM_UP + ROUNDS {
        let started = Instant::now();
        let links = HostLinks::read(kernel.enter(kernel.host())?.as_mut())?;
        let linked = started.elapsed();
        let mode = rdma::netns_mode(kernel.host());
        let snapshot = inventory::scan(&sysfs, &links, mode, &|pf| {
            devlink.as_ref().and_then(|devlink| devlink.eswitch_mode(pf).ok().flatten())
        })?;
        let scanned = started.elapsed();
        let verdicts = policy::judge(&snapshot, &BTreeMap::new(), &rules);
        let judged = started.elapsed();
        let devices = slices::devices(&policy::offered(&verdicts));
        let actions = slices::plan(&[], &devices, &pool, Limits::default());
        let planned = started.elapsed();
        anyhow::ensure!(
            devices.len() == node::PFS * node::VFS_PER_PF as usize && actions.create.len() == actions.slices,
            "{} devices in {} slices",
            devices.len(),
            actions.slices
        );
        if round >= WARM_UP {
            let took = [linked, scanned - linked, judged - scanned, planned - judged];
            parts.iter_mut().zip(took).for_each(|(part, took)| part.push(took));
            whole.push(planned);
        }
    }
    node::leave()?;
    let each = [("links and routes", 0), ("sysfs", 1), ("verdicts", 2), ("slices", 3)]
        .map(|(name, part)| format!("{name} {}", ms(parts[part].median())));
    table.limit("Discovery and slices, 8 PFs × 127 VFs, median", Duration::from_millis(50), whole.median());
    table.figure("… of which", each.join(", "));
    table.figure("… p99", ms(whole.percentile(99)));
    Ok(())
}
