//! Slices.

use serde_json::{Value, json};

use super::{DRIVER, JSON, Request, request};
use crate::api::MERGE;
use crate::lab::SLICES;

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

pub(super) fn slices() -> Vec<Request> {
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
