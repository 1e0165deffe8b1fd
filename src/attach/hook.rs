//! The `createRuntime` hook: the last guard before a container of a claim starts.
//!
//! In: the state that an OCI runtime hands to its hooks (runtime-spec, runtime.md "State"), the claim's UID from the CDI
//! file. Out: nothing, with every VF of the claim in the pod's network namespace, under its name and up; or one
//! sentence, and the container does not start. Needs neither agent nor runtime plugin nor API server. Never here:
//! taking a VF from a sandbox that lives.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;

use super::attacher::Present;
use super::nri::Sandbox;
use super::{AttachError, Attacher, PodSandbox};
use crate::claim::PodRef;

/// Keys of annotations by which a runtime tells a container's pod.
struct Keys {
    sandbox: &'static str,
    uid: &'static str,
    name: &'static str,
    namespace: &'static str,
}

/// containerd's CRI plugin (`pkg/cri/annotations`).
const CONTAINERD: Keys = Keys {
    sandbox: "io.kubernetes.cri.sandbox-id",
    uid: "io.kubernetes.cri.sandbox-uid",
    name: "io.kubernetes.cri.sandbox-name",
    namespace: "io.kubernetes.cri.sandbox-namespace",
};
/// CRI-O: its own key, and the kubelet's labels, which it writes after all that a pod may choose.
const CRI_O: Keys = Keys {
    sandbox: "io.kubernetes.cri-o.SandboxID",
    uid: "io.kubernetes.pod.uid",
    name: "io.kubernetes.pod.name",
    namespace: "io.kubernetes.pod.namespace",
};
/// `cri-o` on containers of CRI-O.
const MANAGER: &str = "io.container.manager";

/// Why the hook does not know whom it works for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HookError {
    /// Standard input is no state.
    #[error("standard input is not the state of a container as an OCI runtime gives it to its hooks: {0}")]
    NoState(String),
    /// The container has no process yet.
    #[error("the container's state has no process (pid {0}): the hook has to run as createRuntime")]
    NoProcess(i64),
    /// The runtime does not say which pod it is.
    #[error(
        "the container's annotations do not say its {0}: neither those of containerd ({1}) nor those of CRI-O ({2}) are there"
    )]
    NoPod(&'static str, &'static str, &'static str),
    /// Annotation and cgroup name different pods.
    #[error(
        "the container's annotations say that it belongs to pod UID {annotated}, but its process runs in the cgroup of pod UID {cgroup}"
    )]
    OtherPod {
        /// By annotation.
        annotated: String,
        /// By cgroup.
        cgroup: String,
    },
}

#[derive(Debug, Deserialize)]
struct State {
    #[serde(default)]
    pid: i64,
    #[serde(default)]
    bundle: PathBuf,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The process of the container that is being made.
///
/// # Errors
/// When the text is no state, or there is no process.
pub fn process_of(state: &str) -> Result<u32, HookError> {
    let state = parse(state)?;
    u32::try_from(state.pid).ok().filter(|pid| *pid != 0).ok_or(HookError::NoProcess(state.pid))
}

/// The file that says what the container will be (runtime-spec, bundle.md).
///
/// # Errors
/// When the text is no state.
pub fn config_of(state: &str) -> Result<PathBuf, HookError> {
    Ok(parse(state)?.bundle.join("config.json"))
}

fn parse(state: &str) -> Result<State, HookError> {
    serde_json::from_str(state).map_err(|error| HookError::NoState(error.to_string()))
}

/// The sandbox the container belongs to. `cgroups` is `/proc/<pid>/cgroup` of its process: the kubelet names pods'
/// cgroups by UID, and no pod chooses its cgroup. `own` is the same of this process: where the node itself is a pod of
/// another cluster, that pod's UID says nothing.
///
/// # Errors
/// When the runtime does not tell, or the two disagree.
pub fn sandbox_of(state: &str, cgroups: &str, own: &str) -> Result<Sandbox, HookError> {
    let pid = process_of(state)?;
    let annotations = parse(state)?.annotations;
    let cri_o = annotations.get(MANAGER).is_some_and(|manager| manager == "cri-o");
    let keys = if cri_o { &CRI_O } else { &CONTAINERD };
    let get = |key: &str| annotations.get(key).filter(|value| !value.is_empty()).cloned();
    let in_cgroup = pod_of_cgroup(cgroups).filter(|uid| pod_of_cgroup(own).as_ref() != Some(uid));
    let id = get(keys.sandbox).ok_or(HookError::NoPod("sandbox", CONTAINERD.sandbox, CRI_O.sandbox))?;
    let pod_uid = match (get(keys.uid), in_cgroup) {
        (Some(annotated), Some(cgroup)) if annotated != cgroup => {
            return Err(HookError::OtherPod { annotated, cgroup });
        }
        (Some(uid), _) | (None, Some(uid)) => uid,
        (None, None) => return Err(HookError::NoPod("pod's UID", CONTAINERD.uid, CRI_O.uid)),
    };
    Ok(Sandbox {
        id,
        pod_uid,
        pod_name: get(keys.name).unwrap_or_default(),
        pod_namespace: get(keys.namespace).unwrap_or_default(),
        // The container's own process says where it is: on the host's network too.
        netns: Some(PathBuf::from(format!("/proc/{pid}/ns/net"))),
        lists_namespaces: true,
        pid,
    })
}

/// The pod UID in a cgroup path: `…/pod<uid>/…` (cgroupfs), `…-pod<uid with _ for ->.slice` (systemd).
fn pod_of_cgroup(cgroups: &str) -> Option<String> {
    let words = cgroups.split(['/', '\n']);
    let mut uids = words.filter_map(|word| {
        let word = word.strip_suffix(".slice").unwrap_or(word);
        let uid = match word.strip_prefix("pod") {
            Some(uid) => uid,
            None => word.starts_with("kube").then(|| word.rsplit_once("-pod")).flatten()?.1,
        };
        let plausible =
            uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b'-' | b'_'));
        plausible.then(|| uid.replace('_', "-"))
    });
    // The innermost: a node may itself be a pod of another cluster.
    uids.next_back()
}

impl Attacher {
    /// Lets a container of a claim start, or says why it must not.
    ///
    /// # Errors
    /// When the claim is not prepared, is another pod's, or a VF can't be brought into the pod's namespace.
    pub fn guard(&self, sandbox: &Sandbox, claim_uid: &str, deadline: Instant) -> Result<(), AttachError> {
        let not_prepared = || AttachError::NotPrepared { uid: claim_uid.to_owned() };
        let entry = self.site.ledger.entry(claim_uid)?;
        // A CDI file that outlived a reboot: what it was made for is void.
        let entry = entry.filter(|entry| entry.boot_id == self.site.boot_id).ok_or_else(not_prepared)?;
        let Some(holder) = entry.pod else {
            // Several pods may watch through one claim: nothing is owned, nothing is moved.
            let only_watched = entry.vfs.iter().all(|vf| vf.admin_access);
            return if only_watched { Ok(()) } else { Err(not_prepared()) };
        };
        if holder.uid != sandbox.pod_uid {
            // Made from a template: one pod's for its whole life, whoever named it. A runtime's wrapper or plugin may take
            // names of CDI devices from what a pod wrote into its environment or annotations.
            if entry.pod_claim_name != entry.claim.name {
                return Err(AttachError::NotReserved {
                    claim: format!("{}/{}", entry.claim.namespace, entry.claim.name),
                    holder: holder.name,
                    pod: format!("{}/{}", sandbox.pod_namespace, sandbox.pod_name),
                });
            }
            // A claim that people made: it goes on to whom the scheduler reserved it, and who else can't be asked here
            // takes it only where the former pod is over, or has not come to use it.
            let to = PodRef { uid: sandbox.pod_uid.clone(), name: sandbox.pod_name.clone() };
            self.hand_over(claim_uid, &to, deadline)?;
        }
        let pod = PodSandbox::open(self.site.kernel.as_ref(), sandbox)?;
        let epoch = self.make_current(&pod, deadline)?;
        self.attach_claims(&[claim_uid.to_owned()], &pod, epoch, Present::PutRight, deadline)?;
        // A claim that was unprepared or handed on meanwhile was passed over above, without an error.
        let entry = self.site.ledger.entry(claim_uid)?.ok_or_else(not_prepared)?;
        let ours = entry.pod.as_ref().is_some_and(|holder| holder.uid == pod.pod_uid);
        let attached = self.site.ledger.attachment(claim_uid)?.is_some_and(|record| {
            record.complete && pod.netns.as_ref().is_some_and(|(_, netns)| netns.id() == record.netns)
        });
        // On the host's network nothing is moved, and what can't be done there was refused.
        if ours && (attached || pod.netns.is_none()) { Ok(()) } else { Err(not_prepared()) }
    }
}
