//! VFs on vfio-pci: given and taken back as they were, refused where they can't be.

use super::*;
use crate::claim::WantedBinding;
use crate::device::WantedSettings;
use crate::prepare::cdi;
use crate::prepare::vfio::VfioFacts;

fn for_vfio(n: u8) -> ResultSpec {
    ResultSpec { bind: WantedBinding { vfio: true, ..Default::default() }, ..wants(n) }
}

fn group(number: u32) -> VfioFacts {
    VfioFacts { group: Some(number), driver: true, ..Default::default() }
}

#[test]
fn a_vf_on_vfio_pci_has_its_group_in_the_container_no_interface_and_its_driver_back_in_the_end() {
    let lab = Lab::new(2);
    lab.functions.set_vfio(pci(1), group(42));
    let settings = WantedSettings { trust: Some(true), ..Default::default() };
    let bind = WantedBinding { vfio: true, vhost: true, allow_no_iommu: false };
    let spec = claim("c1", "p1", vec![ResultSpec { bind, settings, ..wants(1) }, wants(2)]);
    let entry = lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(lab.functions.settings_of(pci(1)).trust, Some(true), "set before the bind");

    let spec_file = cdi::spec_of("sriov-dra.io", &entry, &lab.engine.site.hook);
    let edits = &spec_file.devices[0].container_edits;
    let nodes: Vec<&str> = edits.device_nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(nodes, ["/dev/net/tun", "/dev/vfio/42", "/dev/vfio/vfio", "/dev/vhost-net"]);
    assert_eq!(
        edits.env,
        ["SRIOV_DRA_VF_VF1_PCI_ADDRESSES=0000:81:02.1", "SRIOV_DRA_VF_VF1_VFIO_GROUPS=42"],
        "no interface"
    );
    assert!(spec_file.devices[1].container_edits.device_nodes.is_empty(), "the other request has none of it");
    assert_eq!(lab.engine.prepare(&spec, soon()).unwrap(), entry, "once more changes nothing");

    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("igbvf"));
    assert_eq!(lab.functions.settings_of(pci(1)).trust, Some(false));
}

#[test]
fn a_vf_that_somebody_bound_anew_is_given_to_vfio_pci_again_by_the_next_prepare() {
    let lab = Lab::new(1);
    lab.functions.set_vfio(pci(1), group(42));
    let spec = claim("c1", "p1", vec![for_vfio(1)]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.engine.site.functions.bind(pci(1), Some("igbvf")).unwrap();
    lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("vfio-pci"));
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("igbvf"));
}

#[test]
fn what_stands_between_a_vf_and_vfio_pci_is_named_and_nothing_is_touched() {
    let lab = Lab::new(2);
    let alone = claim("c1", "p1", vec![for_vfio(1)]);
    let error = lab.refusal(&alone);
    assert!(error.contains("VF 0000:81:02.1 has no IOMMU group; switch the IOMMU on"), "{error}");

    lab.functions.set_vfio(pci(1), VfioFacts { no_iommu: true, driver: true, ..Default::default() });
    let error = lab.refusal(&alone);
    assert!(error.contains("has no IOMMU group"), "only where the class allows it: {error}");
    let bind = WantedBinding { vfio: true, vhost: false, allow_no_iommu: true };
    lab.engine.prepare(&claim("c2", "p2", vec![ResultSpec { bind, ..wants(1) }]), soon()).unwrap();
    lab.engine.unprepare(&claim("c2", "p2", vec![]).id, soon()).unwrap();

    let shared = VfioFacts { blockers: vec![(pci(2), "igbvf".into())], ..group(7) };
    lab.functions.set_vfio(pci(1), shared);
    let error = lab.refusal(&alone);
    assert!(error.contains("shares IOMMU group 7 with 0000:81:02.2 (driver igbvf)"), "{error}");
    lab.functions.set_vfio(pci(2), VfioFacts { blockers: vec![(pci(1), "igbvf".into())], ..group(7) });
    lab.engine.prepare(&claim("c3", "p3", vec![for_vfio(1), for_vfio(2)]), soon()).unwrap();

    let lab = Lab::new(1);
    lab.functions.set_vfio(pci(1), VfioFacts { driver: false, ..group(7) });
    let error = lab.refusal(&alone);
    assert!(error.contains("modprobe vfio-pci"), "{error}");
}

#[test]
fn two_claims_of_a_pod_whose_variables_would_be_called_the_same_are_refused() {
    let lab = Lab::new(2);
    let named = |uid: &str, name: &str, result: ResultSpec| ClaimSpec {
        pod_claim_name: name.into(),
        ..claim(uid, "p1", vec![result])
    };
    let result = |n: u8, request: &str| ResultSpec { request: request.into(), ..wants(n) };
    lab.engine.prepare(&named("c1", "a-b", result(1, "c")), soon()).unwrap();
    let error = lab.refusal(&named("c2", "a", result(2, "b-c")));
    assert!(error.contains("would use the variable SRIOV_DRA_A_B_C_PCI_ADDRESSES both"), "{error}");
    lab.engine.prepare(&named("c3", "a", result(2, "b")), soon()).unwrap();
}

#[test]
fn two_claims_never_share_an_iommu_group_and_one_claim_may_have_all_of_it() {
    let lab = Lab::new(3);
    for n in 1..=3 {
        // Bound by an administrator, or left without driver: no blockers.
        lab.functions.set_vfio(pci(n), group(7));
        lab.functions.change(pci(n), |facts| {
            (facts.vf.driver, facts.vf.place) = (Some("vfio-pci".into()), Place::Userspace)
        });
    }
    let both = claim("c1", "p1", vec![for_vfio(1), for_vfio(2)]);
    lab.engine.prepare(&both, soon()).unwrap();
    lab.engine.prepare(&both, soon()).unwrap();
    for other in [for_vfio(3), wants(3)] {
        let error = lab.refusal(&claim("c2", "p2", vec![other]));
        assert!(
            error.contains(
                "VF 0000:81:02.3 is in one IOMMU group with VF 0000:81:02.1, which claim ns/claim-c1 has"
            ),
            "{error}"
        );
        assert_eq!(lab.facts(3).vf.driver.as_deref(), Some("vfio-pci"));
    }
    lab.engine.unprepare(&both.id, soon()).unwrap();
    lab.engine.prepare(&claim("c2", "p2", vec![for_vfio(3)]), soon()).unwrap();
}

#[test]
fn a_vf_that_a_process_has_open_is_not_torn_from_vfio_pci_and_its_claim_ends_when_it_is_closed() {
    let lab = Lab::new(1);
    lab.functions.set_vfio(pci(1), group(42));
    let spec = claim("c1", "p1", vec![for_vfio(1)]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions.change(pci(1), |facts| facts.vf.vfio_open = true);
    let error = lab.engine.unprepare(&spec.id, soon()).unwrap_err().sentence();
    assert!(error.contains("VF 0000:81:02.1 can't be taken from driver vfio-pci: a process has"), "{error}");
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(lab.engine.site.ledger.owned().unwrap().len(), 1, "nobody else gets it");
    assert_eq!(
        lab.engine.site.ledger.claims_of_pod("p1").unwrap(),
        ["c1"],
        "the pod's as long as it is not back"
    );
    lab.functions.change(pci(1), |facts| facts.vf.vfio_open = false);
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("igbvf"));
    let locks = std::fs::read_dir(lab.engine.site.ledger.lock_folder()).unwrap();
    let left: Vec<_> =
        locks.flatten().map(|file| file.file_name()).filter(|name| name != "pf-0000:81:00.0").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_driver_that_was_forced_for_a_vf_is_forced_again_in_the_end_and_none_where_none_was() {
    for forced in [None, Some("igbvf")] {
        let lab = Lab::new(1);
        lab.functions.set_vfio(pci(1), group(42));
        lab.engine.site.functions.force(pci(1), forced).unwrap();
        let mac = "02:11:22:33:44:55".parse().ok();
        let settings = WantedSettings { mac, ..Default::default() };
        for result in [for_vfio(1), ResultSpec { settings, ..wants(1) }] {
            let spec = claim("c1", "p1", vec![result]);
            lab.engine.prepare(&spec, soon()).unwrap();
            lab.engine.unprepare(&spec.id, soon()).unwrap();
            let life = lab.engine.site.functions.life(pci(1)).unwrap();
            assert_eq!((life.driver.as_deref(), life.forced.as_deref()), (Some("igbvf"), forced));
        }
    }
}

#[test]
fn an_orphan_that_a_process_has_open_does_not_keep_the_others() {
    let lab = Lab::new(2);
    lab.functions.set_vfio(pci(1), group(42));
    lab.engine.prepare(&claim("c1", "p1", vec![for_vfio(1)]), soon()).unwrap();
    lab.engine.prepare(&claim("c2", "p2", vec![wants(2)]), soon()).unwrap();
    let ledger = &lab.engine.site.ledger;
    for (uid, pod) in [("c1", "p1"), ("c2", "p2")] {
        ledger.remove_entry(uid, Some(pod)).unwrap();
    }
    lab.functions.change(pci(1), |facts| facts.vf.vfio_open = true);
    let put_right = lab.engine.sweep().unwrap();
    assert!(
        put_right.iter().any(|what| what.contains("VF 0000:81:02.2 was held for claim")),
        "{put_right:?}"
    );
    let left: Vec<PciAddress> = ledger.owned().unwrap().into_iter().map(|(vf, _)| vf).collect();
    assert_eq!(left, [pci(1)], "it stays the claim's, as long as somebody uses it");
}
