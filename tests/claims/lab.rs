//! A claim as the API server holds it, to be altered.

use serde_json::{Value, json};
use sriov_dra::claim::{ClaimError, ClaimSpec, Source, compile, decode_parameters};

pub const DRIVER: &str = "sriov-dra.io";
pub const UID: &str = "6f3c2f1e-0a57-4f5b-9d61-0d7ad5a3c0aa";

/// A claim of one request `main` with VF `0000-81-00-2` on `node-a`, reserved for one pod.
pub struct Claim(pub Value);

impl Claim {
    pub fn new() -> Self {
        let mut claim = Self(json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {
                "name": "worker-vf", "namespace": "team-a", "uid": UID,
                "annotations": {"resource.kubernetes.io/pod-claim-name": "vf"},
            },
            "spec": {"devices": {"requests": [{"name": "main", "exactly": {"deviceClassName": "sriov-vf"}}]}},
            "status": {
                "allocation": {"devices": {"results": [], "config": []}},
                "reservedFor": [{"resource": "pods", "name": "worker-0", "uid": "pod-0"}],
            },
        }));
        claim.results().push(result("main", "0000-81-00-2"));
        claim
    }

    pub fn at(&mut self, pointer: &str) -> &mut Value {
        self.0.pointer_mut(pointer).unwrap()
    }

    pub fn results(&mut self) -> &mut Vec<Value> {
        self.at("/status/allocation/devices/results").as_array_mut().unwrap()
    }

    pub fn with_results(mut self, results: &[(&str, &str)]) -> Self {
        *self.results() = results.iter().map(|(request, device)| result(request, device)).collect();
        self
    }

    pub fn reserved(mut self, consumers: Value) -> Self {
        self.0["status"]["reservedFor"] = consumers;
        self
    }

    pub fn config(self, source: &str, requests: &[&str], interface: Value) -> Self {
        self.says(source, requests, "VfConfig", json!({"interface": interface}))
    }

    /// One more config entry of this kind.
    pub fn says(mut self, source: &str, requests: &[&str], kind: &str, mut parameters: Value) -> Self {
        parameters["apiVersion"] = json!("sriov-dra.io/v1alpha1");
        parameters["kind"] = json!(kind);
        self.push_config(source, requests, DRIVER, parameters);
        self
    }

    pub fn push_config(&mut self, source: &str, requests: &[&str], driver: &str, parameters: Value) {
        let list = self.at("/status/allocation/devices/config").as_array_mut().unwrap();
        list.push(json!({
            "source": source, "requests": requests, "opaque": {"driver": driver, "parameters": parameters},
        }));
    }

    pub fn compile_held_by(&self, held_by: Option<&str>) -> Result<ClaimSpec, ClaimError> {
        let claim = serde_json::from_value(self.0.clone()).unwrap();
        compile(&claim, DRIVER, "node-a", UID, held_by)
    }

    pub fn compiled(&self) -> ClaimSpec {
        self.compile_held_by(None).unwrap()
    }

    pub fn refused(&self) -> String {
        self.compile_held_by(None).unwrap_err().to_string()
    }
}

pub fn result(request: &str, device: &str) -> Value {
    json!({"request": request, "driver": DRIVER, "pool": "node-a", "device": device})
}

/// What is wrong with the parameters of a VfConfig in a claim.
pub fn decoding_fails(mut parameters: Value) -> String {
    parameters["apiVersion"] = json!("sriov-dra.io/v1alpha1");
    parameters["kind"] = json!("VfConfig");
    decode_parameters(&parameters, Source::Claim).unwrap_err().to_string()
}
