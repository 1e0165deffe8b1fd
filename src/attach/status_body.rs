//! The body of the server-side apply that writes a claim's `status.devices`. Pure.
//!
//! One apply holds every entry this driver owns in the claim: entries left out are removed by the API server. All
//! limits of the API (`resource.k8s.io/v1` `AllocatedDeviceStatus`, `metav1.Condition`) are kept by shortening, since a
//! status that is refused helps nobody.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::ClaimId;
use crate::device::{HwAddr, IfName};

/// Type of the one condition.
pub const READY: &str = "Ready";

/// Longest `message` of a condition, bytes.
const MAX_MESSAGE: usize = 32_768;

/// Most `networkData.ips`.
const MAX_IPS: usize = 16;

/// Longest `networkData.hardwareAddress`, bytes.
const MAX_HARDWARE_ADDRESS: usize = 128;

/// What is to be said of one allocated VF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Pool of the result.
    pub pool: String,
    /// Device of the result.
    pub device: String,
    /// `shareID` of the result.
    pub share_id: Option<String>,
    /// Why it is ready or not.
    pub reason: Reason,
    /// For people; shortened if it must be.
    pub message: String,
    /// When `Ready` last changed between true and false, not when this was written.
    pub since: Timestamp,
    /// The claim's `metadata.generation` this was decided on.
    pub observed_generation: Option<i64>,
    /// The interface in the pod, once it is there.
    pub network: Option<NetworkData>,
}

/// `reason` of the condition; says its `status` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Prepared; the pod's sandbox is still to come.
    Prepared,
    /// In the pod, named, addressed and up.
    Attached,
    /// Attaching failed; the message says which step and why.
    AttachFailed,
    /// Back on the host; the pod is over or gets a new sandbox.
    Detached,
    /// For looking only: there is nothing to attach.
    AdminAccess,
    /// The pod uses the host's network, where the VF is anyway.
    HostNetwork,
}

impl Reason {
    /// `status` of the condition.
    pub fn ready(self) -> bool {
        matches!(self, Self::Attached | Self::AdminAccess | Self::HostNetwork)
    }

    /// CamelCase, as the API wants it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "Prepared",
            Self::Attached => "Attached",
            Self::AttachFailed => "AttachFailed",
            Self::Detached => "Detached",
            Self::AdminAccess => "AdminAccess",
            Self::HostNetwork => "HostNetwork",
        }
    }
}

/// `networkData`: the interface as the pod sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkData {
    /// Name in the pod.
    pub interface: IfName,
    /// With prefix length, most important first; what is beyond the sixteenth is left out.
    pub addresses: Vec<IpNet>,
    /// Link-layer address.
    pub hardware_address: Option<HwAddr>,
}

/// The apply body for `PATCH …/resourceclaims/<name>/status`.
///
/// `metadata.uid` is in it, so that a claim created again under the same name is a conflict and stays as it is. Of
/// several entries for one device the last counts: the list's key is (driver, pool, device, shareID), and the API
/// server refuses duplicates. No entries means that all of this driver's are removed.
pub fn status_body(claim: &ClaimId, driver: &str, devices: &[DeviceStatus]) -> Value {
    let by_key: BTreeMap<_, _> = devices
        .iter()
        .map(|entry| ((&entry.pool, &entry.device, &entry.share_id), entry))
        .collect();
    let entries: Vec<Value> = by_key
        .into_values()
        .map(|entry| device_entry(driver, entry))
        .collect();
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": claim.name, "namespace": claim.namespace, "uid": claim.uid},
        "status": {"devices": entries},
    })
}

fn device_entry(driver: &str, entry: &DeviceStatus) -> Value {
    let mut condition = json!({
        "type": READY,
        "status": if entry.reason.ready() { "True" } else { "False" },
        "reason": entry.reason.as_str(),
        "message": shortened(&entry.message, MAX_MESSAGE),
        // metav1.Time holds whole seconds.
        "lastTransitionTime": format!("{:.0}", entry.since),
    });
    if let Some(generation) = entry.observed_generation {
        condition["observedGeneration"] = generation.into();
    }
    let mut body =
        json!({"driver": driver, "pool": entry.pool, "device": entry.device, "conditions": [condition]});
    if let Some(share_id) = &entry.share_id {
        body["shareID"] = share_id.as_str().into();
    }
    if let Some(network) = &entry.network {
        body["networkData"] = network_data(network);
    }
    body
}

fn network_data(network: &NetworkData) -> Value {
    let mut seen = BTreeSet::new();
    let unique = network.addresses.iter().filter(|address| seen.insert(**address));
    let ips: Vec<String> = unique.take(MAX_IPS).map(ToString::to_string).collect();
    let mut data = json!({"interfaceName": network.interface.as_str()});
    if !ips.is_empty() {
        data["ips"] = ips.into();
    }
    let hardware_address = network.hardware_address.as_ref().map(ToString::to_string);
    // A cut address would be a wrong one.
    if let Some(text) = hardware_address.filter(|text| !text.is_empty() && text.len() <= MAX_HARDWARE_ADDRESS)
    {
        data["hardwareAddress"] = text.into();
    }
    data
}

/// At most `limit` bytes, cut between characters, with a sign that something was cut.
fn shortened(text: &str, limit: usize) -> String {
    const CUT: &str = "...";
    if text.len() <= limit {
        return text.to_owned();
    }
    let room = limit.saturating_sub(CUT.len());
    let end = text
        .char_indices()
        .map(|(start, _)| start)
        .take_while(|start| *start <= room)
        .last();
    format!("{}{CUT}", end.and_then(|end| text.get(..end)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::ResourceClaim;

    use super::*;

    fn claim() -> ClaimId {
        ClaimId {
            uid: "uid-1".into(),
            namespace: "team-a".into(),
            name: "worker-vf".into(),
        }
    }

    fn attached(device: &str) -> DeviceStatus {
        DeviceStatus {
            pool: "node-a".into(),
            device: device.into(),
            share_id: None,
            reason: Reason::Attached,
            message: "net1 in pod worker-0".into(),
            since: "2026-08-01T10:20:30.987Z".parse().unwrap(),
            observed_generation: Some(3),
            network: Some(NetworkData {
                interface: IfName::new("net1").unwrap(),
                addresses: vec![
                    "172.16.11.10/24".parse().unwrap(),
                    "FD00:0::A/64".parse().unwrap(),
                ],
                hardware_address: Some("02:00:5e:10:00:ff".parse().unwrap()),
            }),
        }
    }

    #[test]
    fn the_body_holds_uid_condition_and_network_as_the_api_knows_them() {
        let body = status_body(&claim(), "sriov-dra.io", &[attached("0000-81-00-2")]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&body).unwrap(), @r#"
        {
          "apiVersion": "resource.k8s.io/v1",
          "kind": "ResourceClaim",
          "metadata": {
            "name": "worker-vf",
            "namespace": "team-a",
            "uid": "uid-1"
          },
          "status": {
            "devices": [
              {
                "conditions": [
                  {
                    "lastTransitionTime": "2026-08-01T10:20:30Z",
                    "message": "net1 in pod worker-0",
                    "observedGeneration": 3,
                    "reason": "Attached",
                    "status": "True",
                    "type": "Ready"
                  }
                ],
                "device": "0000-81-00-2",
                "driver": "sriov-dra.io",
                "networkData": {
                  "hardwareAddress": "02:00:5e:10:00:ff",
                  "interfaceName": "net1",
                  "ips": [
                    "172.16.11.10/24",
                    "fd00::a/64"
                  ]
                },
                "pool": "node-a"
              }
            ]
          }
        }
        "#);
        let typed: ResourceClaim = serde_json::from_value(body.clone()).unwrap();
        let again = serde_json::to_value(&typed).unwrap();
        assert_eq!(
            again["status"], body["status"],
            "no field that the API does not know"
        );
        assert_eq!(again["metadata"], body["metadata"]);
    }

    #[test]
    fn what_is_not_known_is_left_out_and_a_failure_is_not_ready() {
        let entry = DeviceStatus {
            reason: Reason::AttachFailed,
            message: "can't move 0000:81:00.2: EBUSY".into(),
            observed_generation: None,
            network: None,
            share_id: Some("a-b".into()),
            ..attached("0000-81-00-2")
        };
        let body = status_body(&claim(), "sriov-dra.io", &[entry]);
        let device = &body["status"]["devices"][0];
        assert_eq!(device["shareID"], "a-b");
        assert_eq!(device["conditions"][0]["status"], "False");
        assert_eq!(device["conditions"][0]["reason"], "AttachFailed");
        assert!(
            device.get("networkData").is_none()
                && device["conditions"][0].get("observedGeneration").is_none()
        );
    }

    #[test]
    fn a_device_is_in_the_body_once_and_the_last_word_counts() {
        let first = DeviceStatus {
            reason: Reason::Prepared,
            network: None,
            ..attached("0000-81-00-3")
        };
        let body = status_body(
            &claim(),
            "d",
            &[first, attached("0000-81-00-2"), attached("0000-81-00-3")],
        );
        let devices: Vec<_> = body["status"]["devices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| (d["device"].as_str(), &d["conditions"][0]["status"]))
            .collect();
        assert_eq!(
            devices,
            [
                (Some("0000-81-00-2"), &json!("True")),
                (Some("0000-81-00-3"), &json!("True"))
            ]
        );
        assert_eq!(
            status_body(&claim(), "d", &[])["status"]["devices"],
            json!([]),
            "an empty list gives all up"
        );
    }

    #[test]
    fn what_is_longer_than_the_api_takes_is_shortened() {
        let mut entry = attached("0000-81-00-2");
        entry.message = format!("x{}", "ä".repeat(MAX_MESSAGE));
        let network = entry.network.as_mut().unwrap();
        network.addresses = (0..40)
            .map(|i| format!("10.0.0.{}/24", i / 2 + 1).parse().unwrap())
            .collect();
        network.hardware_address = Some(HwAddr::new(vec![0; 64]));
        let body = status_body(&claim(), "d", &[entry]);
        let device = &body["status"]["devices"][0];
        let message = device["conditions"][0]["message"].as_str().unwrap();
        assert!(message.len() <= MAX_MESSAGE && message.len() > MAX_MESSAGE - 4 && message.ends_with("ä..."));
        let ips: BTreeSet<_> = device["networkData"]["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        assert_eq!(ips.len(), 16, "sixteen, none twice");
        assert!(device["networkData"].get("hardwareAddress").is_none());
    }
}
