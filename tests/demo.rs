//! The demonstration, as a user runs it: examples, the user's own claims, faulty ones.
//!
//! Needs root, or user namespaces; the command makes its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sriov-dra")).arg("demo").args(arguments).output().unwrap()
}

fn told(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|fault| panic!("{fault}: {error}"))
}

fn claim(dir: &tempfile::TempDir, requests: &str, interface: &str) -> String {
    let path = dir.path().join("claim.yaml");
    let text = format!(
        "apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: mine}}
spec:
  devices:
    requests: {requests}
    config:
    - opaque:
        driver: sriov-dra.io
        parameters: {{apiVersion: sriov-dra.io/v1alpha1, kind: VfConfig, interface: {interface}}}
"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn every_example_gets_its_vfs_on_the_simulated_node_and_gives_them_back() {
    let output = demo(&["-o", "json"]);
    let told = told(&output);
    assert!(output.status.success(), "{told:#}");
    assert_eq!((&told["node"]["pfs"], &told["node"]["vfs"]), (&8.into(), &64.into()));
    assert_eq!(told["agent"]["devices"], 64);
    assert_eq!(told["end"]["left"].as_array().unwrap().len(), 0);
    let runs = told["runs"].as_array().unwrap();
    assert_eq!(
        runs.len(),
        std::fs::read_dir("examples").unwrap().count(),
        "an example is missing in the demonstration"
    );
    for pod in runs.iter().flat_map(|run| run["pods"].as_array().unwrap()) {
        let names: Vec<&Value> = pod["links"].as_array().unwrap().iter().map(|link| &link["name"]).collect();
        assert!(names.len() >= 2 && pod["error"].is_null(), "{pod:#}");
        assert_eq!(
            pod["returned"].as_array().unwrap().len(),
            names.len() - 1,
            "all but lo came back: {pod:#}"
        );
        let status = pod["status"].as_array().unwrap();
        assert_eq!(status.len(), names.len() - 1, "one line a device: {pod:#}");
        assert!(status.iter().all(|line| line.as_str().unwrap().starts_with("Ready True")), "{pod:#}");
    }
}

#[test]
fn a_claim_of_ones_own_is_told_as_text_with_links_and_return() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(
        &dir,
        "[{name: vf, exactly: {deviceClassName: sriov-vf}}]",
        "{name: fabric, mtu: 4200, addresses: [10.5.0.1/24]}",
    );
    let output = demo(&["--claim", &file]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "gets demo-node/0000-3b-00-2",
        "fabric",
        "mtu 4200",
        "10.5.0.1/24",
        "Ready True",
        "ens1f0v0",
        "mtu 1500",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colours where nobody looks");
}

#[test]
fn a_faulty_claim_is_explained_before_anything_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let file = claim(&dir, "[{name: vf, exactly: {deviceClassName: sriov-vf}}]", "{mtuu: 4200}");
    let output = demo(&["-f", &file]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("interface.mtuu: unknown field") && error.contains("did you mean mtu?"),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_claim_that_does_not_fit_or_is_refused_by_the_node_ends_with_the_reason_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = r#"[{name: vf, exactly: {deviceClassName: sriov-vf, selectors: [{cel: {expression: 'device.attributes["sriov-dra.io"].pfName == "nosuch"'}}]}}]"#;
    let file = claim(&dir, nowhere, "{}");
    let output = demo(&["-f", &file, "-o", "json"]);
    let tale = told(&output);
    assert_eq!(
        (output.status.code(), &tale["runs"][0]["pods"][0]["links"]),
        (Some(1), &Value::Array(Vec::new()))
    );
    let file = claim(&dir, "[{name: vf, exactly: {deviceClassName: sriov-vf}}]", "{mtu: 9999}");
    let output = demo(&["-f", &file, "-o", "json"]);
    let tale = told(&output);
    assert_eq!(output.status.code(), Some(1));
    let error = tale["runs"][0]["pods"][0]["error"].as_str().unwrap();
    assert!(error.contains("interface.mtu 9999 is above the MTU 9000 of PF ens1f0"), "{error}");
    assert_eq!(tale["end"]["left"].as_array().unwrap().len(), 0);
}

#[test]
fn a_pod_whose_claims_are_not_there_or_misspelt_is_wrong_input() {
    let dir = tempfile::tempdir().unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  resourceClaims: [{name: net, resourceClaimName: mine}]\n  containers: [{name: c, resources: {claims: [{name: CLAIM}]}}]\n";
    let claim = "---\napiVersion: resource.k8s.io/VERSION\nkind: KIND\nmetadata: {name: mine}\nspec: {devices: {requests: [{name: vf, exactly: {deviceClassName: sriov-vf}}]}}\n";
    for (text, expected) in [
        (pod.replace("CLAIM", "net"), "uses the ResourceClaim mine, which nothing defines"),
        (
            pod.replace("CLAIM", "nets") + &claim.replace("VERSION", "v1").replace("KIND", "ResourceClaim"),
            "spec.containers c: resources.claims: nets is none of spec.resourceClaims (net)",
        ),
        (
            pod.replace("CLAIM", "net") + &claim.replace("VERSION", "v1").replace("KIND", "ResourceClame"),
            "kind: ResourceClame is none of ResourceClaim, ResourceClaimTemplate, DeviceClass, ResourceSlice",
        ),
        (
            pod.replace("CLAIM", "net")
                + &claim.replace("resource.k8s.io/VERSION", "v1").replace("KIND", "ResourceClaim2"),
            "document 2 (ResourceClaim2 mine) was passed over",
        ),
    ] {
        let path = dir.path().join("claim.yaml");
        std::fs::write(&path, text).unwrap();
        let output = demo(&["-f", path.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{expected:?} is missing in: {error}");
        assert!(output.stdout.is_empty(), "nothing was built");
    }
}
