//! `sriov-dra doctor`: every fact about this node, collected once for the judgement.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::inventory::{Looked, take_inventory};
use crate::doctor::{Facts, Functions, Runtime, Settings};
use crate::host::survey::{self, Roots, Survey};
use crate::policy::Rules;
use crate::runtime::{self, About};

/// Looks at the node. What can't be looked at is in the facts; it takes no privilege and changes nothing.
///
/// # Errors
/// When no async runtime can be had.
pub fn examine(roots: &Roots, settings: Settings, rules: Rules) -> anyhow::Result<Facts> {
    let survey = survey::take(roots);
    let durable = roots.node_path(&roots.kubelet_dir.join("plugins").join(&settings.driver));
    let (functions, mut hidden) = match take_inventory(&roots.sys, &durable, rules) {
        Ok(Looked { snapshot, verdicts, hidden, .. }) => {
            let offered = verdicts.iter().filter(|verdict| verdict.is_offered()).count();
            let reason = |verdict: &crate::policy::Verdict| {
                let reasons: Vec<String> = verdict.withheld.iter().map(ToString::to_string).collect();
                (verdict.device.pci, reasons.join("; "))
            };
            let withheld = verdicts.iter().filter(|verdict| !verdict.is_offered()).map(reason).collect();
            (Ok(Functions { snapshot, offered, withheld }), hidden)
        }
        Err(error) => (Err(format!("{error:#}")), Vec::new()),
    };
    hidden.extend(blind_spots(&survey));
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = asked.context("the async runtime can't be started")?.block_on(ask(&survey));
    Ok(Facts { survey, functions, runtime, settings, hidden })
}

fn blind_spots(survey: &Survey) -> Vec<String> {
    let mut notes = Vec::new();
    if !survey.sees_files {
        notes.push(
            "the node's own files can't be seen from this container, and what is set at boot with them; in the agent's pod \
             they can (hostPID and privileged)"
                .to_owned(),
        );
    }
    if !survey.sees_processes {
        notes.push("the node's processes can't be seen from here (hostPID shows them)".to_owned());
    }
    if survey.refused_vfs.is_none() {
        notes.push(
            "the kernel's log can't be read, which would tell of VFs that found no room; sudo shows it"
                .to_owned(),
        );
    }
    notes
}

/// The first runtime that answers.
async fn ask(survey: &Survey) -> Result<Runtime, String> {
    let mut why = Vec::new();
    for (name, socket) in &survey.services.cri_sockets {
        match runtime::about(socket).await {
            Ok(about) => return Ok(understood(about)),
            Err(error) => why.push(error.to_string().replace(&*socket.to_string_lossy(), name)),
        }
    }
    Err(match why.is_empty() {
        true => "no socket of containerd or CRI-O is to be seen".to_owned(),
        false => why.join("; "),
    })
}

/// Of containerd's CRI configuration what matters here; it tells more.
#[derive(Deserialize, Default)]
#[serde(default)]
struct CriConfig {
    #[serde(rename = "enableCDI")]
    cdi: Option<bool>,
    #[serde(rename = "cdiSpecDirs")]
    dirs: Option<Vec<String>>,
}

fn understood(about: About) -> Runtime {
    let config = about.config.as_deref().and_then(|json| serde_json::from_str::<CriConfig>(json).ok());
    let CriConfig { cdi, dirs } = config.unwrap_or_default();
    Runtime { name: about.name, version: about.version, cdi, cdi_dirs: dirs.filter(|dirs| !dirs.is_empty()) }
}

/// Where this machine's files and processes are, or a tree of the same shape.
pub fn roots(sys: &Path, kubelet_dir: &Path, driver: &str, tree: Option<&Path>) -> Roots {
    let machine = Roots::of_this_machine(sys.to_owned(), kubelet_dir.to_owned(), driver.to_owned());
    match tree {
        None => machine,
        Some(tree) => Roots {
            files: Some(tree.to_owned()),
            proc: tree.join("proc"),
            kernel_log: tree.join("dev/kmsg"),
            ..machine
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_tells_in_its_configuration_whether_it_reads_cdi_files_and_where() {
        let about = |config: &str| About { config: Some(config.to_owned()), ..About::default() };
        let told =
            understood(about(r#"{"enableCDI":false,"cdiSpecDirs":["/etc/cdi","/var/run/cdi"],"x":{}}"#));
        assert_eq!((told.cdi, told.cdi_dirs.map(|dirs| dirs.len())), (Some(false), Some(2)));
        for config in ["{}", "{\"cdiSpecDirs\":null}", "no JSON"] {
            let told = understood(about(config));
            assert_eq!((told.cdi, told.cdi_dirs), (None, None), "{config}");
        }
    }
}
