//! What a container runtime keeps of a pod: a network namespace with an `eth0`, and processes in it. Both stay while
//! any one process ends, as a runtime pins them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use sriov_dra::demo::stage::Running;

use crate::busybox;
use crate::process::{run, run_command};
use crate::runtime::Sandbox;

/// A process that lives until somebody ends it, or until nobody holds the other end of its input.
#[derive(Debug)]
pub struct Sleeper(Child);

impl Sleeper {
    fn start(netns: Option<&Path>, env: &[String]) -> Result<Self> {
        let mut command = inside(netns, env, &["cat"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        Ok(Self(child.context("a container's process can't be started")?))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command as the containers' image has it, in a network namespace and with this environment only. Without busybox it
/// is the machine's own.
fn inside(netns: Option<&Path>, env: &[String], words: &[&str]) -> Command {
    let mut command = match netns {
        Some(netns) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", netns.display())).arg("env");
            command
        }
        None => Command::new("env"),
    };
    command.arg("-i").arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin").args(env);
    command.args(busybox::binary()).args(words);
    command
}

/// A pod's sandbox and its containers.
#[derive(Debug)]
pub struct Machine {
    /// As the agent was told of it.
    pub running: Running,
    pause: Sleeper,
    containers: BTreeMap<String, Container>,
}

#[derive(Debug)]
struct Container {
    id: String,
    env: Vec<String>,
    process: Sleeper,
}

impl Machine {
    /// Around a sandbox that the agent has agreed to.
    ///
    /// # Errors
    /// When no process can be started in it.
    pub fn of(running: Running) -> Result<Self> {
        let pause = Sleeper::start(running.netns().as_deref(), &[])?;
        Ok(Self { running, pause, containers: BTreeMap::new() })
    }

    /// Whether the sandbox still lives.
    pub fn lives(&mut self) -> bool {
        self.pause.runs()
    }

    /// Whether a container runs.
    pub fn has(&mut self, name: &str) -> bool {
        self.containers.get_mut(name).is_some_and(|container| container.process.runs())
    }

    /// Starts a container, in place of one of that name that ended.
    ///
    /// # Errors
    /// When its process can't be started.
    pub fn start(&mut self, name: &str, attempt: u32, env: Vec<String>) -> Result<()> {
        let process = Sleeper::start(self.running.netns().as_deref(), &env)?;
        let id = format!("{}-{name}-{attempt}", self.running.id());
        self.containers.insert(name.to_owned(), Container { id, env, process });
        Ok(())
    }

    /// Its containers end.
    pub fn end_containers(&mut self) {
        self.containers.clear();
    }

    fn row(&mut self, pod: (String, String)) -> Row {
        let sandbox = Sandbox {
            id: self.running.id().to_owned(),
            pid: u64::from(self.pause.0.id()),
            netns: self.running.netns(),
        };
        let mut containers = BTreeMap::new();
        for (name, container) in &mut self.containers {
            if container.process.runs() {
                let pid = container.process.0.id();
                let seen = Seen { id: container.id.clone(), pid, env: container.env.clone() };
                containers.insert(name.clone(), seen);
            }
        }
        Row { pod, containers, sandbox }
    }
}

/// The network that CNI plugins would make. A bridge without ports: kernels without the dummy driver have that too.
///
/// # Errors
/// What `ip` says.
pub fn network(netns: &Path) -> Result<()> {
    let option = format!("--net={}", netns.display());
    let words = ["ip", "link", "add", "eth0", "up", "type", "bridge"];
    run("nsenter", &[&[option.as_str()], &words[..]].concat()).map(drop)
}

/// What runs on the node, for whoever asks the runtime.
#[derive(Debug, Default)]
pub struct Machines(Mutex<BTreeMap<String, Row>>);

#[derive(Debug, Clone)]
struct Row {
    /// Namespace and name.
    pod: (String, String),
    sandbox: Sandbox,
    containers: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    id: String,
    pid: u32,
    env: Vec<String>,
}

impl Machines {
    /// What is so now of a pod, known by UID, namespace and name.
    pub fn set(&self, uid: &str, pod: (String, String), machine: Option<&mut Machine>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match machine {
            Some(machine) => drop(rows.insert(uid.to_owned(), machine.row(pod))),
            None => drop(rows.remove(uid)),
        }
    }

    fn row(&self, namespace: &str, pod: &str) -> Result<Row> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pod = |row: &&Row| (row.pod.0.as_str(), row.pod.1.as_str()) == (namespace, pod);
        let found: Vec<&Row> = rows.values().filter(of_pod).collect();
        ensure!(found.len() == 1, "pod {namespace}/{pod} has {} ready sandboxes", found.len());
        Ok(found[0].clone())
    }

    fn by_id(&self, id: &str) -> Result<(Sandbox, Seen)> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = rows.values().flat_map(|row| row.containers.values().map(|seen| (&row.sandbox, seen)));
        let found =
            all.find(|(_, seen)| seen.id == id).map(|(sandbox, seen)| (sandbox.clone(), seen.clone()));
        found.with_context(|| format!("there is no container {id}"))
    }

    /// A pod's sandbox.
    ///
    /// # Errors
    /// When it has none.
    pub fn sandbox(&self, namespace: &str, pod: &str) -> Result<Sandbox> {
        Ok(self.row(namespace, pod)?.sandbox)
    }

    /// ID of a container that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn container(&self, namespace: &str, pod: &str, name: &str) -> Result<String> {
        let mut row = self.row(namespace, pod)?;
        let found = row.containers.remove(name);
        Ok(found.with_context(|| format!("container {name} of pod {namespace}/{pod} does not run"))?.id)
    }

    /// Runs a command as if it were in a container.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub fn exec(&self, id: &str, words: &[&str]) -> Result<String> {
        let (sandbox, seen) = self.by_id(id)?;
        run_command(inside(sandbox.netns.as_deref(), &seen.env, words).stdin(Stdio::null()))
    }

    /// Ends a container's process.
    ///
    /// # Errors
    /// When there is none.
    pub fn stop(&self, id: &str) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.by_id(id)?.1.pid)?);
        match nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
            Ok(()) => Ok(()),
            Err(errno) => bail!("container {id} can't be ended: {errno}"),
        }
    }
}
