//! Pods at each stage of their start, held there until they are let go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sriov_dra::device::PciAddress;

use crate::apply;
use crate::lab::Lab;
use crate::node::{BUSYBOX, GATED};
use crate::pods::{Given, pod};
use crate::process::wait_for;
use crate::sim::links;

/// The claim's CDI file, which is there while it is prepared.
pub fn cdi_file(claim_uid: &str) -> PathBuf {
    Path::new("/run/cdi").join(format!("sriov-dra.io-vf_{claim_uid}.json"))
}

/// Three pods: one that runs, one whose sandbox has its VF and whose container waits for an init container, one whose
/// claim is prepared and that has no sandbox yet.
#[derive(Debug)]
pub struct Stages {
    /// Name of the pod that runs.
    pub runs: String,
    waits: String,
    prepared: String,
    /// What the first has.
    pub given: Vec<Given>,
    /// Whose is what the last will have.
    prepared_vf: PciAddress,
}

impl Stages {
    /// Makes them, from the template `vf`.
    ///
    /// # Errors
    /// What does not come as far as it should, or further.
    pub async fn hold(lab: &Lab, tag: &str) -> Result<Self> {
        let [runs, waits, prepared] = ["runs", "waits", "prepared"].map(|stage| format!("{tag}-{stage}"));
        let class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": GATED }, "handler": GATED,
        });
        apply::object(&lab.api, "", &class).await?;
        lab.real()?.node.close_gate()?;
        lab.create(&pod(&runs, "vf")).await?;
        let mut waiting = pod(&waits, "vf");
        let until = "until [ -e /go ]; do sleep 0.1; done";
        waiting["spec"]["initContainers"] =
            json!([{ "name": "gate", "image": BUSYBOX, "command": ["sh", "-c", until] }]);
        lab.create(&waiting).await?;
        let mut gated = pod(&prepared, "vf");
        gated["spec"]["runtimeClassName"] = json!(GATED);
        lab.create(&gated).await?;

        let given = lab.check_pod("default", &runs).await?;
        wait_for(Duration::from_secs(60), "the init container", async || {
            let vf = lab.vf_of(&waits).await?.1;
            lab.runtime.container("default", &waits, "gate").await?;
            let sandbox = lab.runtime.sandbox("default", &waits).await?;
            let inside = links(sandbox.netns.as_deref())?;
            ensure!(inside.iter().any(|link| link.alias == vf.to_string()), "{vf} is not among {inside:?}");
            Ok(())
        })
        .await?;
        let prepared_vf = wait_for(Duration::from_secs(60), "a prepared claim", async || {
            let (claim, vf) = lab.vf_of(&prepared).await?;
            ensure!(cdi_file(&claim).exists(), "claim {claim} has no CDI file");
            ensure!(lab.sim.on_host()?.contains_key(&vf), "VF {vf} is not on the host");
            Ok(vf)
        })
        .await?;
        let stages = Self { runs, waits, prepared, given, prepared_vf };
        stages.check_held(lab).await?;
        Ok(stages)
    }

    /// That the first runs with its VF, and that the others still wait.
    ///
    /// # Errors
    /// What is not so.
    pub async fn check_held(&self, lab: &Lab) -> Result<()> {
        let given = lab.check_pod("default", &self.runs).await?;
        ensure!(given == self.given, "pod {} has {given:?} instead of {:?}", self.runs, self.given);
        for held in [&self.waits, &self.prepared] {
            let started = lab.runtime.container("default", held, "shell").await;
            ensure!(started.is_err(), "pod {held} runs, and should be held back");
        }
        Ok(())
    }

    /// Names of the two that wait.
    pub fn held(&self) -> [&str; 2] {
        [&self.waits, &self.prepared]
    }

    /// Lets go of those that wait, and checks that all three run as they should.
    ///
    /// # Errors
    /// What is not so.
    pub async fn go(&self, lab: &Lab) -> Result<()> {
        self.let_go(lab).await?;
        self.check_gone(lab).await
    }

    /// Lets go of those that wait.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn let_go(&self, lab: &Lab) -> Result<()> {
        lab.real()?.node.open_gate()?;
        let gate = lab.runtime.container("default", &self.waits, "gate").await?;
        lab.runtime.exec(&gate, &["sh", "-c", ": >/go"]).await.map(drop)
    }

    /// That all three run as they should, each since its first start.
    ///
    /// # Errors
    /// What is not so.
    pub async fn check_gone(&self, lab: &Lab) -> Result<()> {
        lab.check_pod("default", &self.waits).await?;
        let got = lab.check_pod("default", &self.prepared).await?;
        ensure!(got.iter().all(|got| got.pci == self.prepared_vf), "{got:?}, not {}", self.prepared_vf);
        let given = lab.check_pod("default", &self.runs).await?;
        ensure!(given == self.given, "pod {} has {given:?} instead of {:?}", self.runs, self.given);
        for name in [&self.runs, &self.waits, &self.prepared] {
            let pod = lab.api.get(&format!("/api/v1/namespaces/default/pods/{name}")).await?;
            let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            let restarts: u64 = containers.iter().filter_map(|c| c["restartCount"].as_u64()).sum();
            ensure!(restarts == 0, "containers of pod {name} had to start {} times", restarts + 1);
        }
        Ok(())
    }

    /// Deletes all three and waits until they are gone and their VFs are back.
    ///
    /// # Errors
    /// What does not go.
    pub async fn end(&self, lab: &Lab) -> Result<()> {
        for name in [&self.runs, &self.waits, &self.prepared] {
            lab.delete_pod(name).await?;
        }
        wait_for(Duration::from_secs(20), "the VFs to be on the host", async || {
            let on_host = lab.sim.on_host()?;
            ensure!(on_host.contains_key(&self.prepared_vf), "{} is not there", self.prepared_vf);
            let lost = self.given.iter().find(|given| !on_host.contains_key(&given.pci));
            ensure!(lost.is_none(), "{lost:?} is not there");
            Ok(())
        })
        .await
    }
}

impl Lab {
    /// UID of a pod's one claim, and the VF that it was allocated.
    ///
    /// # Errors
    /// While there is none.
    pub async fn vf_of(&self, name: &str) -> Result<(String, PciAddress)> {
        let pod = self.api.get(&format!("/api/v1/namespaces/default/pods/{name}")).await?;
        let allocated = self.allocated(&pod).await?;
        let claims = self.claims_of(&pod).await?;
        let claim = claims.values().next().context("a claim")?;
        let uid = claim["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok((uid, allocated.first().context("a VF")?.2))
    }

    /// Ends a pod's container, and waits for the next one; its ID.
    ///
    /// # Errors
    /// When none comes within a minute.
    pub async fn restart_container(&self, pod: &str) -> Result<String> {
        let first = self.runtime.container("default", pod, "shell").await?;
        self.runtime.stop_container(&first).await?;
        wait_for(Duration::from_secs(60), "the container's next life", async || {
            let next = self.runtime.container("default", pod, "shell").await?;
            ensure!(next != first, "the first one still runs");
            Ok(next)
        })
        .await
    }

    /// By the container runtime and the kernel alone: a pod's VF is in its namespace, up, and its container is told so.
    ///
    /// # Errors
    /// What is not so.
    pub async fn check_without_api(&self, pod: &str, vf: PciAddress) -> Result<()> {
        let sandbox = self.runtime.sandbox("default", pod).await?;
        let inside = links(Some(sandbox.netns.as_deref().context("a network namespace")?))?;
        let link = inside.iter().find(|link| link.alias == vf.to_string());
        let link = link.with_context(|| format!("VF {vf} of pod {pod} is not among {inside:?}"))?;
        ensure!(link.up, "VF {vf} is down in pod {pod}: {link:?}");
        let container = self.runtime.container("default", pod, "shell").await?;
        let told = self.runtime.exec(&container, &["env"]).await?;
        let line = format!("SRIOV_DRA_NET_VF_INTERFACES={}", link.name);
        ensure!(told.lines().any(|found| found == line), "{line} is not in {told}");
        Ok(())
    }
}
