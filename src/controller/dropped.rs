//! What the API server did not keep of what it was sent. Pure.
//!
//! A server whose feature gate for a field is off drops the field without an error. Without this guard the controller
//! would find a difference for ever, and write for ever.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::Device;
use serde_json::Value;

use super::slices::same_device;

/// Devices as the server keeps them, by name; `None` is a device it doesn't keep at all.
pub type Adopted = BTreeMap<String, Option<Device>>;

/// Devices that came back other than they were sent.
pub fn not_kept(sent: &[Device], kept: &[Device]) -> Adopted {
    let kept: BTreeMap<&str, &Device> = kept.iter().map(|device| (device.name.as_str(), device)).collect();
    let adopted = sent.iter().filter_map(|device| match kept.get(device.name.as_str()) {
        Some(kept) if same_device(device, kept) => None,
        kept => Some((device.name.clone(), kept.map(|kept| (*kept).clone()))),
    });
    adopted.collect()
}

/// `devices` with the server's version where it has one of its own.
pub fn with_adopted(devices: Vec<Device>, adopted: &Adopted) -> Vec<Device> {
    let kept = devices.into_iter().filter_map(|device| match adopted.get(&device.name) {
        Some(version) => version.clone(),
        None => Some(device),
    });
    kept.collect()
}

/// The fields that differ, one name for all devices: `devices[].taints`.
pub fn fields(sent: &[Device], adopted: &Adopted) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for device in sent {
        match adopted.get(&device.name) {
            Some(Some(kept)) => differences("devices[]", &json(device), &json(kept), &mut fields),
            Some(None) => {
                fields.insert("devices[]".to_owned());
            }
            None => {}
        }
    }
    fields
}

fn json(device: &Device) -> Value {
    serde_json::to_value(device).unwrap_or(Value::Null)
}

fn differences(path: &str, sent: &Value, kept: &Value, fields: &mut BTreeSet<String>) {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => {
            for key in sent.keys().chain(kept.keys().filter(|key| !sent.contains_key(*key))) {
                let [sent, kept] = [sent, kept].map(|map| map.get(key).unwrap_or(&Value::Null));
                // Keys of attributes hold dots and slashes, so they stand in brackets.
                let step = if key.contains(['.', '/']) { format!("[{key}]") } else { format!(".{key}") };
                differences(&format!("{path}{step}"), sent, kept, fields);
            }
        }
        _ if sent != kept => {
            fields.insert(path.to_owned());
        }
        _ => {}
    }
}
