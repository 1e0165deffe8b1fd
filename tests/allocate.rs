//! What claims get: the cases of `tests/allocator/`, which a real scheduler can be asked as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaimSpec, ResourceSlice};
use serde::Deserialize;
use serde_json::{Value, json};
use sriov_dra::allocate::{Cluster, DeviceId, Node, Refusal, Taken, Wanted, allocate, check_claim, explain};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "node_a")]
    node: String,
    #[serde(default)]
    held: Vec<String>,
    /// Only the real API server asks for it.
    #[serde(default)]
    #[allow(dead_code)]
    admin: bool,
    /// Where the real scheduler is known to do something else.
    #[serde(default)]
    #[allow(dead_code)]
    scheduler: Option<Vec<String>>,
    claims: BTreeMap<String, Value>,
    #[serde(default)]
    expect: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    config: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    refused: Option<String>,
}

fn node_a() -> String {
    "node-a".to_owned()
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> Vec<T> {
    let path = format!("{}/tests/allocator/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let values: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    values.into_iter().map(|value| serde_json::from_value(value).unwrap()).collect()
}

fn spec(devices: &Value) -> ResourceClaimSpec {
    serde_json::from_value(json!({ "devices": devices })).unwrap()
}

fn got(allocation: &AllocationResult) -> Vec<String> {
    let results = allocation.devices.as_ref().unwrap().results.as_ref().unwrap();
    results.iter().map(|result| format!("{}={}", result.request, result.device)).collect()
}

fn configs(allocation: &AllocationResult) -> Vec<String> {
    let config = allocation.devices.as_ref().unwrap().config.iter().flatten();
    config
        .map(|entry| {
            let requests = entry.requests.clone().unwrap_or_default().join(",");
            format!("{} {requests}", entry.source).trim_end().to_owned()
        })
        .collect()
}

#[test]
fn claims_get_what_the_cases_say_and_are_refused_with_these_words() {
    let slices: Vec<ResourceSlice> = read("slices.yaml");
    let classes: Vec<DeviceClass> = read("classes.yaml");
    let cases: Vec<Case> = read::<Vec<Case>>("cases.yaml").remove(0);
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let specs: Vec<(&String, ResourceClaimSpec)> =
            case.claims.iter().map(|(name, devices)| (name, spec(devices))).collect();
        for (name, spec) in &specs {
            assert_eq!(check_claim(spec, "spec"), [], "{}: {name}", case.name);
        }
        let wanted: Vec<Wanted<'_>> = specs.iter().map(|(name, spec)| Wanted { name, spec }).collect();
        let held = case.held.iter().map(|device| {
            let id =
                DeviceId { driver: "sriov-dra.io".into(), pool: case.node.clone(), device: device.clone() };
            (id, "other/claim".to_owned())
        });
        let taken = Taken(held.collect());
        let cluster = Cluster { slices: &slices, classes: &classes, taken: &taken };
        let node = Node::named(&case.node);
        let allocated = allocate(&cluster, &wanted, &node);
        let explained = explain(&cluster, &wanted, &node);
        match (&case.refused, &allocated) {
            (None, Ok(allocations)) => {
                for ((name, _), allocation) in specs.iter().zip(allocations) {
                    if Some(&got(allocation)) != case.expect.get(*name) {
                        wrong.push(format!("{}: {name} got {:?}", case.name, got(allocation)));
                    }
                    let config = case.config.get(*name).cloned().unwrap_or_default();
                    if configs(allocation) != config {
                        wrong.push(format!("{}: {name} has config {:?}", case.name, configs(allocation)));
                    }
                    let selector = allocation.node_selector.as_ref().unwrap();
                    let fields = selector.node_selector_terms[0].match_fields.as_ref().unwrap();
                    assert_eq!(fields[0].values, Some(vec![case.node.clone()]), "{}", case.name);
                }
                assert_eq!(explained.map(|found| found.allocatable), Ok(true), "{}", case.name);
            }
            (Some(words), Err(refusal)) => {
                let said = match explained {
                    Ok(found) => found.reasons.join("\n"),
                    Err(refusal) => refusal.to_string(),
                };
                if !said.contains(words.as_str()) {
                    wrong.push(format!("{}: refused with {refusal} and {said}", case.name));
                }
            }
            (_, Ok(allocations)) => {
                wrong.push(format!(
                    "{}: allocated {:?}",
                    case.name,
                    allocations.iter().map(got).collect::<Vec<_>>()
                ));
            }
            (_, Err(refusal)) => wrong.push(format!("{}: {refusal}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// One node of `pfs` PFs with `vfs` VFs each, in the driver's order, at most 128 in a slice.
fn large_node(pfs: usize, vfs: usize) -> Vec<ResourceSlice> {
    let devices: Vec<Value> = (0..vfs)
        .flat_map(|vf| (0..pfs).map(move |pf| (vf, pf)))
        .map(|(vf, pf)| {
            json!({
                "name": format!("pf{pf}-vf{vf}"),
                "attributes": {
                    "sriov-dra.io/pfName": {"string": format!("ens{pf}")},
                    "sriov-dra.io/vfIndex": {"int": vf},
                    "sriov-dra.io/numaNode": {"int": pf / 4},
                    "sriov-dra.io/rdma": {"bool": true},
                },
            })
        })
        .collect();
    let chunks: Vec<&[Value]> = devices.chunks(128).collect();
    let slice = |(index, chunk): (usize, &&[Value])| {
        let slice = json!({
            "metadata": {"name": format!("{index:05x}-sriov-dra.io-big-x")},
            "spec": {
                "driver": "sriov-dra.io", "nodeName": "big", "devices": chunk,
                "pool": {"name": "big", "generation": 1, "resourceSliceCount": chunks.len()},
            },
        });
        serde_json::from_value(slice).unwrap()
    };
    chunks.iter().enumerate().map(slice).collect()
}

fn ask(
    slices: &[ResourceSlice],
    devices: Value,
    held: &[String],
) -> (Result<Vec<String>, Refusal>, Duration) {
    let classes: Vec<DeviceClass> = read("classes.yaml");
    let spec = spec(&devices);
    let taken = held.iter().map(|device| {
        (
            DeviceId { driver: "sriov-dra.io".into(), pool: "big".into(), device: device.clone() },
            "x/y".to_owned(),
        )
    });
    let taken = Taken(taken.collect());
    let cluster = Cluster { slices, classes: &classes, taken: &taken };
    let begin = Instant::now();
    let found = allocate(&cluster, &[Wanted { name: "default/big", spec: &spec }], &Node::named("big"));
    (found.map(|allocations| got(&allocations[0])), begin.elapsed())
}

/// With room for a busy machine and a build without optimisation; a search that runs away takes minutes.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn eight_of_a_thousand_devices_on_one_numa_node_and_distinct_vf_numbers_are_found_at_once() {
    let slices = large_node(8, 127);
    let (found, took) = ask(
        &slices,
        json!({
            "requests": [{"name": "vf", "exactly": {"deviceClassName": "rdma-vf", "count": 8}}],
            "constraints": [
                {"matchAttribute": "sriov-dra.io/pfName"},
                {"distinctAttribute": "sriov-dra.io/vfIndex"},
            ],
        }),
        &[],
    );
    let expected: Vec<String> = (0..8).map(|vf| format!("vf=pf0-vf{vf}")).collect();
    assert_eq!(found, Ok(expected));
    assert!(took < SOON, "{took:?}");
}

#[test]
fn what_can_not_be_is_refused_at_once_however_many_devices_are_alike() {
    let slices = large_node(8, 127);
    // Each PF has seven left.
    let held: Vec<String> = (0..8).flat_map(|pf| (7..127).map(move |vf| format!("pf{pf}-vf{vf}"))).collect();
    let eight_rails: Vec<Value> = (0..9)
        .map(|rail| json!({"name": format!("rail-{rail}"), "exactly": {"deviceClassName": "rdma-vf"}}))
        .collect();
    let impossible = [
        json!({
            "requests": [{"name": "vf", "exactly": {"deviceClassName": "rdma-vf", "count": 8}}],
            "constraints": [{"matchAttribute": "sriov-dra.io/pfName"}],
        }),
        json!({
            "requests": [{"name": "vf", "exactly": {"deviceClassName": "rdma-vf", "count": 5}}],
            "constraints": [
                {"matchAttribute": "sriov-dra.io/numaNode"},
                {"distinctAttribute": "sriov-dra.io/pfName"},
            ],
        }),
        json!({
            "requests": eight_rails,
            "constraints": [{"distinctAttribute": "sriov-dra.io/pfName"}],
        }),
        json!({
            "requests": [
                {"name": "many", "exactly": {"deviceClassName": "rdma-vf", "count": 8}},
                {"name": "none", "exactly": {"deviceClassName": "rdma-vf", "selectors": [
                    {"cel": {"expression": "device.attributes[\"sriov-dra.io\"].vfIndex == 100"}},
                ]}},
            ],
            "constraints": [{"distinctAttribute": "sriov-dra.io/vfIndex", "requests": ["many"]}],
        }),
    ];
    for devices in impossible {
        let (found, took) = ask(&slices, devices.clone(), &held);
        assert!(matches!(found, Err(Refusal::NoDevices { .. })), "{devices}: {found:?}");
        assert!(took < SOON, "{devices}: {took:?}");
    }
}

#[test]
fn a_pool_that_is_incomplete_or_out_of_date_gives_nothing() {
    let mut slices = large_node(8, 40);
    assert_eq!(slices.len(), 3);
    let one = json!({"requests": [{"name": "vf", "exactly": {"deviceClassName": "sriov-vf"}}]});
    let all = json!({"requests": [
        {"name": "vf", "exactly": {"deviceClassName": "sriov-vf", "allocationMode": "All"}},
    ]});
    let removed = slices.remove(1);
    assert!(matches!(ask(&slices, one.clone(), &[]).0, Err(Refusal::NoDevices { .. })));
    assert!(matches!(ask(&slices, all, &[]).0, Err(Refusal::PoolUnusable { .. })));
    // A newer generation replaces the old one, complete or not.
    let mut newer = removed.clone();
    newer.spec.pool.generation = 2;
    newer.spec.pool.resource_slice_count = 1;
    slices.push(removed);
    slices.push(newer);
    assert_eq!(ask(&slices, one, &[]).0, Ok(vec!["vf=pf0-vf16".to_owned()]));
}
