//! The containerds of the image: where their programs and sockets are, how they are configured and started.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A containerd of the image, and where its things are.
#[derive(Debug)]
pub struct Release {
    /// Its programs.
    pub programs: &'static str,
    /// Its configuration's file and text.
    config: (&'static str, &'static str),
    /// CRI.
    pub socket: &'static str,
    /// NRI.
    pub nri_socket: &'static str,
    /// Its log; a restarted one goes on in it.
    pub log: &'static str,
}

/// What the stories run on.
pub const CURRENT: Release = Release {
    programs: "/usr/bin",
    config: ("/etc/containerd/config.toml", CONFIG),
    socket: "/run/containerd/containerd.sock",
    nri_socket: "/var/run/nri/nri.sock",
    log: "/rw/containerd.log",
};
/// An older one: its NRI tells less, and its configuration is another.
pub const OLD: Release = Release {
    programs: "/opt/containerd-1.7/usr/bin",
    config: ("/etc/containerd/config-1.7.toml", OLD_CONFIG),
    socket: "/run/containerd-1.7/containerd.sock",
    nri_socket: "/var/run/nri-1.7/nri.sock",
    log: "/rw/containerd-1.7.log",
};

// No nri timeout of 2 s here: an emulated processor is slow, and stories are about order, not about speed.
const CONFIG: &str = r#"
version = 3
root = "/disk/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/busybox:guest"
[plugins."io.containerd.cri.v1.runtime"]
enable_cdi = true
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
BinaryName = "/usr/bin/crun"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "/var/run/nri/nri.sock"
plugin_request_timeout = "10s"
"#;

const OLD_CONFIG: &str = r#"
version = 2
root = "/disk/containerd-1.7"
state = "/run/containerd-1.7"
disabled_plugins = [
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
address = "/run/containerd-1.7/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "/disk/containerd-1.7-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/busybox:guest"
enable_cdi = true
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "/var/run/nri-1.7/nri.sock"
plugin_request_timeout = "10s"
"#;

impl Release {
    /// Starts it.
    ///
    /// # Errors
    /// When it can't be.
    pub fn spawn(&self) -> Result<Child> {
        fs::create_dir_all("/etc/containerd")?;
        fs::write(self.config.0, self.config.1)?;
        let log = File::options().append(true).create(true).open(self.log)?;
        let path = format!("{}:{}", self.programs, std::env::var("PATH").unwrap_or_default());
        Command::new(format!("{}/containerd", self.programs))
            .args(["--config", self.config.0])
            // Its shims are the first that it finds there.
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("can't start containerd")
    }
}
