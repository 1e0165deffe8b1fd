//! The agent as a process of its own, between a stand-in for the kubelet and one for the runtime.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::DEFAULT_DRIVER_NAME;
use crate::attach::nri::fake::{FakeRuntime, Registered};
use crate::attach::nri::proto::api;
use crate::kubelet::fake::{Driver, FakeKubelet};

/// How long the agent may take for any one thing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What an agent is started with.
#[derive(Debug)]
pub struct Place {
    /// `--node-name`
    pub node: String,
    /// This program.
    pub executable: PathBuf,
    /// `--sysfs-root`
    pub sysfs: PathBuf,
    /// `--rails`
    pub rails: String,
    /// Its state, its sockets, its kubeconfig and its log.
    pub folder: PathBuf,
}

impl Place {
    /// The end of the agent's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }

    /// Registers the agent that is here, as a kubelet does that has started.
    ///
    /// # Errors
    /// When it does not come, or is not what a kubelet accepts.
    pub async fn register(&self) -> anyhow::Result<Driver> {
        FakeKubelet::new(self.folder.join("kubelet")).register(DEFAULT_DRIVER_NAME, PATIENCE).await
    }
}

/// A registered agent; its process ends with this value.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    /// For the kubelet's calls.
    pub driver: Driver,
    /// For the runtime's.
    pub runtime: Registered,
    /// From its start.
    pub registered_in: Duration,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or nobody is left to ask it politely.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    /// Starts it, waits until it has registered and the runtime has taken it in and told it of its pods.
    ///
    /// # Errors
    /// When it ends or does not come up; its log says why.
    pub async fn start(
        place: &Place,
        runtime: &FakeRuntime,
        pods: Vec<api::PodSandbox>,
    ) -> anyhow::Result<Self> {
        let Place { node, executable, sysfs, rails, folder } = place;
        let log = File::options().create(true).append(true).open(folder.join("agent.log"))?;
        let started = Instant::now();
        let process = Command::new(executable)
            .args(["node", "--node-name", node, "--rails", rails, "--log-level", "sriov_dra=debug,info"])
            .args([
                option("--kubelet-dir", &folder.join("kubelet")),
                option("--run-dir", &folder.join("run")),
                option("--cdi-dir", &folder.join("cdi")),
                option("--nri-socket", &folder.join("nri.sock")),
                option("--sysfs-root", sysfs),
                option("--kubeconfig", &folder.join("kubeconfig")),
            ])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the agent can't be started")?;
        let mut process = Process(process);
        let up = async { tokio::try_join!(place.register(), runtime.accept(pods, Vec::new())) };
        let up = tokio::select! {
            up = tokio::time::timeout(PATIENCE, up) => up.context("it did not register in time").and_then(|up| up),
            error = ended(&mut process.0) => Err(error),
        };
        let (driver, runtime) =
            up.with_context(|| format!("the agent did not come up; its log:\n{}", place.log()))?;
        Ok(Self { process, driver, runtime, registered_in: started.elapsed() })
    }

    /// PID.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// That it runs.
    ///
    /// # Errors
    /// When it ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.0.try_wait()? {
            Some(status) => bail!("the agent ended: {status}"),
            None => Ok(()),
        }
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.0.kill()?;
        self.process.0.wait()?;
        Ok(())
    }

    /// SIGTERM, and how long it took to end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn terminate(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        while self.process.0.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("the agent does not end");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(started.elapsed())
    }
}

async fn ended(process: &mut Child) -> anyhow::Error {
    loop {
        match process.try_wait() {
            Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(Some(status)) => return anyhow::anyhow!("it ended: {status}"),
            Err(error) => return error.into(),
        }
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
