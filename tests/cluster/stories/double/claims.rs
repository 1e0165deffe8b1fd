//! Claims, and the status that schedulers and drivers write.

use serde_json::{Value, json};

use super::{CLAIMS, DRIVER, JSON, Request, request};
use crate::api::{APPLY, MERGE};

fn claim(name: &str, devices: Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": name },
        "spec": { "devices": devices },
    })
}

pub(super) fn claims() -> Vec<Request> {
    let exactly = json!({ "deviceClassName": "sriov-vf" });
    let one = |name: &str| json!({ "requests": [{ "name": name, "exactly": exactly }] });
    let opaque = |request: &str| json!([{ "requests": [request], "opaque": { "driver": DRIVER, "parameters": { "kind": "A" } } }]);
    let with = |devices: Value, key: &str, value: Value| {
        let mut devices = devices;
        devices[key] = value;
        devices
    };
    let post =
        |what: &'static str, devices: Value| request(what, "POST", CLAIMS, JSON, claim("d-bad", devices));
    vec![
        request("read a claim that is not there", "GET", format!("{CLAIMS}/d"), JSON, Value::Null),
        request("create a claim", "POST", CLAIMS, JSON, claim("d", one("vf"))),
        request("create it again", "POST", CLAIMS, JSON, claim("d", one("vf"))),
        request("read it", "GET", format!("{CLAIMS}/d"), JSON, Value::Null),
        request(
            "create in a namespace that is not there",
            "POST",
            CLAIMS.replace("default", "nowhere"),
            JSON,
            claim("d", one("vf")),
        ),
        request("create in another namespace than the object's", "POST", CLAIMS, JSON, {
            let mut other = claim("d-other", one("vf"));
            other["metadata"]["namespace"] = json!("slurm");
            other
        }),
        request(
            "create without a name",
            "POST",
            CLAIMS,
            JSON,
            json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "spec": { "devices": {} } }),
        ),
        request("create with a bad name", "POST", CLAIMS, JSON, claim("D_bad", one("vf"))),
        post("a request with a bad name", one("VF_1")),
        post(
            "a selector that is none",
            json!({ "requests": [{ "name": "vf", "exactly": { "deviceClassName": "c", "selectors": [{ "cel": { "expression": "device." } }] } }] }),
        ),
        post(
            "a selector of an alternative that is none",
            json!({ "requests": [{ "name": "vf", "firstAvailable": [{ "name": "a", "deviceClassName": "c", "selectors": [{}] }] }] }),
        ),
        post(
            "a selector as in the examples",
            json!({ "requests": [{ "name": "vf", "exactly": { "deviceClassName": "c", "selectors": [{ "cel": { "expression":
                "has(device.attributes[\"sriov-dra.io\"].pfName) && device.attributes[\"sriov-dra.io\"].pfName == \"a\"" } }] } }] }),
        ),
        post(
            "a config of no driver",
            with(one("vf"), "config", json!([{ "opaque": { "driver": "", "parameters": { "kind": "A" } } }])),
        ),
        request("delete it", "DELETE", format!("{CLAIMS}/d-bad"), JSON, json!({})),
        post("a request without a class", json!({ "requests": [{ "name": "vf", "exactly": {} }] })),
        post("a request of no kind", json!({ "requests": [{ "name": "vf" }] })),
        post(
            "two requests of one name",
            json!({ "requests": [{ "name": "vf", "exactly": exactly }, { "name": "vf", "exactly": exactly }] }),
        ),
        post("a config for a request that is not there", with(one("vf"), "config", opaque("other"))),
        post(
            "a constraint without attribute",
            with(one("vf"), "constraints", json!([{ "requests": ["vf"] }])),
        ),
        post(
            "a negative count",
            json!({ "requests": [{ "name": "vf", "exactly": { "deviceClassName": "c", "allocationMode": "ExactCount", "count": -1 } }] }),
        ),
        post(
            "a count for all",
            json!({ "requests": [{ "name": "vf", "exactly": { "deviceClassName": "c", "allocationMode": "All", "count": 2 } }] }),
        ),
        request(
            "a body of a wrong type",
            "POST",
            CLAIMS,
            JSON,
            json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "x" }, "spec": "text" }),
        ),
        request(
            "change an immutable spec",
            "PATCH",
            format!("{CLAIMS}/d"),
            MERGE,
            json!({ "spec": { "devices": { "requests": [] } } }),
        ),
        request(
            "change the labels",
            "PATCH",
            format!("{CLAIMS}/d"),
            MERGE,
            json!({ "metadata": { "labels": { "a": "b" } } }),
        ),
        request(
            "apply labels",
            "PATCH",
            format!("{CLAIMS}/d?fieldManager=m"),
            APPLY,
            json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "d", "labels": { "c": "d" } } }),
        ),
        request(
            "apply against another's field",
            "PATCH",
            format!("{CLAIMS}/d?fieldManager=m2"),
            APPLY,
            json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "d", "labels": { "c": "e" } } }),
        ),
        request(
            "apply without a manager",
            "PATCH",
            format!("{CLAIMS}/d"),
            APPLY,
            json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "d" } }),
        ),
        request("patch as nobody knows it", "PATCH", format!("{CLAIMS}/d"), "application/x", json!({})),
        request(
            "list by a field that is no selector",
            "GET",
            format!("{CLAIMS}?fieldSelector=spec.driver=x"),
            JSON,
            Value::Null,
        ),
        request("list by name", "GET", format!("{CLAIMS}?fieldSelector=metadata.name=d"), JSON, Value::Null),
    ]
}

pub(super) fn status() -> Vec<Request> {
    let path = format!("{CLAIMS}/d/status");
    // Reserved for something that no controller here looks after.
    let allocation = json!({
        "allocation": { "devices": { "results": [
            { "request": "vf", "driver": DRIVER, "pool": "node-x", "device": "a" },
        ] } },
        "reservedFor": [{ "apiGroup": "example.com", "resource": "things", "name": "t", "uid": "1" }],
    });
    let apply = |devices: Value| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "d", "namespace": "default" },
            "status": { "devices": devices },
        })
    };
    let condition = json!({ "type": "Ready", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let device =
        |name: &str| json!({ "driver": DRIVER, "pool": "node-x", "device": name, "conditions": [condition] });
    let by = format!("{path}?fieldManager=agent&force=true");
    let with = |key: &str, value: Value| {
        let mut device = device("a");
        device[key] = value;
        apply(json!([device]))
    };
    let mut wrong_uid = apply(json!([device("a")]));
    wrong_uid["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    vec![
        request(
            "status of devices before allocation",
            "PATCH",
            by.clone(),
            APPLY,
            apply(json!([device("a")])),
        ),
        request(
            "reserve before allocation",
            "PATCH",
            path.clone(),
            MERGE,
            json!({ "status": { "reservedFor": allocation["reservedFor"] } }),
        ),
        request(
            "allocate to a request that is not there",
            "PATCH",
            path.clone(),
            MERGE,
            json!({ "status": { "allocation": { "devices": { "results": [
            { "request": "other", "driver": DRIVER, "pool": "node-x", "device": "a" } ] } } } }),
        ),
        request("allocate", "PATCH", path.clone(), MERGE, json!({ "status": allocation })),
        request(
            "allocate otherwise",
            "PATCH",
            path.clone(),
            MERGE,
            json!({ "status": { "allocation": { "devices": { "results": [
            { "request": "vf", "driver": DRIVER, "pool": "node-x", "device": "b" } ] } } } }),
        ),
        request("status of a device", "PATCH", by.clone(), APPLY, apply(json!([device("a")]))),
        request(
            "status of a device that is not allocated",
            "PATCH",
            by.clone(),
            APPLY,
            apply(json!([device("b")])),
        ),
        request(
            "status of a device twice",
            "PATCH",
            by.clone(),
            APPLY,
            apply(json!([device("a"), device("a")])),
        ),
        request(
            "status with a bad address",
            "PATCH",
            by.clone(),
            APPLY,
            with("networkData", json!({ "ips": ["10.0.0.1"] })),
        ),
        request(
            "status with an unusual address",
            "PATCH",
            by.clone(),
            APPLY,
            with("networkData", json!({ "ips": ["fd00:0::1/64"] })),
        ),
        request(
            "status with a long name",
            "PATCH",
            by.clone(),
            APPLY,
            with("networkData", json!({ "interfaceName": "x".repeat(300) })),
        ),
        request(
            "status with network data",
            "PATCH",
            by.clone(),
            APPLY,
            with(
                "networkData",
                json!({ "ips": ["10.0.0.1/24", "fd00::1/64"], "interfaceName": "net1", "hardwareAddress": "02:00:00:00:00:01" }),
            ),
        ),
        request(
            "a condition of no type",
            "PATCH",
            by.clone(),
            APPLY,
            with("conditions", json!([{ "type": "", "status": "Maybe", "reason": "", "message": "" }])),
        ),
        request("status of the claim of that name but another UID", "PATCH", by.clone(), APPLY, wrong_uid),
        request("no devices any more", "PATCH", by, APPLY, apply(json!([]))),
        request(
            "the spec is not changed through the status",
            "PATCH",
            path,
            MERGE,
            json!({ "spec": { "devices": { "requests": [] } } }),
        ),
        request(
            "delete with another UID",
            "DELETE",
            format!("{CLAIMS}/d"),
            JSON,
            json!({ "preconditions": { "resourceVersion": "1" } }),
        ),
        request("delete", "DELETE", format!("{CLAIMS}/d"), JSON, json!({})),
        request("delete what is gone", "DELETE", format!("{CLAIMS}/d"), JSON, json!({})),
    ]
}
