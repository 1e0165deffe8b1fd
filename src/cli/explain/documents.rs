//! Files to objects: several documents and lists, each fault with file and document number.

use std::path::Path;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceClass, OpaqueDeviceConfiguration, ResourceClaim, ResourceClaimSpec, ResourceClaimTemplate,
    ResourceSlice,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::decode::decode;
use crate::allocate::{Fault, check_claim, check_class};
use crate::claim::decode_parameters;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// In order.
    pub claims: Vec<ResourceClaim>,
    /// In order.
    pub templates: Vec<ResourceClaimTemplate>,
    /// In order.
    pub pods: Vec<Pod>,
    /// In order.
    pub classes: Vec<DeviceClass>,
    /// In order.
    pub slices: Vec<ResourceSlice>,
    /// Documents of other kinds, `claim.yaml, document 3 (NodeSet)`.
    pub passed_over: Vec<String>,
    /// A sentence for each fault.
    pub faults: Vec<String>,
}

impl Documents {
    /// Reads one more file; `-` is standard input. Faults of documents are collected.
    ///
    /// # Errors
    /// The file can't be read or is no YAML.
    pub fn read(&mut self, path: &Path, driver: &str) -> anyhow::Result<()> {
        let (name, text) = if path == Path::new("-") {
            (
                "standard input".to_owned(),
                std::io::read_to_string(std::io::stdin()).context("standard input")?,
            )
        } else {
            let text = std::fs::read_to_string(path);
            (path.display().to_string(), text.with_context(|| format!("{} can't be read", path.display()))?)
        };
        self.parse(&name, &text, driver)
    }

    /// The same for a text.
    ///
    /// # Errors
    /// It is no YAML, or there is nothing in it.
    pub fn parse(&mut self, name: &str, text: &str, driver: &str) -> anyhow::Result<()> {
        let values: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|error| anyhow::anyhow!("{name} is no YAML: {}", one_line(&error.to_string())))?;
        let values: Vec<(usize, Value)> =
            values.into_iter().enumerate().filter(|(_, value)| !value.is_null()).collect();
        if values.is_empty() {
            bail!("{name} has no document in it");
        }
        for (index, value) in values {
            let document = format!("{name}, document {}", index + 1);
            match value.get("items").and_then(Value::as_array) {
                Some(items) if kind_of(&value).ends_with("List") => {
                    for (index, item) in items.iter().enumerate() {
                        self.document(&format!("{document}, item {}", index + 1), item, driver);
                    }
                }
                _ => self.document(&document, &value, driver),
            }
        }
        Ok(())
    }

    fn document(&mut self, place: &str, value: &Value, driver: &str) {
        let kind = kind_of(value);
        let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let place = match (kind.is_empty(), name.is_empty()) {
            (true, _) => place.to_owned(),
            (false, true) => format!("{place} ({kind})"),
            (false, false) => format!("{place} ({kind} {name})"),
        };
        const DRA: [&str; 4] = ["ResourceClaim", "ResourceClaimTemplate", "DeviceClass", "ResourceSlice"];
        if !value.is_object() || kind.is_empty() || version.is_empty() {
            self.faults.push(format!("{place}: it is no Kubernetes object: apiVersion or kind is missing"));
            return;
        }
        if DRA.contains(&kind) && version != "resource.k8s.io/v1" {
            self.faults
                .push(format!("{place}: apiVersion is {version}, only resource.k8s.io/v1 is understood"));
            return;
        }
        match (version, kind) {
            (_, "ResourceClaim") => {
                if let Some(claim) = self.decoded::<ResourceClaim>(&place, value) {
                    self.claim(&place, claim.spec.as_ref(), "spec", driver);
                    self.claims.push(claim);
                }
            }
            (_, "ResourceClaimTemplate") => {
                if let Some(template) = self.decoded::<ResourceClaimTemplate>(&place, value) {
                    let spec = template.spec.as_ref().and_then(|spec| spec.spec.as_ref());
                    self.claim(&place, spec, "spec.spec", driver);
                    self.templates.push(template);
                }
            }
            (_, "DeviceClass") => {
                if let Some(class) = self.decoded::<DeviceClass>(&place, value) {
                    let spec = class.spec.clone().unwrap_or_default();
                    self.add(&place, check_class(&spec));
                    for (index, config) in spec.config.iter().flatten().enumerate() {
                        self.parameters(
                            &place,
                            &format!("spec.config[{index}]"),
                            config.opaque.as_ref(),
                            driver,
                        );
                    }
                    self.classes.push(class);
                }
            }
            (_, "ResourceSlice") => {
                let slice = self.decoded::<ResourceSlice>(&place, value);
                self.slices.extend(slice);
            }
            ("v1", "Pod") => {
                if let Some(pod) = self.decoded::<Pod>(&place, value) {
                    self.pod(&place, &pod);
                    self.pods.push(pod);
                }
            }
            ("resource.k8s.io/v1", _) => {
                self.faults.push(format!("{place}: kind: {kind} is none of {}", DRA.join(", ")));
            }
            _ => self.passed_over.push(place),
        }
    }

    fn decoded<T: DeserializeOwned + Serialize>(&mut self, place: &str, value: &Value) -> Option<T> {
        match decode(value) {
            Ok(decoded) => Some(decoded),
            Err(faults) => {
                self.add(place, faults);
                None
            }
        }
    }

    fn claim(&mut self, place: &str, spec: Option<&ResourceClaimSpec>, path: &str, driver: &str) {
        let spec = spec.cloned().unwrap_or_default();
        self.add(place, check_claim(&spec, path));
        let configs = spec.devices.and_then(|devices| devices.config).unwrap_or_default();
        for (index, config) in configs.iter().enumerate() {
            self.parameters(
                place,
                &format!("{path}.devices.config[{index}]"),
                config.opaque.as_ref(),
                driver,
            );
        }
    }

    /// What an API server refuses a pod for, as far as claims go.
    fn pod(&mut self, place: &str, pod: &Pod) {
        let Some(spec) = &pod.spec else { return };
        let known: Vec<&str> =
            spec.resource_claims.iter().flatten().map(|reference| reference.name.as_str()).collect();
        let init = spec.init_containers.iter().flatten().map(|container| ("initContainers", container));
        let main = spec.containers.iter().map(|container| ("containers", container));
        for (list, container) in init.chain(main) {
            let claims = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
            for claim in claims.filter(|claim| !known.contains(&claim.name.as_str())) {
                self.faults.push(format!(
                    "{place}: spec.{list} {}: resources.claims: {} is none of spec.resourceClaims ({})",
                    container.name,
                    claim.name,
                    if known.is_empty() { "there are none".to_owned() } else { known.join(", ") },
                ));
            }
        }
    }

    /// Parameters for this driver; those of others are theirs.
    fn parameters(
        &mut self,
        place: &str,
        path: &str,
        opaque: Option<&OpaqueDeviceConfiguration>,
        driver: &str,
    ) {
        let Some(opaque) = opaque.filter(|opaque| opaque.driver == driver && opaque.parameters.0.is_object())
        else {
            return;
        };
        if let Err(faults) = decode_parameters(&opaque.parameters.0) {
            let path = format!("{path}.opaque.parameters");
            let faults = faults.0.into_iter().map(|fault| Fault {
                field: match fault.path.as_str() {
                    "parameters" => path.clone(),
                    field => format!("{path}.{field}"),
                },
                problem: fault.problem,
            });
            self.add(place, faults.collect());
        }
    }

    fn add(&mut self, place: &str, faults: Vec<Fault>) {
        self.faults
            .extend(faults.into_iter().map(|fault| format!("{place}: {}: {}", fault.field, fault.problem)));
    }
}

fn kind_of(value: &Value) -> &str {
    value.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
