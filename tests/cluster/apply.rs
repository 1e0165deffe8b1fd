//! Manifests and examples, applied as a user would: the manifests through a kustomize overlay.
//!
//! With `kubectl` it is `kubectl apply`. Without, the overlay's few changes are made here, and each object is a
//! server-side apply.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::Api;
use crate::node::{AGENT, BUSYBOX};
use crate::process::run_command;

/// `kubectl`, where there is one.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// Whom it talks to.
    pub kubeconfig: PathBuf,
    /// For what it is given and keeps.
    pub work: PathBuf,
}

/// Folder of this package.
fn package(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// The documents of a file.
///
/// # Errors
/// When it is no YAML.
pub fn documents(folder: &str, file: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(package(folder).join(file)).with_context(|| file.to_owned())?;
    Ok(serde_saphyr::from_multiple(&text)?)
}

/// What an overlay changes of the DaemonSet: where sysfs is, and how much is logged.
fn patch(sysfs: &Path) -> Value {
    let env = json!([{ "name": "SYSFS_ROOT", "value": sysfs }, { "name": "LOG_LEVEL", "value": "sriov_dra=debug,info" }]);
    let mount = json!({ "name": "simulated", "mountPath": sysfs });
    let volume = json!({ "name": "simulated", "hostPath": { "path": sysfs, "type": "Directory" } });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "sriov-dra", "namespace": "sriov-dra" },
        "spec": { "template": { "spec": {
            "containers": [{ "name": "agent", "env": env, "volumeMounts": [mount] }],
            "volumes": [volume],
        } } },
    })
}

/// Applies `manifests/` below an overlay.
///
/// # Errors
/// What the API server or `kubectl` says.
pub async fn manifests(kubectl: Option<&Kubectl>, api: &Api, sysfs: &Path) -> Result<()> {
    if let Some(kubectl) = kubectl {
        // kustomize takes nothing from outside its folder but other kustomizations.
        let (base, overlay) = (kubectl.work.join("manifests"), kubectl.work.join("overlay"));
        fs::create_dir_all(&base)?;
        fs::create_dir_all(&overlay)?;
        for entry in fs::read_dir(package("manifests"))? {
            let entry = entry?;
            fs::copy(entry.path(), base.join(entry.file_name()))?;
        }
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": ["../manifests"],
            "patches": [{ "path": "simulated.yaml" }],
        });
        fs::write(overlay.join("kustomization.yaml"), kustomization.to_string())?;
        fs::write(overlay.join("simulated.yaml"), patch(sysfs).to_string())?;
        return kubectl.run(&["apply", "-k", &overlay.display().to_string()]);
    }
    let kustomization = documents("manifests", "kustomization.yaml")?;
    for file in kustomization[0]["resources"].as_array().cloned().unwrap_or_default() {
        for mut object in documents("manifests", file.as_str().unwrap_or_default())? {
            if object["kind"] == "DaemonSet" {
                let pod = &mut object["spec"]["template"]["spec"];
                pod["containers"][0]["image"] = json!(AGENT);
                let change = patch(sysfs);
                let change = &change["spec"]["template"]["spec"];
                extend(&mut pod["volumes"], &change["volumes"]);
                for list in ["env", "volumeMounts"] {
                    extend(&mut pod["containers"][0][list], &change["containers"][0][list]);
                }
            }
            self::object(api, "sriov-dra", &object).await?;
        }
    }
    Ok(())
}

fn extend(list: &mut Value, with: &Value) {
    if let (Some(list), Some(with)) = (list.as_array_mut(), with.as_array()) {
        list.extend(with.iter().cloned());
    }
}

/// Applies a file of `examples/`, with the busybox that the node has.
///
/// # Errors
/// What the API server or `kubectl` says.
pub async fn example(kubectl: Option<&Kubectl>, api: &Api, file: &str) -> Result<()> {
    let text = fs::read_to_string(package("examples").join(file)).with_context(|| file.to_owned())?;
    let text = text.replace("image: busybox:1.36", &format!("image: {BUSYBOX}"));
    if let Some(kubectl) = kubectl {
        let copy = kubectl.work.join(file);
        fs::write(&copy, text)?;
        return kubectl.run(&["apply", "-f", &copy.display().to_string()]);
    }
    for document in serde_saphyr::from_multiple::<Value>(&text)? {
        object(api, "default", &document).await?;
    }
    Ok(())
}

impl Kubectl {
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        // It would keep what it learned of the server below HOME.
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(self.work.join("cache"));
        run_command(command.args(arguments)).map(drop)
    }
}

/// Applies one object; `namespace` is for those that live in one and name none.
///
/// # Errors
/// What the API server says.
pub async fn object(api: &Api, namespace: &str, object: &Value) -> Result<Value> {
    api.apply(&path(namespace, object)?, object).await
}

/// An object's path.
///
/// # Errors
/// For a kind nobody needed yet.
fn path(namespace: &str, object: &Value) -> Result<String> {
    let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (field(&object["apiVersion"]), field(&object["kind"]));
    let (plural, namespaced) = match kind.as_str() {
        "Namespace" => ("namespaces", false),
        "ServiceAccount" => ("serviceaccounts", true),
        "Pod" => ("pods", true),
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        "ValidatingAdmissionPolicy" => ("validatingadmissionpolicies", false),
        "ValidatingAdmissionPolicyBinding" => ("validatingadmissionpolicybindings", false),
        "CustomResourceDefinition" => ("customresourcedefinitions", false),
        "AddressPool" => ("addresspools", false),
        "DeviceClass" => ("deviceclasses", false),
        "DaemonSet" => ("daemonsets", true),
        "RuntimeClass" => ("runtimeclasses", false),
        "ResourceClaim" => ("resourceclaims", true),
        "ResourceClaimTemplate" => ("resourceclaimtemplates", true),
        other => anyhow::bail!("no path for a {other}"),
    };
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
    let within = if namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    Ok(format!("{group}{within}/{plural}/{}", field(&object["metadata"]["name"])))
}
