//! Real containerd in the guest: its start, images without a registry, pods over CRI as the kubelet makes them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sriov_dra::cli::image::archive;
use sriov_dra::runtime::v1 as cri;
use sriov_dra::runtime::{self as client};
use tonic::transport::Channel;

use crate::busybox;
use crate::host::{run, wait_for};
use crate::release::Release;

/// The one image pods are made of, the sandbox's own included.
pub const BUSYBOX: &str = "localhost/busybox:guest";
/// Where runtimes look for CDI files.
pub const CDI_DIR: &str = "/var/run/cdi";
/// Where containers find this executable, for its tools.
pub const TOOLS: &str = "/tools";
/// Where it is in the guest.
pub const OWN: &str = "/rw/bin/guest-stories";
/// The handler of pods that crun starts.
pub const CRUN: &str = "crun";

/// containerd and a CRI client.
#[derive(Debug)]
pub struct Containerd {
    release: &'static Release,
    process: Mutex<Child>,
    channel: Channel,
    /// Containers made so far: the kubelet raises `attempt` for each new one of a name, and the runtime insists.
    made: AtomicU32,
}

/// A pod's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodId {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.name`; its namespace is `default`
    pub name: String,
}

impl PodId {
    /// A pod whose UID is made of its name.
    pub fn new(name: &str) -> Self {
        Self { uid: format!("pod-{name}-uid"), name: name.to_owned() }
    }
}

/// Whose a container is, and whether its root is read-only.
#[derive(Debug, Clone, Copy)]
struct As {
    user: i64,
    sealed: bool,
}

/// A running sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Sandbox ID.
    pub id: String,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// What RunPodSandbox took, networks and plugins and all.
    pub took: Duration,
    config: cri::PodSandboxConfig,
}

impl Sandbox {
    /// Where its containers' output is.
    pub fn logs(&self) -> &Path {
        Path::new(&self.config.log_directory)
    }

    /// The namespace's name for `ip -netns`.
    pub fn netns_name(&self) -> String {
        self.netns.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Containerd {
    /// Starts it and imports the image; ready when this returns.
    ///
    /// # Errors
    /// When it is not ready within two minutes, or refuses the image.
    pub async fn start(release: &'static Release) -> Result<Self> {
        for dir in ["/etc/cni/net.d", CDI_DIR, "/etc/cdi"] {
            fs::create_dir_all(dir)?;
        }
        let network = json!({ "cniVersion": "1.0.0", "name": "guest", "plugins": [{
            "type": "ptp",
            "ipam": { "type": "host-local", "subnet": "10.88.0.0/16", "routes": [{ "dst": "0.0.0.0/0" }] },
        }] });
        for old in fs::read_dir("/etc/cni/net.d")? {
            fs::remove_file(old?.path())?;
        }
        fs::write("/etc/cni/net.d/10-guest.conflist", network.to_string())?;
        let channel = client::channel(Path::new(release.socket));
        let process = Mutex::new(release.spawn()?);
        let started = Self { release, process, channel, made: AtomicU32::new(0) };
        started.wait_ready().await?;
        started.import("busybox.tar", &archive(&busybox::image(BUSYBOX)?)?)?;
        Ok(started)
    }

    /// Kills it and starts it again; ready when this returns. Pods run on, as their shims do.
    ///
    /// # Errors
    /// When it is not ready within two minutes.
    pub async fn restart(&self) -> Result<()> {
        {
            let mut process = self.process.lock().unwrap();
            process.kill()?;
            process.wait()?;
            *process = self.release.spawn()?;
        }
        self.wait_ready().await
    }

    /// Which one it is.
    pub fn release(&self) -> &'static Release {
        self.release
    }

    /// Plugins it has let in since it first started, by its own log (`plugin \"…\" connected`).
    ///
    /// # Errors
    /// When there is no log.
    pub fn nri_connections(&self) -> Result<usize> {
        Ok(fs::read_to_string(self.release.log)?.matches("\\\" connected").count())
    }

    async fn wait_ready(&self) -> Result<()> {
        let mut last = String::new();
        let until = Instant::now() + Duration::from_secs(120);
        while Instant::now() < until {
            // A connection of its own each time: one that was made while containerd was starting may never be answered.
            let channel = client::channel(Path::new(self.release.socket));
            let mut runtime = cri::runtime_service_client::RuntimeServiceClient::new(channel);
            let status = runtime.status(cri::StatusRequest { verbose: false });
            let answer = tokio::time::timeout(Duration::from_secs(10), status).await;
            match answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer within 10 s"))) {
                Ok(reply) => {
                    let conditions = reply.into_inner().status.unwrap_or_default().conditions;
                    if !conditions.is_empty() && conditions.iter().all(|c| c.status) {
                        return Ok(());
                    }
                    last = format!("{conditions:?}");
                }
                Err(status) => last = status.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::bail!("containerd is not ready: {last}")
    }

    /// Imports an image archive as a user would.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn import(&self, name: &str, archive: &[u8]) -> Result<()> {
        let file = Path::new("/rw").join(name);
        fs::write(&file, archive)?;
        let ctr = format!("{}/ctr", self.release.programs);
        let import = ["--address", self.release.socket, "-n", "k8s.io", "images", "import", "--local"];
        run(&ctr, &[&import[..], &[&file.display().to_string()]].concat())?;
        fs::remove_file(file)?;
        Ok(())
    }

    fn runtime(&self) -> cri::runtime_service_client::RuntimeServiceClient<Channel> {
        cri::runtime_service_client::RuntimeServiceClient::new(self.channel.clone())
    }

    /// RunPodSandbox; `attempt` is raised for each new sandbox of the same pod.
    ///
    /// # Errors
    /// The runtime's sentence, which carries the NRI plugin's.
    pub async fn run_pod(&self, pod: &PodId, attempt: u32) -> Result<Sandbox> {
        self.run_pod_with("", pod, attempt).await
    }

    /// The same with a runtime handler; the empty one is runc.
    ///
    /// # Errors
    /// As [`run_pod`](Self::run_pod).
    pub async fn run_pod_with(&self, handler: &str, pod: &PodId, attempt: u32) -> Result<Sandbox> {
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                namespace: "default".to_owned(),
                attempt,
            }),
            hostname: pod.name.clone(),
            log_directory: format!("/rw/pods/{}", pod.uid),
            linux: Some(cri::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        fs::create_dir_all(&config.log_directory)?;
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let began = Instant::now();
        let reply = self.runtime().run_pod_sandbox(request).await.map_err(sentence)?;
        let took = began.elapsed();
        let id = reply.into_inner().pod_sandbox_id;
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let status = self.runtime().pod_sandbox_status(request).await.map_err(sentence)?.into_inner();
        let info: Value =
            serde_json::from_str(status.info.get("info").context("a verbose status has `info`")?)?;
        let namespaces =
            info["runtimeSpec"]["linux"]["namespaces"].as_array().context("namespaces in `info`")?;
        let netns = namespaces.iter().find(|n| n["type"] == "network").and_then(|n| n["path"].as_str());
        let netns = PathBuf::from(netns.context("a network namespace in `info`")?);
        Ok(Sandbox { id, netns, took, config })
    }

    /// StopPodSandbox until it is taken, as the kubelet repeats it: while a sandbox's process is on its way out by
    /// itself, the runtime's first attempt may fail.
    ///
    /// # Errors
    /// The runtime's last sentence.
    pub async fn stop_pod(&self, id: &str) -> Result<()> {
        let mut attempts = 0;
        loop {
            let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
            match self.runtime().stop_pod_sandbox(request).await {
                Ok(_) => return Ok(()),
                Err(status) if attempts >= 5 => return Err(sentence(status)),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            attempts += 1;
        }
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The runtime's sentence.
    pub async fn remove_pod(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime().remove_pod_sandbox(request).await.map_err(sentence)?;
        Ok(())
    }

    /// CreateContainer and StartContainer with CDI devices, sleeping; returns its ID.
    ///
    /// # Errors
    /// The runtime's sentence, which carries the NRI plugin's or the hook's.
    pub async fn start_container(&self, sandbox: &Sandbox, name: &str, cdi_ids: &[String]) -> Result<String> {
        self.start_image(sandbox, name, BUSYBOX, &["/bin/sleep", "100000"], cdi_ids).await
    }

    /// The same as a user, by number, with a command.
    ///
    /// # Errors
    /// As [`start_container`](Self::start_container).
    pub async fn start_as(
        &self,
        user: i64,
        sandbox: &Sandbox,
        name: &str,
        cdi_ids: &[String],
        command: &[&str],
    ) -> Result<String> {
        self.make(As { user, sealed: false }, sandbox, name, BUSYBOX, command, cdi_ids).await
    }

    /// A sleeping container whose own files nobody can change (`readOnlyRootFilesystem`).
    ///
    /// # Errors
    /// As [`start_container`](Self::start_container).
    pub async fn start_sealed(&self, sandbox: &Sandbox, name: &str, cdi_ids: &[String]) -> Result<String> {
        let sealed = As { user: 1000, sealed: true };
        self.make(sealed, sandbox, name, BUSYBOX, &["/bin/sleep", "100000"], cdi_ids).await
    }

    /// The same with an image and command of the caller's choice.
    ///
    /// # Errors
    /// As [`start_container`](Self::start_container).
    pub async fn start_image(
        &self,
        sandbox: &Sandbox,
        name: &str,
        image: &str,
        command: &[&str],
        cdi_ids: &[String],
    ) -> Result<String> {
        self.make(As { user: 0, sealed: false }, sandbox, name, image, command, cdi_ids).await
    }

    async fn make(
        &self,
        As { user, sealed }: As,
        sandbox: &Sandbox,
        name: &str,
        image: &str,
        command: &[&str],
        cdi_ids: &[String],
    ) -> Result<String> {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt: self.made.fetch_add(1, Ordering::Relaxed),
            }),
            image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
            command: command.iter().map(|&c| c.to_owned()).collect(),
            log_path: format!("{name}.log"),
            mounts: vec![cri::Mount {
                host_path: OWN.to_owned(),
                container_path: TOOLS.to_owned(),
                readonly: true,
                ..Default::default()
            }],
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    run_as_user: Some(cri::Int64Value { value: user }),
                    readonly_rootfs: sealed,
                    // `ping` opens a raw socket.
                    capabilities: Some(cri::Capability {
                        add_capabilities: vec!["NET_RAW".to_owned()],
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            cdi_devices: cdi_ids.iter().map(|id| cri::CdiDevice { name: id.clone() }).collect(),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let id = self.runtime().create_container(request).await.map_err(sentence)?.into_inner().container_id;
        let request = cri::StartContainerRequest { container_id: id.clone() };
        self.runtime().start_container(request).await.map_err(sentence)?;
        Ok(id)
    }

    /// What a container wrote, once it has ended; with its exit code.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub async fn wait_ended(&self, sandbox: &Sandbox, name: &str, id: &str) -> Result<(i32, String)> {
        for _ in 0..300 {
            let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
            let reply = self.runtime().container_status(request).await.map_err(sentence)?.into_inner();
            let status = reply.status.context("a container's status")?;
            if status.state() == cri::ContainerState::ContainerExited {
                let log = fs::read_to_string(sandbox.logs().join(format!("{name}.log")))?;
                return Ok((status.exit_code, log));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::bail!("container {name} did not end within a minute")
    }

    /// Runs a command in a container, returns its output.
    ///
    /// # Errors
    /// When it does not end with 0; both outputs are in the error.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&c| c.to_owned()).collect(),
            timeout: 60,
        };
        let reply = self.runtime().exec_sync(request).await.map_err(sentence)?.into_inner();
        let (out, err) = (String::from_utf8_lossy(&reply.stdout), String::from_utf8_lossy(&reply.stderr));
        ensure!(
            reply.exit_code == 0,
            "`{}` in the container: exit code {}: {out}{err}",
            command.join(" "),
            reply.exit_code
        );
        Ok(out.into_owned())
    }

    /// Stops and removes whatever a story left.
    ///
    /// # Errors
    /// The runtime's sentence.
    pub async fn remove_all(&self) -> Result<()> {
        let pods = self
            .runtime()
            .list_pod_sandbox(cri::ListPodSandboxRequest { filter: None })
            .await
            .map_err(sentence)?;
        for pod in pods.into_inner().items {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The guest ends right after; what counts is that nothing here hangs.
        let process = self.process.get_mut().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn sentence(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

/// Kills a pod's processes and its network namespace behind the runtime's back.
///
/// # Errors
/// When the namespace does not go.
pub fn destroy_netns(sandbox: &Sandbox) -> Result<()> {
    let ours = inode(&sandbox.netns).context("the namespace is not there")?;
    wait_for(Duration::from_secs(10), "the pod's processes to end", || {
        let pids = processes_in(ours)?;
        for pid in &pids {
            // One may be gone already: the pod's first process takes the others along.
            let _ = run("kill", &["-9", pid]);
        }
        Ok(pids.is_empty())
    })?;
    run("ip", &["netns", "delete", &sandbox.netns_name()])?;
    wait_for(Duration::from_secs(10), "the namespace's file to go", || Ok(!sandbox.netns.exists()))
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|metadata| metadata.ino()).ok()
}

fn processes_in(netns: u64) -> Result<Vec<String>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid.bytes().all(|b| b.is_ascii_digit()) && inode(&entry.path().join("ns/net")) == Some(netns) {
            pids.push(pid);
        }
    }
    Ok(pids)
}
