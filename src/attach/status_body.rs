//! The body of the server-side apply that writes a claim's `status.devices`. Pure.
//!
//! One apply holds every entry this driver owns in the claim: entries left out are removed by the API server. All
//! limits of the API (`resource.k8s.io/v1` `AllocatedDeviceStatus`, `metav1.Condition`) are kept by shortening, since a
//! status that is refused helps nobody.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{DeviceReport, Report};

/// Type of the condition that every device has.
pub const READY: &str = "Ready";

/// Longest `message` of a condition, bytes.
const MAX_MESSAGE: usize = 32_768;

/// Most `networkData.ips`.
const MAX_IPS: usize = 16;

/// Longest `networkData.hardwareAddress`, bytes.
const MAX_HARDWARE_ADDRESS: usize = 128;

/// The apply body for `PATCH …/resourceclaims/<name>/status`.
///
/// `since` tells when a device's `Ready` last changed between true and false, which need not be now.
///
/// `metadata.uid` is in the body, so that a claim created again under the same name is a conflict and stays as it is.
/// Of several reports on one device the last counts: the list's key is (driver, pool, device, shareID), and the API
/// server refuses duplicates. No devices means that all of this driver's entries are removed.
pub fn status_body(driver: &str, report: &Report, since: impl Fn(&DeviceReport) -> Timestamp) -> Value {
    let Report { claim, devices } = report;
    let by_key: BTreeMap<_, _> =
        devices.iter().map(|device| ((&device.pool, &device.device, &device.share_id), device)).collect();
    let entries: Vec<Value> =
        by_key.into_values().map(|device| device_entry(driver, device, since(device))).collect();
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": claim.name, "namespace": claim.namespace, "uid": claim.uid},
        "status": {"devices": entries},
    })
}

fn device_entry(driver: &str, report: &DeviceReport, since: Timestamp) -> Value {
    let condition = json!({
        "type": READY,
        "status": if report.reason.ready() { "True" } else { "False" },
        "reason": report.reason.as_str(),
        "message": shortened(&report.message, MAX_MESSAGE),
        // metav1.Time holds whole seconds.
        "lastTransitionTime": format!("{since:.0}"),
    });
    let checks = report.checks.iter().map(|check| {
        json!({
            "type": check.kind.as_str(),
            "status": match check.passed {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            },
            "reason": check.reason(),
            "message": shortened(&check.message, MAX_MESSAGE),
            "lastTransitionTime": format!("{since:.0}"),
        })
    });
    let conditions: Vec<Value> = std::iter::once(condition).chain(checks).collect();
    let mut body =
        json!({"driver": driver, "pool": report.pool, "device": report.device, "conditions": conditions});
    if let Some(share_id) = &report.share_id {
        body["shareID"] = share_id.as_str().into();
    }
    let network = network_data(report);
    if !network.is_empty() {
        body["networkData"] = network.into();
    }
    body
}

fn network_data(report: &DeviceReport) -> Map<String, Value> {
    let mut data = Map::new();
    if let Some(interface) = &report.interface {
        data.insert("interfaceName".to_owned(), interface.as_str().into());
    }
    let mut seen = BTreeSet::new();
    let unique = report.addresses.iter().filter(|address| seen.insert(**address));
    let ips: Vec<String> = unique.take(MAX_IPS).map(ToString::to_string).collect();
    if !ips.is_empty() {
        data.insert("ips".to_owned(), ips.into());
    }
    let hardware_address = report.hw_addr.as_ref().map(ToString::to_string);
    // A cut address would be a wrong one.
    if let Some(text) = hardware_address.filter(|text| !text.is_empty() && text.len() <= MAX_HARDWARE_ADDRESS)
    {
        data.insert("hardwareAddress".to_owned(), text.into());
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
    let end = text.char_indices().map(|(start, _)| start).take_while(|start| *start <= room).last();
    format!("{}{CUT}", end.and_then(|end| text.get(..end)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::ResourceClaim;

    use super::*;
    use crate::attach::Reason;
    use crate::claim::ClaimId;
    use crate::device::HwAddr;

    fn attached(device: &str) -> DeviceReport {
        DeviceReport {
            pool: "node-a".into(),
            device: device.into(),
            share_id: None,
            reason: Reason::Attached,
            message: "net1 in pod worker-0".into(),
            interface: Some("net1".into()),
            addresses: vec!["172.16.11.10/24".parse().unwrap(), "FD00:0::A/64".parse().unwrap()],
            hw_addr: Some("02:00:5e:10:00:ff".parse().unwrap()),
            checks: Vec::new(),
        }
    }

    fn body(devices: Vec<DeviceReport>) -> Value {
        let claim = ClaimId { uid: "uid-1".into(), namespace: "team-a".into(), name: "worker-vf".into() };
        let since = "2026-08-01T10:20:30.987Z".parse().unwrap();
        status_body("sriov-dra.io", &Report { claim, devices }, |_| since)
    }

    #[test]
    fn the_body_holds_uid_condition_and_network_as_the_api_knows_them() {
        let body = body(vec![attached("0000-81-00-2")]);
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
        assert_eq!(again["status"], body["status"], "no field that the API does not know");
        assert_eq!(again["metadata"], body["metadata"]);
    }

    #[test]
    fn what_is_not_known_is_left_out_and_a_failure_is_not_ready() {
        let body = body(vec![DeviceReport {
            reason: Reason::AttachFailed,
            message: "can't move 0000:81:00.2: EBUSY".into(),
            share_id: Some("a-b".into()),
            interface: None,
            addresses: Vec::new(),
            hw_addr: None,
            ..attached("0000-81-00-2")
        }]);
        let device = &body["status"]["devices"][0];
        assert_eq!(device["shareID"], "a-b");
        assert_eq!(device["conditions"][0]["status"], "False");
        assert_eq!(device["conditions"][0]["reason"], "AttachFailed");
        assert!(device.get("networkData").is_none());
    }

    #[test]
    fn a_device_is_in_the_body_once_and_the_last_word_counts() {
        let first = DeviceReport { reason: Reason::AttachFailed, ..attached("0000-81-00-3") };
        let body_of_three = body(vec![first, attached("0000-81-00-2"), attached("0000-81-00-3")]);
        let devices = body_of_three["status"]["devices"].as_array().unwrap();
        let ready: Vec<_> = devices.iter().map(|d| (&d["device"], &d["conditions"][0]["status"])).collect();
        assert_eq!(
            ready,
            [(&json!("0000-81-00-2"), &json!("True")), (&json!("0000-81-00-3"), &json!("True"))]
        );
        assert_eq!(body(Vec::new())["status"]["devices"], json!([]), "an empty list gives all up");
    }

    #[test]
    fn what_is_longer_than_the_api_takes_is_shortened() {
        let body = body(vec![DeviceReport {
            message: format!("x{}", "ä".repeat(MAX_MESSAGE)),
            addresses: (0..40).map(|i| format!("10.0.0.{}/24", i / 2 + 1).parse().unwrap()).collect(),
            hw_addr: Some(HwAddr::new(vec![0; 64])),
            ..attached("0000-81-00-2")
        }]);
        let device = &body["status"]["devices"][0];
        let message = device["conditions"][0]["message"].as_str().unwrap();
        assert!(message.len() <= MAX_MESSAGE && message.len() > MAX_MESSAGE - 4 && message.ends_with("ä..."));
        let ips: BTreeSet<_> =
            device["networkData"]["ips"].as_array().unwrap().iter().map(Value::to_string).collect();
        assert_eq!(ips.len(), 16, "sixteen, none twice");
        assert!(device["networkData"].get("hardwareAddress").is_none());
    }
}
