//! CDI spec files: their model, the lowest version that covers a content, and the rules of the CDI library, by which
//! a file is checked before it is written: a runtime rejects a whole file for one bad name, and with it the container.
//! Source: CDI SPEC.md 1.1.0 and `pkg/cdi/{validate,version}.go`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A spec file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// One of [`VERSIONS`].
    pub cdi_version: String,
    /// `vendor/class`
    pub kind: String,
    /// Since 0.6.0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// At least one.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// For every container that uses any device of the file.
    #[serde(default, skip_serializing_if = "ContainerEdits::is_empty")]
    pub container_edits: ContainerEdits,
}

/// A device that a container can ask for by `kind=name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Unique in the file.
    pub name: String,
    /// Since 0.6.0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For containers that use the device; must not be empty.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// Changes of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerEdits {
    /// `NAME=value`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNode>,
    /// Host interfaces that the runtime moves, since 1.1.0. Never written by this driver: the runtime doesn't move them
    /// back, and fails when a container starts again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<NetDevice>,
    /// OCI hooks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Mounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Cache and memory bandwidth classes, since 0.7.0; kept as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<serde_json::Map<String, serde_json::Value>>,
    /// Supplementary groups, since 0.7.0.
    #[serde(rename = "additionalGids", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

impl ContainerEdits {
    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A device node; without `type` and `major` the runtime takes them from the host's node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host, if it differs; since 0.5.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    /// `c`, `b`, `u` or `p`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub node_type: Option<String>,
    /// Major number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Minor number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Mode bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Of the device cgroup: of `r`, `w`, `m`; none is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A host interface for the runtime to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    /// Name on the host.
    pub host_interface_name: String,
    /// Name in the container.
    pub name: String,
}

/// An OCI hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// One of the OCI runtime's six.
    pub hook_name: String,
    /// Absolute.
    pub path: String,
    /// With `argv[0]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `NAME=value`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// On the host.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// `ro`, `bind`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Since 0.4.0.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub mount_type: Option<String>,
}

/// Why a spec is none that a runtime would load, or a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No JSON, or a field that is unknown or of another type.
    #[error("CDI spec: {0}")]
    Parse(#[from] serde_json::Error),
    /// Against a rule.
    #[error("CDI spec {kind}: {problem}")]
    Invalid {
        /// `kind` of the spec.
        kind: String,
        /// Which rule, and where.
        problem: String,
    },
    /// A file operation failed.
    #[error("can't {action} {path}")]
    File {
        /// `write`, `remove`, …
        action: &'static str,
        /// Of the file or folder.
        path: String,
        /// The errno.
        #[source]
        source: std::io::Error,
    },
}

/// The versions there are, oldest first.
pub const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// The lowest version whose readers understand the spec (`MinimumRequiredVersion` of the CDI library): older runtimes
/// reject a whole file for a version they don't know.
pub fn lowest_version(spec: &Spec) -> &'static str {
    let edits = || spec.devices.iter().map(|device| &device.container_edits).chain([&spec.container_edits]);
    let rdt_1_1 =
        |rdt: &serde_json::Map<_, _>| rdt.contains_key("schemata") || rdt.contains_key("enableMonitoring");
    let class = spec.kind.split_once('/').map_or("", |(_, class)| class);
    if edits().any(|edits| !edits.net_devices.is_empty() || edits.intel_rdt.as_ref().is_some_and(rdt_1_1)) {
        "1.1.0"
    } else if edits().any(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty()) {
        "0.7.0"
    } else if !spec.annotations.is_empty()
        || spec.devices.iter().any(|device| !device.annotations.is_empty())
        || class.contains('.')
    {
        "0.6.0"
    } else if edits().any(|edits| edits.device_nodes.iter().any(|node| node.host_path.is_some()))
        || spec.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit()))
    {
        "0.5.0"
    } else if edits().any(|edits| edits.mounts.iter().any(|mount| mount.mount_type.is_some())) {
        "0.4.0"
    } else {
        "0.3.0"
    }
}

/// Reads a spec as strictly as a runtime does. Errors: unknown fields, and every rule of [`Spec::validate`].
pub fn parse(json: &str) -> Result<Spec, CdiError> {
    let spec: Spec = serde_json::from_str(json)?;
    spec.validate()?;
    Ok(spec)
}

impl Spec {
    /// Checks what a runtime checks when it loads the file. Errors: the first rule that is broken.
    pub fn validate(&self) -> Result<(), CdiError> {
        self.broken_rule()
            .map_or(Ok(()), |problem| Err(CdiError::Invalid { kind: self.kind.clone(), problem }))
    }

    fn broken_rule(&self) -> Option<String> {
        let age = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let lowest = lowest_version(self);
        match age(&self.cdi_version) {
            None => return Some(format!("cdiVersion {:?} is unknown", self.cdi_version)),
            Some(given) if Some(given) < age(lowest) => {
                return Some(format!(
                    "cdiVersion {} is too low for the content, which needs {lowest}",
                    self.cdi_version
                ));
            }
            Some(_) => {}
        }
        match self.kind.split_once('/') {
            Some((vendor, class)) if is_name(vendor, "_-.", false) && is_name(class, "_-.", false) => {}
            _ => return Some("kind must be vendor/class, each a letter, then letters, digits, _ - . and no sign at the end".into()),
        }
        if self.devices.is_empty() {
            return Some("there is no device".into());
        }
        let mut names = BTreeSet::new();
        for Device { name, container_edits, .. } in &self.devices {
            if !is_name(name, "_-.:", true) {
                return Some(format!(
                    "device name {name:?} must be letters, digits, _ - . : and no sign at either end"
                ));
            }
            if !names.insert(name) {
                return Some(format!("two devices are named {name}"));
            }
            if container_edits.is_empty() {
                return Some(format!("device {name} changes nothing"));
            }
            if let Some(problem) = container_edits.broken_rule() {
                return Some(format!("device {name}: {problem}"));
            }
        }
        self.container_edits.broken_rule()
    }
}

impl ContainerEdits {
    fn broken_rule(&self) -> Option<String> {
        const HOOKS: [&str; 6] =
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
        let hook_env = self.hooks.iter().flat_map(|hook| &hook.env);
        if let Some(env) = self.env.iter().chain(hook_env).find(|env| env.find('=').unwrap_or_default() == 0)
        {
            return Some(format!("environment entry {env:?} is not NAME=value"));
        }
        let permissions = |node: &&DeviceNode| {
            node.permissions.as_ref().is_some_and(|p| p.chars().any(|c| !"rwm".contains(c)))
        };
        let node_type = |node: &&DeviceNode| {
            node.node_type.as_ref().is_some_and(|t| !matches!(t.as_str(), "" | "b" | "c" | "u" | "p"))
        };
        if let Some(node) =
            self.device_nodes.iter().find(|node| node.path.is_empty() || permissions(node) || node_type(node))
        {
            return Some(format!(
                "device node {:?} needs a path, a type of b c u p, and permissions of r w m",
                node.path
            ));
        }
        if self.net_devices.iter().any(|net| net.host_interface_name.is_empty() || net.name.is_empty()) {
            return Some("a net device needs both names".into());
        }
        if let Some(hook) =
            self.hooks.iter().find(|hook| !HOOKS.contains(&hook.hook_name.as_str()) || hook.path.is_empty())
        {
            return Some(format!("hook {:?} needs a path and a name of {}", hook.hook_name, HOOKS.join(" ")));
        }
        if self.mounts.iter().any(|mount| mount.host_path.is_empty() || mount.container_path.is_empty()) {
            return Some("a mount needs both paths".into());
        }
        None
    }
}

/// ASCII letters and digits, inside also `signs`; a letter at the start unless a digit may be there.
fn is_name(text: &str, signs: &str, digit_first: bool) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || (digit_first && c.is_ascii_digit()));
    let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric());
    starts && ends && text.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn minimal() -> Value {
        json!({"cdiVersion": "1.1.0", "kind": "v.example/c", "devices": [{"name": "d", "containerEdits": {"env": ["A=1"]}}]})
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut spec = minimal();
        change(&mut spec);
        parse(&spec.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn the_version_is_the_lowest_that_covers_the_content() {
        let edits: fn(&mut Value) -> &mut Value = |spec| &mut spec["devices"][0]["containerEdits"];
        type Change<'c> = &'c dyn Fn(&mut Value);
        let cases: [(&str, Change<'_>); 12] = [
            ("0.3.0", &|_| {}),
            ("0.3.0", &|s| {
                edits(s)["hooks"] = json!([{"hookName": "createRuntime", "path": "/h", "timeout": 5}])
            }),
            ("0.3.0", &|s| edits(s)["deviceNodes"] = json!([{"path": "/dev/x", "permissions": "rw"}])),
            ("0.4.0", &|s| {
                edits(s)["mounts"] = json!([{"hostPath": "/a", "containerPath": "/b", "type": "bind"}])
            }),
            ("0.5.0", &|s| edits(s)["deviceNodes"] = json!([{"path": "/dev/x", "hostPath": "/dev/y"}])),
            ("0.5.0", &|s| s["devices"][0]["name"] = json!("0d")),
            ("0.6.0", &|s| s["annotations"] = json!({"a": "b"})),
            ("0.6.0", &|s| s["devices"][0]["annotations"] = json!({"a": "b"})),
            ("0.6.0", &|s| s["kind"] = json!("v.example/c.d")),
            ("0.7.0", &|s| edits(s)["additionalGids"] = json!([7])),
            ("0.7.0", &|s| s["containerEdits"] = json!({"intelRdt": {"closID": "x"}})),
            ("1.1.0", &|s| edits(s)["netDevices"] = json!([{"hostInterfaceName": "a", "name": "b"}])),
        ];
        for (version, change) in cases {
            let mut spec = minimal();
            change(&mut spec);
            let parsed = parse(&spec.to_string()).unwrap();
            assert_eq!(lowest_version(&parsed), version, "{spec}");
            let written = serde_json::to_value(&parsed).unwrap();
            assert_eq!(written, spec, "nothing is lost on the way through the model");
        }
    }

    #[test]
    fn what_a_runtime_would_reject_is_rejected() {
        let edits: fn(&mut Value) -> &mut Value = |spec| &mut spec["devices"][0]["containerEdits"];
        for (says, refused) in [
            ("unknown field `extra`", refused(|s| s["extra"] = json!(1))),
            ("unknown field `extra`", refused(|s| edits(s)["extra"] = json!(1))),
            ("cdiVersion \"2.0.0\" is unknown", refused(|s| s["cdiVersion"] = json!("2.0.0"))),
            (
                "cdiVersion 0.5.0 is too low for the content, which needs 0.7.0",
                refused(|s| {
                    s["cdiVersion"] = json!("0.5.0");
                    edits(s)["additionalGids"] = json!([7]);
                }),
            ),
            ("kind must be vendor/class", refused(|s| s["kind"] = json!("9.example/c"))),
            ("kind must be vendor/class", refused(|s| s["kind"] = json!("v.example-/c"))),
            ("kind must be vendor/class", refused(|s| s["kind"] = json!("v.example"))),
            ("there is no device", refused(|s| s["devices"] = json!([]))),
            ("device name \"d-\" must be", refused(|s| s["devices"][0]["name"] = json!("d-"))),
            ("device name \"a b\" must be", refused(|s| s["devices"][0]["name"] = json!("a b"))),
            (
                "two devices are named d",
                refused(|s| s["devices"] = json!([s["devices"][0], s["devices"][0]])),
            ),
            ("device d changes nothing", refused(|s| *edits(s) = json!({}))),
            ("\"=1\" is not NAME=value", refused(|s| edits(s)["env"] = json!(["=1"]))),
            ("\"A\" is not NAME=value", refused(|s| s["containerEdits"] = json!({"env": ["A"]}))),
            (
                "hook \"start\" needs",
                refused(|s| edits(s)["hooks"] = json!([{"hookName": "start", "path": "/h"}])),
            ),
            (
                "device node",
                refused(|s| edits(s)["deviceNodes"] = json!([{"path": "/d", "permissions": "none of it"}])),
            ),
            (
                "a mount needs",
                refused(|s| edits(s)["mounts"] = json!([{"hostPath": "", "containerPath": "/b"}])),
            ),
            (
                "both names",
                refused(|s| edits(s)["netDevices"] = json!([{"hostInterfaceName": "a", "name": ""}])),
            ),
        ] {
            assert!(refused.contains(says), "{refused}");
        }
    }
}
