//! `sriov-dra doctor` on a real node: a real IOMMU, real PFs, a runtime that answers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sriov_dra::cli::image::{archive, driver_image};

use crate::host::{netdev, run};
use crate::inside::Ground;
use crate::node::{AGENT, KUBELET_DIR, Node};

const TAG: &str = "localhost/sriov-dra:doctor";
/// Of warnings, of faults.
const WARNING: i32 = 3;
const FAULT: i32 = 4;

/// A command's exit status and report; nothing else is on standard output.
fn examined(command: &mut Command) -> Result<(i32, Value)> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stdout)))?;
    Ok((output.status.code().context("an exit status")?, report))
}

fn doctor() -> Result<(i32, Value)> {
    examined(Command::new(AGENT).args(["doctor", "-o", "json", "--kubelet-dir", KUBELET_DIR]))
}

/// `state: what was seen`.
fn line(report: &Value, check: &str) -> Result<String> {
    let lines = report["lines"].as_array().context("lines")?;
    let line =
        lines.iter().find(|line| line["check"] == check).with_context(|| format!("no line {check}"))?;
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    Ok(format!("{}: {}", text("state"), text("seen")))
}

fn expect(report: &Value, wanted: &[(&str, &str)]) -> Result<()> {
    for (check, start) in wanted {
        let found = line(report, check)?;
        ensure!(found.starts_with(start), "{check} is {found:?} and not {start:?} in {report:#}");
    }
    Ok(())
}

pub async fn the_doctor_finds_this_node_well_from_outside_and_from_a_pod_and_names_what_is_broken(
    ground: Ground,
) -> Result<()> {
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let well = [
        ("kernel", "ok: 6."),
        ("iommu", "ok: in use, "),
        ("sriov", "ok: 2 PFs with room for 14 VFs"),
        ("vfs", "ok: 6 VFs"),
        ("drivers", "ok: VFs are bound to igbvf"),
        ("offered", "ok: 6 VFs"),
        ("rdma", "ok: no RDMA device here"),
        ("runtime", "ok: containerd "),
        ("nri", "ok: the runtime listens on /var/run/nri/nri.sock"),
        ("cdi", "ok: on; files in /var/run/cdi"),
        ("hook", "ok: /disk/kubelet/plugins/sriov-dra.io/bin/hook is there and can be run"),
        ("agent", "ok: runs (PID "),
        ("device-plugin", "ok: none offers VFs"),
        // What plays the kubelet here is no process of that name.
        ("kubelet", "warning: /disk/kubelet is there, but no process kubelet"),
    ];
    let (status, report) = doctor()?;
    expect(&report, &well)?;
    ensure!(status == WARNING, "the status is {status}: {report:#}");
    from_a_pod(&ground, &report)?;

    // Things that break on nodes, one after the other; each is put right by the command that is named for it.
    let pf = netdev(ground.vfs[0].pf)?.context("the PF has a netdev")?;
    run("ip", &["link", "set", &pf, "down"])?;
    expect(&doctor()?.1, &[("vfs", &format!("warning: {pf} is down"))])?;
    mend("vfs")?;
    expect(&doctor()?.1, &[("vfs", "ok: ")])?;

    let plugins = format!("{KUBELET_DIR}/plugins");
    run("mount", &["--bind", &plugins, &plugins])?;
    run("mount", &["-o", "remount,bind,noexec", &plugins])?;
    let (status, report) = doctor()?;
    let broken = expect(&report, &[("hook", "fault: ")]).and_then(|()| {
        ensure!(line(&report, "hook")?.contains("which is mounted noexec"), "{report:#}");
        ensure!(status == FAULT, "with a fault the status is {status}");
        mend("hook")?;
        expect(&doctor()?.1, &[("hook", "ok: ")])
    });
    run("umount", &[&plugins])?;
    broken?;

    let folder = Path::new(KUBELET_DIR).join("device-plugins");
    fs::create_dir_all(&folder)?;
    let theirs = format!(
        "{{\"Data\":{{\"PodDeviceEntries\":null,\"RegisteredDevices\":{{\"intel.com/vf\":[\"{}\"]}}}},\"Checksum\":1}}",
        ground.vfs[1].pci
    );
    fs::write(folder.join("kubelet_internal_checkpoint"), theirs)?;
    let (status, report) = doctor()?;
    fs::remove_dir_all(folder)?;
    expect(
        &report,
        &[("device-plugin", "fault: resource intel.com/vf of a device plugin offers 1 of these VFs")],
    )?;
    ensure!(status == FAULT, "with a fault the status is {status}");
    drop(node);
    Ok(())
}

/// Does what the report says of a check; there is no sudo here.
fn mend(check: &str) -> Result<()> {
    let (_, report) = doctor()?;
    let lines = report["lines"].as_array().context("lines")?;
    let line = lines.iter().find(|line| line["check"] == check).context("the line")?;
    let command = line["mend"][0].as_str().context("a command")?;
    run("sh", &["-c", &command.replace("sudo ", "")]).map(drop)
}

/// As `kubectl exec` in the DaemonSet's pod: the image with nothing but the binary, the mounts, rights and namespaces of
/// manifests/daemonset.yaml. It sees the same node.
fn from_a_pod(ground: &Ground, outside: &Value) -> Result<()> {
    let image = archive(&driver_image(TAG, "amd64", fs::read(AGENT)?))?;
    ground.runtime.import("sriov-dra-doctor.tar", &image)?;
    let release = ground.runtime.release();
    let mut command = Command::new(format!("{}/ctr", release.programs));
    command.args(["--address", release.socket, "-n", "k8s.io", "run", "--rm", "--privileged", "--net-host"]);
    command.args(["--with-ns", "pid:/proc/1/ns/pid", "--read-only"]);
    for folder in
        ["/sys", "/disk/kubelet/plugins", "/disk/kubelet/plugins_registry", "/var/run/cdi", "/var/run/nri"]
    {
        command.args(["--mount", &format!("type=bind,src={folder},dst={folder},options=rbind:rw")]);
    }
    command.args([TAG, "doctor", "/sriov-dra", "doctor", "-o", "json", "--kubelet-dir", KUBELET_DIR]);
    let (status, inside) = examined(&mut command)?;
    ensure!(status == WARNING, "in a pod the status is {status}: {inside:#}");
    ensure!(inside == *outside, "in a pod it sees {inside:#}\noutside of it {outside:#}");
    Ok(())
}
