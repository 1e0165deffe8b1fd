//! Pods on their way through a cluster, and what is around them: templates, events.

use serde_json::{Value, json};

use super::{CLAIMS, DRIVER, JSON, Request, request};
use crate::api::{APPLY, MERGE};

const PODS: &str = "/api/v1/namespaces/default/pods";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";

/// Of a pod, what the double fills in as the real server does. The rest of its defaults have no meaning here.
pub(super) fn comparable(pod: &Value) -> Value {
    let mut kept = json!({ "kind": "Pod" });
    for pointer in [
        "/metadata/name",
        "/metadata/namespace",
        "/metadata/deletionGracePeriodSeconds",
        "/metadata/generation",
        "/spec/nodeName",
        "/spec/containers/0/image",
        "/status/phase",
        "/status/conditions",
        "/status/resourceClaimStatuses",
    ] {
        kept[pointer] = pod.pointer(pointer).cloned().unwrap_or_default();
    }
    // Times of conditions are no two servers' same.
    let conditions = kept["/status/conditions"].as_array_mut().into_iter().flatten();
    conditions.for_each(|condition| *condition = json!([condition["type"], condition["status"]]));
    kept
}

/// Nobody here schedules it.
fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "x" }],
            "resourceClaims": [{ "name": "net", "resourceClaimTemplateName": "of-nobody" }],
        },
    })
}

pub(super) fn pods() -> Vec<Request> {
    let path = format!("{PODS}/d");
    let get = |what: &'static str| request(what, "GET", format!("{PODS}/d"), JSON, Value::Null);
    let post = |what: &'static str, object: Value| request(what, "POST", PODS, JSON, object);
    let delete =
        |what: &'static str, options: Value| request(what, "DELETE", format!("{PODS}/d"), JSON, options);
    let patch = |what: &'static str, sub: &str, body: Value| {
        request(what, "PATCH", format!("{PODS}/d{sub}"), MERGE, body)
    };
    let bind = |what: &'static str, target: Value| {
        let binding =
            json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "d" }, "target": target });
        request(what, "POST", format!("{PODS}/d/binding"), JSON, binding)
    };
    let node = |name: &str| json!({ "kind": "Node", "name": name });
    let grace = |seconds: i64| json!({ "gracePeriodSeconds": seconds });
    let again = |what: &'static str| post(what, pod("d"));
    vec![
        post("create a pod", pod("d")),
        delete("delete a pod without a node", json!({})),
        get("which is gone"),
        request("apply a pod", "PATCH", format!("{path}?fieldManager=m"), APPLY, pod("d")),
        get("read what was applied"),
        bind("bind to no node", json!({ "kind": "Node" })),
        bind("bind to something else", json!({ "kind": "Pod", "name": "x" })),
        bind("bind", node("node-x")),
        bind("bind again", node("node-y")),
        get("read what was bound"),
        patch("move to another node", "", json!({ "spec": { "nodeName": "node-y" } })),
        patch(
            "ask for other claims",
            "",
            json!({ "spec": { "resourceClaims": [{ "name": "a", "resourceClaimName": "a" }] } }),
        ),
        patch("change the image", "", json!({ "spec": { "containers": [{ "name": "c", "image": "y" }] } })),
        patch("the status through the pod", "", json!({ "status": { "phase": "Running" } })),
        patch("the status", "/status", json!({ "status": { "phase": "Running" } })),
        request(
            "names of claims that it does not ask for",
            "PATCH",
            format!("{path}/status?fieldManager=claims&force=true"),
            APPLY,
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "d" },
                "status": { "resourceClaimStatuses": [{ "name": "other", "resourceClaimName": "d-net-1" }] },
            }),
        ),
        request(
            "names of claims",
            "PATCH",
            format!("{path}/status?fieldManager=claims&force=true"),
            APPLY,
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "d" },
                "status": { "resourceClaimStatuses": [{ "name": "net", "resourceClaimName": "d-net-1" }] },
            }),
        ),
        delete("delete with the usual grace", json!({})),
        get("which is there still"),
        delete("delete again", json!({})),
        delete("delete with more grace", grace(60)),
        delete("delete with less", grace(5)),
        bind("bind on the way out", node("node-y")),
        patch("the status on the way out", "/status", json!({ "status": { "phase": "Failed" } })),
        get("which keeps it"),
        delete("delete what has failed meanwhile", json!({})),
        get("which changes nothing"),
        delete("delete with no more grace", grace(0)),
        get("which is gone then"),
        again("create it again"),
        bind("bind it again", node("node-x")),
        patch("it fails", "/status", json!({ "status": { "phase": "Failed" } })),
        delete("delete what has failed", json!({})),
        get("which is gone as well"),
        again("create it a third time"),
        bind("bind it a third time", node("node-x")),
        request("delete at once", "DELETE", format!("{path}?gracePeriodSeconds=0"), JSON, Value::Null),
        get("which is gone at once"),
        again("create one more"),
        bind("bind one more", node("node-x")),
        delete("delete with negative grace", grace(-3)),
        delete("and at once", grace(0)),
        get("which is gone after all"),
        delete("delete a pod that is not there", json!({})),
        bind("bind what is not there", node("node-x")),
        request("bind without a body", "POST", format!("{path}/binding"), JSON, json!({})),
        request("read a binding", "GET", format!("{path}/binding"), JSON, Value::Null),
    ]
}

pub(super) fn classes() -> Vec<Request> {
    const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
    let class = |name: &str, spec: Value| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": { "name": name }, "spec": spec,
        })
    };
    let selector = |expression: &str| json!({ "selectors": [{ "cel": { "expression": expression } }] });
    let post = |what: &'static str, object: Value| request(what, "POST", CLASSES, JSON, object);
    let opaque = |driver: &str, parameters: Value| json!({ "config": [{ "opaque": { "driver": driver, "parameters": parameters } }] });
    vec![
        post("create a class", class("d", selector("device.driver == 'double.example'"))),
        post("a class for anything", class("d-any", json!({}))),
        post("a class with a bad name", class("D_bad", json!({}))),
        post("a class with a selector of nothing", class("d-bad", json!({ "selectors": [{}] }))),
        post("a class with an empty expression", class("d-bad", selector(""))),
        post("a class with half an expression", class("d-bad", selector("device.driver =="))),
        post("a class with an expression that is no condition", class("d-bad", selector("device.driver"))),
        post("a class with an unknown variable", class("d-bad", selector("vf.driver == 'a'"))),
        post("a class with a config", class("d-config", opaque(DRIVER, json!({ "kind": "A" })))),
        post("a class with a config of no driver", class("d-bad", opaque("", json!({ "kind": "A" })))),
        post(
            "a class with a config of a bad driver",
            class("d-bad", opaque("Double_", json!({ "kind": "A" }))),
        ),
        post("a class with a config without parameters", class("d-bad", opaque(DRIVER, Value::Null))),
        post("a class with a config that is text", class("d-bad", opaque(DRIVER, json!("text")))),
        request(
            "change a class",
            "PATCH",
            format!("{CLASSES}/d"),
            MERGE,
            json!({ "spec": selector("device.driver == 'other.example'") }),
        ),
        request(
            "change a class for the worse",
            "PATCH",
            format!("{CLASSES}/d"),
            MERGE,
            json!({ "spec": selector("device.driver ==") }),
        ),
        request("delete a class", "DELETE", format!("{CLASSES}/d"), JSON, json!({})),
        request("delete a class for anything", "DELETE", format!("{CLASSES}/d-any"), JSON, json!({})),
        request("delete a class with a config", "DELETE", format!("{CLASSES}/d-config"), JSON, json!({})),
    ]
}

pub(super) fn around() -> Vec<Request> {
    let exactly = json!({ "deviceClassName": "sriov-vf" });
    let template = |name: &str, devices: Value| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": { "name": name },
            "spec": { "metadata": { "labels": { "a": "b" } }, "spec": { "devices": devices } },
        })
    };
    let one = |name: &str| json!({ "requests": [{ "name": name, "exactly": exactly }] });
    let post = |what: &'static str, object: Value| request(what, "POST", TEMPLATES, JSON, object);
    let claim = |name: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": name },
            "spec": { "devices": one("vf") },
        })
    };
    let device = json!({ "request": "vf", "driver": DRIVER, "pool": "node-x", "device": "a" });
    let things = json!([{ "apiGroup": "example.com", "resource": "things", "name": "t", "uid": "1" }]);
    let status = |what: &'static str, status: Value| {
        request(what, "PATCH", format!("{CLAIMS}/e/status"), MERGE, json!({ "status": status }))
    };
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "d.1" }, "reason": "Tested", "message": "m", "type": "Normal",
        "involvedObject": { "kind": "Pod", "namespace": "default", "name": "d-of-event" },
    });
    let mut admin = claim("d-admin");
    admin["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(true);
    vec![
        post("create a template", template("d", one("vf"))),
        post("a template with a bad request", template("d-bad", one("VF_1"))),
        post(
            "a template without a class",
            template("d-bad", json!({ "requests": [{ "name": "vf", "exactly": {} }] })),
        ),
        request(
            "change a template's spec",
            "PATCH",
            format!("{TEMPLATES}/d"),
            MERGE,
            json!({ "spec": { "spec": { "devices": one("other") } } }),
        ),
        request("delete a template", "DELETE", format!("{TEMPLATES}/d"), JSON, json!({})),
        request("admin access where it is not allowed", "POST", CLAIMS, JSON, admin),
        request("apply a claim", "PATCH", format!("{CLAIMS}/e?fieldManager=m"), APPLY, claim("e")),
        request(
            "a finalizer of a claim",
            "PATCH",
            format!("{CLAIMS}/e"),
            MERGE,
            json!({ "metadata": { "finalizers": ["example.com/wait"] } }),
        ),
        status(
            "allocate and reserve",
            json!({ "allocation": { "devices": { "results": [device] } }, "reservedFor": things }),
        ),
        status(
            "say that it is ready",
            json!({ "devices": [{ "driver": DRIVER, "pool": "node-x", "device": "a" }] }),
        ),
        request("delete while it is held", "DELETE", format!("{CLAIMS}/e"), JSON, json!({})),
        status("deallocate", json!({ "allocation": null, "reservedFor": null })),
        status("allocate on the way out", json!({ "allocation": { "devices": { "results": [device] } } })),
        request(
            "let it go",
            "PATCH",
            format!("{CLAIMS}/e"),
            MERGE,
            json!({ "metadata": { "finalizers": null } }),
        ),
        request("which is gone", "GET", format!("{CLAIMS}/e"), JSON, Value::Null),
        request("create an event", "POST", EVENTS, JSON, event),
        request(
            "events of a pod",
            "GET",
            format!("{EVENTS}?fieldSelector=involvedObject.name=d-of-event"),
            JSON,
            Value::Null,
        ),
        request(
            "events of another",
            "GET",
            format!("{EVENTS}?fieldSelector=involvedObject.name=d-of-none"),
            JSON,
            Value::Null,
        ),
        request(
            "events by what they are not selected by",
            "GET",
            format!("{EVENTS}?fieldSelector=message=m"),
            JSON,
            Value::Null,
        ),
        request("delete an event", "DELETE", format!("{EVENTS}/d.1"), JSON, json!({})),
    ]
}
