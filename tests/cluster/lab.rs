//! What a story is given: the cluster with the agent on it, and the state that has to be the same after the story.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::api::Api;
use crate::apply;
use crate::assets::Assets;
use crate::node::{KUBELET_DIR, Node};
use crate::plane::{NODE, Plane};
use crate::process::wait_for;
use crate::runtime::Runtime;
use crate::sim::{PFS, Sim, VFS_EACH};

/// Slices of all drivers and nodes.
pub const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
/// Namespaces that stories put their pods into.
pub const NAMESPACES: [&str; 2] = ["default", "slurm"];
/// Folders where a claim may leave something.
const TRACES: [&str; 3] = ["/var/lib/kubelet/plugins/sriov-dra.io", "/run/sriov-dra.io", "/run/cdi"];

/// A running cluster of one node.
pub struct Lab {
    /// Binaries.
    pub assets: Assets,
    /// Administrator.
    pub api: Api,
    /// etcd to scheduler.
    pub plane: Plane,
    /// containerd and kubelet.
    pub node: Node,
    /// CRI.
    pub runtime: Runtime,
    /// VFs.
    pub sim: Sim,
    /// For copies of manifests and examples.
    pub work: PathBuf,
    /// `Kubernetes v1.36.2`
    pub version: String,
    logs: PathBuf,
}

impl Lab {
    /// Starts everything, the DaemonSet included.
    ///
    /// # Errors
    /// Names what does not come up.
    pub async fn start(assets: Assets, folder: &Path, logs: &Path) -> Result<Self> {
        let work = folder.join("apply");
        fs::create_dir_all(&work)?;
        let sim = Sim::build(&folder.join("node")).context("the simulated node")?;
        // Side by side: each waits for itself most of the time.
        let (plane, node) =
            tokio::join!(Plane::start(&assets, folder, logs), Node::start(&assets, folder, logs));
        let (plane, mut node) = (plane?, node?);
        node.start_kubelet()?;
        let api = plane.api().await?;
        let version = api.get("/version").await?["gitVersion"].as_str().unwrap_or_default().to_owned();
        let kubeconfig = plane.kubeconfig();
        wait_for(Duration::from_secs(60), "the manifests to be taken", async || {
            apply::manifests(&assets, &api, &kubeconfig, &work, &sim.root()).await
        })
        .await?;
        node.wait_ready(&api).await?;
        let lab = Self {
            assets,
            api,
            plane,
            node,
            runtime: Runtime::connect(),
            sim,
            work,
            version: format!("Kubernetes {version}"),
            logs: logs.to_owned(),
        };
        lab.wait_published().await?;
        for namespace in NAMESPACES.iter().filter(|name| **name != "default") {
            let object =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
            apply::object(&lab.api, "", &object).await?;
        }
        for namespace in NAMESPACES {
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
            wait_for(Duration::from_secs(60), "default service accounts", async || lab.api.get(&path).await)
                .await?;
        }
        Ok(lab)
    }

    /// Applies a file of `examples/`.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn example(&self, file: &str) -> Result<()> {
        apply::example(&self.assets, &self.api, &self.plane.kubeconfig(), &self.work, file).await
    }

    /// The agent's pods that are not on their way out: name and whether they are ready.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn agents(&self) -> Result<BTreeMap<String, bool>> {
        let pods = self.api.list("/api/v1/namespaces/sriov-dra/pods").await?;
        let alive = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let state = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ready)
        };
        Ok(alive.map(state).collect())
    }

    /// The node's slices of this driver.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn slices(&self) -> Result<Vec<Value>> {
        let mut slices = self.api.list(SLICES).await?;
        slices.retain(|slice| slice["spec"]["driver"] == "sriov-dra.io" && slice["spec"]["nodeName"] == NODE);
        Ok(slices)
    }

    /// Name and resource version of each slice: the same again means that nobody wrote one.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn slice_versions(&self) -> Result<BTreeMap<String, String>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version =
            |slice: &Value| (text(&slice["metadata"]["name"]), text(&slice["metadata"]["resourceVersion"]));
        Ok(self.slices().await?.iter().map(version).collect())
    }

    /// Waits until every VF is in a slice, once.
    ///
    /// # Errors
    /// After a minute and a half.
    pub async fn wait_published(&self) -> Result<Vec<Value>> {
        wait_for(Duration::from_secs(90), "the slices", async || {
            let slices = self.slices().await?;
            let devices = slices
                .iter()
                .flat_map(|slice| slice["spec"]["devices"].as_array().cloned().unwrap_or_default());
            let names: Vec<String> =
                devices.map(|device| device["name"].as_str().unwrap_or_default().to_owned()).collect();
            let all = PFS.len() * VFS_EACH as usize;
            ensure!(names.len() == all, "{} of {all} VFs are published: {names:?}", names.len());
            Ok(slices)
        })
        .await
    }

    /// Removes pods and claims, and waits until nothing tells that they were there.
    ///
    /// # Errors
    /// What is still there.
    pub async fn clean_up(&mut self) -> Result<()> {
        for namespace in NAMESPACES {
            let core = format!("/api/v1/namespaces/{namespace}");
            let resource = format!("/apis/resource.k8s.io/v1/namespaces/{namespace}");
            self.api.delete(&format!("{core}/pods")).await?;
            self.api.delete(&format!("{resource}/resourceclaimtemplates")).await?;
            self.api.delete(&format!("{resource}/resourceclaims")).await?;
            wait_for(Duration::from_secs(60), "pods and claims to go", async || {
                for path in [format!("{core}/pods"), format!("{resource}/resourceclaims")] {
                    let names: Vec<Value> =
                        self.api.list(&path).await?.iter().map(|o| o["metadata"]["name"].clone()).collect();
                    ensure!(names.is_empty(), "{path}: {names:?}");
                }
                Ok(())
            })
            .await?;
        }
        self.sim.wait_clean(Duration::from_secs(20)).await?;
        wait_for(Duration::from_secs(20), "files of claims to go", async || {
            let left = traces(None);
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        self.plane.check()
    }

    /// The pods' logs, beside those of the cluster.
    pub async fn keep_logs(&self) {
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

/// Files of claims in the driver's and the runtime's folders; of one claim if a UID is given. Locks and folders that
/// belong to the agent itself are no traces.
pub fn traces(uid: Option<&str>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = TRACES.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let shown = path.to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap_or_default();
            let of_claim = match uid {
                Some(uid) => shown.contains(uid) || text.contains(uid),
                // A UID has four dashes in a row of words.
                None => has_uid(&shown.replace(KUBELET_DIR, "")) || has_uid(&text),
            };
            if of_claim && !shown.ends_with(".sock") {
                found.push(path);
            }
        }
    }
    found
}

fn has_uid(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '-').any(|word| {
        let parts: Vec<usize> = word.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12]
    })
}
