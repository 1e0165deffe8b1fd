//! The sandbox an attach is for.

use std::path::{Path, PathBuf};

use super::AttachError;
use super::nri::Sandbox;
use crate::host::{Kernel, Netns};

/// A pod's sandbox with its namespace open: opened at once, for the path may be gone a moment later.
#[derive(Debug, Clone)]
pub struct PodSandbox {
    /// Sandbox ID.
    pub id: String,
    /// Pod UID.
    pub pod_uid: String,
    /// `namespace/name`
    pub pod: String,
    /// None on the host's network.
    pub netns: Option<(PathBuf, Netns)>,
}

impl PodSandbox {
    /// Opens the namespace of a sandbox the runtime reports.
    ///
    /// # Errors
    /// When there is a path and it can't be opened, nor the pause process's.
    pub fn open(kernel: &dyn Kernel, sandbox: &Sandbox) -> Result<Self, AttachError> {
        let pod = format!("{}/{}", sandbox.pod_namespace, sandbox.pod_name);
        let no_netns = |source| AttachError::NoNetns {
            sandbox: sandbox.id.clone(),
            pod: pod.clone(),
            path: sandbox.netns.clone(),
            source,
        };
        let by_process = || -> Option<(PathBuf, Netns)> {
            let path = Path::new("/proc").join(sandbox.pid.to_string()).join("ns/net");
            (sandbox.pid != 0).then(|| kernel.open(&path).ok().map(|netns| (path, netns))).flatten()
        };
        let found = match &sandbox.netns {
            Some(path) => match kernel.open(path) {
                Ok(netns) => Some((path.clone(), netns)),
                Err(error) => Some(by_process().ok_or_else(|| no_netns(Some(error)))?),
            },
            // No network namespace listed is the host's network; the pause process, where there is one, must agree.
            None if sandbox.lists_namespaces => by_process(),
            None => Some(by_process().ok_or_else(|| no_netns(None))?),
        };
        // Some runtimes list the host's own namespace by path.
        let netns = found.filter(|(_, netns)| netns.id() != kernel.host().id());
        Ok(Self { id: sandbox.id.clone(), pod_uid: sandbox.pod_uid.clone(), pod, netns })
    }
}
