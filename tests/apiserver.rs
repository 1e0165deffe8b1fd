//! The embedded API server as clients of Kubernetes see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::core::Status;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sriov_dra::demo::apiserver::{ApiServer, Fault, Listener, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn server() -> (ApiServer, kube::Client) {
    let server = ApiServer::start("127.0.0.1:0").await.unwrap();
    let client = server.client().unwrap();
    (server, client)
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn slice(name: &str, driver: &str, node: &str) -> ResourceSlice {
    object(json!({
        "metadata": {"name": name},
        "spec": {
            "driver": driver, "nodeName": node, "devices": [{"name": "a"}],
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        },
    }))
}

fn claim(name: &str) -> ResourceClaim {
    object(json!({
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "vf", "exactly": {"deviceClassName": "vf"}}]}},
    }))
}

/// A claim that a scheduler has allocated to devices `a` and `b` of node `n`.
async fn allocated(client: &kube::Client, name: &str) -> ResourceClaim {
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), "default");
    let mut claim = claims.create(&PostParams::default(), &claim(name)).await.unwrap();
    let result =
        |device: &str| json!({"request": "vf", "driver": "sriov-dra.io", "pool": "n", "device": device});
    claim.status = Some(object(json!({
        "allocation": {"devices": {"results": [result("a"), result("b")]}},
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}],
    })));
    claims.replace_status(name, &PostParams::default(), &claim).await.unwrap()
}

fn status<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> Status {
    match result.unwrap_err() {
        kube::Error::Api(status) => *status,
        other => panic!("not an answer of the server: {other:?}"),
    }
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let (_server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client);
    let params = PostParams::default();
    let created = slices.create(&params, &slice("00000-a", "d.io", "n")).await.unwrap();
    assert!(created.metadata.uid.is_some() && created.metadata.creation_timestamp.is_some());
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(slices.get("00000-a").await.unwrap(), created);

    let mut changed = created.clone();
    changed.spec.pool.generation = 2;
    let changed = slices.replace("00000-a", &params, &changed).await.unwrap();
    assert_eq!((changed.spec.pool.generation, changed.metadata.generation), (2, Some(2)));
    assert_eq!(changed.metadata.uid, created.metadata.uid);
    let same = slices.replace("00000-a", &params, &changed).await.unwrap();
    assert_eq!(
        same.metadata.resource_version, changed.metadata.resource_version,
        "no change, no new version"
    );

    slices.delete("00000-a", &DeleteParams::default()).await.unwrap();
    assert_eq!(slices.get_opt("00000-a").await.unwrap(), None);
}

#[tokio::test]
async fn errors_are_worded_and_coded_as_kubernetes_does() {
    let (_server, client) = server().await;
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), "default");
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let params = PostParams::default();

    let missing = status(claims.get("x").await);
    assert_eq!(missing.message, "resourceclaims.resource.k8s.io \"x\" not found");
    assert_eq!((missing.code, missing.reason.as_str()), (404, "NotFound"));
    let details = missing.details.unwrap();
    assert_eq!((details.name.as_str(), details.group.as_str()), ("x", "resource.k8s.io"));

    let pod = status(Api::<Pod>::namespaced(client.clone(), "default").get("p").await);
    assert_eq!(pod.message, "pods \"p\" not found");

    let created = slices.create(&params, &slice("s", "d.io", "n")).await.unwrap();
    let twice = status(slices.create(&params, &slice("s", "d.io", "n")).await);
    assert_eq!(twice.message, "resourceslices.resource.k8s.io \"s\" already exists");
    assert_eq!((twice.code, twice.reason.as_str()), (409, "AlreadyExists"));

    let mut newer = created.clone();
    newer.spec.pool.generation = 5;
    slices.replace("s", &params, &newer).await.unwrap();
    let stale = status(slices.replace("s", &params, &created).await);
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on resourceslices.resource.k8s.io \"s\": the object has been modified; \
         please apply your changes to the latest version and try again"
    );

    let mut broken = slice("t", "d.io", "n");
    broken.spec.pool.resource_slice_count = 0;
    let invalid = status(slices.create(&params, &broken).await);
    assert_eq!((invalid.code, invalid.reason.as_str()), (422, "Invalid"));
    assert_eq!(
        invalid.message,
        "ResourceSlice.resource.k8s.io \"t\" is invalid: spec.pool.resourceSliceCount: Invalid value: 0: must be \
         greater than zero"
    );
    assert_eq!(invalid.details.unwrap().causes[0].field, "spec.pool.resourceSliceCount");

    let nowhere: Api<ResourceClaim> = Api::namespaced(client.clone(), "nowhere");
    let nowhere = status(nowhere.create(&params, &claim("c")).await);
    assert_eq!((nowhere.code, nowhere.message.as_str()), (404, "namespaces \"nowhere\" not found"));

    let unknown: Api<k8s_openapi::api::core::v1::Service> = Api::all(client);
    assert_eq!(status(unknown.list(&ListParams::default()).await).code, 404);
}

#[tokio::test]
async fn generated_names_keep_their_prefix_and_differ() {
    let (_server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client);
    let mut nameless = slice("", "d.io", "n");
    nameless.metadata = ObjectMeta { generate_name: Some("00000-d.io-n-".into()), ..ObjectMeta::default() };
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let name = slices.create(&PostParams::default(), &nameless).await.unwrap().metadata.name.unwrap();
        assert!(name.starts_with("00000-d.io-n-") && name.len() == 18, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 20);
    nameless.metadata.generate_name = Some(format!("{}-", "x".repeat(80)));
    let long = slices.create(&PostParams::default(), &nameless).await.unwrap().metadata.name.unwrap();
    assert_eq!(long.len(), 63);
}

#[tokio::test]
async fn lists_are_narrowed_by_fields_labels_and_namespaces() {
    let (server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    for (name, driver, node) in [("a", "d.io", "n1"), ("b", "d.io", "n2"), ("c", "e.io", "n1")] {
        let mut slice = slice(name, driver, node);
        slice.metadata.labels = Some([("example.io/node".to_owned(), node.to_owned())].into());
        server.store().create(&slice).unwrap();
    }
    let names = |list: Vec<ResourceSlice>| -> Vec<String> {
        list.into_iter().map(|slice| slice.metadata.name.unwrap()).collect()
    };
    for (params, expected) in [
        (ListParams::default(), vec!["a", "b", "c"]),
        (ListParams::default().fields("spec.driver=d.io,spec.nodeName=n1"), vec!["a"]),
        (ListParams::default().fields("spec.nodeName!=n1"), vec!["b"]),
        (ListParams::default().fields("metadata.name=c"), vec!["c"]),
        (ListParams::default().labels("example.io/node=n1"), vec!["a", "c"]),
        (ListParams::default().labels("example.io/node==n1").fields("spec.driver=e.io"), vec!["c"]),
    ] {
        assert_eq!(names(slices.list(&params).await.unwrap().items), expected, "{params:?}");
    }
    let error = status(slices.list(&ListParams::default().fields("spec.pool.x=1")).await);
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.pool.x")
    );

    let namespace: Namespace = object(json!({"metadata": {"name": "team-a"}}));
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    for namespace in ["default", "team-a"] {
        let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
        claims.create(&PostParams::default(), &claim("c")).await.unwrap();
        assert_eq!(claims.list(&ListParams::default()).await.unwrap().items.len(), 1);
    }
    let all: Api<ResourceClaim> = Api::all(client);
    assert_eq!(all.list(&ListParams::default()).await.unwrap().items.len(), 2);
    let one = all.list(&ListParams::default().fields("metadata.namespace=team-a")).await.unwrap();
    assert_eq!(one.items.len(), 1);
}

#[tokio::test]
async fn a_watch_tells_what_happened_since_a_version_and_ends_in_time() {
    let (server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client);
    let version = slices.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mine = slice("a", "d.io", "n1");
    server.store().create(&mine).unwrap();
    server.store().create(&slice("b", "d.io", "n2")).unwrap();
    server.store().replace(&ResourceSlice { spec: slice("", "d.io", "n2").spec, ..mine }).unwrap();
    server.store().delete::<ResourceSlice>("", "b");

    let params = WatchParams::default().fields("spec.nodeName=n1").timeout(1);
    let start = Instant::now();
    let events: Vec<WatchEvent<ResourceSlice>> =
        slices.watch(&params, &version).await.unwrap().try_collect().await.unwrap();
    assert!((900..3000).contains(&start.elapsed().as_millis()));
    let told: Vec<String> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Added(slice) => format!("+{}", slice.metadata.name.as_deref().unwrap()),
            WatchEvent::Deleted(slice) => format!("-{}", slice.metadata.name.as_deref().unwrap()),
            WatchEvent::Bookmark(_) => "bookmark".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["+a", "-a", "bookmark"], "an object that ceases to match is deleted to this watch");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_gone() {
    let (server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client);
    for name in ["a", "b", "c"] {
        server.store().create(&slice(name, "d.io", "n1")).unwrap();
    }
    server.store().compact();
    let events = slices.watch(&WatchParams::default().timeout(5), "1").await.unwrap();
    let events: Vec<WatchEvent<ResourceSlice>> = events.try_collect().await.unwrap();
    assert!(matches!(&events[..], [WatchEvent::Error(status)] if status.code == 410), "{events:?}");
}

#[tokio::test]
async fn both_ways_to_begin_a_watch_give_the_same_objects() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (server, client) = server().await;
        server.store().create(&slice("a", "d.io", "n1")).unwrap();
        let slices: Api<ResourceSlice> = Api::all(client);
        let mut events = watcher(slices, config).boxed();
        let mut told = Vec::new();
        while told.len() < 5 {
            let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap();
            told.push(match event.unwrap().unwrap() {
                Event::Init => "init".to_owned(),
                Event::InitApply(slice) => format!("have {}", slice.metadata.name.unwrap()),
                Event::InitDone => {
                    server.store().create(&slice("b", "d.io", "n1")).unwrap();
                    server.store().delete::<ResourceSlice>("", "a");
                    "done".to_owned()
                }
                Event::Apply(slice) => format!("+{}", slice.metadata.name.unwrap()),
                Event::Delete(slice) => format!("-{}", slice.metadata.name.unwrap()),
            });
        }
        assert_eq!(told, ["init", "have a", "done", "+b", "-a"]);
    }
}

#[tokio::test]
async fn deletes_heed_preconditions_and_finalizers() {
    let (server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let made = server.store().create(&slice("a", "d.io", "n1")).unwrap();
    let only = |uid: &str| {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        DeleteParams::default().preconditions(preconditions)
    };
    let error = status(slices.delete("a", &only("other")).await);
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert!(error.message.contains("UID in precondition: other"), "{}", error.message);
    slices.delete("a", &only(made.metadata.uid.as_deref().unwrap())).await.unwrap();
    assert_eq!(status(slices.delete("a", &DeleteParams::default()).await).code, 404);

    let mut held = slice("b", "d.io", "n1");
    held.metadata.finalizers = Some(vec!["example.io/hold".into()]);
    let mut held = server.store().create(&held).unwrap();
    slices.delete("b", &DeleteParams::default()).await.unwrap();
    let marked = slices.get("b").await.unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    held.metadata = marked.metadata;
    held.metadata.finalizers = None;
    slices.replace("b", &PostParams::default(), &held).await.unwrap();
    assert_eq!(slices.get_opt("b").await.unwrap(), None);

    for (name, driver) in [("c", "d.io"), ("d", "d.io"), ("e", "e.io")] {
        server.store().create(&slice(name, driver, "n1")).unwrap();
    }
    let mine = ListParams::default().fields("spec.driver=d.io,spec.nodeName=n1");
    slices.delete_collection(&DeleteParams::default(), &mine).await.unwrap();
    let left: Vec<ResourceSlice> = server.store().list();
    assert_eq!(left.iter().map(|s| s.metadata.name.as_deref().unwrap()).collect::<Vec<_>>(), ["e"]);
}

#[tokio::test]
async fn patches_change_what_they_name_and_status_only_through_its_path() {
    let (_server, client) = server().await;
    let made = allocated(&client, "c").await;
    assert_eq!(made.status.as_ref().unwrap().reserved_for.as_ref().unwrap().len(), 1);
    let claims: Api<ResourceClaim> = Api::namespaced(client, "default");
    let params = PatchParams::default();
    let patch = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "status": null});
    let patched = claims.patch("c", &params, &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.as_ref().unwrap().len(), 2);
    assert_eq!(patched.status, made.status, "the main path leaves the status");

    let patch = json!({"metadata": {"labels": {"c": "3"}}, "status": {"reservedFor": null}});
    let patched = claims.patch_status("c", &params, &Patch::Merge(&patch)).await.unwrap();
    assert_eq!(patched.metadata.labels.as_ref().unwrap().len(), 2, "the status path leaves the rest");
    assert_eq!(patched.status.unwrap().reserved_for, None);

    let client = claims.into_client();
    let request = http::Request::patch("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c")
        .header("content-type", "application/json-patch+json")
        .body(json!([{"op": "remove", "path": "/metadata/labels/a"}]).to_string().into_bytes())
        .unwrap();
    let patched: ResourceClaim = client.request(request).await.unwrap();
    assert_eq!(patched.metadata.labels.unwrap().into_keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn an_apply_of_a_claims_status_holds_all_entries_of_its_manager() {
    let (_server, client) = server().await;
    let made = allocated(&client, "c").await;
    let claims: Api<ResourceClaim> = Api::namespaced(client, "default");
    let ours = PatchParams::apply("sriov-dra.io").force();
    let entry = |device: &str, state: &str| {
        json!({
            "driver": "sriov-dra.io", "pool": "n", "device": device,
            "conditions": [{
                "type": "Ready", "status": state, "reason": "Attached", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "networkData": {"interfaceName": format!("net-{device}"), "ips": ["10.0.0.1/24"]},
        })
    };
    let body = |devices: Value, uid: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": "c", "uid": uid}, "status": {"devices": devices},
        })
    };
    let uid = made.metadata.uid.clone().unwrap();
    let both = body(json!([entry("a", "True"), entry("b", "True")]), &uid);
    let applied = claims.patch_status("c", &ours, &Patch::Apply(&both)).await.unwrap();
    let devices = |claim: &ResourceClaim| -> Vec<String> {
        claim.status.iter().flat_map(|s| s.devices.iter().flatten()).map(|d| d.device.clone()).collect()
    };
    assert_eq!(devices(&applied), ["a", "b"]);
    assert_eq!(applied.status.as_ref().unwrap().allocation, made.status.unwrap().allocation);
    assert_eq!(applied.spec, made.spec);

    let again = claims.patch_status("c", &ours, &Patch::Apply(&both)).await.unwrap();
    assert_eq!(again.metadata.resource_version, applied.metadata.resource_version);

    let one = body(json!([entry("b", "False")]), &uid);
    let less = claims.patch_status("c", &ours, &Patch::Apply(&one)).await.unwrap();
    assert_eq!(devices(&less), ["b"]);
    let status_of_b = &less.status.unwrap().devices.unwrap()[0].conditions.clone().unwrap()[0].status;
    assert_eq!(status_of_b, "False");

    let recreated = body(json!([entry("b", "False")]), "another-uid");
    let error = status(claims.patch_status("c", &ours, &Patch::Apply(&recreated)).await);
    assert_eq!((error.code, error.details.unwrap().causes[0].field.as_str()), (422, "metadata.uid"));
    let stranger = body(json!([entry("z", "True")]), &uid);
    let error = status(claims.patch_status("c", &ours, &Patch::Apply(&stranger)).await);
    assert_eq!((error.code, error.details.unwrap().causes[0].field.as_str()), (422, "status.devices[0]"));
    let mut untimed = entry("b", "True");
    untimed["conditions"][0].as_object_mut().unwrap().remove("lastTransitionTime");
    let error = status(claims.patch_status("c", &ours, &Patch::Apply(&body(json!([untimed]), &uid))).await);
    assert!(error.message.contains("conditions[0].lastTransitionTime: Required value"), "{}", error.message);
    let nobody = PatchParams { force: true, ..PatchParams::default() };
    let missing = claims.patch_status("c", &nobody, &Patch::Apply(&one)).await;
    assert!(missing.is_err(), "an apply without a manager");
}

#[tokio::test]
async fn an_apply_creates_what_is_not_there() {
    let (server, client) = server().await;
    let slices: Api<ResourceSlice> = Api::all(client);
    let wanted = slice("00000-a", "d.io", "n1");
    let params = PatchParams::apply("me").force();
    slices.patch("00000-a", &params, &Patch::Apply(&wanted)).await.unwrap();
    let stored: ResourceSlice = server.store().get("", "00000-a").unwrap();
    assert_eq!(stored.spec, wanted.spec);
    assert!(stored.metadata.uid.is_some());
}

#[tokio::test]
async fn unknown_fields_are_dropped_and_wrong_types_are_refused() {
    let (server, client) = server().await;
    let post = |query: &str, body: &Value| {
        http::Request::post(format!("/apis/resource.k8s.io/v1/resourceslices{query}"))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .unwrap()
    };
    let mut body = serde_json::to_value(slice("a", "d.io", "n1")).unwrap();
    body["spec"]["devices"][0]["colour"] = json!("red");
    let error = status(client.request::<Value>(post("?fieldValidation=Strict", &body)).await);
    assert_eq!(error.code, 400);
    assert!(error.message.contains("unknown field \"spec.devices[0].colour\""), "{}", error.message);
    let kept: Value = client.request(post("", &body)).await.unwrap();
    assert_eq!(kept.pointer("/spec/devices/0/colour"), None);

    body["metadata"]["name"] = json!("b");
    body["spec"]["pool"]["generation"] = json!("one");
    assert_eq!(status(client.request::<Value>(post("", &body)).await).code, 400);
    assert_eq!(server.store().list::<ResourceSlice>().len(), 1);
    let garbage = http::Request::post("/apis/resource.k8s.io/v1/resourceslices").body(b"{".to_vec()).unwrap();
    assert_eq!(status(client.request::<Value>(garbage).await).code, 400);
}

#[tokio::test]
async fn faults_hit_the_requests_they_match_and_the_log_has_all() {
    let (server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    let node: Node = object(json!({"metadata": {"name": "n"}}));
    server.faults().next(2, |request| request.method == "POST", Fault::Status(503));
    for _ in 0..2 {
        assert_eq!(status(nodes.create(&PostParams::default(), &node).await).code, 503);
    }
    nodes.create(&PostParams::default(), &node).await.unwrap();
    server.faults().next(1, |_| true, Fault::Drop);
    assert!(!matches!(nodes.get("n").await.unwrap_err(), kube::Error::Api(_)));
    server.faults().next(1, |_| true, Fault::DropAnswer);
    assert!(nodes.delete("n", &DeleteParams::default()).await.is_err());
    assert_eq!(server.store().get::<Node>("", "n"), None, "it was done all the same");
    server.faults().next(1, |_| true, Fault::Delay(Duration::from_millis(200)));
    let start = Instant::now();
    assert_eq!(nodes.get_opt("n").await.unwrap(), None);
    assert!(start.elapsed() >= Duration::from_millis(200));

    let requests = server.faults().requests();
    let methods: Vec<&str> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "POST", "POST", "GET", "DELETE", "GET"]);
    assert!(requests.iter().all(|request| request.is_about("nodes")));
    assert_eq!(server.faults().writes("nodes").len(), 4);
}

#[tokio::test]
async fn another_process_comes_in_through_the_kubeconfig() {
    let (server, _) = server().await;
    server.store().create(&slice("a", "d.io", "n1")).unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig().unwrap()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let version = client.apiserver_version().await.unwrap();
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    let groups: Vec<String> =
        client.list_api_groups().await.unwrap().groups.into_iter().map(|group| group.name).collect();
    assert!(groups.contains(&"resource.k8s.io".to_owned()), "{groups:?}");
    let resources = client.list_api_group_resources("resource.k8s.io/v1").await.unwrap().resources;
    assert!(resources.iter().any(|resource| resource.name == "resourceclaims/status"));
    let slices: Api<ResourceSlice> = Api::all(client);
    assert_eq!(slices.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_server_on_a_unix_socket_answers_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = ApiServer::serve(Listener::Unix(listener), Store::default()).unwrap();
    assert!(server.url().unwrap_err().to_string().contains("api.sock"));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = b"GET /api/v1/namespaces/default HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"Namespace\""), "{answer}");
}

#[tokio::test]
async fn a_server_that_stops_closes_its_watches_and_another_goes_on_with_its_objects() {
    let (server, client) = server().await;
    server.store().create(&slice("a", "d.io", "n1")).unwrap();
    let slices: Api<ResourceSlice> = Api::all(client);
    let watch = slices.watch(&WatchParams::default(), "0").await.unwrap();
    let address = server.address().unwrap();
    let store = server.stop().await;
    let end = tokio::time::timeout(Duration::from_secs(5), watch.collect::<Vec<_>>()).await;
    assert!(end.is_ok(), "the watch ends with the server");
    assert!(slices.get("a").await.is_err());
    let _again = ApiServer::start_with(address, store).await.unwrap();
    assert_eq!(slices.get("a").await.unwrap().metadata.name.as_deref(), Some("a"));
}

#[tokio::test]
async fn bodies_of_any_shape_get_an_answer() {
    let (_server, client) = server().await;
    allocated(&client, "c").await;
    let bodies = [
        json!(null),
        json!([]),
        json!("text"),
        json!({}),
        json!({"metadata": "x"}),
        json!({"metadata": {"name": 1}}),
        json!({"metadata": {"name": "c", "finalizers": {}}}),
        json!({"metadata": {"name": "c"}, "spec": []}),
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": ["x"]}}}),
        json!({"metadata": {"name": "c"}, "status": "x"}),
        json!({"metadata": {"name": "c"}, "status": {"devices": ["x"]}}),
        json!({"metadata": {"name": "c"}, "status": {"devices": [null]}}),
        json!({"metadata": {"name": "c"}, "status": {"devices": [{"conditions": ["x", null]}]}}),
        json!({"metadata": {"name": "c"}, "status": {"devices": {"a": 1}}}),
    ];
    let path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    for body in &bodies {
        for (method, path, content_type) in [
            ("POST", path.to_owned(), "application/json"),
            ("PUT", format!("{path}/c"), "application/json"),
            ("PUT", format!("{path}/c/status"), "application/json"),
            ("PATCH", format!("{path}/c/status"), "application/merge-patch+json"),
            ("PATCH", format!("{path}/c"), "application/json-patch+json"),
            ("PATCH", format!("{path}/c/status?fieldManager=m"), "application/apply-patch+yaml"),
            ("DELETE", format!("{path}/none"), "application/json"),
        ] {
            let request =
                http::Request::builder().method(method).uri(&path).header("content-type", content_type);
            let answer = client.request::<Value>(request.body(body.to_string().into_bytes()).unwrap()).await;
            let answered = matches!(answer, Ok(_) | Err(kube::Error::Api(_)));
            assert!(answered, "{method} {path} {body}: {answer:?}");
        }
    }
}
