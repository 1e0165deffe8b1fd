//! Who may set what: grants of classes, and what they let claims do.

use serde_json::{Value, json};
use sriov_dra::claim::{Source, decode_parameters};

use crate::lab::{Claim, decoding_fails};

const CLASS: &str = "config[0] (from class sriov-vf)";

/// A claim in `team-a` whose class grants this.
fn granted(grant: Value) -> Claim {
    Claim::new().says("FromClass", &["main"], "VfGrant", grant)
}

fn wants(claim: Claim, parameters: Value) -> Claim {
    claim.says("FromClaim", &[], "VfConfig", parameters)
}

fn field(path: &str, value: &Value) -> Value {
    let (section, name) = path.split_once('.').unwrap();
    json!({section: {name: value}})
}

fn grant_fails(mut grant: Value) -> String {
    grant["apiVersion"] = json!("sriov-dra.io/v1alpha1");
    grant["kind"] = json!("VfGrant");
    decode_parameters(&grant, Source::Class).unwrap_err().to_string()
}

#[test]
fn without_a_grant_a_claim_sets_name_mtu_and_addresses_and_nothing_else() {
    let free = json!({"interface": {"name": "x0", "mtu": 1500, "addresses": ["10.0.0.1/24"]}});
    assert_eq!(wants(Claim::new(), free).compiled().results[0].mtu, Some(1500));
    for (path, value, shown) in [
        ("vf.mac", json!("02:00:00:00:00:01"), "02:00:00:00:00:01"),
        ("vf.vlan", json!(100), "100"),
        ("vf.vlan", json!(0), "0"),
        ("vf.trust", json!(false), "false"),
        ("vf.spoofCheck", json!(true), "true"),
        ("vf.linkState", json!("auto"), "auto"),
        ("vf.minTxRateMbps", json!(1), "1"),
        ("vf.maxTxRateMbps", json!(1), "1"),
        ("bind.driver", json!("vfio-pci"), "vfio-pci"),
        ("bind.vhost", json!(true), "true"),
        ("rdma.umad", json!(true), "true"),
    ] {
        assert_eq!(
            wants(Claim::new(), field(path, &value)).refused(),
            format!(
                "ResourceClaim team-a/worker-vf: config[0] (from claim): {path}: {shown} needs a grant, and class sriov-vf \
                 has none for this field; leave the field out, or use a class whose VfGrant allows it"
            )
        );
        let all = granted(json!({"allow": [{"field": path}]}));
        assert_eq!(wants(all, field(path, &value)).compiled().results.len(), 1, "{path}");
    }
    let with_vlan = json!({"vf": {"vlan": 1, "vlanQos": 2, "vlanProtocol": "802.1ad"}});
    let refused = wants(granted(json!({"allow": [{"field": "vf.vlan"}]})), with_vlan.clone()).refused();
    assert!(
        refused.contains("vf.vlanQos: 2 needs a grant") && refused.contains("vf.vlanProtocol: 802.1ad needs")
    );
    let three = ["vf.vlan", "vf.vlanQos", "vf.vlanProtocol"].map(|field| json!({"field": field}));
    assert!(wants(granted(json!({"allow": three})), with_vlan).compiled().results[0].settings.vlan.is_some());
}

#[test]
fn nothing_grants_what_only_a_class_may_set_and_no_claim_grants_anything() {
    for value in [json!(true), json!(false)] {
        let asked = field("bind.allowNoIommu", &value);
        let says = "bind.allowNoIommu: only a DeviceClass may set this; leave it out of the claim";
        assert_eq!(decoding_fails(asked.clone()), says);
        let by_class = Claim::new().says("FromClass", &["main"], "VfConfig", asked.clone());
        assert!(wants(by_class, asked).refused().contains(says), "nor may it repeat it");
    }
    let itself = Claim::new().says("FromClaim", &[], "VfGrant", json!({"allow": [{"field": "vf.vlan"}]}));
    assert_eq!(
        wants(itself, json!({"vf": {"vlan": 100}})).refused(),
        "ResourceClaim team-a/worker-vf: config[0] (from claim): kind: VfGrant counts only in a DeviceClass, a claim can't \
         grant itself anything; take the entry out; config[1] (from claim): vf.vlan: 100 needs a grant, and class sriov-vf \
         has none for this field; leave the field out, or use a class whose VfGrant allows it"
    );
    let unknown = Claim::new().says("FromNowhere", &["main"], "VfConfig", json!({"vf": {"vlan": 100}}));
    assert!(unknown.refused().contains("100 needs a grant"), "what is no class's has the rights of a claim");
}

#[test]
fn a_grant_allows_values_ranges_words_and_macs_and_nothing_beside_them() {
    let both = json!(["02:00:00:00:00:01", "02:00:00:00:01:00-02:00:00:00:01:ff"]);
    for (path, values, good, bad) in [
        (
            "vf.vlan",
            json!([7, "100-199", "300"]),
            vec![json!(7), json!(100), json!(150), json!(199), json!(300)],
            vec![json!(6), json!(99), json!(200), json!(0), json!(301)],
        ),
        ("vf.maxTxRateMbps", json!(["1-1000"]), vec![json!(1), json!(1000)], vec![json!(0), json!(1001)]),
        ("vf.trust", json!([false]), vec![json!(false)], vec![json!(true)]),
        (
            "vf.linkState",
            json!(["auto", "enable"]),
            vec![json!("auto"), json!("enable")],
            vec![json!("disable")],
        ),
        (
            "vf.mac",
            both,
            vec![json!("02:00:00:00:00:01"), json!("02:00:00:00:01:AB"), json!("02:00:00:00:01:ff")],
            vec![json!("02:00:00:00:00:02"), json!("02:00:00:00:00:ff"), json!("02:00:00:00:02:00")],
        ),
        ("bind.driver", json!(["vfio-pci"]), vec![json!("vfio-pci")], vec![]),
    ] {
        let claim = |value: &Value| {
            wants(granted(json!({"allow": [{"field": path, "values": values}]})), field(path, value))
        };
        for value in &good {
            assert_eq!(claim(value).compiled().results.len(), 1, "{path} {value}");
        }
        for value in &bad {
            let refused = claim(value).refused();
            let says = " is not granted: class sriov-vf lets claims of namespace team-a set ";
            assert!(refused.contains(says) && refused.contains(path), "{path} {value}: {refused}");
        }
    }
    let refused = wants(
        granted(
            json!({"allow": [{"field": "vf.vlan", "values": ["100-199"]}, {"field": "vf.vlan", "values": [7]}]}),
        ),
        json!({"vf": {"vlan": 300}}),
    );
    assert_eq!(
        refused.refused(),
        "ResourceClaim team-a/worker-vf: config[1] (from claim): vf.vlan: 300 is not granted: class sriov-vf lets claims of \
         namespace team-a set 100-199, 7; use one of these"
    );
}

#[test]
fn a_grant_reaches_the_namespaces_it_names_or_all() {
    let allow = json!([{"field": "vf.vlan"}]);
    let asked = json!({"vf": {"vlan": 100}});
    for namespaces in [json!(null), json!([]), json!(["team-b", "team-a"])] {
        let claim = granted(json!({"namespaces": namespaces, "allow": allow}));
        assert_eq!(wants(claim, asked.clone()).compiled().results.len(), 1, "{namespaces}");
    }
    let others = granted(json!({"namespaces": ["team-b", "team-c"], "allow": allow}));
    assert!(wants(others, asked.clone()).refused().contains(
        "vf.vlan: 100 needs a grant, and class sriov-vf gives it to namespace team-b, team-c only, not to team-a; leave"
    ));
    let two = granted(json!({"namespaces": ["team-b"], "allow": [{"field": "vf.vlan"}]})).says(
        "FromClass",
        &["main"],
        "VfGrant",
        json!({"namespaces": ["team-a"], "allow": [{"field": "vf.vlan", "values": ["1-9"]}]}),
    );
    assert!(wants(two, asked).refused().contains("lets claims of namespace team-a set 1-9; use"));
}

#[test]
fn what_the_class_itself_sets_needs_no_grant_and_may_be_repeated_but_not_altered() {
    let by_class =
        || Claim::new().says("FromClass", &["main"], "VfConfig", json!({"vf": {"vlan": 100, "trust": true}}));
    assert_eq!(by_class().compiled().results[0].settings.trust, Some(true));
    let repeated = wants(by_class(), json!({"vf": {"vlan": 100}}));
    assert_eq!(repeated.compiled().results[0].settings.vlan.map(|vlan| vlan.id), Some(100));
    assert!(wants(by_class(), json!({"vf": {"vlan": 101}})).refused().contains("vf.vlan: 101 needs a grant"));
    assert!(
        wants(by_class(), json!({"vf": {"trust": false}}))
            .refused()
            .contains("vf.trust: false needs a grant")
    );
    // Of two class entries the later one is the class's word.
    let twice = by_class().says("FromClass", &["main"], "VfConfig", json!({"vf": {"vlan": 200}}));
    assert!(wants(twice, json!({"vf": {"vlan": 100}})).refused().contains("vf.vlan: 100 needs a grant"));
}

#[test]
fn a_value_that_a_later_entry_of_the_claim_replaces_is_judged_all_the_same() {
    let claim = granted(json!({"allow": [{"field": "vf.vlan", "values": [7]}]}));
    let claim = wants(wants(claim, json!({"vf": {"vlan": 8}})), json!({"vf": {"vlan": 7}}));
    assert!(
        claim.refused().contains("config[1] (from claim): vf.vlan: 8 is not granted"),
        "{}",
        claim.refused()
    );
}

/// Request `a` of class `tenant`, which grants VLANs 100 to 199; request `b` of class `plain`, which grants 7.
fn two_classes() -> Claim {
    let mut claim = Claim::new().with_results(&[("a", "0000-81-00-2"), ("b", "0000-81-00-3")]);
    claim.0["spec"]["devices"]["requests"] = json!([
        {"name": "a", "exactly": {"deviceClassName": "tenant"}},
        {"name": "b", "exactly": {"deviceClassName": "plain"}},
    ]);
    let vlan = |values: Value| json!({"allow": [{"field": "vf.vlan", "values": values}]});
    claim.says("FromClass", &["a"], "VfGrant", vlan(json!(["100-199"]))).says(
        "FromClass",
        &["b"],
        "VfGrant",
        vlan(json!([7])),
    )
}

#[test]
fn the_grant_of_one_class_does_not_help_the_vf_of_another() {
    let vlan = |id: u64| json!({"vf": {"vlan": id}});
    let apart = two_classes().says("FromClaim", &["a"], "VfConfig", vlan(100)).says(
        "FromClaim",
        &["b"],
        "VfConfig",
        vlan(7),
    );
    let ids: Vec<_> =
        apart.compiled().results.iter().map(|vf| vf.settings.vlan.map(|vlan| vlan.id)).collect();
    assert_eq!(ids, [Some(100), Some(7)]);

    let for_all = two_classes().says("FromClaim", &[], "VfConfig", vlan(100)).refused();
    assert!(for_all.ends_with(
        "config[2] (from claim): vf.vlan: 100 is not granted: class plain lets claims of namespace team-a set 7; use one of \
         these"
    ), "{for_all}");
    let crossed = two_classes()
        .says("FromClaim", &["a"], "VfConfig", vlan(7))
        .says("FromClaim", &["b"], "VfConfig", vlan(100))
        .refused();
    assert!(crossed.contains("config[2] (from claim): vf.vlan: 7 is not granted: class tenant"), "{crossed}");
    assert!(
        crossed.contains("config[3] (from claim): vf.vlan: 100 is not granted: class plain"),
        "{crossed}"
    );
}

#[test]
fn the_grant_of_a_subrequests_class_counts_for_that_subrequest_only() {
    let claim = |chosen: &str| {
        let mut claim = Claim::new().with_results(&[(chosen, "0000-81-00-2")]);
        claim.0["spec"]["devices"]["requests"] = json!([{"name": "main", "firstAvailable": [
            {"name": "fast", "deviceClassName": "tenant"}, {"name": "slow", "deviceClassName": "plain"},
        ]}]);
        let claim =
            claim.says("FromClass", &["main/fast"], "VfGrant", json!({"allow": [{"field": "vf.vlan"}]}));
        claim.says("FromClaim", &["main"], "VfConfig", json!({"vf": {"vlan": 5}}))
    };
    assert!(claim("main/fast").compiled().results[0].settings.vlan.is_some());
    let refused = claim("main/slow").refused();
    assert!(refused.contains("5 needs a grant, and class plain has none for this field"), "{refused}");
}

#[test]
fn a_faulty_grant_says_which_entry_is_wrong_and_what_would_be_right() {
    let one = |field: &str, value: Value| json!({"allow": [{"field": field, "values": [value]}]});
    let fields = "those are interface.addressPool, interface.sysctls.preset, interface.sysctls.rp_filter, \
                  interface.sysctls.arp_ignore, interface.sysctls.arp_announce, interface.sysctls.arp_filter, \
                  interface.sysctls.arp_notify, interface.sysctls.accept_local, interface.sysctls.disable_ipv6, vf.mac, vf.vlan, vf.vlanQos, vf.vlanProtocol, vf.trust, vf.spoofCheck, vf.linkState, \
                  vf.minTxRateMbps, vf.maxTxRateMbps, bind.driver, bind.vhost, rdma.umad";
    for (grant, says) in [
        (json!({}), "allow: is missing; say what claims may set, as in allow: [{field: vf.vlan".to_owned()),
        (json!({"allow": null}), "allow: is missing".to_owned()),
        (json!({"allow": []}), "allow: is empty, so that nothing is granted".to_owned()),
        (json!({"allow": {}}), "allow: got an object, expected a list".to_owned()),
        (json!({"allow": [7]}), "allow[0]: got the number 7, expected an object such as {field".to_owned()),
        (json!({"allow": [{}]}), "allow[0].field: is missing; name a field, as in vf.vlan".to_owned()),
        (json!({"allow": [{"field": 7}]}), "allow[0].field: got the number 7".to_owned()),
        (
            json!({"allow": [{"field": "vf.vlan"}, {"field": "vf.vlam"}]}),
            format!(
                "allow[1].field: \"vf.vlam\" is no field that can be granted, {fields} (did you mean vf.vlan?)"
            ),
        ),
        (
            json!({"allow": [{"field": "vf"}]}),
            "allow[0].field: \"vf\" is no field that can be granted".to_owned(),
        ),
        (
            json!({"allow": [{"field": "bind.allowNoIommu"}]}),
            "allow[0].field: bind.allowNoIommu can't be granted, only a DeviceClass itself may set it"
                .to_owned(),
        ),
        (
            json!({"allow": [{"field": "interface.mtu"}]}),
            "allow[0].field: interface.mtu needs no grant: every claim may set it, to any value".to_owned(),
        ),
        (
            json!({"allow": [{"field": "interface.addressPool", "values": ["Rails"]}]}),
            "allow[0].values[0]: \"Rails\" is not the name of an AddressPool".to_owned(),
        ),
        (
            json!({"allow": [{"field": "rdma.mode"}]}),
            "rdma.mode needs no grant: every claim may set it".to_owned(),
        ),
        (json!({"allow": [{"field": "infiniband.pkey"}]}), "infiniband.pkey".to_owned()),
        (
            json!({"allow": [{"field": "vf.vlan", "value": [7]}]}),
            "allow[0].value: unknown field, known are field, values (did you mean values?)".to_owned(),
        ),
        (
            json!({"allow": [{"field": "vf.vlan", "values": []}]}),
            "allow[0].values: is empty, so that no value is granted; leave it out for any value".to_owned(),
        ),
        (
            json!({"allow": [{"field": "vf.vlan", "values": 7}]}),
            "allow[0].values: got the number 7".to_owned(),
        ),
        (
            one("vf.vlan", json!("199-100")),
            "allow[0].values[0]: \"199-100\" is an empty range, write the smaller one first: 100-199"
                .to_owned(),
        ),
        (
            one("vf.vlan", json!("100..199")),
            "values[0]: \"100..199\" is neither a whole number nor a range such as \"100-100\"".to_owned(),
        ),
        (one("vf.vlan", json!("100-")), "\"100-\" is neither a whole number nor a range".to_owned()),
        (one("vf.vlan", json!("-5")), "\"-5\" is neither a whole number nor a range".to_owned()),
        (one("vf.vlan", json!("")), "\"\" is neither a whole number nor a range".to_owned()),
        (one("vf.vlan", json!("1-2-3")), "\"1-2-3\" is neither a whole number nor a range".to_owned()),
        (one("vf.vlan", json!("4000-5000")), "5000 is no possible VLAN, it must be 1 to 4094".to_owned()),
        (one("vf.vlan", json!(4095)), "values[0]: 4095 is no possible VLAN".to_owned()),
        (one("vf.vlan", json!(1.5)), "got the number 1.5, expected a whole number, or a range".to_owned()),
        (
            one("vf.trust", json!("true")),
            "values[0]: got the string \"true\", expected true or false".to_owned(),
        ),
        (one("vf.linkState", json!("enabel")), "(did you mean enable?)".to_owned()),
        (one("vf.mac", json!("02:00:00:00:00:01-")), "\"\" is no MAC address".to_owned()),
        (one("vf.mac", json!("02:00:00:00:00:09-02:00:00:00:00:01")), "is an empty range".to_owned()),
        (one("vf.mac", json!("01:00:5e:00:00:01")), "is a multicast address".to_owned()),
        (
            json!({"namespaces": ["team-a", "Team_B"], "allow": [{"field": "vf.vlan"}]}),
            "namespaces[1]: \"Team_B\" is no name of a namespace".to_owned(),
        ),
        (
            json!({"namespaces": "team-a", "allow": [{"field": "vf.vlan"}]}),
            "namespaces: got the string".to_owned(),
        ),
        (
            json!({"namespace": ["team-a"], "allow": [{"field": "vf.vlan"}]}),
            "namespace: unknown field, known are namespaces, allow (did you mean namespaces?)".to_owned(),
        ),
    ] {
        let refused = grant_fails(grant.clone());
        assert!(refused.contains(&says), "{grant}: {refused}");
    }
    let claim = granted(json!({"allow": [{"field": "vf.vlan", "values": ["9-1"]}]}));
    assert!(claim.refused().contains(&format!("{CLASS}: allow[0].values[0]: \"9-1\" is an empty range")));
}

#[test]
fn a_class_says_which_kinds_it_may_have() {
    let parameters = json!({"apiVersion": "sriov-dra.io/v1alpha1", "kind": "VfGrants"});
    let refused = decode_parameters(&parameters, Source::Class).unwrap_err().to_string();
    assert!(
        refused.ends_with("expected apiVersion sriov-dra.io/v1alpha1 and kind VfConfig or VfGrant"),
        "{refused}"
    );
}
