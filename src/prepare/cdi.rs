//! CDI: what a claim's containers are told. One spec file per claim, one device per request.
//!
//! Names, environment, and the marker by which a container's claims are known again; what a spec is and which are
//! valid stands in `cdi_spec`. Pure; files are written by [`cdi_file`](super::cdi_file).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use super::cdi_spec::{
    CdiError, ContainerEdits, Device, DeviceNode, Hook, Mount, NetDevice, Spec, VERSIONS, lowest_version,
    parse,
};
use super::records::{Entry, VfEntry};
use crate::claim::ClaimId;
use crate::device::{CharDevice, IfName, PciAddress};

/// Class of our devices: `<driver>/vf`.
const CLASS: &str = "vf";

/// What containers are told of one top-level request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestEnv {
    /// Top-level request name; several entries with one name are joined.
    pub request: String,
    /// Its VFs.
    pub pci_addresses: Vec<PciAddress>,
    /// Their interfaces in the pod, as far as they have one.
    pub interfaces: Vec<IfName>,
    /// Their groups below `/dev/vfio`, as far as they have one.
    pub vfio_groups: Vec<String>,
    /// Device nodes that come with them.
    pub nodes: Vec<PathBuf>,
    /// Their RDMA devices.
    pub rdma: Vec<String>,
    /// Device nodes whose numbers are known.
    pub char_devices: Vec<CharDevice>,
}

impl RequestEnv {
    fn add(&mut self, other: &Self) {
        let Self { request: _, pci_addresses, interfaces, vfio_groups, nodes, rdma, char_devices } = other;
        self.rdma.extend_from_slice(rdma);
        self.char_devices.extend_from_slice(char_devices);
        self.pci_addresses.extend(pci_addresses);
        self.interfaces.extend_from_slice(interfaces);
        self.vfio_groups.extend_from_slice(vfio_groups);
        self.nodes.extend_from_slice(nodes);
    }

    /// Names and values of the variables; the addresses always, others where there are any.
    fn lists(&self) -> Vec<(&'static str, String)> {
        let pci: Vec<String> = self.pci_addresses.iter().map(ToString::to_string).collect();
        let interfaces: Vec<String> = self.interfaces.iter().map(ToString::to_string).collect();
        let mut lists = vec![("PCI_ADDRESSES", pci.join(","))];
        for (name, values) in
            [("INTERFACES", &interfaces), ("VFIO_GROUPS", &self.vfio_groups), ("RDMA_DEVICES", &self.rdma)]
        {
            if !values.is_empty() {
                lists.push((name, values.join(",")));
            }
        }
        lists
    }
}

const MARKER: &str = "SRIOV_DRA_CLAIM_";

/// What the runtime runs on the host before a container of a claim starts, and without which it does not start
/// (OCI runtime specification, config.md, `createRuntime`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCommand {
    /// Absolute, on the host; the same for all versions of this driver.
    pub path: PathBuf,
    /// Arguments after the command's name; the claim's UID follows.
    pub args: Vec<String>,
    /// After this the runtime gives the container up, in seconds.
    pub timeout_s: i64,
}

impl HookCommand {
    fn of(&self, claim_uid: &str) -> Hook {
        let mut args = vec!["sriov-dra".to_owned(), "hook".to_owned()];
        args.extend(self.args.iter().cloned());
        args.push(format!("--claim-uid={claim_uid}"));
        Hook {
            hook_name: "createRuntime".to_owned(),
            path: self.path.display().to_string(),
            args,
            env: Vec::new(),
            timeout: Some(self.timeout_s),
        }
    }
}

/// The spec for one claim: one device per top-level request with its environment, and for all of them the hook, and the
/// marker by which the NRI plugin knows the claim again.
///
/// Keys are `SRIOV_DRA_<CLAIM>_<REQUEST>_PCI_ADDRESSES`, `…_INTERFACES`, `…_VFIO_GROUPS` and `…_RDMA_DEVICES` (left out
/// where there are none); values are comma-separated. Claim and request are joined by the sign that stands for their dashes too: claim `a-b`
/// with request `c` and claim `a` with request `b-c` would share a key, and are refused in one pod.
pub fn spec_for(
    claim: &ClaimId,
    pod_claim_name: &str,
    driver: &str,
    requests: &[RequestEnv],
    hook: &HookCommand,
) -> Spec {
    let marker = format!("{MARKER}{}={}/{}", env_key(&claim.uid), claim.namespace, claim.name);
    let mut spec = Spec {
        cdi_version: String::new(),
        kind: format!("{driver}/{CLASS}"),
        annotations: BTreeMap::new(),
        devices: devices(claim, pod_claim_name, requests),
        container_edits: ContainerEdits {
            env: vec![marker],
            hooks: vec![hook.of(&claim.uid)],
            ..Default::default()
        },
    };
    spec.cdi_version = lowest_version(&spec).to_owned();
    spec
}

fn devices(claim: &ClaimId, pod_claim_name: &str, requests: &[RequestEnv]) -> Vec<Device> {
    let mut joined: Vec<RequestEnv> = Vec::new();
    for one in requests {
        match joined.iter_mut().find(|known| known.request == one.request) {
            Some(known) => known.add(one),
            None => joined.push(one.clone()),
        }
    }
    let devices = joined.into_iter().map(|one| {
        let prefix = variable_prefix(pod_claim_name, &one.request);
        let env = one.lists().into_iter().map(|(name, value)| format!("{prefix}_{name}={value}")).collect();
        // VFs of one claim share /dev/vfio/vfio.
        let nodes: BTreeSet<PathBuf> = one.nodes.into_iter().collect();
        let device_nodes = nodes.iter().map(|path| DeviceNode {
            path: path.display().to_string(),
            permissions: Some("rw".to_owned()),
            ..DeviceNode::default()
        });
        // With its number: what the host has under the path may be another by then.
        let numbered: BTreeSet<CharDevice> = one.char_devices.into_iter().collect();
        let numbered = numbered.into_iter().map(|node| DeviceNode {
            path: node.path,
            node_type: Some("c".to_owned()),
            major: Some(node.major.into()),
            minor: Some(node.minor.into()),
            file_mode: Some(0o666),
            permissions: Some("rw".to_owned()),
            ..DeviceNode::default()
        });
        let device_nodes = device_nodes.chain(numbered).collect();
        let container_edits = ContainerEdits { env, device_nodes, ..Default::default() };
        Device { name: device_name(&claim.uid, &one.request), annotations: BTreeMap::new(), container_edits }
    });
    devices.collect()
}

/// What the variables of a request begin with: `SRIOV_DRA_<CLAIM>_<REQUEST>`, where the claim is called as the pod calls it.
pub fn variable_prefix(pod_claim_name: &str, request: &str) -> String {
    format!("SRIOV_DRA_{}_{}", env_key(pod_claim_name), env_key(request))
}

/// The spec for a claim as the ledger holds it.
pub fn spec_of(driver: &str, entry: &Entry, hook: &HookCommand) -> Spec {
    spec_for(&entry.claim, &entry.pod_claim_name, driver, &requests(entry), hook)
}

fn requests(entry: &Entry) -> Vec<RequestEnv> {
    entry.vfs.iter().map(of_vf).collect()
}

fn of_vf(vf: &VfEntry) -> RequestEnv {
    RequestEnv {
        request: vf.top_level_request().to_owned(),
        pci_addresses: vec![vf.pci],
        interfaces: if vf.has_interface() { vec![vf.name.clone()] } else { Vec::new() },
        vfio_groups: vf.vfio_group.iter().cloned().collect(),
        nodes: vf.nodes.clone(),
        rdma: vf.rdma.as_ref().map(|rdma| rdma.devices.clone()).unwrap_or_default(),
        char_devices: vf.rdma.as_ref().map(|rdma| rdma.nodes.clone()).unwrap_or_default(),
    }
}

/// What variables say of these VFs together, in this order, by the last part of their names.
pub fn lists_of<'a>(vfs: impl Iterator<Item = &'a VfEntry>) -> Vec<(&'static str, String)> {
    let all = vfs.map(of_vf).reduce(|mut all, one| {
        all.add(&one);
        all
    });
    all.map(|all| all.lists()).unwrap_or_default()
}

/// Every variable of the devices of [`spec_of`] as key and value.
pub fn variables_of(entry: &Entry) -> Vec<(String, String)> {
    let devices = devices(&entry.claim, &entry.pod_claim_name, &requests(entry));
    let lines = devices.into_iter().flat_map(|device| device.container_edits.env);
    lines
        .filter_map(|line| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect()
}

/// The claim UID, if this environment entry (`NAME=value`) is the marker of one of our claims.
///
/// Whoever writes a pod can write such an entry too: it says which ledger entry to look at, not that the pod may have
/// the claim's VFs.
pub fn claim_uid_of_marker(env: &str) -> Option<String> {
    let (key, value) = env.split_once('=')?;
    let uid = key.strip_prefix(MARKER)?;
    // A claim that its pod calls "claim" has keys with the same prefix; their values never hold a slash.
    let names_claim =
        value.split_once('/').is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let well_formed =
        !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    (names_claim && well_formed).then(|| uid.to_ascii_lowercase().replace('_', "-"))
}

fn env_key(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// `<claimUID>-<request>`: never used again, since runtimes' caches may lag behind a rewritten file.
fn device_name(claim_uid: &str, request: &str) -> String {
    format!("{claim_uid}-{request}")
}

/// What the kubelet passes to the runtime: `<driver>/vf=<claimUID>-<request>`, with the top-level request.
pub fn qualified_name(driver: &str, claim_uid: &str, request: &str) -> String {
    format!("{driver}/{CLASS}={}", device_name(claim_uid, request))
}

/// `<vendor>-<class>_<claimUID>.json`, as the CDI library names transient specs.
pub fn file_name(driver: &str, claim_uid: &str) -> String {
    format!("{driver}-{CLASS}_{}.json", claim_uid.replace('/', "_"))
}

/// The claim UID in one of our file names.
pub fn claim_uid_of_file_name<'n>(driver: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(driver)?
        .strip_prefix('-')?
        .strip_prefix(CLASS)?
        .strip_prefix('_')?
        .strip_suffix(".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "sriov-dra.io";
    const UID: &str = "6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa";

    fn request(name: &str, vfs: &[(&str, &str)]) -> RequestEnv {
        RequestEnv {
            request: name.into(),
            pci_addresses: vfs.iter().map(|(pci, _)| pci.parse().unwrap()).collect(),
            interfaces: vfs.iter().filter_map(|(_, name)| IfName::new(*name).ok()).collect(),
            ..RequestEnv::default()
        }
    }

    fn hook() -> HookCommand {
        HookCommand {
            path: "/var/lib/kubelet/plugins/sriov-dra.io/bin/hook".into(),
            args: vec!["--driver-name=sriov-dra.io".into()],
            timeout_s: 15,
        }
    }

    fn spec(uid: &str, requests: &[RequestEnv]) -> Spec {
        let claim = ClaimId { uid: uid.into(), namespace: "team-a".into(), name: "worker-0-vf-x7".into() };
        spec_for(&claim, "my.vf", DRIVER, requests, &hook())
    }

    #[test]
    fn the_spec_of_a_claim_tells_each_request_its_vfs() {
        let spec = spec(
            UID,
            &[
                request("main", &[("0000:81:00.2", "net1"), ("0000:81:00.3", "net2")]),
                request("vfio", &[("0000:82:00.2", "")]),
            ],
        );
        spec.validate().unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap(), @r#"
        {
          "cdiVersion": "0.5.0",
          "kind": "sriov-dra.io/vf",
          "devices": [
            {
              "name": "6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa-main",
              "containerEdits": {
                "env": [
                  "SRIOV_DRA_MY_VF_MAIN_PCI_ADDRESSES=0000:81:00.2,0000:81:00.3",
                  "SRIOV_DRA_MY_VF_MAIN_INTERFACES=net1,net2"
                ]
              }
            },
            {
              "name": "6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa-vfio",
              "containerEdits": {
                "env": [
                  "SRIOV_DRA_MY_VF_VFIO_PCI_ADDRESSES=0000:82:00.2"
                ]
              }
            }
          ],
          "containerEdits": {
            "env": [
              "SRIOV_DRA_CLAIM_6F3C2F1E_0A57_4F5B_9D61_0D7AD5A3C0AA=team-a/worker-0-vf-x7"
            ],
            "hooks": [
              {
                "hookName": "createRuntime",
                "path": "/var/lib/kubelet/plugins/sriov-dra.io/bin/hook",
                "args": [
                  "sriov-dra",
                  "hook",
                  "--driver-name=sriov-dra.io",
                  "--claim-uid=6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa"
                ],
                "timeout": 15
              }
            ]
          }
        }
        "#);
        assert_eq!(parse(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
        assert_eq!(qualified_name(DRIVER, UID, "main"), format!("{}={}", spec.kind, spec.devices[0].name));
    }

    #[test]
    fn entries_of_one_request_become_one_device_and_the_version_depends_on_the_uid() {
        let parts =
            [request("main", &[("0000:81:00.2", "net1")]), request("main", &[("0000:82:00.2", "net2")])];
        let spec = spec("abcdef01-0000-4000-8000-000000000000", &parts);
        assert_eq!(spec.devices.len(), 1);
        assert_eq!(spec.devices[0].container_edits.env[1], "SRIOV_DRA_MY_VF_MAIN_INTERFACES=net1,net2");
        assert_eq!(spec.cdi_version, "0.3.0", "no device name starts with a digit");
    }

    #[test]
    fn only_the_marker_is_taken_for_one() {
        let spec = spec(UID, &[request("main", &[("0000:81:00.2", "net1")])]);
        assert_eq!(claim_uid_of_marker(&spec.container_edits.env[0]).as_deref(), Some(UID));
        for other in [
            "SRIOV_DRA_CLAIM_MAIN_PCI_ADDRESSES=0000:81:00.2",
            "SRIOV_DRA_CLAIM_MAIN_INTERFACES=net1",
            "SRIOV_DRA_CLAIM_=team-a/vf",
            "SRIOV_DRA_CLAIM_6F3C=/vf",
            "SRIOV_DRA_CLAIM_6f3c=team-a/vf",
            "SRIOV_DRA_CLAIM_6F3C",
            "PATH=/bin",
        ] {
            assert_eq!(claim_uid_of_marker(other), None, "{other}");
        }
    }

    #[test]
    fn file_names_hold_the_claim_uid() {
        let name = file_name(DRIVER, UID);
        assert_eq!(name, format!("sriov-dra.io-vf_{UID}.json"));
        assert_eq!(claim_uid_of_file_name(DRIVER, &name), Some(UID));
        for other in ["sriov-dra.io-vf_x.json.tmp", "other-vf_x.json", "sriov-dra.io_metadata_x.json"] {
            assert_eq!(claim_uid_of_file_name(DRIVER, other), None, "{other}");
        }
    }
}
