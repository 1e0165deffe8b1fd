//! What a story is given: the cluster with the agent on it, and the state that has to be the same after the story.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::Api;
use crate::apply::{self, Kubectl};
use crate::assets::{Assets, in_path};
use crate::containerd::Containerd;
use crate::plane::NODE;
use crate::process::wait_for;
use crate::real::Real;
use crate::runtime::Runtime;
use crate::sim::{PFS, Sim, VFS_EACH};
use crate::standins::StandIns;

/// Slices of all drivers and nodes.
pub const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
/// Namespaces that stories put their pods into.
pub const NAMESPACES: [&str; 2] = ["default", "slurm"];

const NOT_HERE: &str = "this story is for a real cluster only, and its place in the list says otherwise";

/// A running cluster of one node.
pub struct Lab {
    /// Administrator.
    pub api: Api,
    /// What runs on the node.
    pub runtime: Runtime,
    /// VFs.
    pub sim: Sim,
    /// For programs that ask the API server.
    pub kubeconfig: PathBuf,
    /// `Kubernetes v1.36.2`
    pub version: String,
    ground: Ground,
    kubectl: Option<Kubectl>,
    /// Where a claim may leave something.
    traces: Vec<PathBuf>,
}

/// What the stories stand on.
enum Ground {
    /// Kubernetes.
    Real(Box<Real>),
    /// The embedded API server and stand-ins for the rest.
    StandIns(StandIns),
}

impl Lab {
    /// Starts a real cluster, the DaemonSet included.
    ///
    /// # Errors
    /// Names what does not come up.
    pub async fn on_kubernetes(assets: &Assets, folder: &Path, logs: &Path) -> Result<Self> {
        let sim = simulated(folder)?;
        let work = work(folder)?;
        let mut real = Real::start(assets, folder, logs).await?;
        let api = real.plane.api().await?;
        let kubeconfig = real.plane.kubeconfig();
        let kubectl =
            assets.path("kubectl").map(|program| Kubectl { program, kubeconfig: kubeconfig.clone(), work });
        let version = api.get("/version").await?["gitVersion"].as_str().unwrap_or_default().to_owned();
        wait_for(Duration::from_secs(60), "the manifests to be taken", async || {
            apply::manifests(kubectl.as_ref(), &api, &sim.root()).await
        })
        .await?;
        real.node.wait_ready(&api).await?;
        let lab = Self {
            api,
            runtime: Runtime::Containerd(Containerd::connect()),
            sim,
            kubeconfig,
            version: format!("Kubernetes {version}"),
            ground: Ground::Real(Box::new(real)),
            kubectl,
            traces: Real::traces(),
        };
        lab.settle().await?;
        for namespace in NAMESPACES {
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
            let there = wait_for(Duration::from_secs(60), "default service accounts", async || {
                lab.api.get(&path).await
            });
            there.await?;
        }
        Ok(lab)
    }

    /// Starts the embedded API server with the stand-ins around it.
    ///
    /// # Errors
    /// Names what does not come up.
    pub async fn on_stand_ins(folder: &Path) -> Result<Self> {
        let sim = simulated(folder)?;
        let work = work(folder)?;
        let (stand_ins, api) = StandIns::start(folder, &sim.root()).await?;
        let kubeconfig = StandIns::kubeconfig(folder);
        let kubectl =
            in_path("kubectl").map(|program| Kubectl { program, kubeconfig: kubeconfig.clone(), work });
        let version = api.get("/version").await?["gitVersion"].as_str().unwrap_or_default().to_owned();
        let lab = Self {
            api,
            runtime: Runtime::StandIn(stand_ins.machines()),
            sim,
            kubeconfig,
            version: format!("the embedded API server {version}"),
            ground: Ground::StandIns(stand_ins),
            kubectl,
            traces: StandIns::traces(folder),
        };
        lab.settle().await?;
        Ok(lab)
    }

    async fn settle(&self) -> Result<()> {
        self.wait_published().await?;
        for namespace in NAMESPACES.iter().filter(|name| **name != "default") {
            let object =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
            apply::object(&self.api, "", &object).await?;
        }
        Ok(())
    }

    /// What only a real cluster has.
    ///
    /// # Errors
    /// Where there is none: the story's place in the list is wrong.
    pub fn real(&self) -> Result<&Real> {
        match &self.ground {
            Ground::Real(real) => Ok(real),
            Ground::StandIns(_) => bail!(NOT_HERE),
        }
    }

    /// The same, to change it.
    ///
    /// # Errors
    /// As [`real`](Self::real).
    pub fn real_mut(&mut self) -> Result<&mut Real> {
        match &mut self.ground {
            Ground::Real(real) => Ok(real),
            Ground::StandIns(_) => bail!(NOT_HERE),
        }
    }

    /// Applies the manifests once more.
    ///
    /// # Errors
    /// What the API server or `kubectl` says.
    pub async fn install(&self) -> Result<()> {
        apply::manifests(self.kubectl.as_ref(), &self.api, &self.sim.root()).await
    }

    /// Ends the kubelet.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub async fn stop_kubelet(&mut self) -> Result<()> {
        match &mut self.ground {
            Ground::Real(real) => real.node.stop_kubelet(),
            Ground::StandIns(stand_ins) => stand_ins.stop_kubelet().await,
        }
    }

    /// Starts the kubelet again.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start_kubelet(&mut self) -> Result<()> {
        match &mut self.ground {
            Ground::Real(real) => real.node.start_kubelet(),
            Ground::StandIns(stand_ins) => stand_ins.start_kubelet().await,
        }
    }

    /// Whether there shall be an agent on the node: the DaemonSet is for it, or for none.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn want_agent(&self, wanted: bool) -> Result<()> {
        match &self.ground {
            Ground::StandIns(stand_ins) => stand_ins.want_agent(wanted),
            Ground::Real(_) => {
                let nowhere = if wanted { Value::Null } else { json!("nowhere") };
                let patch =
                    json!({ "spec": { "template": { "spec": { "nodeSelector": { "agent": nowhere } } } } });
                self.api.merge("/apis/apps/v1/namespaces/sriov-dra/daemonsets/sriov-dra", &patch).await?;
            }
        }
        Ok(())
    }

    /// Applies a file of `examples/`.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn example(&self, file: &str) -> Result<()> {
        apply::example(self.kubectl.as_ref(), &self.api, file).await
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
        if let Ground::Real(real) = &self.ground {
            // A story that broke off may have left it closed, and its pods could not end.
            real.node.open_gate()?;
        }
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
            let left = self.left();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        match &mut self.ground {
            Ground::Real(real) => real.plane.check(),
            Ground::StandIns(stand_ins) => stand_ins.check().await,
        }
    }

    /// Keeps what a failure may be explained by.
    pub fn keep_logs(&self) {
        if let Ground::Real(real) = &self.ground {
            real.keep_logs();
        }
    }

    /// Files of claims in the driver's and the runtime's folders. Locks and folders that belong to the agent itself are
    /// no traces.
    fn left(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for root in &self.traces {
            let mut folders = vec![root.clone()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    let path = entry.path();
                    if path.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let below = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    if (has_uid(&below) || has_uid(&text)) && !below.ends_with(".sock") {
                        found.push(path);
                    }
                }
            }
        }
        found
    }
}

fn simulated(folder: &Path) -> Result<Sim> {
    Sim::build(&folder.join("node")).context("the simulated node")
}

/// A folder for copies of manifests and examples.
fn work(folder: &Path) -> Result<PathBuf> {
    let work = folder.join("apply");
    fs::create_dir_all(&work)?;
    Ok(work)
}

// A UID has four dashes in a row of words.
fn has_uid(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '-').any(|word| {
        let parts: Vec<usize> = word.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12]
    })
}
