//! Files to objects: several documents and lists, each fault with file, line, document and field.
//!
//! Used by every command that reads files of claims. `strict` decodes an object, `names` judges what objects are called,
//! `place` and `lines` know where they stand.

mod lines;
mod names;
mod place;
mod strict;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceClass, OpaqueDeviceConfiguration, ResourceClaim, ResourceClaimSpec, ResourceClaimTemplate,
    ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::address::{self, AddressPool, PoolFaults};
use crate::allocate::{Fault, check_claim, check_class};
use crate::claim::{Source, WHOLE, decode_parameters, edits};
use crate::device::is_label;
use names::Names;
pub use place::{File, Finding, Place};
use strict::decode;

/// Two driver names that are this close are taken for one that is misspelt.
const MISSPELT: usize = 2;

/// `apiVersion` of pools.
const POOLS: &str = <AddressPool as k8s_openapi::Resource>::API_VERSION;

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
    /// In order.
    pub pools: Vec<AddressPool>,
    /// Documents of other kinds, `claim.yaml, document 3 (NodeSet)`.
    pub passed_over: Vec<String>,
    /// What is wrong.
    pub faults: Vec<Finding>,
    /// A sentence for each thing that is legal and rarely meant.
    pub notes: Vec<String>,
    /// Where the objects above stand, as far as they were read from files.
    pub places: Places,
    names: Names,
}

/// Where objects stand, in the order of their lists.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Of `claims`.
    pub claims: Vec<Place>,
    /// Of `templates`.
    pub templates: Vec<Place>,
    /// Of `pods`.
    pub pods: Vec<Place>,
    /// Of `classes`.
    pub classes: Vec<Place>,
    /// Of `pools`.
    pub pools: Vec<Place>,
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
        let file = File::new(name, text);
        for (number, value) in values {
            match value.get("items").and_then(Value::as_array) {
                Some(items) if kind_of(&value).ends_with("List") => {
                    for (index, item) in items.iter().enumerate() {
                        self.document(&file, number, Some(index), item, driver);
                    }
                }
                _ => self.document(&file, number, None, &value, driver),
            }
        }
        Ok(())
    }

    fn document(
        &mut self,
        file: &Arc<File>,
        number: usize,
        item: Option<usize>,
        value: &Value,
        driver: &str,
    ) {
        let kind = kind_of(value);
        let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let place = Place::new(file, number, item, kind, name);
        const DRA: [&str; 4] = ["ResourceClaim", "ResourceClaimTemplate", "DeviceClass", "ResourceSlice"];
        if !value.is_object() || kind.is_empty() || version.is_empty() {
            let problem = "it is no Kubernetes object: apiVersion or kind is missing";
            self.faults.push(place.finding("", problem));
            return;
        }
        if DRA.contains(&kind) && version != "resource.k8s.io/v1" {
            let problem = format!("is {version}, only resource.k8s.io/v1 is understood");
            self.faults.push(place.finding("apiVersion", problem));
            return;
        }
        match (version, kind) {
            (_, "ResourceClaim") => {
                if let Some(claim) = self.decoded::<ResourceClaim>(&place, value, |claim| &claim.metadata) {
                    self.claim(&place, claim.spec.as_ref(), "spec", driver);
                    self.claims.push(claim);
                    self.places.claims.push(place);
                }
            }
            (_, "ResourceClaimTemplate") => {
                let decoded =
                    self.decoded::<ResourceClaimTemplate>(&place, value, |template| &template.metadata);
                if let Some(template) = decoded {
                    let spec = template.spec.as_ref().and_then(|spec| spec.spec.as_ref());
                    self.claim(&place, spec, "spec.spec", driver);
                    self.templates.push(template);
                    self.places.templates.push(place);
                }
            }
            (_, "DeviceClass") => {
                if let Some(class) = self.decoded::<DeviceClass>(&place, value, |class| &class.metadata) {
                    let spec = class.spec.clone().unwrap_or_default();
                    self.add(&place, check_class(&spec));
                    let configs = spec.config.iter().flatten().map(|config| config.opaque.as_ref());
                    self.configs(&place, "spec", configs.collect(), driver, Source::Class);
                    self.classes.push(class);
                    self.places.classes.push(place);
                }
            }
            (_, "ResourceSlice") => {
                let decoded = self.decoded::<ResourceSlice>(&place, value, |slice| &slice.metadata);
                self.slices.extend(decoded);
            }
            (POOLS, "AddressPool") => {
                if let Some(pool) = self.decoded::<AddressPool>(&place, value, |pool| &pool.metadata) {
                    let name = pool.metadata.name.as_deref().unwrap_or_default();
                    match address::read(name, "", &pool.spec) {
                        Ok(_) => {
                            self.pools.push(pool);
                            self.places.pools.push(place);
                        }
                        Err(PoolFaults { faults, .. }) => {
                            let faults =
                                faults.into_iter().map(|fault| place.finding(fault.field, fault.problem));
                            self.faults.extend(faults);
                        }
                    }
                }
            }
            (_, "AddressPool") => {
                let problem = format!("is {version}, only {POOLS} is understood");
                self.faults.push(place.finding("apiVersion", problem));
            }
            ("v1", "Pod") => {
                if let Some(pod) = self.decoded::<Pod>(&place, value, |pod| &pod.metadata) {
                    self.pod(&place, &pod);
                    self.pods.push(pod);
                    self.places.pods.push(place);
                }
            }
            ("resource.k8s.io/v1", _) => {
                self.faults.push(place.finding("kind", format!("{kind} is none of {}", DRA.join(", "))));
            }
            _ => self.passed_over.push(place.to_string()),
        }
    }

    /// An object with a good name, or faults.
    fn decoded<T: DeserializeOwned + Serialize>(
        &mut self,
        place: &Place,
        value: &Value,
        metadata: fn(&T) -> &ObjectMeta,
    ) -> Option<T> {
        match decode::<T>(value) {
            Ok(decoded) => {
                let faults = self.names.add(&place.document(), kind_of(value), metadata(&decoded));
                self.add(place, faults);
                Some(decoded)
            }
            Err(faults) => {
                self.add(place, faults);
                None
            }
        }
    }

    fn claim(&mut self, place: &Place, spec: Option<&ResourceClaimSpec>, path: &str, driver: &str) {
        let spec = spec.cloned().unwrap_or_default();
        self.add(place, check_claim(&spec, path));
        let configs = spec.devices.and_then(|devices| devices.config).unwrap_or_default();
        let configs: Vec<_> = configs.iter().map(|config| config.opaque.as_ref()).collect();
        self.configs(place, &format!("{path}.devices"), configs, driver, Source::Claim);
    }

    /// Configs for this driver are read. Of the others a misspelt one is noted, and all of a claim that has none for this
    /// driver: then one of them may have been meant for it. Classes of other drivers have their configs rightly.
    fn configs(
        &mut self,
        place: &Place,
        path: &str,
        configs: Vec<Option<&OpaqueDeviceConfiguration>>,
        driver: &str,
        source: Source,
    ) {
        let has_own =
            source == Source::Class || configs.iter().flatten().any(|opaque| opaque.driver == driver);
        for (index, opaque) in configs.into_iter().enumerate() {
            let Some(opaque) = opaque.filter(|opaque| !opaque.driver.is_empty()) else { continue };
            let path = format!("{path}.config[{index}]");
            if opaque.driver == driver {
                self.parameters(place, &path, opaque, source);
            } else if !has_own || edits(&opaque.driver, driver) <= MISSPELT {
                let other = &opaque.driver;
                self.notes.push(format!(
                    "{place}: {path} is for driver {other}, not {driver}: this driver does not read it"
                ));
            }
        }
    }

    /// What an API server refuses a pod for, as far as claims go.
    fn pod(&mut self, place: &Place, pod: &Pod) {
        let Some(spec) = &pod.spec else { return };
        let mut faults = Vec::new();
        for (index, reference) in spec.resource_claims.iter().flatten().enumerate() {
            let path = format!("spec.resourceClaims[{index}]");
            let name = &reference.name;
            if !is_label(name) {
                let problem = format!(
                    "{name:?} is no name; use at most 63 lower-case letters, digits and inner hyphens, as in net"
                );
                faults.push(Fault { field: format!("{path}.name"), problem });
            }
            if spec.resource_claims.iter().flatten().take(index).any(|earlier| earlier.name == *name) {
                let problem = format!("{name:?} is the name of an earlier entry, too");
                faults.push(Fault { field: format!("{path}.name"), problem });
            }
            if reference.resource_claim_name.is_some() == reference.resource_claim_template_name.is_some() {
                let problem = "must have one of resourceClaimName and resourceClaimTemplateName".to_owned();
                faults.push(Fault { field: path, problem });
            }
        }
        self.add(place, faults);
        let known: Vec<&str> =
            spec.resource_claims.iter().flatten().map(|reference| reference.name.as_str()).collect();
        let init = spec.init_containers.iter().flatten().enumerate();
        let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
        let main = spec.containers.iter().enumerate();
        let main = main.map(|(index, container)| (format!("spec.containers[{index}]"), container));
        for (path, container) in init.chain(main) {
            let claims = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
            for (index, claim) in
                claims.enumerate().filter(|(_, claim)| !known.contains(&claim.name.as_str()))
            {
                let problem = format!(
                    "{} is none of spec.resourceClaims ({})",
                    claim.name,
                    if known.is_empty() { "there are none".to_owned() } else { known.join(", ") },
                );
                self.faults.push(place.finding(format!("{path}.resources.claims[{index}].name"), problem));
            }
        }
    }

    /// Parameters for this driver; what is no object is a fault already.
    fn parameters(&mut self, place: &Place, path: &str, opaque: &OpaqueDeviceConfiguration, source: Source) {
        if !opaque.parameters.0.is_object() {
            return;
        }
        if let Err(faults) = decode_parameters(&opaque.parameters.0, source) {
            let faults =
                faults.iter().map(|fault| place.finding(of_parameters(path, &fault.path), &fault.problem));
            self.faults.extend(faults);
        }
    }

    fn add(&mut self, place: &Place, faults: Vec<Fault>) {
        self.faults.extend(faults.into_iter().map(|fault| place.finding(fault.field, fault.problem)));
    }

    /// All faults, a line each.
    pub fn sentences(&self) -> String {
        self.faults.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
    }
}

/// The field of an object that a path in the parameters of its config entry at `path` means.
pub fn of_parameters(path: &str, in_parameters: &str) -> String {
    match in_parameters {
        WHOLE => format!("{path}.opaque.parameters"),
        field => format!("{path}.opaque.parameters.{field}"),
    }
}

fn kind_of(value: &Value) -> &str {
    value.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
