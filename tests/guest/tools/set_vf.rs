//! One setting of a VF, made as the agent makes it: what it sends can be seen by strace.

use std::path::Path;

use anyhow::Result;
use sriov_dra::device::{PfLink, Setting};
use sriov_dra::host::{Netns, vf_admin};

/// Makes a setting, given as JSON.
///
/// # Errors
/// The kernel's.
pub fn set_vf(pf: &str, vf: &str, setting: &str) -> Result<String> {
    let host = Netns::open(Path::new("/proc/self/ns/net"))?;
    let index = std::fs::read_to_string(format!("/sys/class/net/{pf}/ifindex"))?.trim().parse()?;
    let setting: Setting = serde_json::from_str(setting)?;
    vf_admin::set(&host, &PfLink { name: pf.to_owned(), index }, vf.parse()?, &setting)?;
    Ok(format!("{}: {setting}", setting.field()))
}
