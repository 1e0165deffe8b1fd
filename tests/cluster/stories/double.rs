//! The embedded API server beside the real one: the same requests, the same answers.
//!
//! Of a success the body is compared, without what no two servers share (UIDs, versions, times) and without who manages
//! which field since when. Of a failure what programs act on: code, reason, and which fields are wrong in which way. The
//! real server's sentences quote its own Go structures; the double's need not.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sriov_dra::demo::apiserver::ApiServer;

use crate::api::{APPLY, Api, MERGE};
use crate::lab::{Lab, SLICES};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const JSON: &str = "application/json";
const DRIVER: &str = "double.example";

struct Request {
    what: &'static str,
    method: &'static str,
    path: String,
    media: &'static str,
    body: Value,
}

fn request(
    what: &'static str,
    method: &'static str,
    path: impl Into<String>,
    media: &'static str,
    body: Value,
) -> Request {
    Request { what, method, path: path.into(), media, body }
}

fn claim(name: &str, devices: Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": name },
        "spec": { "devices": devices },
    })
}

fn slice(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut slice = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": { "name": name, "labels": { "of": "double" } },
        "spec": {
            "driver": DRIVER, "nodeName": "node-x",
            "pool": { "name": "node-x", "generation": 1, "resourceSliceCount": 1 },
            "devices": [{ "name": "a", "attributes": { "pfName": { "string": "p0" } } }],
        },
    });
    change(&mut slice);
    slice
}

fn claims() -> Vec<Request> {
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

fn status() -> Vec<Request> {
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

fn slices() -> Vec<Request> {
    let post = |what: &'static str, change: fn(&mut Value)| {
        request(what, "POST", SLICES, JSON, slice("d-bad", change))
    };
    let put = |what: &'static str, change: fn(&mut Value)| {
        request(what, "PUT", format!("{SLICES}/d"), JSON, slice("d", change))
    };
    let many = |count: usize| {
        Value::from((0..count).map(|n| json!({ "name": format!("d{n}") })).collect::<Vec<_>>())
    };
    vec![
        request("create a slice", "POST", SLICES, JSON, slice("d", |_| {})),
        request(
            "create 128 devices",
            "POST",
            SLICES,
            JSON,
            slice("d-many", |s| s["spec"]["devices"] = many(128)),
        ),
        request(
            "create 129 devices",
            "POST",
            SLICES,
            JSON,
            slice("d-more", |s| s["spec"]["devices"] = many(129)),
        ),
        post("no pool", |s| s["spec"]["pool"] = json!({})),
        post("no driver", |s| s["spec"]["driver"] = json!("")),
        post("a bad driver", |s| s["spec"]["driver"] = json!("Double_")),
        post("no node", |s| drop(s["spec"].as_object_mut().and_then(|spec| spec.remove("nodeName")))),
        post("a node and all nodes", |s| s["spec"]["allNodes"] = json!(true)),
        post("a bad device name", |s| s["spec"]["devices"][0]["name"] = json!("A_1")),
        post("two devices of one name", |s| s["spec"]["devices"] = json!([{ "name": "a" }, { "name": "a" }])),
        post("an attribute without value", |s| s["spec"]["devices"][0]["attributes"]["x"] = json!({})),
        post("an attribute with two values", |s| {
            s["spec"]["devices"][0]["attributes"]["x"] = json!({ "int": 1, "bool": true })
        }),
        post("an attribute with a bad name", |s| {
            s["spec"]["devices"][0]["attributes"]["x-y"] = json!({ "int": 1 })
        }),
        post("an attribute in a bad domain", |s| {
            s["spec"]["devices"][0]["attributes"]["UP/x"] = json!({ "int": 1 })
        }),
        post("a long value", |s| {
            s["spec"]["devices"][0]["attributes"]["x"] = json!({ "string": "x".repeat(65) })
        }),
        post("a bad version", |s| s["spec"]["devices"][0]["attributes"]["x"] = json!({ "version": "1" })),
        post("33 attributes", |s| {
            s["spec"]["devices"][0]["attributes"] = (0..33)
                .map(|n| (format!("a{n}"), json!({ "int": n })))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }),
        post("a taint with a bad effect", |s| {
            s["spec"]["devices"][0]["taints"] = json!([{ "key": "a", "effect": "Evict" }])
        }),
        post("a negative generation", |s| s["spec"]["pool"]["generation"] = json!(-1)),
        post("devices and counters", |s| {
            s["spec"]["sharedCounters"] = json!([{ "name": "c", "counters": { "n": { "value": "1" } } }])
        }),
        post("65 devices with a taint", |s| {
            s["spec"]["devices"] =
                Value::from((0..65).map(|n| json!({ "name": format!("d{n}") })).collect::<Vec<_>>());
            s["spec"]["devices"][0]["taints"] = json!([{ "key": "a", "effect": "NoSchedule" }]);
        }),
        post("a count of none", |s| s["spec"]["pool"]["resourceSliceCount"] = json!(0)),
        put("change without a version", |s| s["spec"]["pool"]["generation"] = json!(2)),
        put("change with an old version", |s| s["metadata"]["resourceVersion"] = json!("1")),
        put("another driver", |s| s["spec"]["driver"] = json!("other.example")),
        put("another node", |s| s["spec"]["nodeName"] = json!("node-y")),
        put("a UID of another", |s| s["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000")),
        put("another pool", |s| s["spec"]["pool"]["name"] = json!("node-y")),
        request("put under another name", "PUT", format!("{SLICES}/e"), JSON, slice("d", |_| {})),
        request(
            "put what is not there",
            "PUT",
            format!("{SLICES}/e"),
            JSON,
            slice("e", |s| s["metadata"]["resourceVersion"] = json!("1")),
        ),
        request(
            "a patch with a UID of another",
            "PATCH",
            format!("{SLICES}/d"),
            MERGE,
            json!({ "metadata": { "uid": "00000000-0000-0000-0000-000000000000" } }),
        ),
        request(
            "a patch with an old version",
            "PATCH",
            format!("{SLICES}/d"),
            MERGE,
            json!({ "metadata": { "resourceVersion": "1" } }),
        ),
        request(
            "a JSON patch",
            "PATCH",
            format!("{SLICES}/d"),
            "application/json-patch+json",
            json!([{ "op": "add", "path": "/spec/devices/-", "value": { "name": "b" } }]),
        ),
        request(
            "a JSON patch whose test fails",
            "PATCH",
            format!("{SLICES}/d"),
            "application/json-patch+json",
            json!([{ "op": "test", "path": "/spec/driver", "value": "x" }]),
        ),
        request(
            "an unknown field, strictly",
            "PATCH",
            format!("{SLICES}/d?fieldValidation=Strict"),
            MERGE,
            json!({ "spec": { "colour": "red" } }),
        ),
        request(
            "an unknown field",
            "PATCH",
            format!("{SLICES}/d"),
            MERGE,
            json!({ "spec": { "colour": "red" } }),
        ),
        request(
            "a finalizer",
            "PATCH",
            format!("{SLICES}/d-many"),
            MERGE,
            json!({ "metadata": { "finalizers": ["example.com/wait"] } }),
        ),
        request(
            "watch one",
            "GET",
            format!("{SLICES}?watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Dd"),
            JSON,
            Value::Null,
        ),
        request(
            "delete with another UID",
            "DELETE",
            format!("{SLICES}/d"),
            JSON,
            json!({ "preconditions": { "uid": "00000000-0000-0000-0000-000000000000" } }),
        ),
        request("try a create", "POST", format!("{SLICES}?dryRun=All"), JSON, slice("d-dry", |_| {})),
        request("which made nothing", "GET", format!("{SLICES}/d-dry"), JSON, Value::Null),
        request(
            "list by driver",
            "GET",
            format!("{SLICES}?fieldSelector=spec.driver={DRIVER}"),
            JSON,
            Value::Null,
        ),
        request(
            "list by driver and node",
            "GET",
            format!("{SLICES}?fieldSelector=spec.driver={DRIVER},spec.nodeName=node-y"),
            JSON,
            Value::Null,
        ),
        request("list by label", "GET", format!("{SLICES}?labelSelector=of%3Ddouble"), JSON, Value::Null),
        request(
            "list by a label that is none",
            "GET",
            format!("{SLICES}?labelSelector=of%3D%3D%3D"),
            JSON,
            Value::Null,
        ),
        request(
            "delete all of them",
            "DELETE",
            format!("{SLICES}?labelSelector=of%3Ddouble"),
            JSON,
            json!({}),
        ),
        request(
            "and there are none",
            "GET",
            format!("{SLICES}?labelSelector=of%3Ddouble"),
            JSON,
            Value::Null,
        ),
        request(
            "but the one with a finalizer",
            "PATCH",
            format!("{SLICES}/d-many"),
            MERGE,
            json!({ "metadata": { "finalizers": null } }),
        ),
        request("which is gone then", "GET", format!("{SLICES}/d-many"), JSON, Value::Null),
        request("a resource nobody knows", "GET", "/apis/resource.k8s.io/v1/things", JSON, Value::Null),
    ]
}

/// What two servers can share of an answer.
fn comparable(code: u16, body: Value) -> (u16, Value) {
    if body["kind"] == "Status" && body["status"] == "Failure" {
        let causes = body["details"]["causes"].as_array().cloned().unwrap_or_default();
        let mut causes: Vec<Value> =
            causes.iter().map(|cause| json!([cause["field"], cause["reason"]])).collect();
        causes.dedup();
        let reason = body["reason"].as_str().unwrap_or_default();
        return (code, json!({ "reason": reason, "causes": causes }));
    }
    // A watch is a line for each event.
    let events = body.as_str().map(|text| {
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Value>()
    });
    let mut body = events.unwrap_or(body);
    shared(&mut body);
    (code, body)
}

fn shared(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "managedFields"]
            {
                fields.remove(field);
            }
            // The real server prints an empty status, as its type says; no client can tell the difference.
            if fields.get("status").is_some_and(|status| *status == json!({})) {
                fields.remove("status");
            }
            fields.values_mut().for_each(shared);
        }
        Value::Array(list) => list.iter_mut().for_each(shared),
        _ => {}
    }
}

pub async fn the_embedded_api_server_answers_as_this_one_does(lab: &mut Lab) -> Result<()> {
    let server = ApiServer::start("127.0.0.1:0").await?;
    let double = Api::of(&server.kubeconfig()?).await?;
    let mut differences = Vec::new();
    let mut asked = 0;
    for Request { what, method, path, media, body } in claims().into_iter().chain(status()).chain(slices()) {
        let (code, answer) = lab.api.ask(method, &path, media, &body).await?;
        let real = comparable(code, answer);
        let (code, answer) = double.ask(method, &path, media, &body).await?;
        let ours = comparable(code, answer);
        asked += 1;
        if real != ours {
            differences.push(format!(
                "{what}:\n      real:   {} {}\n      double: {} {}",
                real.0, real.1, ours.0, ours.1
            ));
        }
    }
    ensure!(
        differences.is_empty(),
        "{} of {asked} answers differ\n    {}",
        differences.len(),
        differences.join("\n    ")
    );
    Ok(())
}
