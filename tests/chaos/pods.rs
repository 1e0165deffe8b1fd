//! Pods and claims as the API server, the kubelet and the runtime know them, and the calls that they come with.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sriov_dra::attach::nri::Sandbox;
use sriov_dra::claim::{ClaimId, ClaimSpec};
use sriov_dra::host::NetnsId;
use sriov_dra::prepare::PrepareError;

use super::node::{Agent, Node, number, soon};

/// A claim as the API server and the kubelet know it.
#[derive(Debug, Clone)]
pub struct Claim {
    pub spec: ClaimSpec,
    /// It is at the API server.
    pub exists: bool,
    /// Made by people: it may go on to another pod.
    pub shared: bool,
    /// The kubelet was told that it is prepared, and has not unprepared it.
    pub prepared: bool,
}

/// A sandbox as the runtime knows it.
#[derive(Debug, Clone)]
pub struct Sb {
    pub id: String,
    pub path: PathBuf,
    pub netns: NetnsId,
    pub pid: i32,
    /// Its processes run.
    pub lives: bool,
}

#[derive(Debug, Clone)]
pub struct Pod {
    pub uid: String,
    pub claims: Vec<Claim>,
    pub sandbox: Option<Sb>,
    /// It is on the host's network.
    pub on_host: bool,
    /// A container was let start: it has its VFs until its sandbox ends.
    pub runs: bool,
    /// Somebody took or changed a VF of it by hand: what it finds is not the driver's doing.
    pub disturbed: bool,
    /// It is deleted; only the kubelet still has to do with it.
    pub over: bool,
}

pub fn sandbox_of(pod: &Pod, sb: &Sb) -> Sandbox {
    Sandbox {
        id: sb.id.clone(),
        pod_uid: pod.uid.clone(),
        pod_name: format!("pod-{}", pod.uid),
        pod_namespace: "ns".into(),
        netns: Some(sb.path.clone()).filter(|_| !pod.on_host),
        lists_namespaces: true,
        pid: if sb.lives { u32::try_from(sb.pid).unwrap() } else { 0 },
    }
}

pub fn end_sandbox(node: &Node, pod: &mut Pod) {
    if let Some(sb) = pod.sandbox.take() {
        node.ground.kill_users(sb.netns);
        node.ground.destroy(sb.netns);
    }
    pod.runs = false;
}

pub fn prepare(agent: &Agent, spec: &ClaimSpec, existing: &BTreeSet<String>) -> Result<(), String> {
    let entry = agent.engine.site.ledger.entry(&spec.id.uid).map_err(|error| error.sentence())?;
    let held = entry.and_then(|entry| entry.pod);
    if let (Some(pod), Some(held)) = (&spec.pod, held)
        && held.uid != pod.uid
    {
        agent.attacher.hand_over(&spec.id.uid, pod, soon()).map_err(|error| error.sentence())?;
    }
    let mut tries = 0;
    loop {
        match agent.engine.prepare(spec, soon()) {
            Ok(_) => return Ok(()),
            Err(PrepareError::Held { holder, .. })
                if tries < 8
                    && !existing.contains(&holder.uid)
                    && matches!(agent.attacher.is_used(&holder.uid), Ok(false)) =>
            {
                tries += 1;
                unprepare(agent, &holder)?;
            }
            Err(error) => return Err(error.sentence()),
        }
    }
}

pub fn unprepare(agent: &Agent, claim: &ClaimId) -> Result<(), String> {
    agent.attacher.release(&claim.uid, soon()).map_err(|error| error.sentence())?;
    agent.engine.unprepare(claim, soon()).map_err(|error| error.sentence())
}

/// Those that are its own, not those that it watches.
pub fn vfs_of(pod: &Pod) -> impl Iterator<Item = u8> + '_ {
    pod.claims.iter().flat_map(|claim| vfs_of_claim(&claim.spec))
}

pub fn vfs_of_claim(spec: &ClaimSpec) -> impl Iterator<Item = u8> + '_ {
    spec.results.iter().filter(|result| !result.admin_access).map(|result| number(result.pci))
}
