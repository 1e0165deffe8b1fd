//! One RDMA device, moved as the agent moves it: what it sends can be seen by strace.

use std::path::Path;

use anyhow::{Context, Result};
use sriov_dra::host::{Kernel, Linux, Netns};

/// Moves a device of this namespace to another one, given as a path.
///
/// # Errors
/// The kernel's.
pub fn move_to(name: &str, netns: &str) -> Result<String> {
    let linux = Linux::new("/sys")?;
    let device =
        linux.rdma().find(linux.host(), name)?.with_context(|| format!("there is no RDMA device {name}"))?;
    linux.rdma().move_to(linux.host(), &device, &Netns::open(Path::new(netns))?)?;
    Ok(format!("{name} is in {netns}"))
}
