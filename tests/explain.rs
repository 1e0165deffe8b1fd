//! `sriov-dra explain`: what it prints, what it refuses, how it ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::PathBuf;
use std::process::{Command, Output};

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use sriov_dra::app::Supply;
use sriov_dra::cli::documents::Documents;
use sriov_dra::cli::explain::{Given, Origin, answer, render_json, render_text};

const DRIVER: &str = "sriov-dra.io";

fn read(path: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn documents(text: &str) -> Documents {
    let mut documents = Documents::default();
    documents.parse("claim.yaml", text, DRIVER).unwrap();
    documents
}

/// The nodes and classes of the allocator's cases, with one VF in use.
fn supply() -> Supply {
    let mut there = documents(&read("tests/allocator/slices.yaml"));
    there.parse("classes.yaml", &read("tests/allocator/classes.yaml"), DRIVER).unwrap();
    let holder: ResourceClaim = serde_json::from_value(json!({
        "metadata": {"name": "worker-3-net", "namespace": "team-a"},
        "status": {"allocation": {"devices": {"results": [
            {"request": "vf", "driver": DRIVER, "pool": "node-a", "device": "0000-81-00-2"},
        ]}}},
    }))
    .unwrap();
    Supply { slices: there.slices, classes: there.classes, claims: vec![holder], ..Supply::default() }
}

fn given(claims: &str, node: Option<&str>) -> Given {
    Given { asked: documents(claims), supply: supply(), from: Origin::Cluster, node: node.map(str::to_owned) }
}

fn claim(requests: &str) -> String {
    format!(
        "apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {{name: mine, namespace: team-a}}\n\
         spec: {{devices: {requests}}}\n"
    )
}

fn text(claims: &str, node: Option<&str>) -> String {
    render_text(&answer(&given(claims, node), DRIVER).unwrap(), false)
}

#[test]
fn a_claim_that_fits_shows_the_funnel_and_what_it_gets() {
    insta::assert_snapshot!(
        "fits",
        text(
            &claim(
                r#"{requests: [{name: vf, exactly: {deviceClassName: rdma-vf, count: 2, selectors: [
            {cel: {expression: 'has(device.attributes["sriov-dra.io"].numaNode) && device.attributes["sriov-dra.io"].numaNode == 0'}}
        ]}}]}"#
            ),
            None
        )
    );
}

#[test]
fn a_claim_that_does_not_fit_shows_which_selector_fails_where_and_who_holds_the_rest() {
    insta::assert_snapshot!(
        "does_not_fit",
        text(
            &claim(
                r#"{requests: [{name: vf, exactly: {deviceClassName: rdma-vf, count: 4, selectors: [
            {cel: {expression: 'device.attributes["sriov-dra.io"].pfName == "ens1f0"'}}
        ]}}]}"#
            ),
            None
        )
    );
}

#[test]
fn a_constraint_that_can_not_hold_shows_how_many_devices_have_which_value() {
    insta::assert_snapshot!(
        "constraint",
        text(
            &claim(
                r#"{requests: [{name: vf, exactly: {deviceClassName: sriov-vf, count: 5}}],
            constraints: [{matchAttribute: sriov-dra.io/numaNode}]}"#
            ),
            Some("node-a")
        )
    );
}

#[test]
fn an_attribute_without_guard_is_named_and_gives_the_claim_up_on_every_node() {
    insta::assert_snapshot!(
        "no_answer",
        text(
            &claim(
                r#"{requests: [{name: vf, exactly: {deviceClassName: sriov-vf, selectors: [
            {cel: {expression: 'device.attributes["sriov-dra.io"].numaNode == 7'}}
        ]}}]}"#
            ),
            None
        )
    );
}

#[test]
fn the_pods_of_a_file_are_allocated_one_after_the_other_and_json_says_so_too() {
    let answer = answer(&given(&read("examples/static-address.yaml"), Some("node-a")), DRIVER).unwrap();
    let json: Value = serde_json::from_str(&render_json(&answer).unwrap()).unwrap();
    assert_eq!(json["formatVersion"], 1);
    assert_eq!(json["allocatable"], true);
    let device = |subject: usize| {
        let claim = &json["subjects"][subject]["nodes"][0]["claims"][0];
        claim["allocation"]["devices"]["results"][0]["device"].clone()
    };
    assert_eq!((device(0), device(1)), ("0000-c1-00-2".into(), "0000-c1-01-2".into()));
    let held = &json["subjects"][1]["nodes"][0]["claims"][0]["requests"][0]["taken"];
    let holders: Vec<&str> = held.as_array().unwrap().iter().map(|g| g["reason"].as_str().unwrap()).collect();
    assert_eq!(holders, ["default/left (earlier in the file)", "team-a/worker-3-net"]);
}

#[test]
fn colour_is_only_there_when_it_is_asked_for() {
    let answer = answer(
        &given(&claim("{requests: [{name: vf, exactly: {deviceClassName: sriov-vf}}]}"), None),
        DRIVER,
    );
    let answer = answer.unwrap();
    assert!(!render_text(&answer, false).contains('\u{1b}'));
    assert!(render_text(&answer, true).contains("\u{1b}[32m"));
}

#[test]
fn every_fault_of_a_file_is_one_sentence_with_file_document_and_field() {
    let asked = documents(&format!(
        "{}---\n{}---\nkind: Foo\n---\napiVersion: resource.k8s.io/v1beta1\nkind: DeviceClass\nmetadata: {{name: old}}\n",
        claim(r#"{requests: [{name: vf, exactly: {deviceClassName: sriov-vf, count: "2", mode: x}}]}"#),
        claim(
            r#"{requests: [{name: vf, exactly: {deviceClassName: sriov-vf, count: 0, selectors: [{cel: {expression: "pfName == 1"}}]}},
                           {name: vf}],
                constraints: [{matchAttribute: pfName}, {}],
                config: [{requests: [nope], opaque: {driver: sriov-dra.io, parameters:
                    {apiVersion: sriov-dra.io/v1alpha1, kind: VfConfig, interface: {mtuu: 1}}}}]}"#
        )
    ));
    insta::assert_snapshot!("faults", asked.sentences());
    assert!(answer(&Given { asked, supply: supply(), from: Origin::Cluster, node: None }, DRIVER).is_err());
}

#[test]
fn the_class_of_the_manifests_stands_in_only_where_there_is_no_cluster() {
    let one = claim("{requests: [{name: vf, exactly: {deviceClassName: sriov-vf}}]}");
    let without = |from: Origin| {
        let mut given = given(&one, None);
        given.supply.classes.clear();
        given.from = from;
        answer(&given, DRIVER).unwrap()
    };
    let file = without(Origin::File("slices.yaml".into()));
    assert!(file.allocatable);
    assert_eq!(file.notes, ["DeviceClass sriov-vf is the one of manifests/, as nothing given defines it"]);
    let cluster = without(Origin::Cluster);
    assert!(!cluster.allocatable);
    assert!(cluster.subjects[0].refusal.as_ref().unwrap().ends_with("there is no DeviceClass sriov-vf"));
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sriov-dra"))
        .arg("explain")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("DRIVER_NAME")
        .output()
        .unwrap()
}

#[test]
fn the_exit_status_is_0_for_allocatable_1_for_not_and_2_for_bad_input() {
    let slices = ["--slices", "tests/allocator/slices.yaml"];
    let status = |file: &str, rest: &[&str]| {
        let output = run(&[&["-f", file], &slices[..], rest].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(status("examples/one-vf.yaml", &[]), (Some(0), String::new()));
    assert_eq!(status("examples/two-vfs-distinct-pfs.yaml", &[]), (Some(1), String::new()));
    let (code, says) = status("examples/none.yaml", &[]);
    assert_eq!(code, Some(2));
    assert!(says.contains("examples/none.yaml can't be read"), "{says}");
    let (code, says) = status("examples/one-vf.yaml", &["--node", "node-z"]);
    assert_eq!(code, Some(2));
    assert!(says.contains("there is no node node-z; known are node-a, node-b"), "{says}");
    let (code, says) = status("Cargo.toml", &[]);
    assert_eq!(code, Some(2));
    assert!(says.contains("Cargo.toml is no YAML"), "{says}");
}

#[test]
fn names_are_faults_as_an_api_server_would_find_them_and_each_is_there_once() {
    let named = |name: &str| {
        claim("{requests: [{name: vf, exactly: {deviceClassName: sriov-vf}}]}").replace("name: mine", name)
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  resourceClaims: [{name: Net, resourceClaimName: a}, {name: x}, {name: x, resourceClaimName: a}]\n";
    let text = [
        named("name: My_Claim"),
        named("name: mine"),
        named("name: mine"),
        named("name: mine").replace("namespace: team-a", "namespace: team-b"),
        named("generateName: mine-"),
        named("name: ok").replace("namespace: team-a", "namespace: team.a"),
        pod.to_owned(),
    ]
    .join("---\n");
    insta::assert_snapshot!("names", documents(&text).sentences());
}

#[test]
fn a_config_for_another_driver_is_noted_where_it_may_have_been_meant_for_this_one() {
    let with = |drivers: &[&str]| {
        let configs: Vec<String> = drivers
            .iter()
            .map(|driver| match *driver {
                DRIVER => format!(
                    "{{opaque: {{driver: {driver}, parameters: {{apiVersion: {driver}/v1alpha1, kind: VfConfig}}}}}}"
                ),
                other => format!("{{opaque: {{driver: {other}, parameters: {{anything: 1}}}}}}"),
            })
            .collect();
        let text = claim(&format!(
            "{{requests: [{{name: vf, exactly: {{deviceClassName: sriov-vf}}}}], config: [{}]}}",
            configs.join(", ")
        ));
        let answer = answer(&given(&text, None), DRIVER).unwrap();
        assert!(answer.allocatable, "it is legal");
        answer.notes
    };
    let note = |index: usize, other: &str| {
        format!(
            "claim.yaml, document 1 (ResourceClaim mine): spec.devices.config[{index}] is for driver {other}, not \
             {DRIVER}: this driver does not read it"
        )
    };
    assert_eq!(with(&["sriov-dra.oi"]), [note(0, "sriov-dra.oi")]);
    assert_eq!(with(&[DRIVER, "sriov-dra.oi"]), [note(1, "sriov-dra.oi")]);
    assert_eq!(with(&["gpu.example.com"]), [note(0, "gpu.example.com")], "none is for this driver");
    assert_eq!(with(&[DRIVER, "gpu.example.com"]), [""; 0], "two drivers, one claim");
}

#[test]
fn a_selector_that_an_api_server_refuses_is_a_fault_and_one_that_fails_when_it_runs_is_not() {
    let faults = |expression: &str| {
        let text = claim(&format!(
            "{{requests: [{{name: vf, exactly: {{deviceClassName: sriov-vf, selectors: [{{cel: {{expression: '{expression}'}}}}]}}}}]}}"
        ));
        documents(&text).faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let place = "claim.yaml:4, document 1 (ResourceClaim mine): spec.devices.requests[0].exactly.selectors[0].cel.expression: ";
    for (expression, says) in [
        (
            r#"device.attributes["sriov-dra.io"].pfName.startWith("ens")"#,
            "calls startWith(), and CEL has no such",
        ),
        (r#"device.driver == "#, "is wrong at line 1, column"),
        (r#"device.drivr == "x""#, "reads device.drivr; the fields of a device are driver, attributes"),
    ] {
        let faults = faults(expression);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let fault = &faults[0];
        assert!(fault.starts_with(&format!("{place}CEL expression {expression:?} {says}")), "{fault}");
        assert!(fault.ends_with("; the API server refuses it"), "{fault}");
    }
    let elsewhere = faults(r#"ip("10.0.0.1").family() == 4"#);
    assert!(elsewhere[0].contains("which Kubernetes has and this program has not"), "{elsewhere:?}");
    assert_eq!(
        faults(r#"device.attributes["sriov-dra.io"].numaNode == 7"#),
        [""; 0],
        "the scheduler's affair"
    );
}

#[test]
fn a_file_without_slices_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("none.yaml");
    std::fs::write(&empty, "apiVersion: v1\nkind: List\nitems: []\n").unwrap();
    for file in ["examples/one-vf.yaml", empty.to_str().unwrap()] {
        let output = run(&["-f", "examples/one-vf.yaml", "--slices", file]);
        let says = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{says}");
        assert!(says.contains(&format!("{file} has no ResourceSlice in it")), "{says}");
        assert!(says.contains("kubectl get resourceslices -o yaml"), "{says}");
    }
}
