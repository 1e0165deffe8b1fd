//! Kubelet, container runtime, and what else gives VFs away: their processes, sockets and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{NodeFiles, Process, Roots, processes};

/// What runs on the node, and what it left in its folders.
#[derive(Debug, Clone)]
pub struct Services {
    /// containerd, CRI-O.
    pub runtimes: Vec<Process>,
    /// The kubelet, or what has one inside (k3s).
    pub kubelets: Vec<Process>,
    /// Agents of this driver.
    pub agents: Vec<Process>,
    /// Device plugins that give VFs away.
    pub device_plugins: Vec<Process>,
    /// Unix sockets somebody listens on, by path as they were bound; `None` when they can't be listed.
    pub listening: Option<BTreeSet<String>>,
    /// The containerd configuration that is in use, by the runtime's arguments.
    pub runtime_config: Option<RuntimeConfig>,
    /// CRI sockets that are there: paths of the node, and of this process.
    pub cri_sockets: Vec<(String, PathBuf)>,
    /// The kubelet's folder for plugins' sockets is there.
    pub has_registry: bool,
    /// What the kubelet wrote down of device plugins.
    pub checkpoint: Result<Option<Checkpoint>, String>,
    /// The hook in the driver's folder.
    pub hook: Option<HookFile>,
}

/// `device-plugins/kubelet_internal_checkpoint`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Device IDs by resource; a VF's is its PCI address.
    pub registered: BTreeMap<String, Vec<String>>,
    /// Device IDs in pods by resource.
    pub in_pods: BTreeMap<String, Vec<String>>,
}

/// The program that OCI runtimes run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookFile {
    /// Path of the node.
    pub path: PathBuf,
    /// Permission bits; `None`: not there.
    pub mode: Option<u32>,
}

/// What a configuration file of containerd says, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Path of the node.
    pub path: PathBuf,
    /// `disable` of the NRI plugin.
    pub nri_off: Option<bool>,
    /// `enable_cdi` of the CRI plugin.
    pub cdi_on: Option<bool>,
    /// Tables that are in it, without brackets and quotation marks.
    pub tables: BTreeSet<String>,
}

/// Where runtimes have their socket unless they are told otherwise.
const CRI_SOCKETS: [&str; 3] =
    ["/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"];
/// `comm` is cut after 15 bytes: sriov-network-device-plugin, k8s-rdma-shared-dp.
const DEVICE_PLUGINS: [&str; 2] = ["sriovdp", "k8s-rdma-shared"];
const KUBELETS: [&str; 3] = ["kubelet", "k3s-server", "k3s-agent"];
const RUNTIMES: [&str; 2] = ["containerd", "crio"];
const AGENT: &str = "sriov-dra";

impl Default for Services {
    fn default() -> Self {
        Self {
            runtimes: Vec::new(),
            kubelets: Vec::new(),
            agents: Vec::new(),
            device_plugins: Vec::new(),
            listening: None,
            runtime_config: None,
            cri_sockets: Vec::new(),
            has_registry: false,
            checkpoint: Ok(None),
            hook: None,
        }
    }
}

impl Services {
    pub(super) fn read(roots: &Roots, files: &NodeFiles) -> Self {
        let wanted = |name: &str| {
            name == AGENT
                || [&DEVICE_PLUGINS[..], &KUBELETS, &RUNTIMES].iter().any(|known| known.contains(&name))
        };
        let all = processes::named(&roots.proc, &wanted);
        let of = |names: &[&str]| -> Vec<Process> {
            all.iter().filter(|process| names.contains(&process.name.as_str())).cloned().collect()
        };
        let (runtimes, kubelets) = (of(&RUNTIMES), of(&KUBELETS));
        let agents = of(&[AGENT]);
        let plugin = roots.kubelet_dir.join("plugins").join(&roots.driver);
        Self {
            listening: listening(&roots.proc),
            runtime_config: runtime_config(files, &runtimes),
            cri_sockets: cri_sockets(files, &runtimes, &kubelets),
            has_registry: files.has(roots.kubelet_dir.join("plugins_registry")),
            checkpoint: checkpoint(files, &roots.kubelet_dir),
            hook: hook(files, &plugin.join("bin/hook")),
            kubelets,
            agents: agents
                .into_iter()
                .filter(|agent| agent.args.get(1).is_some_and(|arg| arg == "node"))
                .collect(),
            device_plugins: of(&DEVICE_PLUGINS),
            runtimes,
        }
    }

    /// Whether somebody listens on a socket of the node, which has `/run` below `/var/run` too; `None`: can't be told.
    pub fn listens(&self, socket: &Path) -> Option<bool> {
        let path = socket.to_str()?;
        let short = path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/"));
        let long = path.starts_with("/run/").then(|| format!("/var{path}"));
        let listening = self.listening.as_ref()?;
        Some([Some(path), short, long.as_deref()].into_iter().flatten().any(|path| listening.contains(path)))
    }
}

/// `__SO_ACCEPTCON` (include/uapi/linux/net.h): somebody has called listen(2).
const LISTENING: u32 = 0x10000;

fn listening(proc: &Path) -> Option<BTreeSet<String>> {
    // Num RefCount Protocol Flags Type St Inode Path, for the namespace of the reader.
    let table = fs::read_to_string(proc.join("net/unix")).ok()?;
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let path = fields.nth(3)?;
        (flags & LISTENING != 0).then(|| path.to_owned())
    };
    Some(table.lines().skip(1).filter_map(socket).collect())
}

fn cri_sockets(files: &NodeFiles, runtimes: &[Process], kubelets: &[Process]) -> Vec<(String, PathBuf)> {
    let by_kubelet = kubelets.iter().filter_map(|kubelet| kubelet.option(&["--container-runtime-endpoint"]));
    let by_itself = runtimes.iter().filter_map(|runtime| runtime.option(&["--address", "-a", "--listen"]));
    let named = by_kubelet.chain(by_itself);
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for socket in named.chain(CRI_SOCKETS) {
        let socket = socket.trim_start_matches("unix://");
        if let Ok(path) = files.path(socket)
            && path.exists()
            && !found.iter().any(|(_, known)| *known == path)
        {
            found.push((socket.to_owned(), path));
        }
    }
    found
}

fn runtime_config(files: &NodeFiles, runtimes: &[Process]) -> Option<RuntimeConfig> {
    let containerd = runtimes.iter().find(|runtime| runtime.name == "containerd")?;
    let path = containerd.option(&["--config", "-c"]).unwrap_or("/etc/containerd/config.toml");
    match files.text(path) {
        Ok(text) => Some(scan(path.into(), &text)),
        // Without a file containerd has its own defaults.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some(RuntimeConfig { path: path.into(), ..RuntimeConfig::default() })
        }
        Err(_) => None,
    }
}

/// Reads tables and two switches, a line each; more of TOML does not occur for these.
fn scan(path: PathBuf, text: &str) -> RuntimeConfig {
    let mut config = RuntimeConfig { path, ..RuntimeConfig::default() };
    let mut table = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = name.replace(['"', '\''], "");
            config.tables.insert(table.clone());
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.split('#').next().and_then(|value| value.trim().parse::<bool>().ok());
            match key.trim() {
                "disable" if table == "plugins.io.containerd.nri.v1.nri" => config.nri_off = value,
                "enable_cdi" => config.cdi_on = value,
                _ => {}
            }
        }
    }
    config
}

fn hook(files: &NodeFiles, path: &Path) -> Option<HookFile> {
    let found = files.path(path).and_then(fs::metadata);
    match found {
        Ok(meta) => Some(HookFile { path: path.to_owned(), mode: Some(meta.permissions().mode() & 0o7777) }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some(HookFile { path: path.to_owned(), mode: None })
        }
        Err(_) => None,
    }
}

/// As the kubelet writes it (pkg/kubelet/cm/devicemanager/checkpoint).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    data: WrittenData,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WrittenData {
    #[serde(default)]
    pod_device_entries: Option<Vec<WrittenEntry>>,
    #[serde(default)]
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Deserialize)]
struct WrittenEntry {
    #[serde(rename = "ResourceName", default)]
    resource: String,
    /// By NUMA node.
    #[serde(rename = "DeviceIDs", default)]
    devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

fn checkpoint(files: &NodeFiles, kubelet_dir: &Path) -> Result<Option<Checkpoint>, String> {
    let path = kubelet_dir.join("device-plugins/kubelet_internal_checkpoint");
    let said = |error: &dyn std::fmt::Display| format!("{} can't be read: {error}", path.display());
    let text = match files.text(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| said(&error))?,
    };
    let written: Written = serde_json::from_str(&text).map_err(|error| said(&error))?;
    let mut found = Checkpoint::default();
    for (resource, devices) in written.data.registered_devices.unwrap_or_default() {
        found.registered.insert(resource, devices.unwrap_or_default());
    }
    for entry in written.data.pod_device_entries.unwrap_or_default() {
        let devices = entry.devices.unwrap_or_default().into_values().flatten().flatten();
        found.in_pods.entry(entry.resource).or_default().extend(devices);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_of_containerd_are_read_from_their_tables_only() {
        let text = "version = 2\n[plugins]\n  [plugins.\"io.containerd.nri.v1.nri\"]\n    # disable = false\n    disable = true # why\n\
                    [plugins.'io.containerd.cri.v1.runtime']\n  enable_cdi = false\n[plugins.\"other\"]\n disable = false\n";
        let config = scan("/c".into(), text);
        assert_eq!((config.nri_off, config.cdi_on), (Some(true), Some(false)));
        assert!(config.tables.contains("plugins.io.containerd.cri.v1.runtime"), "{:?}", config.tables);
    }

    #[test]
    fn the_kubelets_checkpoint_tells_what_device_plugins_offer_and_what_pods_have() {
        let root = tempfile::tempdir().unwrap();
        let files = NodeFiles::at(root.path());
        assert_eq!(checkpoint(&files, Path::new("/k")), Ok(None));
        fs::create_dir_all(root.path().join("k/device-plugins")).unwrap();
        let file = root.path().join("k/device-plugins/kubelet_internal_checkpoint");
        fs::write(
            &file,
            r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"a.com/vf",
               "DeviceIDs":{"0":["0000:01:10.0"]},"AllocResp":""}],
               "RegisteredDevices":{"a.com/vf":["0000:01:10.0","0000:01:10.2"],"b.com/none":null}},"Checksum":1}"#,
        )
        .unwrap();
        let found = checkpoint(&files, Path::new("/k")).unwrap().unwrap();
        assert_eq!(found.registered["a.com/vf"], ["0000:01:10.0", "0000:01:10.2"]);
        assert_eq!(found.in_pods["a.com/vf"], ["0000:01:10.0"]);
        fs::write(file, "{").unwrap();
        assert!(
            checkpoint(&files, Path::new("/k"))
                .unwrap_err()
                .contains("kubelet_internal_checkpoint can't be read")
        );
    }

    #[test]
    fn a_socket_counts_when_somebody_listens_under_either_name_of_run() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir_all(proc.path().join("net")).unwrap();
        fs::write(
            proc.path().join("net/unix"),
            "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0: 00000002 00000000 00010000 0001 01 1590 /var/run/nri/nri.sock\n\
             0: 00000003 00000000 00000000 0001 03 1591 /run/left.sock\n\
             0: 00000003 00000000 00000000 0001 03 1592\n",
        )
        .unwrap();
        let services = Services { listening: listening(proc.path()), ..Services::default() };
        assert_eq!(services.listens(Path::new("/run/nri/nri.sock")), Some(true));
        assert_eq!(services.listens(Path::new("/var/run/nri/nri.sock")), Some(true));
        assert_eq!(services.listens(Path::new("/run/left.sock")), Some(false));
        assert_eq!(Services::default().listens(Path::new("/run/left.sock")), None);
    }
}
