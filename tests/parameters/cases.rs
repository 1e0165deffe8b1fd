//! Parameters that an API server with the policy takes, and those that it refuses with a sentence.

use serde_json::{Value, json};

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Class,
    Claim,
    Template,
}

/// One config entry.
#[derive(Debug, Clone)]
pub struct Case {
    pub by: By,
    pub parameters: Value,
    /// What is said of it; nothing where it is good.
    pub says: Option<&'static str>,
}

/// With `apiVersion`, and `kind` where it is missing.
fn typed(mut parameters: Value) -> Value {
    if parameters.get("apiVersion").is_none() {
        parameters["apiVersion"] = json!("sriov-dra.io/v1alpha1");
    }
    if parameters.get("kind").is_none() {
        parameters["kind"] = json!(if parameters.get("allow").is_some() { "VfGrant" } else { "VfConfig" });
    }
    parameters
}

/// With the largest value.
const SYSCTLS: &[(&str, u64)] = &[
    ("rp_filter", 2),
    ("arp_ignore", 8),
    ("arp_announce", 2),
    ("arp_filter", 1),
    ("arp_notify", 1),
    ("accept_local", 1),
    ("disable_ipv6", 1),
];

/// What is taken.
pub fn good() -> Vec<Case> {
    let everything = json!({
        "interface": {"name": "net{n}", "mtu": 1500, "addresses": ["172.16.11.10/24", "fd00::10/64"],
            "routes": [{"to": "172.16.0.0/16", "via": "172.16.11.1"}, {"to": "10.0.0.0/8"}, {"to": "::/0", "via": "fd00::1"}],
            "sourceRouting": true, "sysctls": {"preset": "multirail", "rp_filter": 0, "arp_ignore": 8},
            "probe": {"duplicateAddress": "fail", "gateway": "report", "budgetMs": 1000}},
        "vf": {"mac": "02:00:5E:10:00:01", "vlan": 100, "vlanQos": 3, "vlanProtocol": "802.1ad", "trust": true,
            "spoofCheck": false, "linkState": "auto", "minTxRateMbps": 0, "maxTxRateMbps": 4_294_967_295_u64},
        "bind": {"vhost": true},
        "rdma": {"mode": "namespace", "umad": true, "memlock": "64Gi"},
    });
    let nothing = json!({
        "interface": {"name": null, "mtu": null, "addresses": null, "addressPool": null, "routes": null, "sysctls": {"preset": null}, "probe": null}, "vf": null,
        "bind": {"driver": null, "allowNoIommu": null}, "rdma": null,
    });
    let grant = json!({"namespaces": ["team-a", "b"], "allow": [
        {"field": "vf.vlan", "values": [7, "100-199", "0"]}, {"field": "vf.mac", "values": ["02:00:00:00:00:01-02:00:00:00:00:ff"]},
        {"field": "vf.trust", "values": [false]}, {"field": "vf.linkState", "values": ["auto", "enable"]},
        {"field": "vf.spoofCheck"}, {"field": "bind.driver", "values": null},
    ]});
    let mut cases = Vec::new();
    for by in [By::Class, By::Claim, By::Template] {
        for parameters in [
            &json!({}),
            &everything,
            &nothing,
            &json!({"interface": {"name": "{pf}v{n}", "mtu": 68, "addresses": []}}),
            &json!({"interface": {"name": "fifteen-chars-x", "mtu": 65535}}),
            &json!({"interface": {"addressPool": "rail{rail}", "routes": [], "sourceRouting": false}}),
            &json!({"vf": {"vlan": 0, "vlanProtocol": "802.1Q", "linkState": "disable"}}),
            &json!({"vf": {"vlan": 4094, "vlanQos": 7}}),
            &json!({"bind": {"driver": "vfio-pci"}}),
            &json!({"rdma": {"mode": "none"}}),
            &json!({"rdma": {"mode": "chardev", "umad": false, "memlock": "unlimited"}}),
            &json!({"rdma": {"mode": null, "memlock": "1073741824"}}),
            &json!({"rdma": {"nccl": {"topology": true}}}),
        ] {
            cases.push(Case { by, parameters: typed(parameters.clone()), says: None });
        }
    }
    for parameters in [
        grant,
        json!({"allow": [{"field": "vf.vlan"}]}),
        json!({"namespaces": null, "allow": [{"field": "vf.maxTxRateMbps", "values": ["1-1000"]}]}),
        json!({"bind": {"driver": "vfio-pci", "allowNoIommu": true}}),
        json!({"bind": {"allowNoIommu": false}}),
    ] {
        cases.push(Case { by: By::Class, parameters: typed(parameters), says: None });
    }
    cases
}

/// What is refused, and how.
pub fn bad() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |by: &[By], parameters: Value, says: &'static str| {
        for by in by {
            cases.push(Case { by: *by, parameters: typed(parameters.clone()), says: Some(says) });
        }
    };
    let any = &[By::Class, By::Claim, By::Template][..];
    let (claims, class) = (&[By::Claim, By::Template][..], &[By::Class][..]);

    add(
        any,
        json!({"apiVersion": "sriov-dra.io/v1"}),
        "parameters: apiVersion must be sriov-dra.io/v1alpha1",
    );
    add(class, json!({"apiVersion": 1}), "parameters: apiVersion must be");
    add(any, json!({"kind": "VFConfig"}), "parameters: kind must be VfConfig, or VfGrant in a DeviceClass");
    add(class, json!({"kind": ["VfConfig"]}), "parameters: kind must be");
    add(claims, json!({"allow": [{"field": "vf.vlan"}]}), "kind: VfGrant counts only in a DeviceClass");
    add(
        claims,
        json!({"bind": {"allowNoIommu": true}}),
        "bind.allowNoIommu: only a DeviceClass may set this",
    );
    add(claims, json!({"bind": {"allowNoIommu": "x"}}), "bind.allowNoIommu: must be true or false");

    add(any, json!({"mtu": 1500}), "VfConfig: it has an unknown field, known are interface, vf, bind");
    add(class, json!({"infiniband": {"pkey": "0x8001"}}), "VfConfig: it has an unknown field");
    add(any, json!({"rdma": {"mode": "exclusive"}}), "rdma.mode: must be auto, namespace, chardev or none");
    for amount in ["64G", "0", "1.5Gi", "1000000Ki", "-1", ""] {
        add(
            any,
            json!({"rdma": {"memlock": amount}}),
            "rdma.memlock: must be auto, unlimited, none, or an amount",
        );
    }
    add(any, json!({"rdma": {"memlock": 1_073_741_824}}), "rdma.memlock: must be");
    add(any, json!({"rdma": "fast"}), "rdma: must be an object");
    add(any, json!({"rdma": {"umad": "yes"}}), "rdma.umad: must be true or false");
    add(any, json!({"rdma": {"nodes": []}}), "rdma: it has an unknown field, known are mode, umad, memlock");
    add(class, json!({"colour": null}), "VfConfig: it has an unknown field");
    add(any, json!({"rdma": {"nccl": {"topology": "yes"}}}), "rdma.nccl.topology: must be true or false");
    add(any, json!({"rdma": {"nccl": true}}), "rdma.nccl: must be an object");
    add(
        any,
        json!({"rdma": {"nccl": {"hca": []}}}),
        "rdma.nccl: it has an unknown field, known are topology",
    );
    add(any, json!({"vf": {"vlanId": 100}}), "vf: it has an unknown field, known are mac, vlan, vlanQos");
    add(
        class,
        json!({"interface": {"gateway": "10.0.0.1"}}),
        "interface: it has an unknown field, known are addresses, addressPool, mtu",
    );
    for (interface, says) in [
        (json!({"addressPool": "Rails"}), "interface.addressPool: must be the name of an AddressPool"),
        (json!({"addressPool": "rail{n}"}), "interface.addressPool: must be the name of an AddressPool"),
        (json!({"routes": {}}), "interface.routes: must be a list of at most 32 objects"),
        (json!({"routes": ["10.0.0.0/8"]}), "interface.routes: must be a list of at most 32 objects"),
        (json!({"routes": [{"via": "10.0.0.1"}]}), "interface.routes: must be a list of at most 32 objects"),
        (json!({"routes": [{"to": "10.0.0.0/8", "dev": "eth0"}]}), "interface.routes: must be a list"),
        (json!({"routes": [{"to": "10.0.0.0/8", "via": "eth0"}]}), "interface.routes: must be a list"),
        (json!({"sourceRouting": "yes"}), "interface.sourceRouting: must be true or false"),
        (json!({"sysctls": {"preset": "fast"}}), "interface.sysctls.preset: must be multirail"),
        (json!({"sysctls": {"rp_filter": 3}}), "interface.sysctls.rp_filter: must be a whole number, 0 to 2"),
        (
            json!({"sysctls": {"forwarding": 1}}),
            "interface.sysctls: it has an unknown field, known are preset",
        ),
        (json!({"probe": {"gateway": "ignore"}}), "interface.probe.gateway: must be report or fail"),
        (
            json!({"probe": {"budgetMs": 5000}}),
            "interface.probe.budgetMs: must be a whole number, 20 to 1000 ms",
        ),
        (json!({"probe": "fail"}), "interface.probe: must be an object"),
    ] {
        add(any, json!({"interface": interface}), says);
    }
    add(class, json!({"interface": {"defaultRoute": 1}}), "interface.defaultRoute: must be true or false");
    add(any, json!({"interface": {"sysctls": 1}}), "interface.sysctls: must be an object");
    let probe = json!({"interface": {"probe": {"ping": "fail"}}});
    add(
        any,
        probe,
        "interface.probe: it has an unknown field, known are duplicateAddress, gateway, budgetMs",
    );
    let probe = json!({"interface": {"probe": {"duplicateAddress": true}}});
    add(any, probe, "interface.probe.duplicateAddress: must be report or fail");
    for (key, most) in SYSCTLS {
        let name = format!("interface.sysctls.{key}");
        let says = Box::leak(format!("{name}: must be a whole number, 0 to {most}").into_boxed_str());
        add(any, json!({"interface": {"sysctls": {*key: most + 1}}}), says);
        let grants = Box::leak(format!("allow: values of {name} must be whole numbers").into_boxed_str());
        add(class, json!({"allow": [{"field": name, "values": [most + 1]}]}), grants);
    }
    add(
        claims,
        json!({"interface": {"defaultRoute": true}}),
        "interface.defaultRoute: only a DeviceClass may set this",
    );
    add(class, json!({"bind": {"drivers": 1}}), "bind: it has an unknown field, known are driver, vhost");
    for (value, section) in [(json!("fast"), "vf"), (json!([]), "interface"), (json!(7), "bind")] {
        let says = match section {
            "vf" => "vf: must be an object",
            "bind" => "bind: must be an object",
            _ => "interface: must be an object",
        };
        add(claims, json!({section: value}), says);
    }
    for (field, says, values) in [
        (
            "interface.mtu",
            "interface.mtu: must be a whole number, 68 to 65535 bytes",
            vec![
                json!(67),
                json!(65536),
                json!("1500"),
                json!(1500.5),
                json!(true),
                json!([1500]),
                json!({}),
                json!(-1),
            ],
        ),
        (
            "interface.name",
            "interface.name: must be a name such as",
            vec![
                json!("sixteen-chars-xx"),
                json!(""),
                json!("a/b"),
                json!("lo"),
                json!("eth0"),
                json!(5),
                json!("net{x}"),
                json!("net{n"),
                json!("a b"),
                json!(".."),
                json!({"a": 1}),
            ],
        ),
        (
            "interface.addresses",
            "interface.addresses: must be a list of at most 16, each an address with its prefix",
            vec![
                json!("10.0.0.1/24"),
                json!(["10.0.0.1"]),
                json!(["10.0.0.256/24"]),
                json!([7]),
                json!([null]),
                json!(["10.0.0.1/33"]),
                json!({}),
                json!(vec!["10.0.0.1/24"; 17]),
            ],
        ),
        (
            "vf.mac",
            "vf.mac: must be a MAC address such as",
            vec![
                json!("02:00:00:00:00"),
                json!("01:00:5e:00:00:01"),
                json!("00:00:00:00:00:00"),
                json!(2),
                json!("ff:ff:ff:ff:ff:ff"),
                json!("02-00-00-00-00-01"),
            ],
        ),
        (
            "vf.vlan",
            "vf.vlan: must be a whole number, 1 to 4094, or 0 for none",
            vec![json!(4095), json!(-1), json!("100"), json!(100.5), json!([]), json!({}), json!(false)],
        ),
        ("vf.vlanQos", "vf.vlanQos: must be a whole number, 0 to 7", vec![json!(8), json!("3")]),
        (
            "vf.vlanProtocol",
            "vf.vlanProtocol: must be 802.1Q or 802.1ad",
            vec![json!("802.1q"), json!(802.1), json!([])],
        ),
        ("vf.trust", "vf.trust: must be true or false", vec![json!("on"), json!(1), json!("true")]),
        ("vf.spoofCheck", "vf.spoofCheck: must be true or false", vec![json!("off"), json!({})]),
        (
            "vf.linkState",
            "vf.linkState: must be auto, enable or disable",
            vec![json!("up"), json!(true), json!("Auto")],
        ),
        (
            "vf.minTxRateMbps",
            "vf.minTxRateMbps: must be a whole number, 1 to 4294967295 Mbit/s, or 0 for none",
            vec![json!(-1), json!("1000")],
        ),
        (
            "vf.maxTxRateMbps",
            "vf.maxTxRateMbps: must be a whole number",
            vec![json!(4_294_967_296_u64), json!(1e12)],
        ),
        ("bind.driver", "bind.driver: must be vfio-pci", vec![json!("vfio"), json!("igb_uio"), json!(1)]),
        ("bind.vhost", "bind.vhost: must be true or false", vec![json!("yes")]),
        ("rdma.umad", "rdma.umad: must be true or false", vec![json!("yes")]),
    ] {
        let (section, name) = field.split_once('.').unwrap_or_default();
        for (index, value) in values.into_iter().enumerate() {
            let by = [By::Class, By::Claim, By::Template][index % 3];
            add(&[by], json!({section: {name: value}}), says);
        }
    }

    add(class, json!({"kind": "VfGrant"}), "allow: must be a list with at least one entry such as");
    add(class, json!({"allow": []}), "allow: must be a list with at least one entry");
    add(class, json!({"allow": "vf.vlan"}), "allow: must be a list with at least one entry");
    add(class, json!({"allow": ["vf.vlan"]}), "allow: each entry must be an object with field, values");
    add(
        class,
        json!({"allow": [{"field": "vf.vlan", "value": 7}]}),
        "allow: each entry must be an object with",
    );
    add(
        class,
        json!({"allow": [{"field": "vf.vlan"}], "namespace": []}),
        "VfGrant: it has an unknown field, known are",
    );
    let names = "namespaces: must be a list of names of namespaces";
    for namespaces in [json!("team-a"), json!(["Team_A"]), json!([7]), json!({})] {
        add(class, json!({"allow": [{"field": "vf.vlan"}], "namespaces": namespaces}), names);
    }
    for field in [
        json!("vf.vlam"),
        json!("interface.mtu"),
        json!("bind.allowNoIommu"),
        json!(7),
        json!(null),
        json!(["vf.vlan"]),
    ] {
        add(
            class,
            json!({"allow": [{"field": field}]}),
            "allow: field must be one that can be granted: interface.addressPool",
        );
    }
    add(class, json!({"allow": [{"values": [7]}]}), "allow: field must be one that can be granted");
    for values in [json!([]), json!(7), json!("7"), json!({})] {
        let says = "allow: values must be a list with at least one value; leave it out for any value";
        add(class, json!({"allow": [{"field": "vf.vlan"}, {"field": "vf.vlan", "values": values}]}), says);
    }
    for (field, says, values) in [
        (
            "vf.vlan",
            "allow: values of vf.vlan must be whole numbers, or ranges with a hyphen, within 1 to 4094, or 0 for none",
            vec![
                json!(4095),
                json!("100..199"),
                json!("199-100"),
                json!("4000-5000"),
                json!(1.5),
                json!(true),
                json!(null),
                json!(""),
                json!("1-2-3"),
                json!("-5"),
                json!([7]),
            ],
        ),
        ("vf.trust", "allow: values of vf.trust must be true or false", vec![json!("true"), json!(1)]),
        (
            "vf.linkState",
            "allow: values of vf.linkState must be auto, enable or disable",
            vec![json!("up"), json!({})],
        ),
        (
            "vf.mac",
            "allow: values of vf.mac must be a MAC address such as",
            vec![json!("x"), json!("02:00:00:00:00:01-"), json!(1)],
        ),
        (
            "interface.addressPool",
            "allow: values of interface.addressPool must be the name of an AddressPool",
            vec![json!("Rails"), json!("rail{n}"), json!(1)],
        ),
        (
            "interface.sysctls.preset",
            "allow: values of interface.sysctls.preset must be multirail",
            vec![json!("fast")],
        ),
        ("bind.driver", "allow: values of bind.driver must be vfio-pci", vec![json!("uio")]),
        ("bind.vhost", "allow: values of bind.vhost must be true or false", vec![json!("yes")]),
        ("rdma.umad", "allow: values of rdma.umad must be true or false", vec![json!("yes")]),
        ("vf.spoofCheck", "allow: values of vf.spoofCheck must be true or false", vec![json!([])]),
        ("vf.vlanQos", "allow: values of vf.vlanQos must be whole numbers", vec![json!("0-8")]),
        ("vf.vlanProtocol", "allow: values of vf.vlanProtocol must be 802.1Q or", vec![json!("802.1q")]),
        ("vf.minTxRateMbps", "allow: values of vf.minTxRateMbps must be", vec![json!("4294967296")]),
        ("vf.maxTxRateMbps", "allow: values of vf.maxTxRateMbps must be", vec![json!({})]),
    ] {
        for value in values {
            add(class, json!({"allow": [{"field": field, "values": [value]}]}), says);
        }
    }
    cases
}

/// The object that has it as its second config, after one of another driver that nobody here may judge.
pub fn object(case: &Case, name: &str) -> Value {
    let config = json!([
        {"opaque": {"driver": "other.example", "parameters": {"kind": "Thing", "vf": 7}}},
        {"opaque": {"driver": "sriov-dra.io", "parameters": case.parameters}},
    ]);
    let devices =
        json!({"requests": [{"name": "vf", "exactly": {"deviceClassName": "sriov-vf"}}], "config": config});
    let (kind, spec) = match case.by {
        By::Class => ("DeviceClass", json!({"config": config})),
        By::Claim => ("ResourceClaim", json!({"devices": devices})),
        By::Template => ("ResourceClaimTemplate", json!({"spec": {"devices": devices}})),
    };
    json!({"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// As it is called in paths.
pub fn resource(by: By) -> &'static str {
    match by {
        By::Class => "deviceclasses",
        By::Claim => "resourceclaims",
        By::Template => "resourceclaimtemplates",
    }
}
