//! What the container runtime says of a pod, whatever the API server says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::containerd::Containerd;
use crate::standins::Machines;

/// The runtime of either ground.
pub enum Runtime {
    /// The real one.
    Containerd(Containerd),
    /// The stand-in.
    StandIn(Arc<Machines>),
}

/// A pod's sandbox that is ready.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// ID.
    pub id: String,
    /// Its first process.
    pub pid: u64,
    /// File of its network namespace; none on the host's network.
    pub netns: Option<PathBuf>,
}

impl Runtime {
    /// The pod's one ready sandbox.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub async fn sandbox(&self, namespace: &str, pod: &str) -> Result<Sandbox> {
        match self {
            Self::Containerd(containerd) => containerd.sandbox(namespace, pod).await,
            Self::StandIn(machines) => machines.sandbox(namespace, pod),
        }
    }

    /// ID of a pod's running container.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn container(&self, namespace: &str, pod: &str, name: &str) -> Result<String> {
        match self {
            Self::Containerd(containerd) => containerd.container(namespace, pod, name).await,
            Self::StandIn(machines) => machines.container(namespace, pod, name),
        }
    }

    /// Runs a command in a container, returns its output.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        match self {
            Self::Containerd(containerd) => containerd.exec(container, command).await,
            Self::StandIn(machines) => machines.exec(container, command),
        }
    }

    /// Ends a container's process as a crash would.
    ///
    /// # Errors
    /// The runtime's sentence.
    pub async fn stop_container(&self, container: &str) -> Result<()> {
        match self {
            Self::Containerd(containerd) => containerd.stop_container(container).await,
            Self::StandIn(machines) => machines.stop(container),
        }
    }
}

/// Number of a network namespace.
///
/// # Errors
/// When its file is gone.
pub fn inode(netns: &Path) -> Result<u64> {
    Ok(fs::metadata(netns).with_context(|| netns.display().to_string())?.ino())
}
