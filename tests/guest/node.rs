//! A node as one story sees it: an API server, the agent as users run it, the kubelet's calls in the kubelet's order.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use sriov_dra::DEFAULT_DRIVER_NAME;

use crate::api::Api;
use crate::containerd::{CDI_DIR, Containerd, PodId, Sandbox};
use crate::host::{Vf, wait_for};
use crate::kubelet::{Claim, Kubelet};

/// The node's and so the pool's name.
pub const NAME: &str = "guest";
/// The agent's log; a restarted agent goes on in it.
pub const LOG: &str = "/rw/agent.log";

/// The kubelet's folder: on the disk, as it outlives a boot.
pub const KUBELET_DIR: &str = "/disk/kubelet";
/// The agent's own folder: in memory, as `/run` is.
pub const RUN_DIR: &str = "/run/sriov-dra.io";
/// The program as users run it.
pub const AGENT: &str = "/rw/bin/sriov-dra";
const KUBECONFIG: &str = "/rw/kubeconfig";
/// An emulated processor starts the agent in seconds, not in milliseconds.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A node with the agent on it.
pub struct Node {
    /// The runtime, shared by all stories of a boot.
    pub runtime: Arc<Containerd>,
    api: Api,
    kubelet: Option<Kubelet>,
    agent: Option<Child>,
}

impl Node {
    /// A fresh node with the agent running and registered and all VFs published.
    ///
    /// # Errors
    /// When one of them does not come.
    pub async fn start(runtime: &Arc<Containerd>, vfs: usize) -> Result<Self> {
        let mut node = Self::without_agent(runtime).await?;
        node.start_agent().await?;
        node.wait_published(vfs).await?;
        node.api.forget_requests();
        Ok(node)
    }

    /// Empty state, an API server with the Node and a DeviceClass.
    ///
    /// # Errors
    /// When a folder can't be made or the API server refuses an object.
    pub async fn without_agent(runtime: &Arc<Containerd>) -> Result<Self> {
        for old in [KUBELET_DIR, RUN_DIR, CDI_DIR] {
            if Path::new(old).exists() {
                fs::remove_dir_all(old)?;
            }
            fs::create_dir_all(old)?;
        }
        Self::as_it_is(runtime).await
    }

    /// The node as it was left, with an API server that has the Node and a DeviceClass.
    ///
    /// # Errors
    /// When a file can't be written or the API server refuses an object.
    pub async fn as_it_is(runtime: &Arc<Containerd>) -> Result<Self> {
        File::create(LOG)?;
        let api = Api::start().await?;
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME } });
        api.create("/api/v1/nodes", &node).await?;
        let class = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": { "name": "vf" },
            "spec": { "selectors": [{ "cel": { "expression": format!("device.driver == '{DEFAULT_DRIVER_NAME}'") } }] },
        });
        api.create("/apis/resource.k8s.io/v1/deviceclasses", &class).await?;
        fs::write(KUBECONFIG, api.kubeconfig()?)?;
        Ok(Self { runtime: Arc::clone(runtime), api, kubelet: None, agent: None })
    }

    /// Starts the agent, returns when it has registered and the runtime listens to it.
    ///
    /// # Errors
    /// When it ends or does not register.
    pub async fn start_agent(&mut self) -> Result<()> {
        let log = File::options().append(true).create(true).open(LOG)?;
        let connections = self.runtime.nri_connections()?;
        let agent = Command::new(AGENT)
            .args(["node", "--node-name", NAME, "--nri-socket", self.runtime.release().nri_socket])
            .args(["--cdi-dir", CDI_DIR, "--kubelet-dir", KUBELET_DIR, "--run-dir", RUN_DIR])
            .args(["--kubeconfig", KUBECONFIG])
            .args(["--log-format", "text", "--log-level", "info,sriov_dra=debug"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("can't start the agent")?;
        let agent = self.agent.insert(agent);
        let alive = || match agent.try_wait()? {
            Some(status) => bail!("the agent ended with {status}"),
            None => Ok(()),
        };
        let kubelet_dir = Path::new(KUBELET_DIR);
        self.kubelet = Some(Kubelet::register(kubelet_dir, DEFAULT_DRIVER_NAME, START_LIMIT, alive).await?);
        // Pods that start before the runtime knows the plugin are a story of their own.
        self.wait_connected(connections)
    }

    /// Waits until the runtime has let a plugin in once more than this often.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_connected(&self, times: usize) -> Result<()> {
        let connected = || Ok(self.runtime.nri_connections()? > times);
        wait_for(START_LIMIT, "the agent's connection to NRI", connected)
    }

    /// The agent is killed in the middle of whatever it does.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent is running")?;
        self.kubelet = None;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// The agent is asked to end (SIGTERM) and does.
    ///
    /// # Errors
    /// When it does not end with 0 within 30 s.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent is running")?;
        self.kubelet = None;
        crate::host::run("kill", &["-TERM", &agent.id().to_string()])?;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = agent.try_wait()? {
                ensure!(status.success(), "the agent ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        agent.kill()?;
        bail!("the agent did not end within 30 s of SIGTERM")
    }

    /// Waits until so many VFs are published.
    ///
    /// # Errors
    /// When they are not.
    pub async fn wait_published(&self, vfs: usize) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            let slices = self.api.get("/apis/resource.k8s.io/v1/resourceslices").await?;
            let of = |slice: &Value| slice["spec"]["devices"].as_array().map_or(0, Vec::len);
            let published: usize = slices["items"].as_array().map_or(0, |all| all.iter().map(of).sum());
            if published == vfs {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{published} of {vfs} VFs are published after {} s",
                START_LIMIT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A claim as the scheduler leaves it: allocated to these VFs, reserved for the pod, with a `VfConfig` for all.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn claim(&self, name: &str, pod: &PodId, vfs: &[Vf], interface: Value) -> Result<Claim> {
        self.claim_with(name, pod, vfs, json!({ "interface": interface })).await
    }

    /// The same with all of a `VfConfig` but its header; the class grants whatever fields it sets.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub async fn claim_with(&self, name: &str, pod: &PodId, vfs: &[Vf], config: Value) -> Result<Claim> {
        let request = |i: usize| format!("vf{i}");
        let requests: Vec<Value> = (0..vfs.len())
            .map(|i| json!({ "name": request(i), "exactly": { "deviceClassName": "vf", "allocationMode": "ExactCount", "count": 1 } }))
            .collect();
        let parameters = |kind: &str, mut of: Value| {
            of["apiVersion"] = "sriov-dra.io/v1alpha1".into();
            of["kind"] = kind.into();
            json!({ "driver": DEFAULT_DRIVER_NAME, "parameters": of })
        };
        let granted: Vec<Value> = ["vf", "bind"]
            .iter()
            .flat_map(|section| {
                config[section].as_object().into_iter().flatten().map(move |(field, _)| (section, field))
            })
            .map(|(section, field)| format!("{section}.{field}"))
            .chain(config["rdma"].get("umad").map(|_| "rdma.umad".to_owned()))
            .map(|field| json!({ "field": field }))
            .collect();
        let mut configs = Vec::new();
        if !granted.is_empty() {
            let grant = parameters("VfGrant", json!({ "allow": granted }));
            configs.push(json!({ "source": "FromClass", "opaque": grant }));
        }
        let opaque = parameters("VfConfig", config);
        configs.push(json!({ "source": "FromClaim", "opaque": opaque }));
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "devices": { "requests": requests, "config": [{ "opaque": opaque }] } },
        });
        let mut claim =
            self.api.create("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", &claim).await?;
        let uid = claim["metadata"]["uid"].as_str().context("the API server gives a UID")?.to_owned();
        let results: Vec<Value> = vfs
            .iter()
            .enumerate()
            .map(|(i, vf)| {
                json!({ "request": request(i), "driver": DEFAULT_DRIVER_NAME, "pool": NAME, "device": vf.pci.device_name() })
            })
            .collect();
        let on_node =
            json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [NAME] }] });
        claim["status"] = json!({
            "allocation": {
                "devices": { "results": results, "config": configs },
                "nodeSelector": { "nodeSelectorTerms": [on_node] },
            },
            "reservedFor": [{ "resource": "pods", "name": pod.name, "uid": pod.uid }],
        });
        let path = format!("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{name}");
        self.api.put_status(&path, &claim).await?;
        Ok(Claim { uid, name: name.to_owned() })
    }

    /// The claim is deleted, as the control plane does with a template's when its pod is gone.
    ///
    /// # Errors
    /// The server's status.
    pub async fn delete_claim(&self, claim: &Claim) -> Result<()> {
        self.api
            .delete(&format!("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{}", claim.name))
            .await
    }

    /// The agent's process number.
    ///
    /// # Errors
    /// When there is none.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent is running")?.id())
    }

    /// NodePrepareResources; the CDI names.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn prepare(&self, claim: &Claim) -> Result<Vec<String>> {
        self.kubelet.as_ref().context("no agent is registered")?.prepare(claim).await
    }

    /// NodeUnprepareResources.
    ///
    /// # Errors
    /// The agent's sentence.
    pub async fn unprepare(&self, claim: &Claim) -> Result<()> {
        self.kubelet.as_ref().context("no agent is registered")?.unprepare(claim).await
    }

    /// What the kubelet does from claim to running container: prepare, sandbox, container.
    ///
    /// # Errors
    /// The sentence of whoever refused.
    pub async fn start_pod(&self, pod: &PodId, claims: &[&Claim]) -> Result<Running> {
        let mut cdi_ids = Vec::new();
        for claim in claims {
            cdi_ids.extend(
                self.prepare(claim).await.with_context(|| format!("preparing claim {}", claim.name))?,
            );
        }
        let sandbox =
            self.runtime.run_pod(pod, 0).await.with_context(|| format!("RunPodSandbox of {}", pod.name))?;
        // Seven VFs may take an emulated machine longer than the runtime waits: then the kubelet comes again.
        let container = self.start_container_in_the_end(&sandbox, &cdi_ids).await;
        let container = container.with_context(|| format!("container of {}", pod.name))?;
        Ok(Running { sandbox, container, cdi_ids })
    }

    /// CreateContainer until it is taken, as the kubelet repeats it.
    ///
    /// # Errors
    /// The last refusal, after a minute.
    pub async fn start_container_in_the_end(&self, sandbox: &Sandbox, cdi_ids: &[String]) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.runtime.start_container(sandbox, "main", cdi_ids).await {
                Ok(container) => return Ok(container),
                Err(error) if Instant::now() >= end => {
                    return Err(error.context("a minute of CreateContainer"));
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Writes of ResourceSlices since everything was published: no claim may cause one.
    pub fn slice_writes(&self) -> usize {
        self.api.slice_writes()
    }

    /// A claim as the API server has it now.
    ///
    /// # Errors
    /// The server's status.
    pub async fn read_claim(&self, claim: &Claim) -> Result<Value> {
        self.api
            .get(&format!("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{}", claim.name))
            .await
    }

    /// Puts a claim back into an API server that is new, as if it had been there all the time.
    ///
    /// # Errors
    /// When it is no claim.
    pub fn put_back(&self, claim: Value) -> Result<()> {
        self.api.put_back::<ResourceClaim>(claim)
    }

    /// Files that mention a claim below the agent's folders and in the CDI folder: nothing of it may stay.
    pub fn traces_of(&self, claim: &Claim) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = [KUBELET_DIR, RUN_DIR, CDI_DIR].map(PathBuf::from).to_vec();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains(&claim.uid)
                    || fs::read_to_string(&path).is_ok_and(|text| text.contains(&claim.uid))
                {
                    found.push(path);
                }
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // Also on the way out of a failed story: the next one starts its own.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// A pod that runs.
#[derive(Debug)]
pub struct Running {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its container's ID.
    pub container: String,
    /// What the container was given.
    pub cdi_ids: Vec<String>,
}
