//! `vf` and `bind`: what the PF does with a VF, and which driver it gets.

use serde_json::{Value, json};
use sriov_dra::claim::WantedBinding;
use sriov_dra::device::{LinkState, Vlan, VlanProtocol, WantedSettings};

use crate::lab::{Claim, decoding_fails};

/// What a class says: it may say everything.
fn class(parameters: Value) -> Claim {
    Claim::new().says("FromClass", &["main"], "VfConfig", parameters)
}

fn settings(vf: Value) -> WantedSettings {
    class(json!({"vf": vf})).compiled().results.remove(0).settings
}

#[test]
fn every_setting_arrives_and_what_is_unset_stays_unset() {
    let all = settings(json!({
        "mac": "02:00:5E:10:00:01", "vlan": 100, "vlanQos": 3, "vlanProtocol": "802.1ad", "trust": true,
        "spoofCheck": false, "linkState": "enable", "minTxRateMbps": 100, "maxTxRateMbps": 1000,
    }));
    let expected = WantedSettings {
        mac: Some("02:00:5e:10:00:01".parse().unwrap()),
        vlan: Some(Vlan { id: 100, qos: 3, protocol: VlanProtocol::Dot1ad }),
        spoof_check: Some(false),
        trust: Some(true),
        link_state: Some(LinkState::Enable),
        min_tx_rate_mbps: Some(100),
        max_tx_rate_mbps: Some(1000),
    };
    assert_eq!(all, expected);
    assert_eq!(settings(json!({})), WantedSettings::default());
    let nulls = json!({"mac": null, "vlan": null, "vlanQos": null, "vlanProtocol": null, "trust": null,
        "spoofCheck": null, "linkState": null, "minTxRateMbps": null, "maxTxRateMbps": null});
    assert_eq!(settings(nulls), WantedSettings::default());
    assert_eq!(Claim::new().compiled().results[0].settings, WantedSettings::default());
    for (word, state) in
        [("auto", LinkState::Auto), ("enable", LinkState::Enable), ("disable", LinkState::Disable)]
    {
        assert_eq!(settings(json!({"linkState": word})).link_state, Some(state));
    }
}

#[test]
fn a_vlan_is_whole_and_0_takes_away_what_an_earlier_entry_gave() {
    let plain = Vlan { id: 100, qos: 0, protocol: VlanProtocol::Dot1q };
    assert_eq!(settings(json!({"vlan": 100})).vlan, Some(plain));
    assert_eq!(settings(json!({"vlan": 4094})).vlan.map(|vlan| vlan.id), Some(4094));
    assert_eq!(
        settings(json!({"vlan": 0, "vlanQos": 0, "vlanProtocol": "802.1Q"})).vlan,
        Some(Vlan::default())
    );
    let cleared = class(json!({"vf": {"vlan": 100, "trust": true}}))
        .says("FromClass", &[], "VfConfig", json!({"vf": {"vlan": 0, "trust": null}}))
        .compiled();
    assert_eq!(cleared.results[0].settings.vlan, Some(Vlan::default()));
    assert_eq!(cleared.results[0].settings.trust, Some(true), "null takes nothing away");
}

#[test]
fn a_setting_that_can_not_be_is_refused_with_what_would_be_right() {
    for (vf, says) in [
        (json!({"vlan": 4095}), "vf.vlan: 4095 is no possible VLAN, it must be 1 to 4094, or 0 for none"),
        (json!({"vlan": 4_294_967_396_u64}), "vf.vlan: 4294967396 is no possible VLAN"),
        (json!({"vlan": -1}), "vf.vlan: got the number -1, expected a whole number such as 100"),
        (json!({"vlan": "100"}), "vf.vlan: got the string \"100\", expected a whole number such as 100"),
        (json!({"vlan": 100.5}), "vf.vlan: got the number 100.5, expected a whole number"),
        (json!({"vlan": [100]}), "vf.vlan: got a list, expected a whole number"),
        (json!({"vlanQos": 8}), "vf.vlanQos: 8 is no possible VLAN priority, it must be 0 to 7"),
        (
            json!({"vlanProtocol": "802.1q"}),
            "vf.vlanProtocol: \"802.1q\" is not possible, it must be 802.1Q or 802.1ad (did you mean 802.1Q?)",
        ),
        (json!({"vlanProtocol": 802.1}), "vf.vlanProtocol: got the number 802.1, expected 802.1Q or 802.1ad"),
        (
            json!({"mac": "02:00:00:00:00"}),
            "vf.mac: \"02:00:00:00:00\" is no MAC address, write it as in 02:00:",
        ),
        (json!({"mac": "02-00-00-00-00-01"}), "is no MAC address"),
        (json!({"mac": "+2:00:00:00:00:01"}), "is no MAC address"),
        (json!({"mac": "02:00:00:00:00:0g"}), "is no MAC address"),
        (json!({"mac": ""}), "is no MAC address"),
        (
            json!({"mac": "00:00:00:00:00:00"}),
            "vf.mac: 00:00:00:00:00:00 is no address; leave the field out for the VF's own",
        ),
        (
            json!({"mac": "01:00:5e:00:00:01"}),
            "vf.mac: 01:00:5e:00:00:01 is a multicast address; a VF's is unicast: its first octet must be even, not 01",
        ),
        (json!({"mac": "ff:ff:ff:ff:ff:ff"}), "is a multicast address"),
        (json!({"mac": 2}), "vf.mac: got the number 2, expected a MAC address such as \"02:00:00:00:00:01\""),
        (json!({"trust": "on"}), "vf.trust: got the string \"on\", expected true or false"),
        (json!({"spoofCheck": 1}), "vf.spoofCheck: got the number 1, expected true or false"),
        (
            json!({"linkState": "atuo"}),
            "vf.linkState: \"atuo\" is not possible, it must be auto, enable or disable (did you mean auto?)",
        ),
        (json!({"linkState": "up"}), "\"up\" is not possible, it must be auto, enable or disable"),
        (json!({"linkState": true}), "vf.linkState: got the boolean true, expected auto, enable or disable"),
        (
            json!({"maxTxRateMbps": 4_294_967_296_u64}),
            "vf.maxTxRateMbps: 4294967296 is no possible rate, it must be 1 to 4294967295 Mbit/s, or 0 for none",
        ),
        (
            json!({"minTxRateMbps": 0.5}),
            "vf.minTxRateMbps: got the number 0.5, expected a whole number of Mbit/s such as 1000",
        ),
        (
            json!({"vlanId": 1}),
            "vf.vlanId: unknown field, known are mac, vlan, vlanQos, vlanProtocol, trust,",
        ),
        (json!({"spoofcheck": true}), "(did you mean spoofCheck?)"),
        (json!("fast"), "vf: got the string \"fast\", expected an object"),
    ] {
        let refused = decoding_fails(json!({"vf": vf}));
        assert!(refused.contains(says), "{vf}: {refused}");
    }
    assert!(decoding_fails(json!({"vlan": 1})).contains("(did you mean vf.vlan?)"));
    assert!(decoding_fails(json!({"interface": {"mac": "x"}})).contains("(did you mean vf.mac?)"));
    assert!(
        decoding_fails(json!({"bind": {"driver": "vfio"}}))
            .contains("bind.driver: \"vfio\" is not possible, it must be vfio-pci")
    );
}

#[test]
fn a_priority_or_a_provider_tag_needs_a_vlan_whichever_entry_has_it() {
    for (vf, says) in [
        (json!({"vlanQos": 3}), "vf.vlanQos: 3 needs a VLAN, but vf.vlan is not set; set it to 1 to 4094"),
        (json!({"vlanQos": 0}), "vf.vlanQos: 0 needs a VLAN, but vf.vlan is not set"),
        (json!({"vlan": 0, "vlanQos": 3}), "vf.vlanQos: 3 needs a VLAN, but vf.vlan is 0"),
        (json!({"vlanProtocol": "802.1ad"}), "vf.vlanProtocol: 802.1ad needs a VLAN, but vf.vlan is not set"),
        (
            json!({"vlan": 0, "vlanProtocol": "802.1ad"}),
            "vf.vlanProtocol: 802.1ad needs a VLAN, but vf.vlan is 0",
        ),
    ] {
        let refused = class(json!({"vf": vf})).refused();
        assert!(refused.contains(says), "{vf}: {refused}");
    }
    let in_two = class(json!({"vf": {"vlanQos": 3, "vlanProtocol": "802.1ad"}}));
    let vlan = in_two.says("FromClass", &["main"], "VfConfig", json!({"vf": {"vlan": 7}})).compiled();
    let expected = Vlan { id: 7, qos: 3, protocol: VlanProtocol::Dot1ad };
    assert_eq!(vlan.results[0].settings.vlan, Some(expected));

    let elsewhere = class(json!({"vf": {"vlan": 100}}))
        .says("FromClass", &["main"], "VfConfig", json!({"vf": {"vlanQos": 5}}))
        .says("FromClass", &["main"], "VfConfig", json!({"vf": {"vlan": 0}}));
    let says = "config[1] (from class sriov-vf): vf.vlanQos: 5 needs a VLAN, but vf.vlan is 0";
    assert!(elsewhere.refused().contains(says), "{}", elsewhere.refused());
}

#[test]
fn what_only_follows_from_a_fault_is_not_told_beside_it() {
    let refused = class(json!({"vf": {"vlan": "100", "vlanQos": 3}})).refused();
    assert!(
        refused.ends_with("vf.vlan: got the string \"100\", expected a whole number such as 100"),
        "{refused}"
    );
    let grant = json!({"allow": [{"field": "vf.vlan", "values": ["9-1"]}]});
    let refused = Claim::new()
        .says("FromClass", &["main"], "VfGrant", grant)
        .says("FromClaim", &[], "VfConfig", json!({"vf": {"vlan": 5}}))
        .refused();
    assert!(!refused.contains("; config[1]"), "nobody knows what was meant to be granted: {refused}");
    let refused =
        Claim::new().says("FromClaim", &[], "VfConfig", json!({"vf": {"vlan": 5, "trust": "on"}})).refused();
    assert!(
        refused.contains("vf.trust: got the string") && refused.contains("vf.vlan: 5 needs a grant"),
        "{refused}"
    );
}

#[test]
fn a_minimum_rate_is_at_most_the_maximum_unless_that_is_none() {
    let refused = class(json!({"vf": {"minTxRateMbps": 500}}))
        .says("FromClass", &["main"], "VfConfig", json!({"vf": {"maxTxRateMbps": 100}}))
        .refused();
    assert_eq!(
        refused,
        "ResourceClaim team-a/worker-vf: config[0] (from class sriov-vf): vf.minTxRateMbps: 500 is above \
         vf.maxTxRateMbps, which is 100; it must be at most that"
    );
    for good in [
        json!({"minTxRateMbps": 100, "maxTxRateMbps": 100}),
        json!({"minTxRateMbps": 500, "maxTxRateMbps": 0}),
        json!({"minTxRateMbps": 500}),
    ] {
        assert_eq!(settings(good.clone()).min_tx_rate_mbps, good["minTxRateMbps"].as_u64().map(|n| n as u32));
    }
}

#[test]
fn one_mac_for_two_vfs_is_refused_however_it_is_written() {
    let two = || Claim::new().with_results(&[("main", "0000-81-00-2"), ("main", "0000-81-00-3")]);
    let refused = two().says("FromClass", &["main"], "VfConfig", json!({"vf": {"mac": "02:00:00:00:00:01"}}));
    assert_eq!(
        refused.refused(),
        "ResourceClaim team-a/worker-vf: config[0] (from class sriov-vf): vf.mac: MAC 02:00:00:00:00:01 for 2 VFs \
         (0000-81-00-2 of request main, 0000-81-00-3 of request main); a MAC is for one VF, set it for one request only"
    );
    let apart = Claim::new()
        .with_results(&[("a", "0000-81-00-2"), ("b", "0000-81-00-3")])
        .says("FromClass", &["a"], "VfConfig", json!({"vf": {"mac": "02:00:00:00:00:aa"}}))
        .says("FromClass", &["b"], "VfConfig", json!({"vf": {"mac": "02:00:00:00:00:AA"}}));
    assert!(apart.refused().contains("MAC 02:00:00:00:00:aa for 2 VFs"), "{}", apart.refused());
    let mut watched =
        two().says("FromClass", &["main"], "VfConfig", json!({"vf": {"mac": "02:00:00:00:00:01"}}));
    watched.results()[1]["adminAccess"] = json!(true);
    let results = watched.compiled().results;
    assert_eq!(results[1].settings, WantedSettings::default(), "who only looks changes nothing");
    assert!(results[0].settings.mac.is_some());
}

#[test]
fn a_binding_arrives_and_vhost_goes_with_any_driver() {
    let bind = |bind: Value| class(json!({"bind": bind})).compiled().results[0].bind;
    assert_eq!(bind(json!({})), WantedBinding::default());
    assert_eq!(
        bind(json!({"driver": "vfio-pci", "vhost": true, "allowNoIommu": true})),
        WantedBinding { vfio: true, vhost: true, allow_no_iommu: true }
    );
    assert_eq!(bind(json!({"vhost": true})), WantedBinding { vhost: true, ..WantedBinding::default() });
    let allowed = WantedBinding { allow_no_iommu: true, ..WantedBinding::default() };
    assert_eq!(bind(json!({"allowNoIommu": true})), allowed, "for claims that are granted bind.driver");
    let with_settings = class(json!({"bind": {"driver": "vfio-pci"}, "vf": {"vlan": 5}})).compiled();
    assert_eq!(with_settings.results[0].settings.vlan.map(|vlan| vlan.id), Some(5), "the PF sets them");
    assert!(!with_settings.results[0].interface_asked);
}

#[test]
fn vfio_and_fields_of_a_network_interface_exclude_each_other() {
    let vfio = json!({"bind": {"driver": "vfio-pci"}});
    let refused = |interface: Value| class(vfio.clone()).config("FromClaim", &[], interface).refused();
    assert_eq!(
        refused(json!({"mtu": 1500, "name": "x0"})),
        "ResourceClaim team-a/worker-vf: config[0] (from class sriov-vf): bind.driver: vfio-pci leaves the VF without \
         network interface, but the claim sets interface.mtu, interface.name; leave one of them out"
    );
    assert!(
        refused(json!({"addresses": ["10.0.0.1/24"]})).contains("but the claim sets interface.addresses;")
    );
    let one_entry = class(json!({"bind": {"driver": "vfio-pci"}, "interface": {"name": "x{n}"}}));
    assert!(one_entry.refused().contains("but the class sriov-vf sets interface.name;"));
    let emptied = class(json!({"bind": {"driver": "vfio-pci"}, "interface": {"addresses": ["10.0.0.1/24"]}}))
        .config("FromClaim", &[], json!({"addresses": []}));
    assert!(emptied.compiled().results[0].addresses.is_empty(), "an empty list asks for nothing");
}
