//! What NCCL and UCX find in a container: variables and a topology file, given by a real runtime.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::rdma::SoftRoce;
use crate::containerd::PodId;
use crate::host::{facts, wait_as_before};
use crate::inside::Ground;
use crate::node::Node;

const RETURN: Duration = Duration::from_secs(40);

/// The config of the claims in examples/nccl.yaml; names and addresses of this story's own.
fn config() -> Result<Value> {
    let text = include_str!("../../../examples/nccl.yaml");
    let template = text.split("\n---\n").find(|part| part.contains("kind: ResourceClaimTemplate"));
    let template: Value = serde_saphyr::from_str(template.context("a template")?)?;
    let parameters = &template["spec"]["spec"]["devices"]["config"][0]["opaque"]["parameters"];
    ensure!(parameters["rdma"]["nccl"]["topology"] == true, "the example says {parameters}");
    Ok(serde_json::json!({ "rdma": parameters["rdma"] }))
}

pub async fn a_container_is_told_its_own_rdma_devices_and_reads_where_they_are_from_a_file_it_can_not_change(
    ground: Ground,
) -> Result<()> {
    let vfs = ground.of_one_pf();
    let before = facts(&vfs)?;
    let roce = SoftRoce::on(&vfs)?;
    let node = Node::start(&ground.runtime, vfs.len()).await?;
    let pod = PodId::new("trainer");
    let one = node.claim_with("one", &pod, &vfs[..1], config()?).await?;
    let other = node.claim_with("other", &pod, &vfs[2..], serde_json::json!({})).await?;
    let running = node.start_pod(&pod, &[&one, &other]).await?;
    let sealed = node.runtime.start_sealed(&running.sandbox, "sealed", &running.cdi_ids).await?;
    let exec = |command: Vec<&'static str>| {
        let (runtime, sealed) = (node.runtime.clone(), sealed.clone());
        async move { runtime.exec(&sealed, &command).await }
    };

    let env = exec(vec!["/bin/env"]).await?;
    for line in [
        "NCCL_IB_HCA==rxe0:1,rxe2:1",
        "UCX_NET_DEVICES=rxe0:1,rxe2:1",
        "NCCL_TOPO_FILE=/run/sriov-dra/nccl-topology.xml",
    ] {
        ensure!(env.lines().any(|found| found == line), "{line} is not in {env}");
    }
    let file = exec(vec!["/bin/sh", "-c", "cat $NCCL_TOPO_FILE"]).await?;
    ensure!(file.starts_with("<system version=\"1\">\n"), "{file}");
    let place = format!("<pci busid=\"{}\" class=\"0x020000\" vendor=\"0x8086\"", vfs[0].pf);
    let at = |text: &str| file.find(text).with_context(|| format!("{text} in {file}"));
    let (pci, first, second) = (at(&place)?, at("<net name=\"rxe0\"")?, at("<net name=\"rxe2\"")?);
    ensure!(pci < first && first < second && !file.contains("rxe1"), "{file}");
    ensure!(file.matches("<nic>").count() == 1, "two VFs of one port: {file}");

    let root = exec(vec!["/bin/sh", "-c", "echo x > /x"]).await;
    let changed = exec(vec!["/bin/sh", "-c", "echo x > $NCCL_TOPO_FILE"]).await;
    for refused in [root, changed] {
        let sentence = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(sentence.contains("Read-only file system"), "a write ends with {sentence:?}");
    }
    // The pod's other container has a file of its own with the same.
    let main =
        node.runtime.exec(&running.container, &["/bin/cat", "/run/sriov-dra/nccl-topology.xml"]).await?;
    ensure!(main == file, "{main}");

    node.runtime.stop_pod(&running.sandbox.id).await?;
    for claim in [&one, &other] {
        node.unprepare(claim).await?;
        ensure!(node.traces_of(claim).is_empty(), "of the claim there is still {:?}", node.traces_of(claim));
    }
    let left = std::fs::read_dir("/run/sriov-dra.io/containers")?.count();
    ensure!(left == 0, "{left} folders of containers are left");
    drop(roce);
    wait_as_before(&before, RETURN)
}
