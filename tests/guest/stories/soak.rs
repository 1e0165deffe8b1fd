//! Pods that come and go for as long as is asked for, with containerd's own sandboxes: is what the agent holds flat?

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::containerd::{CDI_DIR, PodId, Sandbox};
use crate::host::{Vf, ensure_no_more, facts, links_in, netdev, wait_as_before};
use crate::inside::Ground;
use crate::kubelet::Claim;
use crate::node::{KUBELET_DIR, Node, RUN_DIR};
use crate::watch::{Watch, asked};

/// On the share: what the agent held.
pub const PICTURE: &str = "soak.svg";
/// Among the other stories, so that it goes on to work; it is an hour that says something.
const SHORT: Duration = Duration::from_secs(40);
/// Pods that are there at a time.
const ALIVE: usize = 3;
/// MiB; some 200 pods come in an hour.
const MEMORY: f64 = 1.0;
/// An emulated processor takes its time; longer than the API server keeps connections that idle (90 s).
const REST: Duration = Duration::from_secs(100);

pub async fn a_soak_of_pods_on_containerd_leaves_what_the_agent_holds_flat(ground: Ground) -> Result<()> {
    let before = facts(&ground.vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let folders = [KUBELET_DIR, RUN_DIR, CDI_DIR].map(PathBuf::from).to_vec();
    let time = asked()?.unwrap_or(SHORT);
    let mut soak = Soak {
        node: &node,
        vfs: &ground.vfs,
        alive: VecDeque::new(),
        watch: Watch::start(node.agent_pid()?, folders, time, MEMORY, true),
        again: 0,
    };
    // The first of all makes folders that stay, and connections.
    soak.come().await?;
    soak.go().await?;
    let first = soak.watch.held()?;
    let soaked = soak.soak().await;
    let title = format!("QEMU guest, containerd, igb: {}", soak.watch.title(ALIVE));
    // Of one that failed it shows most.
    fs::write(Path::new("/share").join(PICTURE), soak.watch.curves.svg(&title))?;
    soaked?;
    println!("{title}; sandboxes asked for once more: {}", soak.again);
    for (name, drift) in soak.watch.curves.drifts() {
        println!("{name}, second tenth to last, medians: {drift}");
    }
    wait_as_before(&before, REST)?;
    let until = Instant::now() + REST;
    let last = loop {
        let last = soak.watch.held()?;
        let rests = last.files == first.files
            && last.namespaces == first.namespaces
            && last.descriptors.len() <= first.descriptors.len();
        if rests || Instant::now() >= until {
            break last;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    println!(
        "left over: 0 of {} VFs, {} files, {} namespaces, {} descriptors",
        before.len(),
        last.files.difference(&first.files).count(),
        last.namespaces.difference(&first.namespaces).count(),
        last.descriptors.len().saturating_sub(first.descriptors.len())
    );
    ensure!(last.files == first.files, "files were {:?}, are {:?}", first.files, last.files);
    ensure_no_more(&first, &last)?;
    soak.watch.curves.ensure_flat()
}

struct Soak<'a> {
    node: &'a Node,
    vfs: &'a [Vf],
    alive: VecDeque<(Sandbox, Claim, PodId, Vf)>,
    watch: Watch,
    /// Sandboxes that the runtime refused and made when asked again.
    again: u32,
}

impl Soak<'_> {
    async fn soak(&mut self) -> Result<()> {
        while !self.watch.is_over() {
            self.come().await.with_context(|| format!("pod {}", self.watch.pods))?;
            if self.alive.len() > ALIVE {
                self.go().await?;
            }
            self.watch.look()?;
        }
        while !self.alive.is_empty() {
            self.go().await?;
        }
        Ok(())
    }

    /// A pod with a claim of its own starts, is ready, and has its VF.
    async fn come(&mut self) -> Result<()> {
        let name = format!("soak-{}", self.watch.pods);
        let vf = self.vfs[self.watch.pods % self.vfs.len()];
        let pod = PodId::new(&name);
        let interface = json!({ "name": "fast0", "mtu": 1400, "addresses": ["10.9.0.1/24"] });
        let claim = self.node.claim(&name, &pod, &[vf], interface).await?;
        let at = Instant::now();
        let cdi_ids = self.node.prepare(&claim).await?;
        let prepare = at.elapsed();
        let sandbox = self.sandbox(&pod).await?;
        self.watch.came(prepare, sandbox.took);
        let container = self.node.start_container_in_the_end(&sandbox, &cdi_ids).await?;
        // A probe as the kubelet makes them.
        let probe = ["/bin/cat", "/sys/class/net/fast0/mtu"];
        let said = self.node.runtime.exec(&container, &probe).await?;
        ensure!(said.trim() == "1400", "the probe of {name} said {said:?}");
        let links = links_in(&sandbox.netns_name())?;
        let link = links.iter().find(|link| link.pci == Some(vf.pci));
        ensure!(
            link.is_some_and(|link| link.name == "fast0" && link.up && link.addresses == ["10.9.0.1/24"]),
            "VF {} of {name}: {links:?}",
            vf.pci
        );
        self.alive.push_back((sandbox, claim, pod, vf));
        Ok(())
    }

    /// RunPodSandbox until it is taken, as the kubelet repeats it.
    async fn sandbox(&mut self, pod: &PodId) -> Result<Sandbox> {
        let mut attempt = 0;
        loop {
            match self.node.runtime.run_pod(pod, attempt).await {
                Ok(sandbox) => return Ok(sandbox),
                Err(error) if attempt >= 2 => return Err(error.context("RunPodSandbox, three times")),
                Err(error) => {
                    println!("RunPodSandbox of {}: {error:#}", pod.name);
                    (attempt, self.again) = (attempt + 1, self.again + 1);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// The oldest pod is deleted.
    async fn go(&mut self) -> Result<()> {
        let (sandbox, claim, pod, vf) = self.alive.pop_front().context("a pod")?;
        let runtime = &self.node.runtime;
        runtime.stop_pod(&sandbox.id).await.with_context(|| format!("StopPodSandbox of {}", pod.name))?;
        let at = Instant::now();
        self.node.unprepare(&claim).await?;
        self.watch.went(at.elapsed());
        ensure!(netdev(vf.pci)?.is_some(), "VF {} is not back after {}", vf.pci, pod.name);
        runtime.remove_pod(&sandbox.id).await?;
        self.node.delete_claim(&claim).await?;
        Ok(fs::remove_dir_all(sandbox.logs())?)
    }
}
