//! The container runtime: version, NRI, CDI.

use super::{Facts, Line, Runtime, numbers};

/// Tables of containerd's configuration.
const NRI_TABLE: &str = "plugins.io.containerd.nri.v1.nri";
const CRI_TABLE: &str = "plugins.io.containerd.grpc.v1.cri";
/// Its file where nobody says otherwise.
const CONFIG: &str = "/etc/containerd/config.toml";

fn is_containerd(facts: &Facts) -> bool {
    match &facts.runtime {
        Ok(runtime) => runtime.name == "containerd",
        Err(_) => facts.survey.services.runtimes.iter().any(|runtime| runtime.name == "containerd"),
    }
}

/// What `(major, minor, patch)` of containerd is too old for.
fn is_before(facts: &Facts, version: (u32, u32, u32)) -> bool {
    let found = facts.runtime.as_ref().ok().and_then(|runtime| numbers(&runtime.version));
    is_containerd(facts) && found.is_some_and(|found| found < version)
}

pub(super) fn version(facts: &Facts) -> Line {
    const CHECK: &str = "runtime";
    let Runtime { name, version, .. } = match &facts.runtime {
        Ok(runtime) => runtime,
        Err(why) => {
            return match facts.survey.services.runtimes.first() {
                Some(process) => {
                    Line::unknown(CHECK, format!("{} runs (PID {}); {why}", process.name, process.pid))
                }
                None if facts.survey.sees_processes => {
                    Line::fault(CHECK, format!("no container runtime runs here: {why}"))
                        .mend("sudo systemctl start containerd     # or crio")
                }
                None => Line::unknown(CHECK, why.clone()),
            };
        }
    };
    let seen = format!("{name} {version}");
    let least = match name.as_str() {
        "containerd" => (1, 7, 0),
        "cri-o" => (1, 30, 0),
        _ => return Line::warning(CHECK, format!("{seen}: tried with containerd and CRI-O only")),
    };
    match numbers(version) {
        None => Line::unknown(CHECK, format!("{seen}: the version can't be read")),
        Some(found) if found < least => {
            Line::fault(CHECK, format!("{seen}: needed is {}.{} or newer", least.0, least.1))
                .mend(format!("# install a newer {name}"))
        }
        Some(found) if name == "containerd" && found < (1, 7, 7) => Line::warning(
            CHECK,
            format!("{seen}: before 1.7.7 NRI can't raise the memory that containers may lock"),
        )
        .mend("# install a newer containerd"),
        Some(found) if name == "containerd" && found < (2, 2, 6) => Line::ok(
            CHECK,
            format!(
                "{seen}; a VF that can't be attached holds back its containers, since 2.2.6 the whole pod"
            ),
        ),
        Some(_) => Line::ok(CHECK, seen),
    }
}

pub(super) fn nri(facts: &Facts) -> Line {
    const CHECK: &str = "nri";
    let Some(socket) = &facts.settings.nri_socket else {
        return Line::ok(CHECK, "not needed: --attach=hook");
    };
    let services = &facts.survey.services;
    let name = socket.display();
    let effect = "pods get their VFs from the hook, later and without what only NRI can give";
    match services.listens(socket) {
        Some(true) => return Line::ok(CHECK, format!("the runtime listens on {name}")),
        None => return Line::unknown(CHECK, format!("who listens on {name} can't be seen from here")),
        Some(false) => {}
    }
    let line = Line::warning(CHECK, format!("nobody listens on {name}: {effect}"));
    let crio = facts.survey.services.runtimes.iter().any(|runtime| runtime.name == "crio");
    if !is_containerd(facts) && !crio {
        return line.mend("# start the container runtime, or give its socket with --nri-socket");
    }
    if !is_containerd(facts) {
        return line
            .mend("printf '[crio.nri]\\nenable_nri = true\\n' | sudo tee /etc/crio/crio.conf.d/10-nri.conf")
            .mend("sudo systemctl restart crio")
            .mend("# without NRI on purpose: start the agent with --attach=hook");
    }
    let config = services.runtime_config.as_ref();
    let path = config.map_or_else(|| CONFIG.to_owned(), |config| config.path.display().to_string());
    let line = match config {
        Some(config) if config.nri_off == Some(true) => line.mend(format!(
            "sudo sed -i '/{NRI_TABLE_PATTERN}/,/^ *\\[/ s/disable = true/disable = false/' {path}"
        )),
        Some(config) if config.nri_off.is_none() && config.tables.contains(NRI_TABLE) => {
            line.mend(format!("sudo sed -i '/{NRI_TABLE_PATTERN}/a disable = false' {path}"))
        }
        Some(config) if config.nri_off == Some(false) => line.mend(
            "# NRI is on in its configuration, maybe with another socket_path: give that with --nri-socket",
        ),
        _ => line.mend(format!(
            "printf '[plugins.\"io.containerd.nri.v1.nri\"]\\n  disable = false\\n' | sudo tee -a {path}"
        )),
    };
    line.mend("sudo systemctl restart containerd")
        .mend("# without NRI on purpose: start the agent with --attach=hook")
}

/// In a `sed` address, where a dot is any character.
const NRI_TABLE_PATTERN: &str = "io.containerd.nri.v1.nri";

pub(super) fn cdi(facts: &Facts) -> Line {
    const CHECK: &str = "cdi";
    let config = facts.survey.services.runtime_config.as_ref();
    let said = facts.runtime.as_ref().ok().and_then(|runtime| runtime.cdi);
    let on = said.or_else(|| config.and_then(|config| config.cdi_on));
    // Since 2.0 it is on by default; CRI-O has no switch.
    let on = on.or_else(|| facts.runtime.is_ok().then(|| !is_before(facts, (2, 0, 0))));
    let folder = facts.settings.cdi_dir.display().to_string();
    match on {
        None => Line::unknown(CHECK, "whether the runtime reads CDI files can't be told without asking it"),
        Some(false) => {
            let path = config.map_or_else(|| CONFIG.to_owned(), |config| config.path.display().to_string());
            let line = Line::fault(
                CHECK,
                "off in containerd: containers of claims don't start, or start without hook and environment",
            );
            match config {
                Some(config) if config.cdi_on == Some(false) => {
                    line.mend(format!("sudo sed -i 's/enable_cdi = false/enable_cdi = true/' {path}"))
                }
                Some(config) if config.tables.contains(CRI_TABLE) => {
                    line.mend(format!("sudo sed -i '/^ *\\[plugins.\"io.containerd.grpc.v1.cri\"\\]/a enable_cdi = true' {path}"))
                }
                _ => line.mend(format!(
                    "printf '[plugins.\"io.containerd.grpc.v1.cri\"]\\n  enable_cdi = true\\n' | sudo tee -a {path}"
                )),
            }
            .mend("sudo systemctl restart containerd")
        }
        Some(true) => {
            let dirs = facts.runtime.as_ref().ok().and_then(|runtime| runtime.cdi_dirs.as_ref());
            let short =
                |path: &str| path.trim_start_matches("/var/run/").trim_start_matches("/run/").to_owned();
            match dirs {
                Some(dirs) if !dirs.iter().any(|dir| short(dir) == short(&folder)) => Line::fault(
                    CHECK,
                    format!(
                        "on, but the runtime reads {} and not {folder}, where the agent writes",
                        dirs.join(", ")
                    ),
                )
                .mend(format!(
                    "# add {folder} to the runtime's cdi_spec_dirs, or start the agent with --cdi-dir"
                )),
                _ => Line::ok(CHECK, format!("on; files in {folder}")),
            }
        }
    }
}
