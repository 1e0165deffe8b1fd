//! The driver is removed while pods have VFs, and comes back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::agent::DAEMONSET;
use crate::lab::Lab;
use crate::node::KUBELET_DIR;
use crate::pods::pod;
use crate::process::wait_for;
use crate::stages::cdi_file;

pub async fn without_the_driver_pods_restart_their_containers_and_with_it_vfs_come_back(
    lab: &mut Lab,
) -> Result<()> {
    lab.template(&Value::Null).await?;
    for name in ["stays", "goes"] {
        let mut pod = pod(name, "vf");
        // Else the API server forgets it before the kubelet is done with it.
        pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
        lab.create(&pod).await?;
        lab.check_pod("default", name).await?;
    }
    let stays = lab.check_pod("default", "stays").await?;
    let goes = lab.check_pod("default", "goes").await?;
    let claims = [lab.vf_of("stays").await?.0, lab.vf_of("goes").await?.0];
    lab.api.delete(DAEMONSET).await?;
    let told = without_the_driver(lab, &claims).await;
    if told.is_ok() {
        lab.sim.come_home(goes[0].pci, &goes[0].interface).await?;
    }
    // Also after a failure: the next story needs it.
    lab.install().await?;
    told?;
    let gone = wait_for(Duration::from_secs(120), "the deleted pod to go", async || {
        let (code, pod) =
            lab.api.ask("GET", "/api/v1/namespaces/default/pods/goes", "", &Value::Null).await?;
        ensure!(code == 404, "it is {}", pod["status"]["phase"]);
        Ok(())
    });
    gone.await?;
    let (now, was) = (lab.sim.on_host()?, &lab.sim.clean);
    ensure!(now.get(&goes[0].pci) == was.get(&goes[0].pci), "{:?}", now.get(&goes[0].pci));
    ensure!(!cdi_file(&claims[1]).exists(), "the CDI file of a claim that is over is left");
    ensure!(lab.check_pod("default", "stays").await? == stays, "the pod has other VFs than before");
    lab.wait_published().await?;
    lab.delete_pod("stays").await
}

async fn without_the_driver(lab: &Lab, claims: &[String]) -> Result<()> {
    wait_for(Duration::from_secs(60), "the agent to go", async || {
        let left = lab.api.list("/api/v1/namespaces/sriov-dra/pods").await?;
        ensure!(left.is_empty(), "{} agents are left", left.len());
        Ok(())
    })
    .await?;
    let plugin = Path::new(KUBELET_DIR).join("plugins/sriov-dra.io");
    for claim in claims {
        let files = [plugin.join("bin/hook"), plugin.join(format!("claims/{claim}.json")), cdi_file(claim)];
        for file in files {
            ensure!(file.exists(), "{} went with the agent", file.display());
        }
    }
    let before = lab.check_pod("default", "stays").await?;
    lab.restart_container("stays").await?;
    ensure!(lab.check_pod("default", "stays").await? == before, "the VF is another one than before");
    // Nobody gives its VF back: the pod hangs, and the kernel brings the VF home with the end of the namespace.
    lab.api.delete("/api/v1/namespaces/default/pods/goes").await?;
    wait_for(Duration::from_secs(60), "the deleted pod's sandbox to go", async || {
        ensure!(lab.runtime.sandbox("default", "goes").await.is_err(), "it is still there");
        Ok(())
    })
    .await?;
    let pod = lab.api.get("/api/v1/namespaces/default/pods/goes").await?;
    ensure!(!pod["metadata"]["deletionTimestamp"].is_null(), "it is not on its way out: {pod}");
    Ok(())
}
