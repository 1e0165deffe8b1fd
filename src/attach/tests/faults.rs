//! What a hostile reader tried: lost records, decoys, late tasks, kernels that refuse, powers that fail.

use super::*;

#[test]
fn undo_of_create_container_takes_nothing_that_was_inside_before() {
    let lab = Lab::new(3);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1), wants(2)]), soon()).unwrap();
    lab.engine.prepare(&claim("c2", "p1", vec![wants(3)]), soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    // VF 2's driver was probed again: its netdev is back on the host. VF 3's is nowhere.
    let mut inside = lab.kernel.enter(&a).unwrap();
    let net2 = inside.by_name("net2").unwrap().unwrap();
    inside.move_to(&net2, lab.kernel.host(), &IfName::new("ens1v2").unwrap()).unwrap();
    lab.kernel.meddle(pci(3), |link| (link.pci, link.name) = (Some(pci(7)), "gone".into()));
    let mut both = container("A", "c1");
    both.env.extend(container("A", "c2").env);
    let refused = lab.attacher.create_container(&sandbox("A", "p1", "/run/netns/a"), &both, soon());
    assert!(refused.is_err());
    let left = lab.kernel.links_of(a.id());
    assert!(left.contains_key("net1"), "VF 1 was taken from a live sandbox: {:?}", left.keys());
}

#[test]
fn a_vf_whose_driver_went_while_lent_does_not_hold_up_unprepare() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| link.pci = None); // destroy() drops it: no netdev any more
    lab.kernel.destroy(a.id());
    lab.functions.change(pci(1), |facts| {
        facts.vf.driver = None;
        facts.vf.place = crate::device::Place::Unbound;
    });
    lab.unprepare(&spec).unwrap();
}

#[test]
fn a_decoy_in_the_pod_is_not_taken_for_the_vf() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    // A pod with NET_ADMIN renames its VF, and gives a dummy the VF's name, MAC and address as alias.
    lab.kernel.meddle(pci(1), |link| (link.name, link.promisc) = ("mine".into(), true));
    lab.kernel.add_other(a.id(), "net1");
    let mut inside = lab.kernel.enter(&a).unwrap();
    let dummy = inside.by_name("net1").unwrap().unwrap();
    inside.set_hw_addr(&dummy, &"02:00:00:00:00:01".parse().unwrap()).unwrap();
    inside.set_alias(&dummy, &pci(1).to_string()).unwrap();
    let stopped = lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon());
    let host = lab.kernel.links_of(lab.host());
    assert!(stopped.is_ok(), "{stopped:?}");
    lab.assert_pristine(1);
    assert_eq!(host["ens1v1"].0.pci, Some(pci(1)), "the pod's dummy is on the host under the VF's name");
}

#[test]
fn an_ownership_file_that_a_power_loss_brought_back_does_not_hold_the_vf_for_ever() {
    let lab = Lab::new(1);
    let old = claim("c0", "p0", vec![wants(1)]);
    lab.engine.prepare(&old, soon()).unwrap();
    let path = lab.dir.path().join("durable/vf/0000:81:00.1.json");
    let bytes = std::fs::read(&path).unwrap();
    lab.unprepare(&old).unwrap();
    std::fs::write(&path, bytes).unwrap(); // the unlink was never synced
    let rebooted = Engine { site: Site { boot_id: "boot-2".into(), ..lab.engine.site.clone() } };
    rebooted.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
}

#[test]
fn an_ownership_file_that_a_power_loss_emptied_is_no_damage_and_the_claim_can_be_prepared_or_given_back() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let path = lab.dir.path().join("durable/vf/0000:81:00.1.json");
    let site = Site { boot_id: "boot-2".into(), ..lab.engine.site.clone() };
    let rebooted = Engine { site: site.clone() };
    for again in [true, false] {
        lab.engine.prepare(&spec, soon()).unwrap();
        std::fs::write(&path, b"").unwrap(); // the name was synced, the content never
        let survey = site.ledger.survey("boot-2").unwrap();
        assert_eq!((survey.entries, survey.quarantined), (1, vec![]));
        assert!(!path.exists());
        if again {
            rebooted.prepare(&spec, soon()).unwrap();
            assert!(path.exists());
        }
        rebooted.unprepare(&spec.id, soon()).unwrap();
        lab.assert_forgotten();
    }
}

#[test]
fn a_sandbox_that_comes_after_a_reboot_and_before_prepare_gets_nothing_over_nri() {
    let mut lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.engine.site.boot_id = "boot-2".into();
    lab.attacher.site.boot_id = "boot-2".into();
    let ns = lab.kernel.add_netns("/run/netns/a", 7);
    let pod = sandbox("A", "p1", "/run/netns/a");
    let errors = [
        lab.attacher.run(&pod, soon()).unwrap_err(),
        lab.attacher.create_container(&pod, &container("A", "c1"), soon()).unwrap_err(),
    ];
    for error in errors.map(|error| error.sentence()) {
        assert!(error.contains("claim c1 is not prepared on this node"), "{error}");
    }
    lab.attacher.synchronize(std::slice::from_ref(&pod), soon());
    assert!(lab.kernel.links_of(ns.id()).is_empty());
    lab.assert_pristine(1);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&pod, soon()).unwrap();
    assert!(lab.kernel.links_of(ns.id()).contains_key("net1"));
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(1);
    lab.assert_forgotten();
}

#[test]
fn unprepare_without_attach_record_still_returns_the_vf() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    std::fs::write(lab.dir.path().join("run/attach/c1.json"), b"{").unwrap();
    lab.kernel.destroy(a.id());
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(1);
}

#[test]
fn what_a_pod_on_the_hosts_network_did_to_its_vf_is_undone() {
    let lab = Lab::new(1);
    let plain = ResultSpec { interface_asked: false, mtu: None, addresses: Vec::new(), ..wants(1) };
    let spec = claim("c1", "p1", vec![plain]);
    lab.engine.prepare(&spec, soon()).unwrap();
    let on_host = Sandbox { netns: None, ..sandbox("H", "p1", "") };
    lab.attacher.run(&on_host, soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| (link.mtu, link.promisc) = (9000, true));
    lab.attacher.stop(&on_host, soon()).unwrap();
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(1);
}

#[test]
fn a_run_that_comes_to_work_after_its_stop_moves_nothing() {
    let lab = Lab::new(1);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    // The blocking pool was full: the runtime got its error, stopped and removed the sandbox; now the task runs.
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    let late = lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon());
    assert!(lab.kernel.links_of(a.id()).is_empty(), "{late:?}");
}

#[test]
fn a_restore_the_kernel_refuses_for_good_does_not_keep_the_pod_terminating() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    // The PF refuses the old MTU or MAC from now on (PF's MTU lowered, admin MAC set).
    lab.kernel.fail_change(2, Errno::EINVAL);
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap_err();
    let mut last = Ok(());
    for _ in 0..5 {
        lab.kernel.fail_change(0, Errno::EINVAL);
        last = lab.unprepare(&spec);
    }
    last.unwrap();
}

#[test]
fn a_sibling_is_only_who_belongs_to_the_same_pod() {
    let lab = Lab::new(2);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1)]), soon()).unwrap();
    let index = lab.dir.path().join("durable/pods/p1/c1");
    let to = PodRef { uid: "p2".into(), name: "pod-p2".into() };
    lab.attacher.hand_over("c1", &to, soon()).unwrap();
    std::fs::create_dir_all(index.parent().unwrap()).unwrap();
    std::fs::write(&index, b"").unwrap(); // killed before unindex
    lab.engine.site.ledger.survey("boot-1").unwrap();
    let same = ResultSpec { addresses: wants(1).addresses, ..wants(2) };
    lab.engine.prepare(&claim("c2", "p1", vec![same]), soon()).unwrap();
    let _ = a;
}

#[test]
fn one_unreadable_file_does_not_stop_the_agent_or_other_claims() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.engine.prepare(&spec, soon()).unwrap();
    std::fs::create_dir(lab.dir.path().join("durable/vf/0000:81:00.7.json")).unwrap();
    let survey = lab.engine.site.ledger.survey("boot-1").map(drop).map_err(|e| e.sentence());
    let unprepared = lab.unprepare(&spec);
    assert_eq!((survey, unprepared), (Ok(()), Ok(())));
}

#[test]
fn a_truncated_file_of_ownership_does_not_lose_what_an_attached_vf_was() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    std::fs::write(lab.dir.path().join("durable/vf/0000:81:00.1.json"), b"{").unwrap();
    lab.engine.prepare(&spec, soon()).unwrap();
    let again =
        lab.attacher.create_container(&sandbox("A", "p1", "/run/netns/a"), &container("A", "c1"), soon());
    again.unwrap();
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(1);
}

#[test]
fn a_vf_made_anew_gets_nothing_of_its_former_life() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.kernel.destroy(a.id());
    lab.kernel.meddle(pci(1), |link| {
        (link.name, link.mtu) = ("ens1v1".into(), 1500);
        link.hw_addr = "02:00:00:00:00:99".parse().ok();
    });
    lab.functions.change(pci(1), |facts| facts.vf.incarnation.0 += 1);
    lab.unprepare(&spec).unwrap();
    let host = lab.kernel.links_of(lab.host());
    assert_eq!(host["ens1v1"].0.hw_addr, "02:00:00:00:00:99".parse().ok(), "the old life's MAC was set");
}
