//! Pods with claims, and what must be true of one that runs: by the API server, the container, and `ip`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sriov_dra::device::PciAddress;

use crate::lab::Lab;
use crate::node::BUSYBOX;
use crate::process::wait_for;
use crate::runtime::Sandbox;
use crate::sim::links;

/// From creation to a running container.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A VF as a pod has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The pod's name of the claim, and the request.
    pub to: (String, String),
    /// Which VF.
    pub pci: PciAddress,
    /// Name inside; empty where it stays on the host.
    pub interface: String,
}

/// A template with one request and these parameters of a `VfConfig`.
pub fn template(name: &str, config: &Value) -> Value {
    let spec = claim_spec(&json!({}), config);
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": { "name": name },
        "spec": { "spec": spec },
    })
}

/// `spec` of a claim with one request `vf`, which `more` is merged into.
pub fn claim_spec(more: &Value, config: &Value) -> Value {
    let mut exactly = json!({ "deviceClassName": "sriov-vf" });
    if let (Some(exactly), Some(more)) = (exactly.as_object_mut(), more.as_object()) {
        exactly.extend(more.clone());
    }
    let mut devices = json!({ "requests": [{ "name": "vf", "exactly": exactly }] });
    if !config.is_null() {
        let mut parameters = json!({ "apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfConfig" });
        if let (Some(parameters), Some(config)) = (parameters.as_object_mut(), config.as_object()) {
            parameters.extend(config.clone());
        }
        devices["config"] = json!([{ "opaque": { "driver": "sriov-dra.io", "parameters": parameters } }]);
    }
    json!({ "devices": devices })
}

/// A pod that sleeps, with one claim `net` of a template.
pub fn pod(name: &str, template: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "resourceClaims": [{ "name": "net", "resourceClaimTemplateName": template }],
            "containers": [{
                "name": "shell", "image": BUSYBOX, "command": ["sleep", "100000"],
                "resources": { "claims": [{ "name": "net" }] },
            }],
        },
    })
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Lab {
    /// Creates an object in `default`.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn create(&self, object: &Value) -> Result<Value> {
        let collection = match object["kind"].as_str() {
            Some("Pod") => "/api/v1/namespaces/default/pods",
            Some("ResourceClaim") => "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
            Some("ResourceClaimTemplate") => {
                "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates"
            }
            kind => anyhow::bail!("nobody creates {kind:?} here"),
        };
        self.api.create(collection, object).await
    }

    /// Creates a template that asks for one VF with a config, called `vf`.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn template(&self, config: &Value) -> Result<()> {
        self.create(&template("vf", config)).await.map(drop)
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// After a minute, with its state and events.
    pub async fn wait_ready(&self, namespace: &str, name: &str) -> Result<Value> {
        let ready = wait_for(START_LIMIT, "a pod to run", async || {
            let pod = self.api.get(&pod_path(namespace, name)).await?;
            let ready =
                items(&pod["status"]["conditions"]).any(|c| c["type"] == "Ready" && c["status"] == "True");
            ensure!(ready, "pod {name} is {}", pod["status"]["phase"]);
            Ok(pod)
        });
        match ready.await {
            Ok(pod) => Ok(pod),
            Err(error) => Err(error.context(format!("events: {:?}", self.events(namespace, name).await?))),
        }
    }

    /// Waits for an event of a pod whose message has all these words.
    ///
    /// # Errors
    /// After a minute, with the events there are.
    pub async fn wait_event(&self, name: &str, words: &[&str]) -> Result<String> {
        wait_for(START_LIMIT, "an event", async || {
            let events = self.events("default", name).await?;
            let found = events.iter().find(|event| words.iter().all(|word| event.contains(word)));
            found.cloned().with_context(|| format!("no event of pod {name} has {words:?}: {events:?}"))
        })
        .await
    }

    /// `reason: message` of a pod's events.
    ///
    /// # Errors
    /// The API server's status.
    pub async fn events(&self, namespace: &str, name: &str) -> Result<Vec<String>> {
        let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name={name}");
        let events = self.api.list(&path).await?;
        Ok(events.iter().map(|e| format!("{}: {}", text(&e["reason"]), text(&e["message"]))).collect())
    }

    /// Deletes a pod and waits until it is gone.
    ///
    /// # Errors
    /// After a minute.
    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        let path = pod_path("default", name);
        self.api.delete(&path).await?;
        wait_for(START_LIMIT, "a pod to go", async || {
            let (code, pod) = self.api.ask("GET", &path, "application/json", &Value::Null).await?;
            ensure!(code == 404, "{name} is {}", pod["status"]["phase"]);
            Ok(())
        })
        .await
    }

    /// A pod's claims: its name for each, and the object.
    ///
    /// # Errors
    /// When one is not made yet.
    pub async fn claims_of(&self, pod: &Value) -> Result<BTreeMap<String, Value>> {
        let namespace = text(&pod["metadata"]["namespace"]);
        let mut claims = BTreeMap::new();
        for reference in items(&pod["spec"]["resourceClaims"]) {
            let made =
                items(&pod["status"]["resourceClaimStatuses"]).find(|made| made["name"] == reference["name"]);
            let made = made.map(|made| &made["resourceClaimName"]).unwrap_or(&reference["resourceClaimName"]);
            let name = made.as_str().with_context(|| format!("claim {} has no object", reference["name"]))?;
            let path = format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}");
            claims.insert(text(&reference["name"]), self.api.get(&path).await?);
        }
        Ok(claims)
    }

    /// VFs that are allocated to a pod: which claim and request, and the PCI address.
    ///
    /// # Errors
    /// When one of its claims is not allocated.
    pub async fn allocated(&self, pod: &Value) -> Result<Vec<(String, String, PciAddress)>> {
        let mut allocated = Vec::new();
        for (name, claim) in self.claims_of(pod).await? {
            let results = &claim["status"]["allocation"]["devices"]["results"];
            ensure!(results.is_array(), "claim {name} is not allocated");
            for result in items(results) {
                let pci = PciAddress::from_device_name(result["device"].as_str().unwrap_or_default());
                let pci = pci.with_context(|| format!("device {}", result["device"]))?;
                allocated.push((name.clone(), text(&result["request"]), pci));
            }
        }
        Ok(allocated)
    }

    /// Checks a running pod: each VF allocated to it is in its namespace and not on the host, as it was made but for
    /// its name and what the claim sets; its containers are told exactly that; and so is whoever reads the claim.
    ///
    /// # Errors
    /// What is not so.
    pub async fn check_pod(&self, namespace: &str, name: &str) -> Result<Vec<Given>> {
        let pod = self.wait_ready(namespace, name).await?;
        let allocated = self.allocated(&pod).await?;
        ensure!(!allocated.is_empty(), "pod {name} got nothing");
        let sandbox = self.runtime.sandbox(namespace, name).await?;
        let inside = links(Some(sandbox.netns.as_deref().context("a network namespace")?))?;
        let on_host = self.sim.on_host()?;
        let mut given = Vec::new();
        for (claim, request, pci) in allocated {
            ensure!(!on_host.contains_key(&pci), "VF {pci} of pod {name} is on the host");
            let link = inside.iter().find(|link| link.alias == pci.to_string());
            let link = link.with_context(|| format!("VF {pci} is not among {inside:?}"))?;
            ensure!(link.up, "VF {pci} is down in pod {name}: {link:?}");
            ensure!(self.sim.clean.get(&pci).is_some_and(|clean| clean.mac == link.mac), "MAC of {link:?}");
            given.push(Given { to: (claim, request), pci, interface: link.name.clone() });
        }
        ensure!(inside.len() == given.len() + 1, "the pod has {inside:?} beside its eth0");
        for container in items(&pod["spec"]["containers"]) {
            self.check_environment(&pod, container, &given).await?;
        }
        self.check_status(&pod, &given, &sandbox).await?;
        Ok(given)
    }

    async fn check_environment(&self, pod: &Value, container: &Value, given: &[Given]) -> Result<()> {
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for used in items(&container["resources"]["claims"]) {
            let is_told = |given: &&Given| {
                used["name"] == *given.to.0 && (used["request"].is_null() || used["request"] == *given.to.1)
            };
            for given in given.iter().filter(is_told) {
                // Of a claim that was there before its pod nobody but the pod knows what the pod calls it.
                let references = items(&pod["spec"]["resourceClaims"]);
                let own = references
                    .filter(|r| r["name"] == *given.to.0)
                    .find_map(|r| r["resourceClaimName"].as_str());
                let key = format!("SRIOV_DRA_{}_{}", own.unwrap_or(&given.to.0), given.to.1)
                    .to_uppercase()
                    .replace('-', "_");
                expected.entry(format!("{key}_PCI_ADDRESSES")).or_default().insert(given.pci.to_string());
                expected.entry(format!("{key}_INTERFACES")).or_default().insert(given.interface.clone());
            }
        }
        let id = self.runtime.container(&namespace, &name, &text(&container["name"])).await?;
        let printed = self.runtime.exec(&id, &["env"]).await?;
        let mut told: BTreeMap<String, BTreeSet<String>> = printed
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(key, _)| key.ends_with("_PCI_ADDRESSES") || key.ends_with("_INTERFACES"))
            .map(|(key, list)| (key.to_owned(), list.split(',').map(str::to_owned).collect()))
            .collect();
        // Over NRI there are lists over all claims, too.
        for list in ["SRIOV_DRA_PCI_ADDRESSES", "SRIOV_DRA_INTERFACES"] {
            let Some(all) = told.remove(list) else { continue };
            let ending = list.trim_start_matches("SRIOV_DRA");
            let each = expected.iter().filter(|(key, _)| key.ends_with(ending));
            let union: BTreeSet<String> = each.flat_map(|(_, values)| values.clone()).collect();
            ensure!(
                all == union,
                "container {} is told {list} {all:?} instead of {union:?}",
                container["name"]
            );
        }
        ensure!(told == expected, "container {} is told {told:?} instead of {expected:?}", container["name"]);
        Ok(())
    }

    async fn check_status(&self, pod: &Value, given: &[Given], sandbox: &Sandbox) -> Result<()> {
        let inside = links(sandbox.netns.as_deref())?;
        // The write is off the pod's path.
        wait_for(Duration::from_secs(10), "the claims' status", async || {
            let mut devices = Vec::new();
            for claim in self.claims_of(pod).await?.into_values() {
                devices.extend(items(&claim["status"]["devices"]).cloned());
            }
            for given in given {
                let device = devices.iter().find(|device| device["device"] == given.pci.device_name());
                let device = device.with_context(|| format!("{} is not in {devices:?}", given.pci))?;
                let ready = items(&device["conditions"]).find(|c| c["type"] == "Ready");
                ensure!(ready.is_some_and(|c| c["status"] == "True"), "{device}");
                let link = inside.iter().find(|link| link.name == given.interface).context("its link")?;
                let mut expected = json!({ "interfaceName": given.interface, "hardwareAddress": link.mac });
                if !link.addresses.is_empty() {
                    expected["ips"] = json!(link.addresses);
                }
                ensure!(device["networkData"] == expected, "{} instead of {expected}", device["networkData"]);
            }
            Ok(())
        })
        .await
    }
}
