//! Everything under `manifests/` and `examples/` is what the API server takes, and what this driver understands.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimSpec, ResourceClaimTemplate};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sriov_dra::address::{self, AddressPool, Block, PoolSpec};
use sriov_dra::claim::{Parameters, Source, decode_parameters};

/// Folders of examples.
const EXAMPLES: [&str; 3] = ["examples", "examples/rails", "examples/seeds"];
/// Classes that other drivers bring.
const OF_OTHERS: [&str; 1] = ["gpu.nvidia.com"];

struct Document {
    /// `examples/one-vf.yaml: Pod one-vf`
    place: String,
    kind: String,
    value: Value,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder_name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder(folder_name)).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    files
}

fn documents(folder_name: &str) -> Vec<Document> {
    let mut all = Vec::new();
    for path in files(folder_name) {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let values: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        for value in values {
            let kind = value["kind"]
                .as_str()
                .unwrap_or_else(|| panic!("{file}: a document without kind"))
                .to_owned();
            let name = value["metadata"]["name"].as_str().unwrap_or("");
            all.push(Document { place: format!("{folder_name}/{file}: {kind} {name}"), kind, value });
        }
    }
    all
}

fn everything() -> Vec<Document> {
    let mut all = documents("manifests");
    all.extend(EXAMPLES.into_iter().flat_map(documents));
    assert!(all.len() > 15, "only {} documents: the folders were not found", all.len());
    all
}

/// Parses strictly: a field that the type does not know would be gone on the way back.
fn strict<T: DeserializeOwned + Serialize>(place: &str, value: &Value) -> T {
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{place}: {e}"));
    let again = serde_json::to_value(&typed).unwrap();
    if let Some(path) = lost(value, &again, String::new()) {
        panic!("{place}: {path} is no field that the API knows, or has a value that it does not keep");
    }
    typed
}

/// The first path of `given` that is missing or different in `kept`.
fn lost(given: &Value, kept: &Value, path: String) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            kept.get(key).map_or(Some(path.clone()), |kept| lost(value, kept, path))
        }),
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            given.iter().zip(kept).enumerate().find_map(|(i, (g, k))| lost(g, k, format!("{path}[{i}]")))
        }
        // Numbers of a schema are kept as floats.
        (Value::Number(given), Value::Number(kept)) => (given.as_f64() != kept.as_f64()).then_some(path),
        _ => (given != kept).then_some(path),
    }
}

/// The claims a document holds, as `spec` of a ResourceClaim.
fn claim_specs(document: &Document) -> Option<ResourceClaimSpec> {
    match document.kind.as_str() {
        "ResourceClaim" => Some(strict::<ResourceClaim>(&document.place, &document.value).spec.unwrap()),
        "ResourceClaimTemplate" => Some(
            strict::<ResourceClaimTemplate>(&document.place, &document.value).spec.unwrap().spec.unwrap(),
        ),
        _ => None,
    }
}

/// Pod templates, with those of kinds that the API server only knows by a CRD.
fn pod_spec(document: &Document) -> Option<PodSpec> {
    let spec = match document.kind.as_str() {
        "Pod" => document.value["spec"].clone(),
        "DaemonSet" => document.value["spec"]["template"]["spec"].clone(),
        "NodeSet" => {
            let mut spec = document.value["spec"]["template"]["spec"].clone();
            let mut slurmd = document.value["spec"]["slurmd"].clone();
            slurmd["name"] = json!("slurmd");
            strict::<Container>(&document.place, &slurmd);
            spec["containers"] = json!([slurmd]);
            spec
        }
        _ => return None,
    };
    Some(strict(&document.place, &spec))
}

#[test]
fn every_document_is_of_a_known_kind_and_has_no_field_that_the_api_does_not_know() {
    for document in everything() {
        let Document { place, kind, value } = &document;
        match kind.as_str() {
            "AddressPool" => {
                let pool = strict::<AddressPool>(place, value);
                let name = pool.metadata.name.unwrap();
                address::read(&name, "", &pool.spec).unwrap_or_else(|faults| panic!("{place}: {faults}"));
            }
            "ClusterRole" => drop(strict::<ClusterRole>(place, value)),
            "ClusterRoleBinding" => drop(strict::<ClusterRoleBinding>(place, value)),
            "CustomResourceDefinition" => drop(strict::<CustomResourceDefinition>(place, value)),
            "DaemonSet" => drop(strict::<DaemonSet>(place, value)),
            "DeviceClass" => drop(strict::<DeviceClass>(place, value)),
            "Namespace" => drop(strict::<Namespace>(place, value)),
            "Pod" => drop(strict::<Pod>(place, value)),
            "ResourceClaim" => drop(strict::<ResourceClaim>(place, value)),
            "ResourceClaimTemplate" => drop(strict::<ResourceClaimTemplate>(place, value)),
            "ServiceAccount" => drop(strict::<ServiceAccount>(place, value)),
            "ValidatingAdmissionPolicy" => drop(strict::<ValidatingAdmissionPolicy>(place, value)),
            "ValidatingAdmissionPolicyBinding" => {
                drop(strict::<ValidatingAdmissionPolicyBinding>(place, value))
            }
            // No types of these in k8s-openapi; their own tests are below.
            "Kustomization" => assert_eq!(value["apiVersion"], "kustomize.config.k8s.io/v1beta1", "{place}"),
            "NodeSet" => {
                assert_eq!(value["apiVersion"], "slinky.slurm.net/v1beta1", "{place}");
                let known = ["controllerRef", "replicas", "partition", "slurmd", "template"];
                let spec = value["spec"].as_object().unwrap();
                assert!(spec.keys().all(|key| known.contains(&key.as_str())), "{place}");
            }
            other => panic!("{place}: nobody checks a {other}"),
        }
    }
}

#[test]
fn a_field_that_the_api_does_not_know_would_be_noticed() {
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}});
    strict::<Pod>("a good pod", &pod);
    pod["spec"]["container"] = json!([]);
    let caught = std::panic::catch_unwind(|| strict::<Pod>("a bad pod", &pod)).unwrap_err();
    let message = caught.downcast_ref::<String>().unwrap();
    assert!(message.starts_with("a bad pod: .spec.container is no field"), "{message}");
}

#[test]
fn every_selector_compiles_and_is_true_of_the_vf_it_describes() {
    let vf = json!({
        "driver": "sriov-dra.io",
        "attributes": {"sriov-dra.io": {
            "pfName": "ens1f0", "pfPciAddress": "0000:81:00.0", "linkType": "ethernet", "linkSpeedMbps": 25000,
            "numaNode": 0, "driver": "mlx5_core",
        }},
    });
    let bare = json!({"driver": "sriov-dra.io", "attributes": {"sriov-dra.io": {"vfIndex": 0}}});
    let mut expressions = 0;
    for document in everything() {
        let mut selectors = Vec::new();
        collect(&document.value, "selectors", &mut selectors);
        for selector in selectors.iter().flat_map(|list| list.as_array().unwrap()) {
            let expression = selector["cel"]["expression"].as_str().unwrap();
            let program =
                cel::Program::compile(expression).unwrap_or_else(|e| panic!("{}: {e}", document.place));
            let is_true_of = |device: &Value| {
                let mut context = cel::Context::default();
                context.add_variable("device", device).unwrap();
                let value = program.execute(&context).unwrap_or_else(|e| panic!("{}: {e}", document.place));
                value == cel::Value::Bool(true)
            };
            let mut device = vf.clone();
            // What it asks for, where that is one of several that there are.
            let asked = expression.rsplit(" == ").next().unwrap_or_default();
            for attribute in ["pfName", "linkType", "rail"] {
                if expression.contains(&format!(".{attribute} == ")) {
                    device["attributes"]["sriov-dra.io"][attribute] = serde_json::from_str(asked).unwrap();
                }
            }
            assert!(is_true_of(&device), "{}: {expression}", document.place);
            // An error here would keep the whole pod from being scheduled.
            let of_any = !expression.contains("attributes");
            assert_eq!(is_true_of(&bare), of_any, "{}: {expression}", document.place);
            expressions += 1;
        }
    }
    assert!(expressions >= 7, "only {expressions} selectors were found");
}

#[test]
fn the_crds_have_the_fields_that_the_agent_reads_and_no_others() {
    let all = documents("manifests");
    let schema = |kind: &str| {
        let crd = all.iter().find(|d| d.value["spec"]["names"]["kind"] == kind).unwrap();
        crd.value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    };
    let family = json!({
        "cidr": "10.0.0.0/24", "ranges": ["10.0.0.1"], "blockSize": 16, "prefixLength": 28, "gateway": "10.0.0.1",
        "gatewayIndex": 1, "exclude": ["10.0.0.2"],
    });
    let pfs = json!({"names": ["a"], "pciAddresses": ["0000:3b:00.0"], "rails": [1]});
    let everything = json!({
        "mode": "sharedSubnet", "ipv4": family, "ipv6": family, "routes": [{"to": "10.0.0.0/8", "via": "10.0.0.1", "pfs": pfs}],
        "nodeSelector": {"a": "b"}, "pfs": pfs,
    });
    // The type refuses fields it does not know, and leaves out none.
    let spec: PoolSpec = serde_json::from_value(everything.clone()).unwrap();
    assert_eq!(serde_json::to_value(spec).unwrap(), everything);
    assert_eq!(fields(&schema("AddressPool")), members(&everything));
    let block = Block {
        pool: "p".into(),
        pool_uid: "u".into(),
        index: 1,
        cidrs: vec!["10.0.0.0/28".parse().unwrap()],
        reserved: vec!["10.0.0.0".parse().unwrap()],
        node_name: "n".into(),
        pf_pci_address: "0000:3b:00.0".parse().unwrap(),
    };
    assert_eq!(fields(&schema("AddressBlock")), members(&serde_json::to_value(block).unwrap()));
    let pool = schema("AddressPool");
    assert_eq!(
        pool["properties"]["ipv4"]["x-kubernetes-validations"],
        pool["properties"]["ipv6"]["x-kubernetes-validations"]
    );
}

/// Paths of all fields of a schema.
fn fields(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let schema = if schema["type"] == "array" { &schema["items"] } else { schema };
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        found.extend(fields(member).into_iter().map(|below| format!("{name}.{below}")));
        found.insert(name.clone());
    }
    found
}

/// Paths of all fields of an object; labels are no fields.
fn members(object: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let object = object.get(0).unwrap_or(object);
    for (name, member) in object.as_object().into_iter().flatten() {
        if name != "nodeSelector" {
            found.extend(members(member).into_iter().map(|below| format!("{name}.{below}")));
        }
        found.insert(name.clone());
    }
    found
}

#[test]
fn the_parameters_of_every_claim_and_class_pass_the_strict_decoder() {
    let (mut decoded, mut grants) = (0, 0);
    for document in everything() {
        let place = &document.place;
        let of_claim =
            claim_specs(&document).and_then(|spec| spec.devices).and_then(|devices| devices.config);
        let of_claim =
            of_claim.unwrap_or_default().into_iter().map(|entry| (Source::Claim, entry.opaque.unwrap()));
        let class = (document.kind == "DeviceClass").then(|| strict::<DeviceClass>(place, &document.value));
        let of_class = class.and_then(|class| class.spec.unwrap().config).unwrap_or_default();
        let of_class = of_class.into_iter().map(|entry| (Source::Class, entry.opaque.unwrap()));
        for (source, opaque) in of_class.chain(of_claim) {
            assert_eq!(opaque.driver, sriov_dra::DEFAULT_DRIVER_NAME, "{place}");
            let says = decode_parameters(&opaque.parameters.0, source)
                .unwrap_or_else(|faults| panic!("{place}: {faults}"));
            assert_ne!(says, Parameters::Config(Default::default()), "{place}: an example that sets nothing");
            grants += usize::from(matches!(says, Parameters::Grant(_)));
            decoded += 1;
        }
    }
    assert!(decoded >= 8 && grants >= 1, "only {decoded} config entries were found, {grants} of them grants");
}

#[test]
fn claims_name_requests_classes_and_attributes_that_exist() {
    let mut classes: BTreeSet<String> = everything()
        .iter()
        .filter(|d| d.kind == "DeviceClass")
        .map(|d| d.value["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    classes.extend(OF_OTHERS.map(str::to_owned));
    for document in everything() {
        let place = &document.place;
        let Some(devices) = claim_specs(&document).and_then(|spec| spec.devices) else {
            continue;
        };
        let requests = devices.requests.unwrap_or_default();
        let names: BTreeSet<&str> = requests.iter().map(|request| request.name.as_str()).collect();
        assert!(
            !names.is_empty() && names.len() == requests.len(),
            "{place}: requests need names of their own"
        );
        for request in &requests {
            let exactly = request.exactly.as_ref().unwrap();
            assert!(
                classes.contains(&exactly.device_class_name),
                "{place}: no class {}",
                exactly.device_class_name
            );
        }
        for scope in devices.config.unwrap_or_default().into_iter().filter_map(|entry| entry.requests) {
            assert!(scope.iter().all(|name| names.contains(name.as_str())), "{place}: config for {scope:?}");
        }
        for constraint in devices.constraints.unwrap_or_default() {
            let only_new = place.contains("-1.36.yaml");
            assert_eq!(
                constraint.distinct_attribute.is_some(),
                only_new,
                "{place}: its name says where it works"
            );
            let attribute = constraint.match_attribute.or(constraint.distinct_attribute).unwrap();
            // Of other drivers' devices only what all publish can be compared.
            let common = requests.iter().any(|request| {
                OF_OTHERS.contains(&request.exactly.as_ref().unwrap().device_class_name.as_str())
            });
            let domain = if common { "resource.kubernetes.io/" } else { "sriov-dra.io/" };
            assert!(attribute.starts_with(domain), "{place}: {attribute}");
        }
    }
}

#[test]
fn pods_use_claims_that_their_file_defines_and_images_that_name_no_registry() {
    let all =
        EXAMPLES.into_iter().flat_map(|folder| files(folder).into_iter().map(move |path| (folder, path)));
    for (folder, path) in all {
        let file = path.file_name().unwrap().to_str().unwrap();
        let documents: Vec<Document> = documents(folder)
            .into_iter()
            .filter(|d| d.place.starts_with(&format!("{folder}/{file}: ")))
            .collect();
        let defined: BTreeSet<(&str, &str)> = documents
            .iter()
            .map(|d| (d.kind.as_str(), d.value["metadata"]["name"].as_str().unwrap()))
            .collect();
        let mut pods = 0;
        for document in &documents {
            let place = &document.place;
            let Some(spec) = pod_spec(document) else { continue };
            pods += 1;
            let claims: BTreeMap<String, (&str, String)> = spec
                .resource_claims
                .unwrap_or_default()
                .into_iter()
                .map(|claim| match (claim.resource_claim_template_name, claim.resource_claim_name) {
                    (Some(template), None) => (claim.name, ("ResourceClaimTemplate", template)),
                    (None, Some(name)) => (claim.name, ("ResourceClaim", name)),
                    _ => panic!("{place}: claim {} needs exactly one source", claim.name),
                })
                .collect();
            assert!(!claims.is_empty(), "{place}: a pod without a claim");
            for (kind, name) in claims.values() {
                assert!(
                    defined.contains(&(*kind, name.as_str())),
                    "{place}: {kind} {name} is not in the file"
                );
            }
            for container in &spec.containers {
                let used = container.resources.as_ref().and_then(|r| r.claims.clone()).unwrap_or_default();
                assert!(!used.is_empty(), "{place}: container {} uses no claim", container.name);
                assert!(
                    used.iter().all(|claim| claims.contains_key(&claim.name)),
                    "{place}: {}",
                    container.name
                );
                let image = container.image.as_deref().unwrap();
                assert!(!image.contains('/'), "{place}: {image}");
                assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"), "{place}");
            }
        }
        assert!(pods > 0, "{file}: no pod");
    }
}

#[test]
fn the_kustomization_lists_every_manifest() {
    let all = documents("manifests");
    let kustomization = &all.iter().find(|d| d.kind == "Kustomization").unwrap().value;
    let known = ["apiVersion", "kind", "namespace", "resources", "images"];
    assert!(
        kustomization.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())),
        "{kustomization}"
    );
    let listed: BTreeSet<&str> =
        kustomization["resources"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    let paths = files("manifests");
    let there: BTreeSet<&str> =
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(listed, &there - &BTreeSet::from(["kustomization.yaml"]));
    let tag = kustomization["images"][0]["newTag"].as_str().unwrap();
    assert_eq!(tag, env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_agent_runs_with_the_names_paths_and_rights_it_is_built_for() {
    let all = documents("manifests");
    let one = |kind: &str| all.iter().find(|d| d.kind == kind).unwrap();
    let daemon_set: DaemonSet = strict("DaemonSet", &one("DaemonSet").value);
    let spec = daemon_set.spec;
    let pod = spec.template.spec.unwrap();
    let agent = &pod.containers[0];
    assert_eq!(agent.image.as_deref(), Some(concat!("sriov-dra:", env!("CARGO_PKG_VERSION"))));
    assert_eq!((pod.host_network, pod.host_pid), (Some(true), Some(true)));

    // Paths that the kubelet and the runtime are told must be the same on both sides.
    let host: BTreeMap<&str, &str> = pod
        .volumes
        .iter()
        .flatten()
        .map(|volume| (volume.name.as_str(), volume.host_path.as_ref().unwrap().path.as_str()))
        .collect();
    let mounts = agent.volume_mounts.as_deref().unwrap();
    assert_eq!(mounts.len(), host.len(), "every volume is mounted once");
    for mount in mounts {
        assert_eq!(host[mount.name.as_str()], mount.mount_path, "{}", mount.name);
        let expected = mount.mount_path.ends_with("/netns").then_some("HostToContainer");
        assert_eq!(mount.mount_propagation.as_deref(), expected, "{}", mount.mount_path);
    }

    let role: ClusterRole = strict("ClusterRole", &one("ClusterRole").value);
    let mut rights: Vec<String> = Vec::new();
    for rule in role.rules.unwrap() {
        let verbs = rule.verbs.join(",");
        let names = rule.resource_names.map(|names| format!("[{}]", names.join(","))).unwrap_or_default();
        rights.extend(rule.resources.unwrap().iter().map(|resource| format!("{resource}{names} {verbs}")));
    }
    assert_eq!(
        rights,
        [
            "resourceclaims get",
            "resourceclaims/status update,patch",
            "resourceclaims/driver[sriov-dra.io] associated-node:update,associated-node:patch",
            "resourceslices get,list,watch,create,update,patch,delete",
            "nodes get",
            "addresspools get,list,watch",
            "addresspools/status patch",
            "addressblocks get,list,watch,create,delete",
            "addressblocks/status patch",
            "events create,patch",
            "pods get",
        ]
    );
    let account = format!("system:serviceaccount:sriov-dra:{}", pod.service_account_name.unwrap());
    let policies = all.iter().filter(|d| d.kind == "ValidatingAdmissionPolicy");
    let slices = policies.map(|d| &d.value).find(|p| p["metadata"]["name"] == "sriov-dra-slices-of-own-node");
    let condition = &slices.unwrap()["spec"]["matchConditions"][0]["expression"];
    assert!(condition.as_str().unwrap().contains(&format!("\"{account}\"")), "{condition}");
}

/// Values of every field with this name, at any depth.
fn collect<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                if key == name {
                    found.push(value);
                } else {
                    collect(value, name, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|item| collect(item, name, found)),
        _ => {}
    }
}
