//! Claims as the API server holds them, and what becomes of them: a request, or one sentence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod grants;
mod lab;
mod rdma;
mod routes;
mod settings;

use serde_json::{Value, json};
use sriov_dra::claim::{ClaimError, NameFacts, NameSpec, PodRef, Source, decode_parameters};

use lab::{Claim, UID, decoding_fails, result};

fn explicit(name: &NameSpec) -> &str {
    match name {
        NameSpec::Explicit(name) => name.as_str(),
        NameSpec::Template(template) => panic!("{template:?} is a template"),
    }
}

fn nets(list: &[&str]) -> Vec<ipnet::IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

// What a claim becomes.

#[test]
fn a_claim_without_config_becomes_a_vf_with_the_default_name_and_nothing_set() {
    let spec = Claim::new().compiled();
    assert_eq!((spec.id.uid.as_str(), spec.id.namespace.as_str()), (UID, "team-a"));
    assert_eq!(spec.pod_claim_name, "vf");
    assert_eq!(spec.pod, Some(PodRef { uid: "pod-0".into(), name: "worker-0".into() }));
    let [vf] = &spec.results[..] else { panic!("{} results", spec.results.len()) };
    assert_eq!(vf.pci.to_string(), "0000:81:00.2");
    assert_eq!(vf.name, NameSpec::Template("net{n}".into()));
    assert_eq!((vf.interface_asked, vf.mtu, vf.addresses.len(), vf.admin_access), (false, None, 0, false));
}

#[test]
fn a_claim_that_no_template_made_is_called_by_its_own_name() {
    let mut claim = Claim::new();
    claim.0["metadata"]["annotations"] = Value::Null;
    assert_eq!(claim.compiled().pod_claim_name, "worker-vf");
}

#[test]
fn devices_and_config_of_other_drivers_are_none_of_our_business() {
    let mut claim = Claim::new();
    claim
        .results()
        .push(json!({"request": "gpu", "driver": "gpu.example", "pool": "elsewhere", "device": "gpu-0"}));
    claim.push_config("FromClaim", &[], "gpu.example", json!({"whatever": [1, 2]}));
    claim.push_config("FromClaim", &[], "gpu.example", json!("not even an object"));
    assert_eq!(claim.compiled().results.len(), 1);
}

#[test]
fn results_keep_the_order_of_the_allocation_and_subrequests_go_by_their_top_level_name() {
    let spec = Claim::new().with_results(&[("b/fast", "0000-81-00-3"), ("a", "0000-81-00-2")]).compiled();
    let names: Vec<_> = spec.results.iter().map(|r| (r.request.as_str(), r.top_level_request())).collect();
    assert_eq!(names, [("b/fast", "b"), ("a", "a")]);
}

// Precedence and scope.

#[test]
fn the_claim_wins_over_the_class_field_by_field_whatever_the_order_in_the_list() {
    let spec = Claim::new()
        .config("FromClaim", &[], json!({"mtu": 9000}))
        .config("FromClass", &[], json!({"mtu": 1500, "name": "class0"}))
        .compiled();
    assert_eq!(spec.results[0].mtu, Some(9000));
    assert_eq!(explicit(&spec.results[0].name), "class0");
    assert!(spec.results[0].interface_asked);
}

#[test]
fn the_later_of_two_claim_entries_wins_and_a_list_replaces_a_list() {
    let spec = Claim::new()
        .config("FromClaim", &["main"], json!({"addresses": ["10.1.0.1/24", "10.1.0.2/24"], "mtu": 1500}))
        .config("FromClaim", &[], json!({"addresses": ["10.2.0.1/24"]}))
        .compiled();
    assert_eq!(spec.results[0].addresses, nets(&["10.2.0.1/24"]));
    assert_eq!(spec.results[0].mtu, Some(1500));

    let emptied = Claim::new()
        .config("FromClass", &[], json!({"addresses": ["10.1.0.1/24"]}))
        .config("FromClaim", &[], json!({"addresses": []}))
        .compiled();
    assert_eq!(emptied.results[0].addresses, []);
}

#[test]
fn null_is_unset_and_takes_nothing_away() {
    let spec = Claim::new()
        .config("FromClass", &[], json!({"mtu": 1500}))
        .config("FromClaim", &[], json!({"mtu": null, "routes": null}))
        .config("FromClaim", &[], Value::Null)
        .compiled();
    assert_eq!(spec.results[0].mtu, Some(1500));
    let untouched = Claim::new().config("FromClaim", &[], json!({"mtu": null})).compiled();
    assert!(!untouched.results[0].interface_asked);
}

#[test]
fn scopes_are_all_a_request_with_its_subrequests_or_one_subrequest() {
    let base = || Claim::new().with_results(&[("main/fast", "0000-81-00-2"), ("other", "0000-81-00-3")]);
    let mtus = |claim: Claim| claim.compiled().results.iter().map(|r| r.mtu).collect::<Vec<_>>();
    for (requests, expected) in [
        (&[][..], [Some(9000), Some(9000)]),
        (&["main"], [Some(9000), None]),
        (&["main/fast"], [Some(9000), None]),
        (&["main/slow"], [None, None]),
        (&["mai"], [None, None]),
        (&["main/slow", "other"], [None, Some(9000)]),
    ] {
        assert_eq!(
            mtus(base().config("FromClaim", requests, json!({"mtu": 9000}))),
            expected,
            "{requests:?}"
        );
    }
    let mut unset = base().config("FromClaim", &[], json!({"mtu": 9000}));
    unset.at("/status/allocation/devices/config/0").as_object_mut().unwrap().remove("requests");
    assert_eq!(mtus(unset), [Some(9000), Some(9000)]);
}

#[test]
fn a_faulty_entry_is_refused_even_if_it_matches_no_result() {
    let claim = Claim::new().config("FromClaim", &["main/slow"], json!({"mtu": 1}));
    assert!(claim.refused().contains("interface.mtu: 1 is no possible MTU, it must be 68 to 65535 bytes"));
}

// Who the claim is for.

#[test]
fn the_uid_of_the_kubelet_must_be_the_uid_at_the_api_server() {
    let mut claim = Claim::new();
    claim.0["metadata"]["uid"] = json!("new");
    assert_eq!(
        claim.refused(),
        format!(
            "ResourceClaim team-a/worker-vf: its UID is new, not {UID} as the kubelet says: it was deleted and \
             created again, and the pod that used it must be created again too"
        )
    );
}

#[test]
fn a_claim_that_is_not_allocated_or_not_to_us_says_so() {
    let mut claim = Claim::new();
    claim.0["status"] = Value::Null;
    assert_eq!(
        claim.refused(),
        "ResourceClaim team-a/worker-vf: it is not allocated; it has to be, by the scheduler, before a node can prepare it"
    );

    let mut claim = Claim::new();
    claim.results()[0]["driver"] = json!("gpu.example");
    let says = "no device of driver sriov-dra.io is allocated to it, only of: gpu.example";
    assert!(claim.refused().ends_with(says), "{}", claim.refused());
    assert!(Claim::new().with_results(&[]).refused().ends_with("only of: none"));
}

#[test]
fn a_device_of_another_node_or_with_a_foreign_name_is_refused() {
    let mut claim = Claim::new();
    claim.results()[0]["pool"] = json!("node-b");
    assert_eq!(
        claim.refused(),
        "ResourceClaim team-a/worker-vf: request main got device 0000-81-00-2 of node node-b, but this is node node-a"
    );
    let claim = Claim::new().with_results(&[("main", "gpu-0")]);
    assert!(claim.refused().contains("request main got device \"gpu-0\", which is no name of a VF"));
}

#[test]
fn one_vf_for_two_results_is_refused_unless_one_of_them_only_looks() {
    let mut claim = Claim::new().with_results(&[("a", "0000-81-00-2"), ("b", "0000-81-00-2")]);
    assert!(claim.refused().ends_with("VF 0000-81-00-2 is allocated twice, to request a and to request b"));
    claim.results()[0]["adminAccess"] = json!(true);
    assert_eq!(claim.compiled().results.len(), 2);
}

#[test]
fn the_claim_must_be_reserved_for_exactly_one_pod() {
    let pod = |n: u32| json!({"resource": "pods", "name": format!("worker-{n}"), "uid": format!("pod-{n}")});
    let claim = Claim::new().reserved(json!([]));
    assert_eq!(claim.refused(), "ResourceClaim team-a/worker-vf: it is not reserved for any pod");

    let claim = Claim::new().reserved(json!([pod(0), pod(1)]));
    assert!(
        claim.refused().contains("reserved for 2 pods (worker-0, worker-1), but a VF can be in one pod only")
    );
    assert_eq!(claim.compile_held_by(Some("pod-1")).unwrap().pod.unwrap().name, "worker-1");
    assert!(matches!(claim.compile_held_by(Some("pod-7")), Err(ClaimError::SeveralPods { count: 2, .. })));

    let handed_over = Claim::new().reserved(json!([pod(1)])).compile_held_by(Some("pod-0")).unwrap();
    assert_eq!(
        handed_over.pod.unwrap().uid,
        "pod-1",
        "the API server's word counts, the engine judges the hand-over"
    );

    let claim =
        Claim::new().reserved(json!([{"apiGroup": "batch", "resource": "jobs", "name": "j", "uid": "1"}]));
    assert!(claim.refused().ends_with("it is reserved for jobs.batch j; only pods can use a VF"));
}

#[test]
fn results_for_admin_access_need_no_pod_and_get_no_settings() {
    let mut claim = Claim::new().reserved(Value::Null).config(
        "FromClass",
        &[],
        json!({"mtu": 9000, "name": "x0", "addresses": ["10.0.0.1/24"]}),
    );
    claim.results()[0]["adminAccess"] = json!(true);
    let spec = claim.compiled();
    assert_eq!(spec.pod, None);
    let vf = &spec.results[0];
    assert_eq!((vf.admin_access, vf.interface_asked, vf.mtu, vf.addresses.len()), (true, false, None, 0));

    claim.results().push(result("second", "0000-81-00-3"));
    assert!(claim.refused().ends_with("not reserved for any pod"), "one VF that is used needs a pod");
}

// What can't hold for two VFs at once.

#[test]
fn one_explicit_name_or_one_address_for_two_vfs_is_refused() {
    let two = || Claim::new().with_results(&[("main", "0000-81-00-2"), ("main", "0000-81-00-3")]);
    assert_eq!(
        two().config("FromClaim", &["main"], json!({"name": "rdma0"})).refused(),
        "ResourceClaim team-a/worker-vf: config[0] (from claim): interface.name: one name \"rdma0\" for 2 VFs \
         (0000-81-00-2 of request main, 0000-81-00-3 of request main); write it with {n}, or set it for one request \
         only"
    );
    let refused =
        two().config("FromClass", &["main"], json!({"addresses": ["10.0.0.1/24", "10.0.0.2/24"]})).refused();
    assert_eq!(
        refused,
        "ResourceClaim team-a/worker-vf: config[0] (from class sriov-vf): interface.addresses: address 10.0.0.1 for 2 \
         VFs (0000-81-00-2 of request main, 0000-81-00-3 of request main); an address is for one VF, set it for one \
         request only"
    );
    assert_eq!(two().config("FromClaim", &[], json!({"name": "rdma{n}"})).compiled().results.len(), 2);

    let apart = Claim::new()
        .with_results(&[("a", "0000-81-00-2"), ("b", "0000-81-00-3")])
        .config("FromClaim", &["a"], json!({"addresses": ["10.0.0.1/24"], "name": "same"}))
        .config("FromClaim", &["b"], json!({"addresses": ["10.0.0.1/16"], "name": "same"}));
    let refused = apart.refused();
    assert!(refused.contains("config[0] (from claim): interface.name: one name \"same\""), "{refused}");
    assert!(refused.contains("interface.addresses: address 10.0.0.1 for 2 VFs"), "{refused}");
}

#[test]
fn ipv6_needs_1280_bytes_even_if_mtu_and_address_come_from_two_entries() {
    let claim = Claim::new().config("FromClass", &[], json!({"mtu": 1000})).config(
        "FromClaim",
        &[],
        json!({"addresses": ["fd00:1::5/64"]}),
    );
    assert!(claim.refused().contains(
        "config[0] (from class): interface.mtu: 1000 is too small for fd00:1::5/64: IPv6 needs at least 1280 bytes"
    ));
    assert_eq!(Claim::new().config("FromClaim", &[], json!({"mtu": 68})).compiled().results[0].mtu, Some(68));
}

// Names.

#[test]
fn the_request_is_filled_in_at_once_and_the_rest_when_the_vf_is_known() {
    let claim = |name: &str| Claim::new().config("FromClaim", &[], json!({"name": name}));
    assert_eq!(explicit(&claim("vf-{request}").compiled().results[0].name), "vf-main");

    let name = claim("{pf}v{n}").compiled().results[0].name.clone();
    assert!(name.counts());
    let facts = NameFacts { n: 3, pf: Some("ens1f0"), rail: None };
    assert_eq!(name.render(facts).unwrap().as_str(), "ens1f0v3");
    let long =
        name.render(NameFacts { pf: Some("enp129s0f0np0"), n: 100, rail: None }).unwrap_err().to_string();
    assert!(long.starts_with("interface.name \"{pf}v{n}\" becomes \"enp129s0f0np0v100\": "), "{long}");

    let rail = claim("rail{rail}").compiled().results[0].name.clone();
    assert!(!rail.counts());
    let missing = rail.render(NameFacts::default()).unwrap_err().to_string();
    assert_eq!(missing, "interface.name \"rail{rail}\" asks for {rail}, which this VF does not have");
}

#[test]
fn names_the_pod_or_the_kernel_could_not_take_are_refused() {
    for (name, says) in [
        ("sixteen-chars-xx", "has 16 characters, at most 15 are possible"),
        ("a/b", "contains '/'"),
        ("", "must not be empty"),
        ("net%d", "contains '%'"),
        (
            "eth0",
            "\"eth0\" can't be the name of a VF's interface: the pod's own network interface has that name",
        ),
        ("lo", "the pod's loopback interface has that name"),
        ("all", "the kernel refuses that name"),
        ("net{x}", "\"net{x}\": unknown placeholder {x}, known are {n}, {request}, {pf}, {rail}"),
        ("net{n", "has a brace without its counterpart"),
        ("net}", "has a brace without its counterpart"),
        (
            "thirteen-char{n}",
            "must leave room for numbers up to 999: \"thirteen-char999\" has 16 characters, 1 more",
        ),
        ("a/{n}", "contains '/'"),
        ("twelve-chars-{request}", "for request main"),
        ("12345678901{request}{n}", "for request main"),
    ] {
        let refused = Claim::new().config("FromClaim", &[], json!({"name": name})).refused();
        assert!(refused.contains(": interface.name: ") && refused.contains(says), "{name}: {refused}");
    }
    for good in ["twelve-chars{n}", "fifteen-chars-x", "eth{n}", "{n}", "{pf}"] {
        assert_eq!(Claim::new().config("FromClaim", &[], json!({"name": good})).compiled().results.len(), 1);
    }
}

// Addresses.

#[test]
fn addresses_keep_their_host_bits_and_their_order() {
    let given = ["172.16.11.10/24", "fd00:0:0::A/64", "10.0.0.0/31", "10.0.0.9/32", "fd00::/127"];
    let spec = Claim::new().config("FromClaim", &[], json!({"addresses": given})).compiled();
    let canonical: Vec<String> = spec.results[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(canonical, ["172.16.11.10/24", "fd00::a/64", "10.0.0.0/31", "10.0.0.9/32", "fd00::/127"]);
}

#[test]
fn addresses_no_host_can_have_are_refused_with_the_reason() {
    for (address, says) in [
        ("172.16.11.10", "\"172.16.11.10\" has no prefix length, write it as 172.16.11.10/24"),
        ("fd00::1", "\"fd00::1\" has no prefix length, write it as fd00::1/64"),
        ("172.16.11.256/24", "256 is more than 255, the largest part of an IPv4 address"),
        ("172.16.011.1/24", "that is no IP address"),
        ("172.16.11/24", "that is no IP address"),
        (" 172.16.11.1/24", "that is no IP address"),
        ("fe80::1%eth0/64", "that is no IP address"),
        ("172.16.11.10/33", "prefix length \"33\" is not 8 to 32"),
        ("172.16.11.10/", "prefix length \"\" is not 8 to 32"),
        ("172.16.11.10/024", "prefix length \"024\" is not 8 to 32"),
        ("172.16.11.10/+24", "prefix length \"+24\""),
        ("10.0.0.1/0", "prefix length \"0\" is not 8 to 32"),
        ("fd00::1/129", "prefix length \"129\" is not 8 to 128"),
        (
            "172.16.11.0/24",
            "it is the network address of 172.16.11.0/24, hosts are 172.16.11.1 to 172.16.11.254",
        ),
        (
            "172.16.12.63/26",
            "it is the broadcast address of 172.16.12.0/26, hosts are 172.16.12.1 to 172.16.12.62",
        ),
        ("fd00:1::/64", "it is the address of the subnet fd00:1::/64"),
        ("0.0.0.1/24", "0.0.0.0/8 is unspecified"),
        ("127.0.0.2/24", "it is a loopback address"),
        ("169.254.1.1/16", "it is a link-local address"),
        ("224.0.0.5/24", "it is a multicast address"),
        ("240.0.0.1/24", "240.0.0.0/4 is reserved"),
        ("::/64", "it is unspecified"),
        ("::1/128", "it is the loopback address"),
        ("ff02::1/64", "it is a multicast address"),
        ("fe80::1/64", "it is a link-local address"),
        ("::ffff:10.0.0.1/120", "it is an IPv4-mapped address"),
    ] {
        let refused =
            Claim::new().config("FromClaim", &[], json!({"addresses": ["10.0.0.1/24", address]})).refused();
        assert!(
            refused.contains("interface.addresses[1]: ") && refused.contains(says),
            "{address}: {refused}"
        );
    }
}

#[test]
fn duplicates_and_too_many_addresses_are_refused() {
    let twice = json!({"addresses": ["10.0.0.1/24", "10.0.0.1/16"]});
    let refused = Claim::new().config("FromClaim", &[], twice).refused();
    assert!(refused.ends_with("addresses[1]: 10.0.0.1 is given twice"), "{refused}");
    let many: Vec<String> = (1..=17).map(|i| format!("10.0.0.{i}/24")).collect();
    let refused = Claim::new().config("FromClaim", &[], json!({"addresses": many})).refused();
    assert!(refused.ends_with("interface.addresses: 17 addresses, at most 16 are possible"), "{refused}");
}

// Strict decoding.

#[test]
fn an_unknown_field_is_named_with_its_path_the_known_ones_and_what_was_meant() {
    let claim = Claim::new().config("FromClass", &[], json!({})).config("FromClass", &[], json!({})).config(
        "FromClaim",
        &[],
        json!({"mtuu": 1}),
    );
    assert_eq!(
        claim.refused(),
        "ResourceClaim team-a/worker-vf: config[2] (from claim): interface.mtuu: unknown field, known are addresses, \
         addressPool, mtu, name, routes, sourceRouting, defaultRoute, sysctls, probe (did you mean mtu?)"
    );
    let known = "unknown field, known are addresses, addressPool, mtu, name, routes, sourceRouting, defaultRoute, sysctls, probe";
    for (parameters, says) in [
        (
            json!({"mtu": 1}),
            "mtu: unknown field, known are interface, vf, bind, rdma (did you mean interface.mtu?)"
                .to_owned(),
        ),
        (
            json!({"interfaces": {}}),
            "interfaces: unknown field, known are interface, vf, bind, rdma (did you mean interface?)"
                .to_owned(),
        ),
        (json!({"interface": {"MTU": 1}}), format!("interface.MTU: {known} (did you mean mtu?)")),
        (
            json!({"interface": {"adresses": 1}}),
            format!("interface.adresses: {known} (did you mean addresses?)"),
        ),
        (json!({"interface": {"colour": 1}}), format!("interface.colour: {known}")),
        (json!({"interface": {"colour": null}}), format!("interface.colour: {known}")),
    ] {
        assert_eq!(decoding_fails(parameters), says);
    }
}

#[test]
fn a_field_of_a_later_version_is_said_to_be_one() {
    let version = env!("CARGO_PKG_VERSION");
    let says = format!("infiniband: field infiniband is not supported by this version ({version})");
    assert_eq!(decoding_fails(json!({"infiniband": {}})), says);
    let unset = Claim::new().says("FromClaim", &[], "VfConfig", json!({"infiniband": null}));
    assert!(unset.compiled().pod.is_some());
}

#[test]
fn a_value_of_the_wrong_type_says_what_it_is_and_what_it_should_be() {
    let bytes = "expected a whole number of bytes such as 1500";
    let address = "expected an address with its prefix length such as \"172.16.11.10/24\"";
    for (interface, says) in [
        (json!({"mtu": "1500"}), format!("interface.mtu: got the string \"1500\", {bytes}")),
        (json!({"mtu": 1500.5}), format!("interface.mtu: got the number 1500.5, {bytes}")),
        (json!({"mtu": -1}), format!("interface.mtu: got the number -1, {bytes}")),
        (json!({"mtu": true}), format!("interface.mtu: got the boolean true, {bytes}")),
        (
            json!({"mtu": 4_294_968_796_u64}),
            "interface.mtu: 4294968796 is no possible MTU, it must be 68 to 65535 bytes".to_owned(),
        ),
        (
            json!({"name": 5}),
            "interface.name: got the number 5, expected a name such as \"rdma0\" or \"net{n}\"".to_owned(),
        ),
        (
            json!({"addresses": "10.0.0.1/24"}),
            "interface.addresses: got the string \"10.0.0.1/24\", expected a list of addresses such as \
             [172.16.11.10/24]"
                .to_owned(),
        ),
        (json!({"addresses": [7]}), format!("interface.addresses[0]: got the number 7, {address}")),
        (json!({"addresses": [null]}), format!("interface.addresses[0]: got null, {address}")),
        (json!([]), "interface: got a list, expected an object".to_owned()),
    ] {
        assert_eq!(decoding_fails(json!({"interface": interface})), says);
    }
}

#[test]
fn a_wrong_or_missing_api_version_or_kind_names_both_that_are_expected() {
    let expected = "expected apiVersion sriov-dra.io/v1alpha1 and kind VfConfig";
    for (api_version, kind, got) in [
        (
            json!("sriov-dra.io/v1"),
            json!("VfConfig"),
            "got apiVersion \"sriov-dra.io/v1\" and kind \"VfConfig\"",
        ),
        (
            json!("sriov-dra.io/v1alpha1"),
            json!("VFConfig"),
            "got apiVersion \"sriov-dra.io/v1alpha1\" and kind \"VFConfig\"",
        ),
        (Value::Null, Value::Null, "got apiVersion none and kind none"),
        (json!(1), Value::Null, "got apiVersion 1 and kind none"),
    ] {
        let parameters = json!({"apiVersion": api_version, "kind": kind, "interface": {"mtuu": 1}});
        let refused = decode_parameters(&parameters, Source::Claim).unwrap_err().to_string();
        assert_eq!(refused, format!("parameters: {got}, {expected}"));
    }
    let refused = decode_parameters(&json!("text"), Source::Claim).unwrap_err().to_string();
    assert!(refused.starts_with("parameters: got the string \"text\", expected an object with apiVersion"));
}

#[test]
fn all_faults_are_told_together_the_first_three_in_words() {
    let claim = Claim::new()
        .config("FromClaim", &[], json!({"mtu": 1, "name": "lo", "addresses": ["x", "y"]}))
        .config("FromClass", &[], json!({"mtu": "9000"}));
    let refused = claim.refused();
    assert_eq!(refused.matches("; ").count(), 3, "{refused}");
    assert!(refused.ends_with("; and 2 more"), "{refused}");
}

#[test]
fn the_api_group_is_the_default_driver_name() {
    assert_eq!(sriov_dra::claim::API_VERSION, format!("{}/v1alpha1", sriov_dra::DEFAULT_DRIVER_NAME));
}
