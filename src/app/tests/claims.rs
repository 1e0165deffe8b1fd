//! Prepare as the kubelet calls it, beside the embedded API server, where no runtime tells of pods.

use serde_json::{Value, json};

use super::*;
use crate::app::agent::{VF, agent};
use crate::demo::apiserver::ApiServer;
use crate::host::fake::FakeKernel;

struct Lab {
    claims: Claims,
    server: ApiServer,
    _dir: tempfile::TempDir,
}

impl Lab {
    /// An agent with `--attach=hook`.
    async fn new() -> Self {
        let server = ApiServer::start("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let claims = agent(&server, dir.path(), &FakeKernel::default());
        Self { claims, server, _dir: dir }
    }

    /// A pod whose spec is `pod` and whose claim `made` was made of a template, and what Prepare says to it.
    async fn prepare(&self, pod: Value, admin: bool) -> Result<(), String> {
        let mut spec = json!({
            "containers": [{ "name": "main", "image": "busybox" }],
            "resourceClaims": [{ "name": "vf", "resourceClaimTemplateName": "one" }],
        });
        spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "worker", "namespace": "ns" }, "spec": spec,
            "status": { "resourceClaimStatuses": [{ "name": "vf", "resourceClaimName": "made" }] },
        }))
        .unwrap();
        let pod = self.server.store().create(&pod).unwrap();
        let mut result = json!({ "request": "vf", "driver": "sriov-dra.io", "pool": "node-a", "device": VF.device_name() });
        if admin {
            result["adminAccess"] = json!(true);
        }
        let claim: ResourceClaim = serde_json::from_value(json!({
            "metadata": { "name": "made", "namespace": "ns", "annotations": { "resource.kubernetes.io/pod-claim-name": "vf" } },
            "spec": { "devices": { "requests": [{ "name": "vf", "exactly": { "deviceClassName": "sriov-vf" } }] } },
            "status": {
                "allocation": { "devices": { "results": [result] } },
                "reservedFor": [{ "resource": "pods", "name": "worker", "uid": pod.metadata.uid }],
            },
        }))
        .unwrap();
        let claim = self.server.store().create(&claim).unwrap();
        let uid = claim.metadata.uid.unwrap();
        let call = ClaimRef { uid, namespace: "ns".into(), name: "made".into() };
        let prepared = self.claims.prepare(call.clone()).await.map(drop);
        self.claims.unprepare(call).await.unwrap();
        self.server.store().delete::<Pod>("ns", "worker");
        self.server.store().delete::<ResourceClaim>("ns", "made");
        prepared
    }
}

#[tokio::test]
async fn without_nri_a_pod_gets_a_claim_only_if_some_container_lists_it_and_it_has_a_network_of_its_own() {
    let lab = Lab::new().await;
    let lists =
        json!([{ "name": "main", "image": "busybox", "resources": { "claims": [{ "name": "vf" }] } }]);
    lab.prepare(json!({ "containers": lists.clone() }), false).await.unwrap();
    lab.prepare(json!({ "initContainers": lists.clone() }), false).await.unwrap();

    let error = lab.prepare(json!({}), false).await.unwrap_err();
    assert!(error.starts_with("Pod ns/worker: no container lists vf under resources.claims, and"), "{error}");
    let error = lab.prepare(json!({ "containers": lists, "hostNetwork": true }), false).await.unwrap_err();
    assert!(
        error.starts_with("Pod ns/worker: hostNetwork is true, and this node's agent runs with"),
        "{error}"
    );

    lab.prepare(json!({ "hostNetwork": true }), true).await.expect("it only watches");
}

#[tokio::test]
async fn without_nri_a_claim_of_a_pod_that_was_created_again_is_refused_and_nothing_is_owned() {
    let lab = Lab::new().await;
    let spec = ClaimSpec {
        id: ClaimId { uid: "c1".into(), namespace: "ns".into(), name: "made".into() },
        pod_claim_name: "vf".into(),
        pod: Some(PodRef { uid: "former".into(), name: "worker".into() }),
        results: Vec::new(),
    };
    let gone = lab.claims.fetch_pod("ns", spec.pod.as_ref().unwrap()).await.unwrap_err();
    assert_eq!(gone, "Pod ns/worker does not exist");
    let pod = json!({ "metadata": { "name": "worker", "namespace": "ns" }, "spec": { "containers": [{ "name": "a", "image": "b" }] } });
    lab.server.store().create(&serde_json::from_value::<Pod>(pod).unwrap()).unwrap();
    let error = lab.claims.fetch_pod("ns", spec.pod.as_ref().unwrap()).await.unwrap_err();
    assert!(
        error.contains("its claim is reserved for UID former: it was deleted and created again"),
        "{error}"
    );
    assert!(lab.claims.engine.site.ledger.owned().unwrap().is_empty());
}
