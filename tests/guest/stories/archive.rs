//! The image archive with a real runtime.

use anyhow::{Result, ensure};
use sriov_dra::cli::image::{archive, driver_image};

use crate::containerd::PodId;
use crate::inside::Ground;

const TAG: &str = "localhost/sriov-dra:guest";

/// `sriov-dra image` made it, `ctr` imports it, containerd finds it by its name and its executable runs with nothing
/// else in the image.
pub async fn containerd_imports_the_archive_and_runs_the_binary_in_it(ground: Ground) -> Result<()> {
    let file = "/rw/sriov-dra.tar";
    crate::host::run("/rw/bin/sriov-dra", &["image", "--output", file, "--tag", TAG])?;
    let made = std::fs::read(file)?;
    let expected = archive(&driver_image(TAG, "amd64", std::fs::read("/rw/bin/sriov-dra")?))?;
    ensure!(made == expected, "the command packs its own executable, the same way each time");
    ground.runtime.import("sriov-dra-import.tar", &made)?;
    std::fs::remove_file(file)?;
    let sandbox = ground.runtime.run_pod(&PodId::new("image"), 0).await?;
    let container =
        ground.runtime.start_image(&sandbox, "version", TAG, &["/sriov-dra", "--version"], &[]).await?;
    let (code, log) = ground.runtime.wait_ended(&sandbox, "version", &container).await?;
    ensure!(code == 0 && log.contains(env!("CARGO_PKG_VERSION")), "exit code {code}: {log}");
    Ok(())
}
