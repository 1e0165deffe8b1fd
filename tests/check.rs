//! `sriov-dra check`: every fault of a file, with its line; the same sentences as a node's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::process::{Command, Output};

use serde_json::{Value, json};
use sriov_dra::cli::check::report;
use sriov_dra::cli::documents::Documents;

const DRIVER: &str = "sriov-dra.io";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sriov-dra"));
    command.arg("check").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn file(dir: &tempfile::TempDir, content: &str) -> String {
    let path = dir.path().join("claim.yaml");
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// A class of this name with these config entries.
fn class(name: &str, parameters: &[Value]) -> Value {
    let entries = parameters.iter().map(|p| json!({"opaque": {"driver": DRIVER, "parameters": typed(p)}}));
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name},
        "spec": {"config": entries.collect::<Vec<_>>()},
    })
}

/// A claim of these requests with these config entries for all of them.
fn claim(requests: &Value, parameters: &[Value]) -> Value {
    let entries = parameters.iter().map(|p| json!({"opaque": {"driver": DRIVER, "parameters": typed(p)}}));
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "mine", "namespace": "team-a"},
        "spec": {"devices": {"requests": requests, "config": entries.collect::<Vec<_>>()}},
    })
}

fn typed(parameters: &Value) -> Value {
    let mut parameters = parameters.clone();
    parameters["apiVersion"] = json!("sriov-dra.io/v1alpha1");
    if parameters.get("kind").is_none() {
        parameters["kind"] = json!(if parameters.get("allow").is_some() { "VfGrant" } else { "VfConfig" });
    }
    parameters
}

/// What is said of these objects: `field: problem`, and the notes.
fn said(objects: &[Value]) -> (Vec<String>, Vec<String>) {
    let mut documents = Documents::default();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    documents.parse("claim.yaml", &list.to_string(), DRIVER).unwrap();
    let report = report(documents, DRIVER, "default");
    let faults = report.faults.iter().map(|fault| {
        let with = fault.with.as_ref().map(|with| format!(" (with {with})")).unwrap_or_default();
        format!("{}: {}{with}", fault.field, fault.problem)
    });
    (faults.collect(), report.notes)
}

fn requests(class: &str, count: u64) -> Value {
    json!([{"name": "vf", "exactly": {"deviceClassName": class, "count": count}}])
}

const BAD: &str = r#"apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: tenant}
spec:
  config:
  - opaque:
      driver: sriov-dra.io
      parameters:
        apiVersion: sriov-dra.io/v1alpha1
        kind: VfGrant
        namespaces: [team-a]
        allow:
        - field: vf.vlan
          values: ["100-199"]
        - {field: vf.mac}
  - opaque:
      driver: sriov-dra.io
      parameters:
        apiVersion: sriov-dra.io/v1alpha1
        kind: VfConfig
        vf:
          vlanQos: 3
---
# The claim.
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: two
  namespace: team-a
spec:
  spec:
    devices:
      requests:
      - name: vf
        exactly:
          deviceClassName: tenant
          count: 2
      config:
      - requests: [vf]
        opaque:
          driver: sriov-dra.io
          parameters:
            apiVersion: sriov-dra.io/v1alpha1
            kind: VfConfig
            vf:
              vlan: 300
              mac: 02:00:00:00:00:01
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: one, namespace: team-b}
spec:
  devices:
    requests: [{name: vf, exactly: {deviceClassName: tenant}}]
    config:
    - opaque:
        driver: sriov-dra.io
        parameters:
          apiVersion: sriov-dra.io/v1alpha1
          kind: VfConfig
          interface: {name: data0,
            mtu: 50}
          vf:
            vlan: 100
            linkState: atuo
"#;

#[test]
fn every_fault_of_a_file_is_told_with_line_document_and_field_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, BAD);
    let output = run(&[&path]);
    assert_eq!(output.status.code(), Some(1));
    let expected = [
        ":62, document 3 (ResourceClaim one): spec.devices.config[0].opaque.parameters.interface.mtu: 50 is no possible MTU, it \
         must be 68 to 65535 bytes",
        ":65, document 3 (ResourceClaim one): spec.devices.config[0].opaque.parameters.vf.linkState: \"atuo\" is not possible, \
         it must be auto, enable or disable (did you mean auto?)",
        ":64, document 3 (ResourceClaim one): spec.devices.config[0].opaque.parameters.vf.vlan: 100 needs a grant, and class \
         tenant gives it to namespace team-a only, not to team-b; leave the field out, or use a class whose VfGrant allows it",
        ":46, document 2 (ResourceClaimTemplate two): spec.spec.devices.config[0].opaque.parameters.vf.vlan: 300 is not \
         granted: class tenant lets claims of namespace team-a set 100-199; use one of these",
        ":47, document 2 (ResourceClaimTemplate two): spec.spec.devices.config[0].opaque.parameters.vf.mac: MAC \
         02:00:00:00:00:01 for 2 VFs (VF 1 of request vf, VF 2 of request vf); a MAC is for one VF, set it for one request only",
    ];
    let mut lines: Vec<String> = text(&output).lines().map(|line| line.replace(&path, "")).collect();
    assert_eq!(lines.pop().as_deref(), Some("5 faults in 3 objects"));
    let mut expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);

    let output = run(&["-o", "json", &path]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &told["ok"], &told["formatVersion"]),
        (Some(1), &json!(false), &json!(1))
    );
    let vlan = told["faults"].as_array().unwrap().iter().find(|fault| fault["line"] == 46).unwrap();
    let expected = json!({
        "file": path, "line": 46, "document": 2, "kind": "ResourceClaimTemplate", "name": "two",
        "field": "spec.spec.devices.config[0].opaque.parameters.vf.vlan",
        "problem": "300 is not granted: class tenant lets claims of namespace team-a set 100-199; use one of these",
    });
    assert_eq!(vlan, &expected);
}

#[test]
fn a_good_file_ends_with_status_0_and_a_file_that_can_not_be_read_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let good =
        BAD.replace("vlan: 300", "vlan: 100").replace("count: 2", "count: 1").replace("team-b", "team-a");
    let good = good
        .replace("mtu: 50", "mtu: 1500")
        .replace("atuo", "auto")
        .replace("- {field: vf.mac}", "- {field: vf.mac}\n        - {field: vf.linkState}");
    let output = run(&[&file(&dir, &good)]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "no fault in 3 objects\n"));

    let output = run(&["/nonexistent/claim.yaml"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(2), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/claim.yaml can't be read"));
    let output = run(&[&file(&dir, "a: [")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no YAML"));
}

#[test]
fn every_example_is_without_fault_beside_the_class_of_the_manifests() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for folder in ["examples", "examples/rails", "examples/seeds"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        for path in entries.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")) {
            let output = run(&["manifests/deviceclass.yaml", path.to_str().unwrap()]);
            let text = text(&output);
            assert_eq!(output.status.code(), Some(0), "{text}");
            let judged =
                text.lines().filter(|line| !line.contains("DeviceClass gpu.nvidia.com is not in the files"));
            assert!(!judged.collect::<String>().contains("not judged"), "{}: {text}", path.display());
            files += 1;
        }
    }
    assert!(files >= 20);
}

#[test]
fn pools_of_addresses_are_judged_alone_and_with_each_other() {
    let pool = |name: &str, family: Value| {
        json!({
            "apiVersion": "sriov-dra.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": name},
            "spec": {"mode": "sharedSubnet", "ipv4": family},
        })
    };
    let family = |cidr: &str, ranges: &str| json!({"cidr": cidr, "ranges": [ranges], "blockSize": 16});
    let (faults, notes) = said(&[
        pool("rail8", family("172.16.1.224/27", "172.16.1.226-172.16.1.256")),
        pool("old", family("172.16.11.0/24", "172.16.11.1-172.16.11.200")),
        pool("young", family("172.16.0.0/16", "172.16.11.190-172.16.12.200")),
        pool("beside", family("172.16.11.0/24", "172.16.11.201-172.16.11.250")),
    ]);
    assert_eq!(notes, [""; 0]);
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].contains("256 is more than 255"), "{}", faults[0]);
    assert!(
        faults[1].contains("it overlaps AddressPool old in 172.16.11.190-172.16.11.200"),
        "{}",
        faults[1]
    );
    assert!(
        faults[2].contains("it overlaps AddressPool young in 172.16.11.201-172.16.11.250"),
        "{}",
        faults[2]
    );
}

#[test]
fn what_is_not_in_the_files_is_a_note_and_no_fault() {
    let vlan = json!({"vf": {"vlan": 100}});
    let (faults, notes) = said(&[claim(&requests("elsewhere", 1), std::slice::from_ref(&vlan))]);
    assert_eq!(faults, [""; 0]);
    assert_eq!(
        notes,
        [
            "DeviceClass elsewhere is not in the files: what it sets and grants was not judged with ResourceClaim team-a/mine"
        ]
    );
    let mut two = requests("elsewhere", 1);
    two.as_array_mut().unwrap().push(json!({"name": "b", "exactly": {"deviceClassName": "plain"}}));
    let (faults, _) = said(&[class("plain", &[]), claim(&two, &[vlan])]);
    assert_eq!(faults.len(), 1, "the class that is there is judged: {faults:?}");
    assert!(faults[0].contains("100 needs a grant, and class plain has none for this field"), "{faults:?}");

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "team-a"},
        "spec": {"containers": [], "resourceClaims": [
            {"name": "a", "resourceClaimName": "mine"}, {"name": "b", "resourceClaimTemplateName": "nosuch"},
        ]},
    });
    let (faults, notes) = said(&[class("plain", &[]), claim(&requests("plain", 1), &[]), pod]);
    assert_eq!(faults, [""; 0]);
    assert_eq!(
        notes,
        [
            "claim.yaml, document 1, item 3 (Pod p): spec.resourceClaims[1] names ResourceClaimTemplate team-a/nosuch, which is \
          not in the files: it was not judged"
        ]
    );
}

#[test]
fn a_fault_that_a_class_has_only_with_a_claim_names_both_and_is_told_once() {
    let tag =
        class("tag", &[json!({"vf": {"vlanProtocol": "802.1ad"}}), json!({"allow": [{"field": "vf.vlan"}]})]);
    let (faults, _) = said(std::slice::from_ref(&tag));
    assert_eq!(faults, [""; 0], "alone it is a default for claims that set a VLAN");
    let (faults, _) = said(&[tag.clone(), claim(&requests("tag", 2), &[])]);
    assert_eq!(
        faults,
        [
            "spec.config[0].opaque.parameters.vf.vlanProtocol: 802.1ad needs a VLAN, but vf.vlan is not set; set it to 1 to \
          4094, or leave this out (with ResourceClaim team-a/mine)"
        ]
    );
    let (faults, _) = said(&[tag, claim(&requests("tag", 1), &[json!({"vf": {"vlan": 5}})])]);
    assert_eq!(faults, [""; 0]);

    let useless = class("useless", &[json!({"bind": {"driver": "vfio-pci"}, "interface": {"mtu": 1500}})]);
    let says = "spec.config[0].opaque.parameters.bind.driver: vfio-pci leaves the VF without network interface, but the class \
                useless sets interface.mtu; leave one of them out";
    assert_eq!(said(std::slice::from_ref(&useless)).0, [says], "no claim can mend that");
    assert_eq!(said(&[useless, claim(&requests("useless", 1), &[])]).0, [says]);

    let broken = class("broken", &[json!({"vf": {"vlan": 4095}})]);
    let (faults, _) = said(&[broken, claim(&requests("broken", 1), &[json!({"vf": {"vlanQos": 3}})])]);
    assert_eq!(
        faults,
        [
            "spec.config[0].opaque.parameters.vf.vlan: 4095 is no possible VLAN, it must be 1 to 4094, or 0 for none"
        ]
    );
}

#[test]
fn alternatives_of_one_request_may_share_what_two_requests_may_not() {
    let named = [json!({"interface": {"name": "x0"}})];
    let alternatives = json!([{"name": "vf", "firstAvailable": [
        {"name": "a", "deviceClassName": "plain"}, {"name": "b", "deviceClassName": "plain"},
    ]}]);
    assert_eq!(said(&[class("plain", &[]), claim(&alternatives, &named)]).0, [""; 0]);
    let mut two = alternatives;
    two.as_array_mut().unwrap().push(json!({"name": "w", "exactly": {"deviceClassName": "plain"}}));
    let (faults, _) = said(&[class("plain", &[]), claim(&two, &named)]);
    assert!(faults.len() == 1 && faults[0].contains("one name \"x0\" for 3 VFs"), "{faults:?}");
    let mut admin = requests("plain", 2);
    admin[0]["exactly"]["adminAccess"] = json!(true);
    assert_eq!(said(&[class("plain", &[]), claim(&admin, &named)]).0, [""; 0], "who only looks gets no name");
}

#[test]
fn the_namespace_of_objects_without_one_can_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut claim = claim(&requests("c", 1), &[json!({"vf": {"vlan": 5}})]);
    claim["metadata"].as_object_mut().unwrap().remove("namespace");
    let class = class("c", &[json!({"namespaces": ["team-a"], "allow": [{"field": "vf.vlan"}]})]);
    let path = file(&dir, &format!("{class}\n---\n{claim}\n"));
    let output = run(&[&path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("gives it to namespace team-a only, not to default"), "{}", text(&output));
    assert_eq!(run(&["-n", "team-a", &path]).status.code(), Some(0));
}

/// The sentence of a node for a claim with this class and config, without the place.
fn prepared(class: &[Value], config: &[Value], vfs: usize) -> Vec<String> {
    let entry = |source: &str, parameters: &Value| json!({"source": source, "requests": ["vf"], "opaque": {"driver": DRIVER, "parameters": typed(parameters)}});
    let entries = class.iter().map(|says| entry("FromClass", says));
    let entries: Vec<Value> = entries.chain(config.iter().map(|says| entry("FromClaim", says))).collect();
    let results: Vec<Value> = (0..vfs)
        .map(|i| json!({"request": "vf", "driver": DRIVER, "pool": "n", "device": format!("0000-81-00-{}", i + 2)}))
        .collect();
    let mut claim = claim(&requests("c", vfs as u64), &[]);
    claim["metadata"]["uid"] = json!("u");
    claim["status"] = json!({
        "allocation": {"devices": {"results": results, "config": entries}},
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}],
    });
    let claim = serde_json::from_value(claim).unwrap();
    match sriov_dra::claim::compile(&claim, DRIVER, "n", "u", None) {
        Err(sriov_dra::claim::ClaimError::Config { faults, .. }) => {
            faults.iter().map(|fault| format!("{}: {}", fault.path, fault.problem)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn check_says_of_a_file_what_a_node_would_say_of_the_claim() {
    let vfio = json!({"bind": {"driver": "vfio-pci"}});
    let nothing: &[Value] = &[];
    for (of_class, config, vfs) in [
        (nothing, &[json!({"vf": {"vlan": 4095, "trust": "on"}})][..], 1),
        (nothing, &[json!({"vf": {"vlan": 100}})], 1),
        (nothing, &[json!({"vf": {"vlan": 100, "mac": "x"}}), json!({"interface": {"mtuu": 1}})], 1),
        (nothing, &[json!({"kind": "VfGrant", "allow": [{"field": "vf.vlan"}]})], 1),
        (nothing, &[json!({"bind": {"allowNoIommu": true}})], 1),
        (nothing, &[json!({"kind": "Whatever"})], 1),
        (&[json!({"allow": [{"field": "vf.vlan", "values": ["9-1"]}]})], &[json!({"vf": {"vlan": 100}})], 1),
        (&[json!({"allow": [{"field": "vf.vlan", "values": ["1-9"]}]})], &[json!({"vf": {"vlan": 100}})], 1),
        (
            &[json!({"namespaces": ["b"], "allow": [{"field": "vf.vlan"}]})],
            &[json!({"vf": {"vlan": 100}})],
            1,
        ),
        (&[json!({"vf": {"minTxRateMbps": 9, "maxTxRateMbps": 1}})], &[], 1),
        (&[json!({"vf": {"vlanQos": 3}})], &[], 2),
        (&[vfio], &[json!({"interface": {"mtu": 1500}})], 1),
        (nothing, &[json!({"interface": {"mtu": 68, "addresses": ["fd00::5/64"]}})], 1),
    ] {
        let node = prepared(of_class, config, vfs);
        assert!(!node.is_empty());
        let (faults, _) = said(&[class("c", of_class), claim(&requests("c", vfs as u64), config)]);
        let mut file: Vec<String> = faults
            .iter()
            .map(|fault| fault.split_once("opaque.parameters").unwrap().1)
            .map(|fault| match fault.strip_prefix('.') {
                Some(field) => field.replace(" (with ResourceClaim team-a/mine)", ""),
                None => format!("parameters{fault}"),
            })
            .collect();
        let mut node = node;
        file.sort();
        node.sort();
        assert_eq!(file, node);
    }
}

#[test]
fn a_pool_of_another_version_is_no_object_to_pass_over() {
    let pool = json!({"apiVersion": "sriov-dra.io/v1", "kind": "AddressPool", "metadata": {"name": "a"}, "spec": {}});
    let (faults, _) = said(&[pool]);
    assert_eq!(faults, ["apiVersion: is sriov-dra.io/v1, only sriov-dra.io/v1alpha1 is understood"]);
}
