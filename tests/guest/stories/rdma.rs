//! RDMA devices of VFs: soft RoCE that hangs below a VF and moves as a NIC's does. Its traffic does not flow in namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::admin::sent_by;
use crate::containerd::{OWN, PodId, destroy_netns};
use crate::host::{Vf, facts, netdev, run, wait_as_before, wait_for};
use crate::inside::{Ground, NotHere};
use crate::node::{Node, Running};

const RETURN: Duration = Duration::from_secs(40);
/// `RDMA_NLDEV_CMD_SET` of client 5, include/uapi/rdma/rdma_netlink.h.
const SET: u16 = (5 << 10) | 2;
const UNLIMITED: &str = "unlimited";

/// Soft RoCE on VFs, `rxe0` and so on, which goes with this value.
pub(super) struct SoftRoce {
    names: Vec<String>,
}

impl SoftRoce {
    pub(super) fn on(vfs: &[Vf]) -> Result<Self> {
        let modules = ["crc32_generic", "crc32c_generic", "ib_uverbs", "ib_umad", "rdma_ucm", "rdma_rxe"];
        run("modprobe", &[&["-a"][..], &modules].concat())?;
        let mut made = Self { names: Vec::new() };
        for (n, vf) in vfs.iter().enumerate() {
            let (name, link) = (format!("rxe{n}"), netdev(vf.pci)?.context("a VF on the host")?);
            run("rdma", &["link", "add", &name, "type", "rxe", "netdev", &link])?;
            made.names.push(name.clone());
            if !below(vf, "infiniband").join(name).exists() {
                return Err(NotHere("the image has no soft RoCE that behaves like a NIC's".to_owned()).into());
            }
        }
        Ok(made)
    }

    fn remove(&mut self, n: usize) -> Result<()> {
        run("rdma", &["link", "delete", &self.names[n]]).map(drop)
    }
}

impl Drop for SoftRoce {
    fn drop(&mut self) {
        for name in &self.names {
            // Some are gone.
            let _ = run("rdma", &["link", "delete", name]);
        }
    }
}

fn below(vf: &Vf, folder: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(vf.pci.to_string()).join(folder)
}

/// Devices that a namespace lists, by `rdma`; the host's without a name.
fn devices(netns: Option<&str>) -> Result<BTreeSet<String>> {
    let shown = match netns {
        Some(netns) => run("ip", &["netns", "exec", netns, "rdma", "-j", "dev"])?,
        None => run("rdma", &["-j", "dev"])?,
    };
    let shown: Value = serde_json::from_str(if shown.trim().is_empty() { "[]" } else { &shown })?;
    let name = |device: &Value| device["ifname"].as_str().unwrap_or_default().to_owned();
    Ok(shown.as_array().context("a list of devices")?.iter().map(name).collect())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The character device of a VF in a class, by sysfs: its name, major and minor number.
fn char_device(vf: &Vf, class: &str) -> Result<(String, u32, u32)> {
    let entry = fs::read_dir(below(vf, class))?.next().context("a character device")??;
    let numbers = fs::read_to_string(entry.path().join("dev"))?;
    let (major, minor) = numbers.trim().split_once(':').context("two numbers")?;
    Ok((entry.file_name().to_string_lossy().into_owned(), major.parse()?, minor.parse()?))
}

/// What a container has in /dev/infiniband: name, major and minor number.
async fn nodes(node: &Node, container: &str) -> Result<Vec<(String, u32, u32)>> {
    let listed = node.runtime.exec(container, &["/bin/ls", "/dev/infiniband"]).await?;
    let mut nodes = Vec::new();
    for name in listed.split_whitespace() {
        let path = format!("/dev/infiniband/{name}");
        let stat = ["/bin/busybox", "stat", "-c", "%t %T", &path];
        let numbers = node.runtime.exec(container, &stat).await?;
        let (major, minor) = numbers.trim().split_once(' ').context("two numbers")?;
        nodes.push((name.to_owned(), u32::from_str_radix(major, 16)?, u32::from_str_radix(minor, 16)?));
    }
    Ok(nodes)
}

/// Soft and hard limit of locked memory in a file of limits.
fn memlock(text: &str) -> Result<(String, String)> {
    let line = text.lines().find_map(|line| line.split_once("Max locked memory")).context("a limit")?.1;
    let mut words = line.split_whitespace().map(str::to_owned);
    Ok((words.next().context("soft")?, words.next().context("hard")?))
}

/// Of a command that is run in a container, and of the first process of one that is made.
async fn limits(
    node: &Node,
    running: &Running,
    user: i64,
    cdi_ids: &[String],
) -> Result<[(String, String); 2]> {
    let (runtime, sandbox) = (&node.runtime, &running.sandbox);
    let sleeps = runtime.start_as(user, sandbox, "sleeps", cdi_ids, &["/bin/sleep", "100000"]).await?;
    let id = runtime.exec(&sleeps, &["/bin/busybox", "id", "-u"]).await?;
    ensure!(id.trim() == user.to_string(), "the container's user is {id}");
    let run = memlock(&runtime.exec(&sleeps, &["/bin/cat", "/proc/self/limits"]).await?)?;
    let name = format!("tells{user}-{}", cdi_ids.len());
    let tells = runtime.start_as(user, sandbox, &name, cdi_ids, &["/bin/cat", "/proc/self/limits"]).await?;
    let (code, said) = runtime.wait_ended(sandbox, &name, &tells).await?;
    ensure!(code == 0, "it ended with {code}: {said}");
    Ok([run, memlock(&said)?])
}

fn all(limit: &str) -> [(String, String); 2] {
    let both = (limit.to_owned(), limit.to_owned());
    [both.clone(), both]
}

pub async fn what_moves_a_device_is_what_this_rdma_sends_byte_by_byte(ground: Ground) -> Result<()> {
    let _roce = SoftRoce::on(&ground.vfs[..1])?;
    run("ip", &["netns", "add", "there"])?;
    run("ip", &["netns", "attach", "home", "1"])?;
    let home = || run("ip", &["netns", "exec", "there", "rdma", "dev", "set", "rxe0", "netns", "home"]);
    let ours = sent_by(SET, &[OWN, "--move-rdma", "rxe0", "/run/netns/there"])?;
    ensure!(devices(Some("there"))? == set(&["rxe0"]), "it is not there");
    home()?;
    let theirs = sent_by(SET, &["rdma", "dev", "set", "rxe0", "netns", "there"])?;
    home()?;
    run("ip", &["netns", "delete", "there"])?;
    run("ip", &["netns", "delete", "home"])?;
    // The last four bytes are the number of a file.
    ensure!(ours.len() == 24 && ours[..20] == theirs[..20], "we send {ours:02x?}\nrdma sends {theirs:02x?}");
    ensure!(ours.len() == theirs.len(), "we send {ours:02x?}\nrdma sends {theirs:02x?}");
    Ok(())
}

pub async fn rdma_devices_of_pods_started_crosswise_are_in_them_and_containers_have_their_numbers(
    ground: Ground,
) -> Result<()> {
    let vfs = ground.of_one_pf();
    let mut roce = SoftRoce::on(&vfs[..3])?;
    ensure!(run("rdma", &["system", "show"])?.contains("netns exclusive"), "the node is not exclusive");
    let before = facts(&vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pods = [PodId::new("one"), PodId::new("two")];
    let (mut claims, mut cdi_ids) = (Vec::new(), Vec::new());
    for (n, pod) in pods.iter().enumerate() {
        let config = json!({ "rdma": { "mode": "namespace", "umad": true } });
        let claim = node.claim_with(&format!("claim-{n}"), pod, &vfs[n + 1..=n + 1], config).await?;
        cdi_ids.push(node.prepare(&claim).await?);
        claims.push(claim);
    }
    let prepared = [char_device(&vfs[1], "infiniband_verbs")?, char_device(&vfs[2], "infiniband_verbs")?];
    // Now a number is free that is lower than both: the first that is moved gets it, and the second gets the first one's.
    roce.remove(0)?;
    let first = node.runtime.run_pod(&pods[0], 0).await?;
    let second = node.runtime.run_pod(&pods[1], 0).await?;
    ensure!(char_device(&vfs[2], "infiniband_verbs")? == prepared[0], "the moves did not cross");
    let mut seen = Vec::new();
    for (n, sandbox) in [(1, &second), (0, &first)] {
        let (vf, name) = (&vfs[n + 1], format!("rxe{}", n + 1));
        let container = node.start_container_in_the_end(sandbox, &cdi_ids[n]).await?;
        let there = devices(Some(&sandbox.netns_name()))?;
        ensure!(there == set(&[&name]), "the pod has {there:?}");
        let (uverbs, umad) = (char_device(vf, "infiniband_verbs")?, char_device(vf, "infiniband_mad")?);
        ensure!(uverbs != prepared[n], "the move changed nothing: {uverbs:?}");
        let nodes = nodes(&node, &container).await?;
        let names: BTreeSet<&str> = nodes.iter().map(|(name, ..)| name.as_str()).collect();
        ensure!(names == BTreeSet::from(["rdma_cm", &uverbs.0, &umad.0]), "the container has {nodes:?}");
        ensure!(nodes.contains(&uverbs) && nodes.contains(&umad), "{nodes:?} are not {uverbs:?}, {umad:?}");
        let open = format!("exec 3<>/dev/infiniband/{} 4<>/dev/infiniband/rdma_cm", uverbs.0);
        node.runtime.exec(&container, &["/bin/sh", "-c", &open]).await?;
        // Nobody keeps a container from making a node with another's number; the device cgroup keeps it from opening that.
        seen.push((container, uverbs));
    }
    let ((container, _), (_, (_, major, minor))) = (&seen[1], &seen[0]);
    let make = format!("/bin/busybox mknod /tmp/other c {major} {minor} && exec 3<>/tmp/other");
    let refused = node.runtime.exec(container, &["/bin/sh", "-c", &make]).await;
    let sentence = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(sentence.contains("Operation not permitted"), "the other pod's device: {sentence:?}");
    ensure!(devices(None)? == set(&[]), "the host has {:?}", devices(None)?);
    let status = node.read_claim(&claims[0]).await?;
    let message = status["status"]["devices"][0]["conditions"][0]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("with RDMA device rxe1"), "the status says {message:?}");

    for (claim, sandbox) in claims.iter().zip([&first, &second]) {
        node.runtime.stop_pod(&sandbox.id).await?;
        node.unprepare(claim).await?;
        ensure!(node.traces_of(claim).is_empty(), "of the claim there is still {:?}", node.traces_of(claim));
    }
    wait_as_before(&before, RETURN)?;
    ensure!(devices(None)? == set(&["rxe1", "rxe2"]), "the host has {:?}", devices(None)?);
    Ok(())
}

pub async fn containers_of_an_rdma_device_may_lock_all_memory_whoever_their_user_is(
    ground: Ground,
) -> Result<()> {
    let vfs = ground.of_one_pf();
    let _roce = SoftRoce::on(&vfs[..2])?;
    let before = facts(&vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("locks");
    let auto = node.claim_with("claim-auto", &pod, &vfs[..1], json!({})).await?;
    let running = node.start_pod(&pod, &[&auto]).await?;
    for user in [0, 1000] {
        let told = limits(&node, &running, user, &running.cdi_ids).await?;
        ensure!(told == all(UNLIMITED), "user {user} may lock {told:?}");
    }
    // A container of the pod without the claim is left as the runtime has it.
    let of_runtime = memlock(&fs::read_to_string("/proc/self/limits")?)?;
    let beside = limits(&node, &running, 0, &[]).await?;
    ensure!(beside == [of_runtime.clone(), of_runtime], "beside it {beside:?} may be locked");

    let other = PodId::new("bytes");
    let config = json!({ "rdma": { "memlock": "64Mi" } });
    let bytes = node.claim_with("claim-bytes", &other, &vfs[1..2], config).await?;
    let limited = node.start_pod(&other, &[&bytes]).await?;
    let told = limits(&node, &limited, 1000, &limited.cdi_ids).await?;
    ensure!(told == all("67108864"), "64Mi are {told:?}");
    for (claim, sandbox) in [(&auto, &running.sandbox), (&bytes, &limited.sandbox)] {
        node.runtime.stop_pod(&sandbox.id).await?;
        node.unprepare(claim).await?;
    }
    wait_as_before(&before, RETURN)
}

pub async fn an_rdma_device_whose_namespace_dies_is_on_the_host_again_with_its_vf(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let _roce = SoftRoce::on(vfs)?;
    let before = facts(vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("dying");
    let claim = node.claim("claim-dying", &pod, vfs, json!({ "name": "fast0" })).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    ensure!(devices(None)? == set(&[]), "the host has {:?}", devices(None)?);
    destroy_netns(&running.sandbox)?;
    wait_for(RETURN, "the kernel to give the RDMA device back", || Ok(devices(None)? == set(&["rxe0"])))?;
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    // It is as good as before.
    let again = node.claim_with("claim-again", &pod, vfs, json!({ "rdma": { "mode": "namespace" } })).await?;
    let sandbox = {
        let ids = node.prepare(&again).await?;
        let sandbox = node.runtime.run_pod(&pod, 1).await?;
        node.start_container_in_the_end(&sandbox, &ids).await?;
        sandbox
    };
    ensure!(devices(Some(&sandbox.netns_name()))? == set(&["rxe0"]), "the next pod has none");
    node.runtime.stop_pod(&sandbox.id).await?;
    ensure!(devices(None)? == set(&["rxe0"]), "after the stop the host has {:?}", devices(None)?);
    node.unprepare(&again).await?;
    wait_as_before(&before, RETURN)
}

pub async fn an_rdma_device_comes_back_when_the_agent_was_killed_while_its_pod_ran(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let _roce = SoftRoce::on(vfs)?;
    let before = facts(vfs)?;
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("orphan");
    let claim = node.claim("claim-orphan", &pod, vfs, json!({ "name": "fast0" })).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    node.kill_agent()?;
    node.start_agent().await?;
    ensure!(
        devices(Some(&running.sandbox.netns_name()))? == set(&["rxe0"]),
        "it was taken from a running pod"
    );
    let again = node.runtime.start_container(&running.sandbox, "again", &running.cdi_ids).await?;
    let uverbs = char_device(&vfs[0], "infiniband_verbs")?;
    let has = nodes(&node, &again).await?;
    ensure!(has.contains(&uverbs), "the next agent gives {has:?}, not {uverbs:?}");
    node.kill_agent()?;
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.start_agent().await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)?;
    ensure!(devices(None)? == set(&["rxe0"]), "the host has {:?}", devices(None)?);
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}

pub async fn no_container_starts_without_its_rdma_device_while_no_agent_runs(ground: Ground) -> Result<()> {
    let vfs = &ground.of_one_pf()[..1];
    let _roce = SoftRoce::on(vfs)?;
    let before = facts(vfs)?;
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("alone");
    let claim = node.claim_with("claim-alone", &pod, vfs, json!({})).await?;
    let cdi_ids = node.prepare(&claim).await?;
    node.kill_agent()?;
    let sandbox = node.runtime.run_pod(&pod, 0).await?;
    let refused = node.runtime.start_container(&sandbox, "main", &cdi_ids).await;
    let Err(error) = refused else { bail!("a container started without its RDMA device") };
    let sentence = format!("{error:#}");
    ensure!(sentence.contains("RDMA device rxe0 is not in the pod's network namespace"), "{sentence}");
    wait_as_before(&before, RETURN)?;
    node.start_agent().await?;
    let container = node.start_container_in_the_end(&sandbox, &cdi_ids).await?;
    let uverbs = char_device(&vfs[0], "infiniband_verbs")?;
    ensure!(nodes(&node, &container).await?.contains(&uverbs), "with an agent it has its node");
    // What was made before the agent died starts again without it only with the right nodes: these are.
    node.runtime.stop_pod(&sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)
}

pub async fn where_rdma_devices_are_shared_pods_have_the_nodes_of_theirs_and_a_verbs_ping_runs_on_the_host(
    ground: Ground,
) -> Result<()> {
    let vfs = ground.of_one_pf();
    let _roce = SoftRoce::on(&vfs[..2])?;
    ensure!(run("rdma", &["system", "show"])?.contains("netns shared"), "the node is not in shared mode");
    for vf in &vfs[..2] {
        run("ip", &["link", "set", &netdev(vf.pci)?.context("on the host")?, "up"])?;
    }
    let active = || Ok(run("rdma", &["link"])?.matches("state ACTIVE").count() == 2);
    wait_for(Duration::from_secs(20), "the ports to be active", active)?;
    // By the addresses of the links themselves: by others the kernel would not leave the machine.
    let server = ["-d", "rxe0", "-g", "0", "-n", "50", "-p", "18515"];
    let mut pong = Command::new("ibv_rc_pingpong").args(server).spawn()?;
    let client = ["-d", "rxe1", "-g", "0", "-n", "50", "-p", "18515", "127.0.0.1"];
    let pinged = wait_for(Duration::from_secs(60), "a verbs ping", || {
        let said = run("timeout", &[&["20", "ibv_rc_pingpong"][..], &client].concat())?;
        Ok(said.contains("50 iters"))
    });
    let _ = pong.kill();
    pong.wait()?;
    pinged?;
    for vf in &vfs[..2] {
        run("ip", &["link", "set", &netdev(vf.pci)?.context("on the host")?, "down"])?;
    }

    let before = facts(&vfs)?;
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let pod = PodId::new("shared");
    let wanted = json!({ "rdma": { "mode": "namespace" } });
    let refused = node.claim_with("claim-refused", &pod, &vfs[1..2], wanted).await?;
    let Err(error) = node.prepare(&refused).await else { bail!("a shared device was promised") };
    let sentence = format!("{error:#}");
    ensure!(sentence.contains("boot the node with the module option ib_core netns_mode=0"), "{sentence}");
    node.unprepare(&refused).await?;
    let without =
        node.claim_with("claim-without", &pod, &vfs[2..3], json!({ "rdma": { "mode": "chardev" } })).await?;
    let Err(error) = node.prepare(&without).await else {
        bail!("a VF without RDMA device was promised with one")
    };
    let sentence = format!("{error:#}");
    ensure!(sentence.contains("has no RDMA device"), "{sentence}");
    node.unprepare(&without).await?;

    let claim = node.claim_with("claim-shared", &pod, &vfs[1..2], json!({})).await?;
    let running = node.start_pod(&pod, &[&claim]).await?;
    let uverbs = char_device(&vfs[1], "infiniband_verbs")?;
    let has = nodes(&node, &running.container).await?;
    ensure!(has.len() == 2 && has.contains(&uverbs) && has[0].0 == "rdma_cm", "the container has {has:?}");
    let open = format!("exec 3<>/dev/infiniband/{}", uverbs.0);
    node.runtime.exec(&running.container, &["/bin/sh", "-c", &open]).await?;
    let told = limits(&node, &running, 0, &running.cdi_ids).await?;
    ensure!(told == all(UNLIMITED), "it may lock {told:?}");
    node.runtime.stop_pod(&running.sandbox.id).await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)
}
