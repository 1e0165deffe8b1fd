//! A pod's life by the API alone, and what its claims go through meanwhile. The cluster suite asks a real server the same.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};

use super::*;
use crate::demo::apiserver::ApiServer;

fn pod() -> Value {
    json!({
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "c", "image": "x"}],
            "resourceClaims": [{"name": "net", "resourceClaimName": "c"}],
        },
    })
}

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> (u16, String) {
    match answer.unwrap_err() {
        Error::Api(status) => (status.code, status.message),
        other => panic!("no answer of the server: {other}"),
    }
}

async fn bind(pods: &Api<Pod>, node: &str) -> Result<Value, Error> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node},
    });
    pods.create_subresource("binding", "p", &PostParams::default(), &binding).await
}

async fn server() -> (ApiServer, Client) {
    let server = ApiServer::start("127.0.0.1:0").await.unwrap();
    let client = server.client().unwrap();
    (server, client)
}

#[test]
fn a_pods_grace_is_its_own_unless_asked_for_less_and_only_one_that_may_run_has_any() {
    let pod = |node: &str, phase: &str, had: Option<i64>| {
        json!({
            "metadata": {"generation": 1, "deletionGracePeriodSeconds": had},
            "spec": {"nodeName": node}, "status": {"phase": phase},
        })
    };
    let left = |pod: &Value, asked: Option<i64>| match end(pod, asked) {
        End::Now(marked) => (marked["metadata"]["deletionGracePeriodSeconds"].as_i64(), "now"),
        End::Marked(marked) => (marked["metadata"]["deletionGracePeriodSeconds"].as_i64(), "later"),
        End::Pending => (None, "pending"),
    };
    assert_eq!(left(&pod("n", "Running", None), None), (Some(30), "later"));
    assert_eq!(left(&pod("n", "Running", None), Some(60)), (Some(60), "later"));
    assert_eq!(left(&pod("n", "Running", None), Some(-1)), (Some(1), "later"));
    assert_eq!(left(&pod("n", "Running", None), Some(0)), (Some(0), "now"));
    assert_eq!(left(&pod("", "Pending", None), None), (Some(0), "now"));
    assert_eq!(left(&pod("n", "Failed", None), None), (Some(0), "now"));
    assert_eq!(left(&pod("n", "Failed", Some(30)), None), (None, "pending"));
    assert_eq!(left(&pod("n", "Running", Some(30)), Some(60)), (None, "pending"));
    assert_eq!(left(&pod("n", "Running", Some(30)), Some(5)), (Some(5), "later"));
}

#[tokio::test]
async fn a_pod_is_bound_once_keeps_its_spec_and_stays_until_its_kubelet_lets_it_go() {
    let (_server, client) = server().await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    pods.create(&PostParams::default(), &typed(pod())).await.unwrap();
    bind(&pods, "node-a").await.unwrap();
    assert_eq!(refusal(bind(&pods, "node-b").await).0, 409);
    let elsewhere = Patch::Merge(json!({"spec": {"nodeName": "node-b"}}));
    assert_eq!(refusal(pods.patch("p", &PatchParams::default(), &elsewhere).await).0, 422);
    let foreign = Patch::Merge(json!({"status": {"resourceClaimStatuses": [{"name": "other"}]}}));
    let (code, why) = refusal(pods.patch_status("p", &PatchParams::default(), &foreign).await);
    assert!(code == 422 && why.contains("status.resourceClaimStatuses[0].name"), "{why}");

    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    pods.patch_status("p", &PatchParams::default(), &running).await.unwrap();
    let leaving = pods.get("p").await.unwrap();
    assert_eq!(leaving.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(leaving.spec.unwrap().node_name.as_deref(), Some("node-a"));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(pods.get_opt("p").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_applied_anew_has_the_namespace_of_its_path_and_the_status_of_a_new_object() {
    let (_server, client) = server().await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let mut wanted = pod();
    (wanted["apiVersion"], wanted["kind"]) = (json!("v1"), json!("Pod"));
    let made = pods.patch("p", &PatchParams::apply("m"), &Patch::Apply(wanted)).await.unwrap();
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
}

#[tokio::test]
async fn a_deallocated_claim_has_no_devices_status_any_more() {
    let (_server, client) = server().await;
    let claims: Api<ResourceClaim> = Api::namespaced(client, "default");
    let claim = json!({
        "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": "vf"}}]}},
    });
    claims.create(&PostParams::default(), &typed(claim)).await.unwrap();
    let device = json!({"driver": "d.io", "pool": "n", "device": "a"});
    let mut result = device.clone();
    result["request"] = json!("vf");
    for status in [json!({"allocation": {"devices": {"results": [result]}}}), json!({"devices": [device]})] {
        let patch = Patch::Merge(json!({"status": status}));
        claims.patch_status("c", &PatchParams::default(), &patch).await.unwrap();
    }
    assert_eq!(claims.get("c").await.unwrap().status.unwrap().devices.unwrap().len(), 1);
    let free = Patch::Merge(json!({"status": {"allocation": null}}));
    let freed = claims.patch_status("c", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(freed.status.and_then(|status| status.devices), None);
}

#[tokio::test]
async fn templates_are_checked_as_claims_are_and_admin_access_takes_a_namespace_that_allows_it() {
    let (_server, client) = server().await;
    let templates: Api<ResourceClaimTemplate> = Api::namespaced(client.clone(), "default");
    let template = |name: &str, exactly: Value| -> ResourceClaimTemplate {
        let devices = json!({"requests": [{"name": name, "exactly": exactly}]});
        typed(json!({"metadata": {"name": "t"}, "spec": {"spec": {"devices": devices}}}))
    };
    let create =
        async |template: ResourceClaimTemplate| templates.create(&PostParams::default(), &template).await;
    let (code, why) = refusal(create(template("VF_1", json!({"deviceClassName": "vf"}))).await);
    assert!(code == 422 && why.contains("spec.spec.devices.requests[0].name"), "{why}");
    let admin = json!({"deviceClassName": "vf", "adminAccess": true});
    let (code, why) = refusal(create(template("vf", admin.clone())).await);
    assert!(code == 422 && why.contains("spec.spec.devices.requests[0].adminAccess"), "{why}");
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let allowed =
        Patch::Merge(json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}));
    namespaces.patch("default", &PatchParams::default(), &allowed).await.unwrap();
    let made = serde_json::to_value(create(template("vf", admin)).await.unwrap()).unwrap();
    assert_eq!(made.pointer("/spec/spec/devices/requests/0/exactly/count"), Some(&json!(1)));
    let other = Patch::Merge(json!({"spec": {"spec": {"devices": null}}}));
    assert_eq!(refusal(templates.patch("t", &PatchParams::default(), &other).await).0, 422);
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about() {
    let (_server, client) = server().await;
    let events: Api<Event> = Api::namespaced(client, "default");
    for name in ["a", "b"] {
        let event = json!({
            "metadata": {"generateName": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": name},
        });
        events.create(&PostParams::default(), &typed(event)).await.unwrap();
    }
    let about = async |selector: &str| events.list(&ListParams::default().fields(selector)).await;
    let found = about("involvedObject.name=a").await.unwrap();
    assert_eq!(found.items.len(), 1);
    assert_eq!(refusal(about("message=a").await).0, 400);
}

#[tokio::test]
async fn a_class_with_a_selector_that_is_no_condition_or_a_config_of_nobody_is_refused() {
    let (_server, client) = server().await;
    let classes: Api<k8s_openapi::api::resource::v1::DeviceClass> = Api::all(client);
    let create = async |spec: Value| {
        let class = typed(json!({"metadata": {"name": "c"}, "spec": spec}));
        classes.create(&PostParams::default(), &class).await
    };
    let selector = |expression: &str| json!({"selectors": [{"cel": {"expression": expression}}]});
    let config = |driver: &str| json!({"config": [{"opaque": {"driver": driver, "parameters": {"a": 1}}}]});
    for (spec, field) in [
        (selector("device.driver =="), "spec.selectors[0].cel.expression"),
        (selector("device.driver"), "spec.selectors[0].cel.expression"),
        (selector("vf.driver == 'a'"), "spec.selectors[0].cel.expression"),
        (json!({"selectors": [{}]}), "spec.selectors[0].cel"),
        (config(""), "spec.config[0].opaque.driver"),
        (config("Double_"), "spec.config[0].opaque.driver"),
    ] {
        let (code, why) = refusal(create(spec).await);
        assert!(code == 422 && why.contains(field), "{field}: {why}");
    }
    create(selector("device.attributes['d.io'].pfName == 'a'")).await.unwrap();
}
