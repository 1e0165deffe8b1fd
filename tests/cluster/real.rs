//! The real ground: a control plane, a kubelet and containerd, at their usual places in namespaces of their own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::assets::Assets;
use crate::node::{KUBELET_DIR, Node};
use crate::plane::Plane;

/// A running Kubernetes without the driver.
#[derive(Debug)]
pub struct Real {
    /// etcd to scheduler.
    pub plane: Plane,
    /// containerd and kubelet.
    pub node: Node,
    logs: PathBuf,
}

impl Real {
    /// Starts all of it.
    ///
    /// # Errors
    /// Names what does not come up.
    pub async fn start(assets: &Assets, folder: &Path, logs: &Path) -> Result<Self> {
        // Side by side: each waits for itself most of the time.
        let (plane, node) =
            tokio::join!(Plane::start(assets, folder, logs), Node::start(assets, folder, logs));
        let (plane, mut node) = (plane?, node?);
        node.start_kubelet()?;
        Ok(Self { plane, node, logs: logs.to_owned() })
    }

    /// Folders below which a claim may leave something.
    pub fn traces() -> Vec<PathBuf> {
        let driver = Path::new(KUBELET_DIR).join("plugins/sriov-dra.io");
        vec![driver, PathBuf::from("/run/sriov-dra.io"), PathBuf::from("/run/cdi")]
    }

    /// The pods' logs, beside those of the cluster.
    pub fn keep_logs(&self) {
        let mut folders = vec![PathBuf::from("/run/lab/pod-logs")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains("sriov-dra_sriov-dra-") {
                    let name = path.strip_prefix("/run/lab/pod-logs").unwrap_or(&path).display().to_string();
                    // Without them the failures are still told.
                    let _ = fs::copy(&path, self.logs.join(name.replace('/', "_")));
                }
            }
        }
    }
}
