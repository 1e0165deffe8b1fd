//! The kubelet's folders, the hook, mounts, modules, the agent, and who else gives VFs away.

use std::collections::BTreeSet;

use super::mounts::{nearest, no_propagation};
use super::{Facts, Line, count, named};

/// Modules that claims ask for, and the field that does.
const ON_DEMAND: [(&str, &str); 3] =
    [("vfio_pci", "bind.driver: vfio-pci"), ("vhost_net", "bind.vhost"), ("tun", "bind.vhost")];
/// Where runtimes keep network namespaces.
const NETNS: &str = "/run/netns";

pub(super) fn modules(facts: &Facts) -> Line {
    const CHECK: &str = "modules";
    let modules = &facts.survey.modules;
    let state = |wanted: Option<bool>| -> Vec<(&str, &str)> {
        ON_DEMAND.iter().copied().filter(|(module, _)| modules.is_known(module) == wanted).collect()
    };
    let names = |all: &[(&str, &str)]| named(&all.iter().map(|(module, _)| *module).collect::<Vec<_>>());
    let missing = state(Some(false));
    if let Some((_, field)) = missing.first() {
        return Line::warning(CHECK, format!("{} not installed for this kernel: {field} is refused", names(&missing)))
            .mend("# install the kernel's package with all modules (Ubuntu: linux-modules-extra, RHEL: kernel-modules-extra)");
    }
    let unknown = state(None);
    if !unknown.is_empty() {
        return Line::unknown(
            CHECK,
            format!("{} not loaded; whether installed can't be seen from here", names(&unknown)),
        );
    }
    let loaded: Vec<&str> =
        ON_DEMAND.iter().map(|(module, _)| *module).filter(|module| modules.is_loaded(module)).collect();
    let seen = match loaded.len() {
        0 => "vfio_pci, vhost_net, tun are installed, and loaded when a claim asks for them".to_owned(),
        _ => format!("{} loaded, others when a claim asks for them", loaded.join(", ")),
    };
    Line::ok(CHECK, seen)
}

pub(super) fn kubelet(facts: &Facts) -> Line {
    const CHECK: &str = "kubelet";
    let services = &facts.survey.services;
    let folder = facts.settings.kubelet_dir.display();
    if let Some(kubelet) = services.kubelets.first()
        && let Some(other) = kubelet.option(&["--root-dir"])
        && std::path::Path::new(other) != facts.settings.kubelet_dir
    {
        return Line::fault(CHECK, format!("its folder is {other}, the agent's flags say {folder}"))
            .mend(format!("# in manifests/daemonset.yaml: --kubelet-dir={other}, and the mounts below it"));
    }
    match (services.has_registry, services.kubelets.first()) {
        (true, Some(kubelet)) => Line::ok(CHECK, format!("runs (PID {}), folder {folder}", kubelet.pid)),
        (true, None) if facts.survey.sees_processes => Line::warning(
            CHECK,
            format!("{folder} is there, but no process kubelet, k3s-server or k3s-agent runs"),
        )
        .mend("sudo systemctl start kubelet"),
        (true, None) => Line::ok(CHECK, format!("folder {folder}")),
        (false, _) if !facts.survey.sees_files => {
            Line::unknown(CHECK, format!("{folder} can't be seen from here"))
        }
        (false, _) => Line::fault(
            CHECK,
            format!("{folder} has no plugins_registry: no kubelet has run with this folder"),
        )
        .mend("sudo systemctl start kubelet     # or give its --root-dir with --kubelet-dir"),
    }
}

pub(super) fn hook(facts: &Facts) -> Line {
    const CHECK: &str = "hook";
    let Some(hook) = &facts.survey.services.hook else {
        return Line::unknown(
            CHECK,
            "the driver's folder is root's: whether the hook can be run there can't be seen",
        );
    };
    let path = hook.path.display().to_string();
    let Some(mounts) = &facts.survey.mounts else {
        return Line::unknown(
            CHECK,
            format!("how the folder of {path} is mounted on the node can't be seen from here"),
        );
    };
    if let Some(mount) = nearest(mounts, &path) {
        let point = mount.point;
        let effect = "containers of claims can't start";
        if mount.has("noexec") {
            return Line::fault(CHECK, format!("{path} is on {point}, which is mounted noexec: {effect}"))
                .mend(format!("sudo mount -o remount,exec {point}"))
                .mend(format!("sudo sed -i '\\# {point} # s/noexec/exec/' /etc/fstab     # at each boot"));
        }
        if mount.has("ro") {
            return Line::fault(
                CHECK,
                format!("{path} is on {point}, which is mounted read-only: nothing can be prepared"),
            )
            .mend(format!("sudo mount -o remount,rw {point}"));
        }
    }
    match hook.mode {
        Some(mode) if mode & 0o111 == 0 => {
            Line::fault(CHECK, format!("{path} has mode {mode:o} and can't be run: containers of claims can't start"))
                .mend(format!("sudo chmod 755 {path}"))
        }
        Some(_) => Line::ok(CHECK, format!("{path} is there and can be run")),
        None if facts.survey.services.agents.is_empty() => {
            Line::ok(CHECK, "its folder is not mounted noexec; the agent puts it there when it starts")
        }
        None => Line::fault(CHECK, format!("{path} is gone: containers of claims can't start"))
            .mend("kubectl -n sriov-dra delete pod --field-selector spec.nodeName=$(hostname)     # the next agent makes it"),
    }
}

pub(super) fn propagation(facts: &Facts) -> Line {
    const CHECK: &str = "propagation";
    let agents = &facts.survey.services.agents;
    if let Some(fault) =
        agents.iter().filter_map(|agent| agent.mounts.as_deref()).find_map(|m| no_propagation(m, NETNS))
    {
        return Line::warning(CHECK, format!("the agent's {fault}")).mend("kubectl apply -k manifests");
    }
    let Some(mounts) = &facts.survey.mounts else {
        return Line::unknown(CHECK, "the node's mounts can't be seen from here");
    };
    match no_propagation(mounts, NETNS) {
        Some(_) => {
            let point = nearest(mounts, NETNS).map_or("/", |mount| mount.point);
            Line::warning(
                CHECK,
                format!("{point} of the node hands on no mounts: the agent finds namespaces of pods through processes only"),
            )
            .mend(format!("sudo mount --make-rshared {point}"))
        }
        None => Line::ok(CHECK, format!("mounts below {NETNS} reach the agent")),
    }
}

pub(super) fn agent(facts: &Facts) -> Line {
    const CHECK: &str = "agent";
    let survey = &facts.survey;
    let Some(agent) = survey.services.agents.first() else {
        return match survey.sees_processes {
            true => Line::ok(CHECK, "none runs here yet"),
            false => Line::unknown(CHECK, "processes of the node can't be seen from here"),
        };
    };
    let registry = facts.settings.kubelet_dir.join("plugins_registry").display().to_string();
    let Some(listening) = &survey.services.listening else {
        return Line::ok(CHECK, format!("runs (PID {})", agent.pid));
    };
    let is_ours =
        |socket: &&String| socket.strip_prefix(&registry).is_some_and(|rest| rest.ends_with("@reg.sock"));
    match listening.iter().find(is_ours) {
        Some(_) => Line::ok(CHECK, format!("runs (PID {}) and waits for the kubelet", agent.pid)),
        None => Line::fault(
            CHECK,
            format!("runs (PID {}), but has no registration socket in {registry}", agent.pid),
        )
        .mend("kubectl -n sriov-dra logs -l app.kubernetes.io/name=sriov-dra --tail=50"),
    }
}

pub(super) fn device_plugin(facts: &Facts) -> Line {
    const CHECK: &str = "device-plugin";
    let services = &facts.survey.services;
    let ours: BTreeSet<String> = facts
        .functions
        .iter()
        .flat_map(|functions| &functions.snapshot.vfs)
        .map(|vf| vf.pci.to_string())
        .collect();
    let running: Vec<&str> = services.device_plugins.iter().map(|process| process.name.as_str()).collect();
    let checkpoint = match &services.checkpoint {
        Ok(found) => found.clone().unwrap_or_default(),
        Err(why) if running.is_empty() => {
            return Line::unknown(CHECK, format!("whether another plugin offers these VFs: {why}"));
        }
        Err(why) => {
            return Line::warning(
                CHECK,
                format!("{} runs; whether it offers the same VFs: {why}", running.join(", ")),
            );
        }
    };
    for (lists, does) in [(&checkpoint.registered, "offers"), (&checkpoint.in_pods, "has in pods")] {
        for (resource, devices) in lists {
            let same: Vec<&String> = devices.iter().filter(|device| ours.contains(*device)).collect();
            if same.is_empty() {
                continue;
            }
            let seen = format!(
                "resource {resource} of a device plugin {does} {} of these VFs ({}): they would be given away twice",
                same.len(),
                named(&same)
            );
            return Line::fault(CHECK, seen)
                .mend("kubectl get configmaps -A | grep -i sriov     # take these VFs from the plugin's list")
                .mend("kubectl get daemonsets -A | grep -i -e sriov -e rdma     # or remove the plugin")
                .mend("# or keep this driver from them with --devices");
        }
    }
    match (running.as_slice(), checkpoint.registered.len()) {
        ([], 0) => Line::ok(CHECK, "none offers VFs"),
        ([], number) => {
            Line::ok(CHECK, format!("none of {} is about these VFs", count(number, "other resource")))
        }
        (some, _) => Line::ok(CHECK, format!("{} runs, and offers none of these VFs", some.join(", "))),
    }
}
