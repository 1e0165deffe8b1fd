//! The node: containerd with NRI and CDI, the kubelet, a bridge for pods' own interfaces; all at their usual paths.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::api::Api;
use crate::assets::Assets;
use crate::containerd::{Containerd, SOCKET};
use crate::plane::{NODE, NODE_ADDRESS};
use crate::process::{Process, run, run_command, wait_for};

/// The kubelet's root.
pub const KUBELET_DIR: &str = "/var/lib/kubelet";
/// What pods and sandboxes are made of.
pub const BUSYBOX: &str = "localhost/busybox:1.36";
/// The agent's image.
pub const AGENT: &str = concat!("localhost/sriov-dra:", env!("CARGO_PKG_VERSION"));
/// Handler of a RuntimeClass whose pods get no sandbox before the gate is open.
pub const GATED: &str = "gated";

/// A node that can be told to restart its kubelet.
#[derive(Debug)]
pub struct Node {
    assets: Assets,
    folder: PathBuf,
    logs: PathBuf,
    /// None for the moment of a restart.
    containerd: Option<Process>,
    kubelet: Option<Process>,
}

impl Node {
    /// Starts containerd with the images; the kubelet comes with [`start_kubelet`](Self::start_kubelet).
    ///
    /// # Errors
    /// When containerd is not ready within a minute, or refuses an image.
    pub async fn start(assets: &Assets, folder: &Path, logs: &Path) -> Result<Self> {
        let cni = folder.join("cni.d");
        fs::create_dir_all(&cni)?;
        run("ip", &["link", "add", "pods", "type", "bridge"])?;
        run("ip", &["address", "add", &format!("{NODE_ADDRESS}/24"), "dev", "pods"])?;
        run("ip", &["link", "set", "pods", "up"])?;
        let subnet =
            json!([{ "subnet": "10.97.0.0/24", "rangeStart": "10.97.0.10", "gateway": NODE_ADDRESS }]);
        let network = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "pods",
            "ipam": {
                "type": "host-local", "dataDir": folder.join("ipam"), "ranges": [subnet],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }] });
        fs::write(cni.join("10-pods.conflist"), network.to_string())?;
        let config = folder.join("containerd.toml");
        fs::write(&config, containerd_config(assets, folder)?)?;
        let mut node = Self {
            assets: assets.clone(),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            containerd: None,
            kubelet: None,
        };
        node.open_gate()?;
        node.start_containerd().await?;
        let archive = folder.join("image.tar");
        fs::write(&archive, sriov_dra::cli::image::archive(&crate::busybox::image(BUSYBOX)?)?)?;
        node.import(&archive)?;
        fs::remove_file(archive)?;
        node.add_agent(AGENT, Path::new(env!("CARGO_BIN_EXE_sriov-dra")))?;
        Ok(node)
    }

    /// Loads an agent's image, made as a user makes it.
    ///
    /// # Errors
    /// When it can't be made, or containerd refuses it.
    pub fn add_agent(&self, tag: &str, binary: &Path) -> Result<()> {
        let archive = self.folder.join("agent.tar");
        let mut image = Command::new(env!("CARGO_BIN_EXE_sriov-dra"));
        image.arg("image").arg("--output").arg(&archive).arg("--binary").arg(binary).args(["--tag", tag]);
        run_command(&mut image)?;
        self.import(&archive)?;
        Ok(fs::remove_file(archive)?)
    }

    async fn start_containerd(&mut self) -> Result<()> {
        let mut containerd = self.assets.command("containerd");
        containerd.arg("--config").arg(self.folder.join("containerd.toml"));
        self.containerd = Some(Process::start("containerd", containerd, &self.logs)?);
        let runtime = Containerd::connect();
        wait_for(Duration::from_secs(60), "containerd", async || runtime.check().await).await
    }

    /// Kills containerd and starts it again.
    ///
    /// # Errors
    /// When it is not ready within a minute.
    pub async fn restart_containerd(&mut self) -> Result<()> {
        self.containerd = None;
        self.start_containerd().await
    }

    fn gate(folder: &Path) -> PathBuf {
        folder.join("gate")
    }

    /// From now on pods of [`GATED`] get sandboxes, those that wait first.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn open_gate(&self) -> Result<()> {
        Ok(fs::write(Self::gate(&self.folder), "")?)
    }

    /// From now on pods of [`GATED`] wait for their sandboxes.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn close_gate(&self) -> Result<()> {
        Ok(fs::remove_file(Self::gate(&self.folder))?)
    }

    fn import(&self, archive: &Path) -> Result<()> {
        let mut ctr = self.assets.command("ctr");
        ctr.args(["--address", SOCKET, "--namespace", "k8s.io", "images", "import", "--local"]).arg(archive);
        run_command(&mut ctr).map(drop)
    }

    /// Starts the kubelet.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_kubelet(&mut self) -> Result<()> {
        let config = self.folder.join("kubelet.json");
        fs::write(self.folder.join("resolv.conf"), "")?;
        // The namespaces' network is nobody else's, so that nobody need log in to the kubelet. Without a hierarchy of
        // control groups for quality of service it takes no other kubelet's pods for orphans.
        let text = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
            "failCgroupV1": false, "failSwapOn": false, "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false, "oomScoreAdj": 0, "registerNode": true,
            "syncFrequency": "5s", "nodeStatusUpdateFrequency": "5s",
            "resolvConf": self.folder.join("resolv.conf"),
            "podLogsDir": self.folder.join("pod-logs"),
            "evictionHard": { "memory.available": "1Mi" },
            "imageGCHighThresholdPercent": 100, "serializeImagePulls": false,
        });
        fs::write(&config, text.to_string())?;
        let mut kubelet = self.assets.command("kubelet");
        kubelet
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(self.folder.join("kubelet.kubeconfig"))
            .args(["--hostname-override", NODE, "--node-ip", NODE_ADDRESS])
            .arg(format!("--container-runtime-endpoint=unix://{SOCKET}"));
        self.kubelet = Some(Process::start("kubelet", kubelet, &self.logs)?);
        Ok(())
    }

    /// Ends the kubelet.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub fn stop_kubelet(&mut self) -> Result<()> {
        self.kubelet.take().context("no kubelet is running")?.stop()
    }

    /// Waits until pods can be scheduled here.
    ///
    /// # Errors
    /// After a minute.
    pub async fn wait_ready(&mut self, api: &Api) -> Result<()> {
        wait_for(Duration::from_secs(90), "the node", async || {
            let kubelet = self.kubelet.as_mut().context("no kubelet is running")?;
            kubelet.check()?;
            let node = api.get(&format!("/api/v1/nodes/{NODE}")).await?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
            ensure!(ready["status"] == "True", "node: {ready}");
            ensure!(node["spec"]["taints"].is_null(), "taints: {}", node["spec"]["taints"]);
            Ok(())
        })
        .await
    }
}

fn containerd_config(assets: &Assets, folder: &Path) -> Result<String> {
    let runc = assets.path("runc").context("no runc")?;
    let gated = folder.join("gated-runc");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" create \"*) while [ ! -e {} ]; do sleep 0.1; done ;; esac\nexec {} \"$@\"\n",
        Node::gate(folder).display(),
        runc.display(),
    );
    fs::write(&gated, script)?;
    fs::set_permissions(&gated, fs::Permissions::from_mode(0o755))?;
    let text = |path: &Path| json!(path).to_string();
    Ok(format!(
        r#"
version = 3
root = {root}
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = {opt}
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{BUSYBOX}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
enable_cdi = true
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{cni_bin}]
conf_dir = {cni_conf}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc}
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{GATED}]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{GATED}.options]
BinaryName = {gated}
SystemdCgroup = false
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "/var/run/nri/nri.sock"
plugin_path = {nri}
plugin_config_path = {nri}
"#,
        root = text(&folder.join("containerd")),
        opt = text(&folder.join("opt")),
        cni_bin = text(&assets.cni),
        cni_conf = text(&folder.join("cni.d")),
        runc = text(&runc),
        gated = text(&gated),
        nri = text(&folder.join("nri.d")),
    ))
}
