//! The two kinds of addresses: what the embedded API server takes and refuses of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use serde_json::{Value, json};

use super::super::{create, default, update};
use crate::address;
use crate::demo::apiserver::RESOURCES;

fn pool(spec: Value) -> Value {
    json!({"apiVersion": "sriov-dra.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": "rails"}, "spec": spec})
}

fn block(index: u64) -> Value {
    json!({"metadata": {"name": "rails.3"}, "spec": {
        "pool": "rails", "poolUID": "u", "index": index, "cidrs": ["10.0.0.0/28"], "nodeName": "a", "pfPciAddress": "0000:3b:00.0",
    }})
}

/// What is said about a new object, or about a change of one.
fn said(kind: &str, before: Option<&Value>, after: &Value) -> String {
    let resource = RESOURCES.iter().find(|resource| resource.kind == kind).unwrap();
    let told = match before {
        None => create(resource, after),
        Some(before) => update(resource, before, after, false),
    };
    told.err().map(|error| error.message).unwrap_or_default()
}

fn shared() -> Value {
    json!({"mode": "sharedSubnet", "ipv4": {"cidr": "172.16.11.0/24", "blockSize": 16}})
}

#[test]
fn what_the_schema_of_a_pool_refuses_is_refused_with_the_field() {
    assert_eq!(said("AddressPool", None, &pool(shared())), "");
    for (pointer, value, expected) in [
        (
            "/mode",
            json!("dhcp"),
            "spec.mode: Unsupported value: \"dhcp\": supported values: \"sharedSubnet\", \"perNodePrefix\", \"fromParent\"",
        ),
        ("/ipv4/blockSize", json!(24), "spec.ipv4.blockSize: Unsupported value: 24"),
        ("/ipv4/cidr", json!(7), "spec.ipv4.cidr: Invalid value: 7: must be of type string"),
        ("/ipv4", json!({"blockSize": 16}), "spec.ipv4.cidr: Required value"),
        ("/ipv4/prefixLength", json!(27), "prefixLength belongs to modes perNodePrefix and fromParent"),
        ("/mode", json!("fromParent"), "blockSize belongs to mode sharedSubnet"),
        ("/ipv4", Value::Null, "a pool has ipv4, ipv6 or both"),
        ("/routes", json!([{"via": "10.0.0.1"}]), "spec.routes[0].to: Required value"),
    ] {
        let mut spec = shared();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => drop(parent.remove(name)),
            value => drop(parent.insert(name.to_owned(), value)),
        }
        let error = said("AddressPool", None, &pool(spec));
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    let mut both = shared();
    both["ipv4"]["gateway"] = json!("172.16.11.1");
    both["ipv4"]["gatewayIndex"] = json!(1);
    assert!(said("AddressPool", None, &pool(both)).contains("only one of gateway and gatewayIndex"));
}

/// The same question to the rules of the API and to those of the agent.
#[test]
fn changes_that_would_move_addresses_are_refused_by_the_rules_as_by_the_agent() {
    let spec = |mode: &str, cidr: &str, length: u8| json!({"mode": mode, "ipv4": {"cidr": cidr, "prefixLength": length}});
    let before = spec("perNodePrefix", "172.16.0.0/18", 27);
    let read = |spec: &Value| address::read("rails", "u", spec).unwrap();
    for (after, allowed) in [
        (spec("fromParent", "172.16.0.0/18", 27), false),
        (spec("perNodePrefix", "172.16.0.0/18", 28), false),
        (spec("perNodePrefix", "172.16.0.0/19", 27), false),
        (spec("perNodePrefix", "172.17.0.0/18", 27), false),
        (spec("perNodePrefix", "172.16.0.0/18", 27), true),
        (spec("perNodePrefix", "172.16.0.0/16", 27), true),
    ] {
        let by_rules = said("AddressPool", Some(&pool(before.clone())), &pool(after.clone()));
        assert_eq!(by_rules.is_empty(), allowed, "{after}: {by_rules}");
        assert_eq!(read(&before).refuses(&read(&after)).is_ok(), allowed, "{after}");
    }
}

#[test]
fn a_block_is_called_after_its_place_and_never_changes() {
    assert_eq!(said("AddressBlock", None, &block(3)), "");
    assert!(said("AddressBlock", None, &block(4)).contains("a block is called after its pool and index"));
    // Another name for the same index would be another way to the same addresses.
    for (name, index) in [("rails.03", 3), ("rails.00", 0), ("rails", 0), ("rail.3", 3), ("rails.x", 0)] {
        let mut other = block(index);
        other["metadata"]["name"] = json!(name);
        assert!(!said("AddressBlock", None, &other).is_empty(), "{name}");
    }
    let mut zero = block(0);
    zero["metadata"]["name"] = json!("rails.0");
    assert_eq!(said("AddressBlock", None, &zero), "");
    let mut other = block(3);
    other["spec"]["nodeName"] = json!("b");
    assert!(said("AddressBlock", Some(&block(3)), &other).contains("a block never changes"));
    other["spec"].as_object_mut().unwrap().remove("poolUID");
    assert!(said("AddressBlock", None, &other).contains("spec.poolUID: Required value"));
}

#[test]
fn what_the_schema_does_not_know_is_dropped() {
    let resource = RESOURCES.iter().find(|resource| resource.kind == "AddressPool").unwrap();
    let mut object = pool(shared());
    object["spec"]["ipv4"]["gatway"] = json!("172.16.11.1");
    object["spec"]["nodeSelector"] = json!({"rack": "a"});
    default(resource, &mut object);
    let mut expected = shared();
    expected["nodeSelector"] = json!({"rack": "a"});
    assert_eq!(object["spec"], expected);
}
