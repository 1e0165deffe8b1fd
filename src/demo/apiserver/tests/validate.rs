//! One broken rule at a time.

use serde_json::json;

use super::*;
use crate::demo::apiserver::resources::find;

fn slice(change: impl Fn(&mut Value)) -> Value {
    let mut slice = json!({
        "metadata": {"name": "00000-a"},
        "spec": {
            "driver": "sriov-dra.io", "nodeName": "node-1",
            "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "0000-81-00-2", "attributes": {"sriov-dra.io/mtu": {"int": 1500}}}],
        },
    });
    change(&mut slice);
    slice
}

fn claim(change: impl Fn(&mut Value)) -> Value {
    let mut claim = json!({
        "metadata": {"name": "a"},
        "spec": {"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": "vf"}}]}},
        "status": {
            "allocation": {"devices": {"results": [
                {"request": "vf", "driver": "sriov-dra.io", "pool": "node-1", "device": "0000-81-00-2"},
            ]}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}],
            "devices": [{
                "driver": "sriov-dra.io", "pool": "node-1", "device": "0000-81-00-2",
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Attached", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "networkData": {"interfaceName": "net0", "ips": ["10.0.0.1/24"], "hardwareAddress": "02:00:00:00:00:01"},
            }],
        },
    });
    change(&mut claim);
    claim
}

fn fields(result: Result<(), ApiError>) -> Vec<String> {
    let Err(error) = result else { return Vec::new() };
    assert_eq!((error.code, error.reason), (422, "Invalid"), "{}", error.message);
    let causes = error.details["causes"].as_array().unwrap();
    causes.iter().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect()
}

fn many(count: usize, item: impl Fn(usize) -> Value) -> Value {
    (0..count).map(item).collect()
}

#[test]
fn slices_within_every_limit_are_valid() {
    let resource = find("resource.k8s.io", "v1", "resourceslices").unwrap();
    let fine: [&dyn Fn(&mut Value); 4] = [
        &|_| {},
        &|s| s["spec"]["devices"] = many(128, |n| json!({"name": format!("d{n}")})),
        &|s| s["spec"]["devices"] = json!([]),
        &|s| {
            s["spec"]["devices"][0]["attributes"] =
                json!({"version": {"version": "22.41.1000"}, "x": {"string": "x".repeat(64)}})
        },
    ];
    for (number, change) in fine.iter().enumerate() {
        assert_eq!(fields(create(resource, &slice(change))), Vec::<String>::new(), "case {number}");
    }
}

#[test]
fn each_broken_rule_of_a_slice_names_its_field() {
    let resource = find("resource.k8s.io", "v1", "resourceslices").unwrap();
    let device = "/spec/devices/0";
    let cases: &[(&str, Value, &str)] = &[
        ("/metadata/name", json!("Upper"), "metadata.name"),
        ("/spec/driver", json!(""), "spec.driver"),
        ("/spec/driver", json!("a_b.io"), "spec.driver"),
        ("/spec/driver", json!("a".repeat(64)), "spec.driver"),
        ("/spec/pool/name", json!("a/B"), "spec.pool.name"),
        ("/spec/pool/generation", json!(-1), "spec.pool.generation"),
        ("/spec/pool/resourceSliceCount", json!(0), "spec.pool.resourceSliceCount"),
        ("/spec/nodeName", Value::Null, "spec"),
        ("/spec/allNodes", json!(true), "spec"),
        ("/spec/sharedCounters", json!([{"name": "c"}]), "spec"),
        ("/spec/devices", many(129, |n| json!({"name": format!("d{n}")})), "spec.devices"),
        ("/spec/devices", json!([{"name": "a"}, {"name": "a"}]), "spec.devices[1]"),
        ("/spec/devices/0/name", json!("0000:81:00.2"), "spec.devices[0].name"),
        (
            "/spec/devices/0/attributes",
            (0..33).map(|n| (format!("a{n}"), json!({"int": 1}))).collect::<serde_json::Map<_, _>>().into(),
            "spec.devices[0]",
        ),
        ("/spec/devices/0/attributes", json!({"pci-bus": {"int": 1}}), "spec.devices[0].attributes"),
        ("/spec/devices/0/attributes", json!({"a": {}}), "spec.devices[0].attributes[a]"),
        (
            "/spec/devices/0/attributes",
            json!({"a": {"int": 1, "bool": true}}),
            "spec.devices[0].attributes[a]",
        ),
        (
            "/spec/devices/0/attributes",
            json!({"a": {"string": "x".repeat(65)}}),
            "spec.devices[0].attributes[a].string",
        ),
        (
            "/spec/devices/0/attributes",
            json!({"a": {"version": "22.41"}}),
            "spec.devices[0].attributes[a].version",
        ),
        (
            "/spec/devices/0/taints",
            json!([{"key": "a", "effect": "Evict"}]),
            "spec.devices[0].taints[0].effect",
        ),
    ];
    for (pointer, value, field) in cases {
        let broken = slice(|slice| {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            slice.pointer_mut(parent).unwrap()[last] = value.clone();
        });
        assert_eq!(fields(create(resource, &broken)), [*field], "{pointer} = {value}");
    }
    let rich = slice(|slice| {
        slice["spec"]["devices"] = many(65, |n| json!({"name": format!("d{n}")}));
        slice.pointer_mut(device).unwrap()["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]);
    });
    assert_eq!(fields(create(resource, &rich)), ["spec.devices"]);
}

#[test]
fn driver_pool_and_node_of_a_slice_never_change() {
    let resource = find("resource.k8s.io", "v1", "resourceslices").unwrap();
    let before = slice(|_| {});
    for (pointer, field) in [
        ("/spec/driver", "spec.driver"),
        ("/spec/pool/name", "spec.pool.name"),
        ("/spec/nodeName", "spec.nodeName"),
    ] {
        let after = slice(|slice| *slice.pointer_mut(pointer).unwrap() = json!("other"));
        assert_eq!(fields(update(resource, &before, &after, false)), [field]);
    }
    let after = slice(|slice| slice["spec"]["pool"]["generation"] = json!(2));
    assert_eq!(fields(update(resource, &before, &after, false)), Vec::<String>::new());
}

#[test]
fn each_broken_rule_of_a_claims_status_names_its_field() {
    let resource = find("resource.k8s.io", "v1", "resourceclaims").unwrap();
    let before = claim(|claim| claim["status"] = Value::Null);
    assert_eq!(fields(update(resource, &before, &claim(|_| {}), true)), Vec::<String>::new());
    let conditions = "/status/devices/0/conditions/0";
    let network = "/status/devices/0/networkData";
    let at = |pointer: &str, member: &str| format!("{pointer}/{member}");
    let cases: Vec<(String, Value, &str)> = vec![
        ("/status/allocation".into(), Value::Null, "status.reservedFor"),
        ("/status/devices/0/device".into(), json!("other"), "status.devices[0]"),
        (
            "/status/devices/0/shareID".into(),
            json!("8fc1c49e-7a4a-4ddd-8d3c-c1aaef9a8b2a"),
            "status.devices[0]",
        ),
        ("/status/devices/0/data".into(), json!("text"), "status.devices[0].data"),
        ("/status/devices/0/data".into(), json!({"a": "x".repeat(10 * 1024)}), "status.devices[0].data"),
        (at(conditions, "type"), json!(""), "status.devices[0].conditions[0].type"),
        (at(conditions, "status"), json!("Yes"), "status.devices[0].conditions[0].status"),
        (at(conditions, "reason"), json!(""), "status.devices[0].conditions[0].reason"),
        (at(conditions, "reason"), json!("not a word"), "status.devices[0].conditions[0].reason"),
        (
            at(conditions, "lastTransitionTime"),
            json!("1970-01-01T00:00:00Z"),
            "status.devices[0].conditions[0].lastTransitionTime",
        ),
        (at(network, "interfaceName"), json!("x".repeat(257)), "status.devices[0].networkData.interfaceName"),
        (
            at(network, "hardwareAddress"),
            json!("x".repeat(129)),
            "status.devices[0].networkData.hardwareAddress",
        ),
        (
            at(network, "ips"),
            many(17, |n| json!(format!("10.0.0.{n}/24"))),
            "status.devices[0].networkData.ips",
        ),
        (at(network, "ips"), json!(["10.0.0.1/24", "10.0.0.1/24"]), "status.devices[0].networkData.ips[1]"),
        (at(network, "ips"), json!(["10.0.0.256/24"]), "status.devices[0].networkData.ips[0]"),
        (at(network, "ips"), json!(["10.0.0.1"]), "status.devices[0].networkData.ips[0]"),
        (at(network, "ips"), json!(["FD00::1/64"]), "status.devices[0].networkData.ips[0]"),
    ];
    for (pointer, value, field) in cases {
        let after = claim(|claim| {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            claim.pointer_mut(parent).unwrap()[last] = value.clone();
        });
        let found = fields(update(resource, &before, &after, true));
        assert!(found.contains(&field.to_owned()), "{pointer} = {value}: {found:?}");
    }
}

#[test]
fn an_allocation_is_made_once() {
    let resource = find("resource.k8s.io", "v1", "resourceclaims").unwrap();
    let before = claim(|_| {});
    let moved = claim(|claim| claim["status"]["allocation"]["devices"]["results"][0]["device"] = json!("b"));
    assert!(fields(update(resource, &before, &moved, true)).contains(&"status.allocation".to_owned()));
    let freed = claim(|claim| claim["status"] = json!({}));
    assert_eq!(fields(update(resource, &before, &freed, true)), Vec::<String>::new());
    let other = claim(|claim| claim["spec"]["devices"]["requests"][0]["name"] = json!("other"));
    assert_eq!(fields(update(resource, &before, &other, false)), ["spec"]);
}
