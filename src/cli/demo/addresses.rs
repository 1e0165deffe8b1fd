//! Pools of a file: there, with their addresses known and published, while its pods run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::bail;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use kube::Api;
use kube::api::PostParams;

use crate::DEFAULT_DRIVER_NAME;
use crate::address::{AddressBlock, AddressPool};
use crate::demo::stage::Stage;

/// How long blocks may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// All blocks are claimed in one round: when nothing changed for so long, there are no more to come.
const QUIET: Duration = Duration::from_millis(400);

/// Creates the pools, and waits until every PF that has a block of them has its addresses published.
///
/// # Errors
/// The API server's words, or the pools' where no block is claimed.
pub async fn bring(stage: &Stage, pools: &[AddressPool]) -> anyhow::Result<()> {
    let api: Api<AddressPool> = Api::all(stage.server.client()?);
    for pool in pools {
        api.create(&PostParams::default(), pool).await?;
    }
    if pools.is_empty() {
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let blocks: Vec<AddressBlock> = stage.server.store().list();
        let pfs: BTreeSet<String> =
            blocks.iter().map(|block| block.spec.pf_pci_address.to_string()).collect();
        let slices = stage.slices();
        let published: BTreeSet<&str> = slices.iter().flat_map(with_address).collect();
        let complete = !pfs.is_empty() && pfs.iter().all(|pf| published.contains(pf.as_str()));
        if seen != blocks.len() || !complete {
            (seen, since) = (blocks.len(), Instant::now());
        } else if since.elapsed() > QUIET {
            return Ok(());
        }
        if Instant::now() > until {
            let said: Vec<String> =
                stage.server.store().list::<AddressPool>().iter().flat_map(told).collect();
            bail!(
                "no addresses after {} s; the pools say: {}; the agent's log:\n{}",
                PATIENCE.as_secs(),
                said.join("; "),
                stage.agent_log()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Deletes the pools, and waits until the agent has given their blocks back.
///
/// # Errors
/// When it does not.
pub async fn take(stage: &Stage, pools: &[AddressPool]) -> anyhow::Result<()> {
    for pool in pools {
        stage.server.store().delete::<AddressPool>("", pool.metadata.name.as_deref().unwrap_or_default());
    }
    let until = Instant::now() + PATIENCE;
    while !stage.server.store().list::<AddressBlock>().is_empty() {
        if Instant::now() > until {
            bail!("blocks of addresses are not given back; the agent's log:\n{}", stage.agent_log());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// PFs of VFs that are published with an address.
fn with_address(slice: &ResourceSlice) -> Vec<&str> {
    let of = |device: &Device, name: &str| -> Option<String> {
        device.attributes.as_ref()?.get(&format!("{DEFAULT_DRIVER_NAME}/{name}"))?.string.clone()
    };
    let devices = slice.spec.devices.iter().flatten();
    let devices = devices.filter(|device| of(device, "ipv4").or_else(|| of(device, "ipv6")).is_some());
    devices.filter_map(pf_of).collect()
}

fn pf_of(device: &Device) -> Option<&str> {
    device.attributes.as_ref()?.get(&format!("{DEFAULT_DRIVER_NAME}/pfPciAddress"))?.string.as_deref()
}

/// What stands in the pool's conditions.
fn told(pool: &AddressPool) -> Vec<String> {
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let conditions = pool.status.iter().flat_map(|status| &status.conditions);
    conditions.map(|condition| format!("{name}: {}: {}", condition.reason, condition.message)).collect()
}
