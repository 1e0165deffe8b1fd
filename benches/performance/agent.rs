//! The agent as a process: how soon it is registered, how much memory it takes, how large its binary is.

use std::path::Path;
use std::time::Duration;

use sriov_dra::demo::stage::Stage;

use crate::held::mib;
use crate::measure::{Samples, Table, ms};
use crate::node;

const STARTS: usize = 15;
/// Longer than the pause between two scans of the node: the second scan is in the figure.
const SETTLE: Duration = Duration::from_secs(25);
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(binary: &Path, table: &mut Table) -> anyhow::Result<()> {
    let size = std::fs::metadata(binary)?.len() as f64 / MIB;
    table.aim("Static, stripped binary", "< 12 MiB", format!("{size:.1} MiB"), size < 12.0);

    let tree = node::large()?;
    let folder = tempfile::Builder::new().prefix("sdra").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut starts = Samples::default();
        for start in 0..STARTS {
            let own = folder.path().join(start.to_string());
            std::fs::create_dir(&own)?;
            let stage = Stage::start(binary, &own, tree.root()).await?;
            starts.push(stage.registered_in());
            stage.end().await?;
        }
        table.limit("Start to registered, 1,016 VFs, median", Duration::from_millis(300), starts.median());
        table.figure("… slowest", ms(starts.most()));

        let own = folder.path().join("memory");
        std::fs::create_dir(&own)?;
        let stage = Stage::start(binary, &own, tree.root()).await?;
        let published: usize = stage.slices().iter().map(|s| s.spec.devices.iter().flatten().count()).sum();
        anyhow::ensure!(published == node::PFS * node::VFS_PER_PF as usize, "{published} devices published");
        tokio::time::sleep(SETTLE).await;
        let resident = mib(stage.agent_pid(), "VmRSS")?;
        table.aim(
            "Resident memory, 1,016 VFs published",
            "< 16 MiB",
            format!("{resident:.1} MiB"),
            resident < 16.0,
        );
        table.figure(
            "… of which",
            format!(
                "{:.1} MiB own memory, {:.1} MiB pages of the binary; at most {:.1} MiB so far",
                mib(stage.agent_pid(), "RssAnon")?,
                mib(stage.agent_pid(), "RssFile")?,
                mib(stage.agent_pid(), "VmHWM")?
            ),
        );
        stage.end().await?;
        Ok(())
    })
}
