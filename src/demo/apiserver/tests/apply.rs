//! Server-side apply on bare objects.

use serde_json::json;

use super::*;

fn manager(name: &str) -> Manager {
    Manager { name: name.to_owned(), operation: "Apply", subresource: "status".to_owned() }
}

fn entry(device: &str, interface: &str) -> Value {
    json!({
        "driver": "d", "pool": "p", "device": device,
        "conditions": [{"type": "Ready", "status": "True"}],
        "networkData": {"interfaceName": interface, "ips": ["10.0.0.1/24"]},
    })
}

fn claim(devices: Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"}, "status": {"devices": devices}})
}

fn devices(object: &Value) -> Vec<&str> {
    object["status"]["devices"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|device| device["device"].as_str().unwrap())
        .collect()
}

fn start() -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c", "uid": "1"}, "spec": {}})
}

#[test]
fn entries_that_a_later_apply_lacks_are_removed_and_those_of_others_stay() {
    let one =
        apply(&start(), &claim(json!([entry("a", "n0"), entry("b", "n1")])), &manager("one"), true).unwrap();
    let two = apply(&one, &claim(json!([entry("z", "n9")])), &manager("two"), true).unwrap();
    assert_eq!(devices(&two), ["a", "b", "z"]);
    let less = apply(&two, &claim(json!([entry("b", "n1")])), &manager("one"), true).unwrap();
    assert_eq!(devices(&less), ["b", "z"]);
    let none = apply(&less, &claim(json!([])), &manager("one"), true).unwrap();
    assert_eq!(devices(&none), ["z"]);
    assert_eq!(none["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

#[test]
fn fields_that_a_later_apply_lacks_are_removed_and_the_keys_stay() {
    let full = apply(&start(), &claim(json!([entry("a", "n0")])), &manager("one"), true).unwrap();
    let bare = json!([{"driver": "d", "pool": "p", "device": "a", "networkData": {"interfaceName": "n0"}}]);
    let less = apply(&full, &claim(bare.clone()), &manager("one"), true).unwrap();
    assert_eq!(less["status"]["devices"], bare);
}

#[test]
fn conditions_of_two_managers_live_in_one_entry() {
    let mine = apply(&start(), &claim(json!([entry("a", "n0")])), &manager("one"), true).unwrap();
    let other = json!([{"driver": "d", "pool": "p", "device": "a", "conditions": [{"type": "Healthy", "status": "True"}]}]);
    let both = apply(&mine, &claim(other), &manager("two"), false).unwrap();
    assert_eq!(both["status"]["devices"][0]["conditions"].as_array().unwrap().len(), 2);
    let gone = apply(&both, &claim(json!([])), &manager("one"), true).unwrap();
    let left = json!([{"driver": "d", "pool": "p", "device": "a", "conditions": [{"type": "Healthy", "status": "True"}]}]);
    assert_eq!(gone["status"]["devices"], left);
}

#[test]
fn another_managers_value_is_a_conflict_unless_forced() {
    let mine = apply(&start(), &claim(json!([entry("a", "n0")])), &manager("one"), true).unwrap();
    let wanted = claim(json!([entry("a", "eth7")]));
    let error = apply(&mine, &wanted, &manager("two"), false).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert!(error.message.contains("conflict with \"one\""), "{}", error.message);
    assert!(error.message.contains("networkData.interfaceName"), "{}", error.message);
    let forced = apply(&mine, &wanted, &manager("two"), true).unwrap();
    assert_eq!(forced["status"]["devices"][0]["networkData"]["interfaceName"], "eth7");
    // What was taken away is no longer removed with the first manager's entry.
    let left = apply(&forced, &claim(json!([])), &manager("one"), true).unwrap();
    assert_eq!(left["status"]["devices"][0]["networkData"]["interfaceName"], "eth7");
}

#[test]
fn the_same_apply_again_changes_nothing() {
    let wanted = claim(json!([entry("a", "n0")]));
    let once = apply(&start(), &wanted, &manager("one"), true).unwrap();
    assert_eq!(apply(&once, &wanted, &manager("one"), true).unwrap(), once);
}

#[test]
fn managed_fields_are_read_as_they_were_written() {
    let object = apply(&start(), &claim(json!([entry("a", "n0")])), &manager("one"), true).unwrap();
    let encoded = &object["metadata"]["managedFields"][0]["fieldsV1"]["f:status"]["f:devices"];
    let key = r#"k:{"device":"a","driver":"d","pool":"p"}"#;
    assert_eq!(encoded[key]["."], json!({}));
    assert_eq!(encoded[key]["f:conditions"][r#"k:{"type":"Ready"}"#]["f:status"], json!({}));
    let mut again = object.clone();
    Managers::of(&object).write_to(&mut again);
    assert_eq!(again, object);
}

#[test]
fn an_update_takes_over_what_it_changed() {
    let mine = apply(&start(), &claim(json!([entry("a", "n0")])), &manager("one"), true).unwrap();
    let mut edited = mine.clone();
    edited["status"]["devices"][0]["networkData"]["interfaceName"] = json!("eth7");
    let mut managers = Managers::of(&mine);
    let editor = Manager { name: "kubectl".into(), operation: "Update", subresource: "status".into() };
    managers.record_update(editor, &mine, &edited);
    managers.write_to(&mut edited);
    let error = apply(&edited, &claim(json!([entry("a", "n0")])), &manager("one"), false).unwrap_err();
    assert!(error.message.contains("conflict with \"kubectl\""), "{}", error.message);
}
