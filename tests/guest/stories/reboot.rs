//! The node loses its power while pods have VFs. What is on the disk is there afterwards; memory, `/run` and every
//! namespace are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::containerd::{CDI_DIR, PodId, Sandbox};
use crate::host::{Link, Vf, facts, links_in, make_vfs, run, wait_as_before};
use crate::inside::Ground;
use crate::kubelet::Claim;
use crate::node::{KUBELET_DIR, Node, RUN_DIR};

const RETURN: Duration = Duration::from_secs(40);

/// What everybody who is not on the node knows: the API server, the kubelet's checkpoint, the runtime's store.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    boot: String,
    /// Claims as the API server has them.
    objects: Vec<Value>,
    /// CDI files.
    cdi: Vec<(PathBuf, String)>,
    running: Part,
    prepared: Part,
    over: Part,
}

/// One pod of the story.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    pod: String,
    claim: Claim,
    cdi_ids: Vec<String>,
    /// Of the boot before.
    sandbox: Option<String>,
}

pub async fn after_a_loss_of_power_pods_start_with_their_vfs_once_these_are_prepared_again(
    ground: Ground,
) -> Result<()> {
    match ground.memory.clone() {
        None => before(&ground).await,
        Some(memory) => after(&ground, serde_json::from_value(memory)?).await,
    }
}

fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?)
}

async fn before(ground: &Ground) -> Result<()> {
    let vfs = ground.of_one_pf();
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let mut parts = Vec::new();
    for (i, name) in ["running", "prepared", "over"].into_iter().enumerate() {
        let pod = PodId::new(name);
        let interface =
            json!({ "name": "fast0", "mtu": 1400, "addresses": [format!("10.9.0.{}/24", i + 1)] });
        let claim = node.claim(name, &pod, &vfs[i..=i], interface).await?;
        let (cdi_ids, sandbox) = if name == "prepared" {
            (node.prepare(&claim).await?, None)
        } else {
            let running = node.start_pod(&pod, &[&claim]).await?;
            ensure!(has(&running.sandbox, vfs[i])?, "pod {name} has no VF");
            (running.cdi_ids, Some(running.sandbox.id))
        };
        if i == 0 {
            // Of this claim every file is there after the boot; of the others only what the agent itself has synced.
            run("sync", &["--file-system", KUBELET_DIR])?;
        }
        parts.push(Part { pod: name.to_owned(), claim, cdi_ids, sandbox });
    }
    let mut objects = Vec::new();
    for part in &parts {
        objects.push(node.read_claim(&part.claim).await?);
    }
    let mut cdi = Vec::new();
    for file in fs::read_dir(CDI_DIR)? {
        let path = file?.path();
        cdi.push((path.clone(), fs::read_to_string(path)?));
    }
    ensure!(cdi.len() == 3, "three claims are prepared and there are {} CDI files", cdi.len());
    let [running, prepared, over] =
        <[Part; 3]>::try_from(parts).map_err(|_| anyhow::anyhow!("three pods"))?;
    let memory = Memory { boot: boot_id()?, objects, cdi, running, prepared, over };
    match ground.lose_power(serde_json::to_value(memory)?).await? {}
}

async fn after(ground: &Ground, memory: Memory) -> Result<()> {
    ensure!(memory.boot != boot_id()?, "this is the boot from before");
    let vfs = ground.of_one_pf();
    let runtime = &ground.runtime;
    for gone in [CDI_DIR, RUN_DIR] {
        let left = fs::read_dir(gone).map_or(0, Iterator::count);
        ensure!(left == 0, "{gone} outlived the boot with {left} files");
    }
    let plugin = Path::new(KUBELET_DIR).join("plugins/sriov-dra.io");
    for part in [&memory.running, &memory.prepared, &memory.over] {
        let entry = plugin.join(format!("claims/{}.json", part.claim.uid));
        ensure!(entry.exists(), "{} did not outlive the boot", entry.display());
    }
    let owner = plugin.join(format!("vf/{}.json", vfs[0].pci));
    ensure!(fs::metadata(&owner)?.len() > 0, "{} did not outlive the boot", owner.display());
    let mut node = Node::as_it_is(runtime).await?;
    for object in memory.objects {
        node.put_back(object)?;
    }

    // Nobody has prepared anything in this boot, and no agent runs.
    let fresh = facts(&vfs)?;
    let pod = PodId::new(&memory.running.pod);
    let early = runtime.run_pod(&pod, 1).await?;
    let said = refused(&node, &early, &memory.running).await?;
    ensure!(said.contains(&memory.running.cdi_ids[0]), "without CDI files the runtime says {said}");
    for (path, text) in &memory.cdi {
        fs::write(path, text)?;
    }
    let said = refused(&node, &early, &memory.running).await?;
    ensure!(said.contains("must not start without its VFs"), "the hook of an old CDI file says {said}");
    ensure!(said.contains("not prepared"), "the hook of an old CDI file says {said}");
    wait_as_before(&fresh, Duration::ZERO)?;

    // The agent comes up before whoever makes the VFs.
    fs::write(format!("/sys/bus/pci/devices/{}/sriov_numvfs", vfs[0].pf), "0")?;
    node.start_agent().await?;
    let damaged = fs::read_dir(plugin.join("quarantine")).map_or(0, Iterator::count);
    ensure!(damaged == 0, "{damaged} files of the ledger are taken for damaged after a loss of power");
    let said = node.prepare(&memory.running.claim).await;
    let said = said.map(|ids| format!("{ids:?}")).unwrap_or_else(|error| format!("{error:#}"));
    ensure!(
        said.contains(&format!("{} does not exist", vfs[0].pci.device_name())),
        "without VFs Prepare says {said}"
    );
    node.unprepare(&memory.over.claim).await.context("the claim of a pod that is over, without its VF")?;
    let count = u32::try_from(vfs.len())?;
    ensure!(make_vfs(&[vfs[0].pf], count)? == vfs, "the VFs have other addresses");
    node.wait_published(ground.vfs.len()).await?;
    let fresh = facts(&vfs)?;
    let said = refused(&node, &early, &memory.running).await?;
    ensure!(said.contains("not prepared"), "an agent that was not asked to prepare says {said}");
    let idle = PodId::new(&memory.prepared.pod);
    let said = match runtime.run_pod(&idle, 1).await {
        Err(error) => format!("{error:#}"),
        // Older runtimes let a sandbox go on that a plugin refused.
        Ok(sandbox) => refused(&node, &sandbox, &memory.prepared).await?,
    };
    ensure!(said.contains("not prepared"), "a sandbox before its Prepare: {said}");
    wait_as_before(&fresh, Duration::ZERO)?;

    // What a kubelet does after a boot: old sandboxes are over, claims are prepared again, pods get new sandboxes.
    runtime.stop_pod(&early.id).await?;
    let mut running = Vec::new();
    for (part, vf, address) in
        [(&memory.running, vfs[0], "10.9.0.1/24"), (&memory.prepared, vfs[1], "10.9.0.2/24")]
    {
        let cdi_ids = node.prepare(&part.claim).await?;
        ensure!(cdi_ids == part.cdi_ids, "CDI names changed from {:?} to {cdi_ids:?}", part.cdi_ids);
        let sandbox = runtime.run_pod(&PodId::new(&part.pod), 2).await?;
        let container = node.start_container_in_the_end(&sandbox, &cdi_ids).await?;
        let shown = runtime.exec(&container, &["/bin/ip", "address", "show", "fast0"]).await?;
        ensure!(shown.contains(address), "pod {} shows {shown}", part.pod);
        running.push((part, vf, sandbox));
    }
    // The runtime knows the sandboxes of the boot before, and the kubelet stops them once more.
    for old in [&memory.running, &memory.over].into_iter().filter_map(|part| part.sandbox.as_ref()) {
        runtime.stop_pod(old).await?;
        runtime.remove_pod(old).await?;
    }
    for (part, vf, sandbox) in &running {
        ensure!(has(sandbox, *vf)?, "pod {} lost its VF to the end of an old sandbox", part.pod);
        runtime.stop_pod(&sandbox.id).await?;
        node.unprepare(&part.claim).await?;
    }
    wait_as_before(&fresh, RETURN)?;
    for part in [&memory.running, &memory.prepared, &memory.over] {
        let traces = node.traces_of(&part.claim);
        ensure!(traces.is_empty(), "of claim {} there is still {traces:?}", part.claim.name);
    }
    Ok(())
}

/// The sentence by which a container that must not start is refused.
async fn refused(node: &Node, sandbox: &Sandbox, part: &Part) -> Result<String> {
    match node.runtime.start_container(sandbox, "early", &part.cdi_ids).await {
        Ok(_) => bail!("a container of claim {} started before its Prepare", part.claim.name),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn has(sandbox: &Sandbox, vf: Vf) -> Result<bool> {
    let there = |link: &Link| link.pci == Some(vf.pci) && link.name == "fast0" && link.mtu == 1400 && link.up;
    Ok(links_in(&sandbox.netns_name())?.iter().any(there))
}
