//! What a PF says of a VF: made, kept, put back.

use nix::errno::Errno;

use super::*;
use crate::device::{
    HwAddr, Incarnation, LinkState, Netdev, Rate, Setting, VfSettings, Vlan, VlanProtocol, WantedSettings,
};
use crate::host::fate::{Fate, Turn};
use crate::prepare::records::Unclean;

fn mac(text: &str) -> HwAddr {
    text.parse().unwrap()
}

pub(super) fn everything() -> WantedSettings {
    WantedSettings {
        mac: Some(mac("02:11:22:33:44:55")),
        vlan: Some(Vlan { id: 100, qos: 3, protocol: VlanProtocol::Dot1q }),
        spoof_check: Some(false),
        trust: Some(true),
        link_state: Some(LinkState::Enable),
        min_tx_rate_mbps: None,
        max_tx_rate_mbps: Some(500),
    }
}

pub(super) fn set(n: u8, settings: WantedSettings) -> ResultSpec {
    ResultSpec { settings, ..wants(n) }
}

/// What an administrator gave VF 1, which has to be there again in the end.
pub(super) fn administered() -> VfSettings {
    VfSettings {
        mac: Some(mac("02:00:00:00:00:01")),
        vlan: Some(Vlan { id: 7, qos: 0, protocol: VlanProtocol::Dot1q }),
        spoof_check: Some(true),
        trust: Some(false),
        link_state: Some(LinkState::Auto),
        rate: Some(Rate { min_mbps: 10, max_mbps: 1000 }),
    }
}

#[test]
fn what_a_claim_sets_is_set_and_what_it_does_not_is_never_touched_and_all_is_put_back() {
    let lab = Lab::new(2);
    lab.functions.say(pci(1), administered());
    let spec = claim("c1", "p1", vec![set(1, everything()), wants(2)]);
    let untouched = lab.functions.settings_of(pci(2));
    let entry = lab.engine.prepare(&spec, soon()).unwrap();
    let has = lab.functions.settings_of(pci(1));
    assert_eq!(has.vlan, everything().vlan);
    assert_eq!((has.mac, has.trust, has.spoof_check), (everything().mac, Some(true), Some(false)));
    assert_eq!(has.link_state, Some(LinkState::Enable));
    assert_eq!(has.rate, Some(Rate { min_mbps: 10, max_mbps: 500 }), "one message has both rates");
    assert_eq!(lab.functions.settings_of(pci(2)), untouched);
    let fields: Vec<&str> = entry.vfs[0].settings.iter().map(Setting::field).collect();
    assert_eq!(fields[..2], ["vf.vlan", "vf.mac"], "the tag before the address");
    let link = &lab.kernel.links_of(crate::host::Kernel::host(&lab.kernel).id())["ens1v1"].0;
    assert_eq!(link.hw_addr, everything().mac, "it is the VF's own, too");

    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)), administered());
    let link = &lab.kernel.links_of(crate::host::Kernel::host(&lab.kernel).id())["ens1v1"].0;
    assert_eq!(link.hw_addr, Some(mac("02:00:00:00:00:01")));
    assert!(lab.engine.site.ledger.owned().unwrap().is_empty());
}

/// igb says of a VF without an administrative address the one that the VF chose.
#[test]
fn an_address_that_the_vf_had_chosen_does_not_bind_it_after_the_claim() {
    let lab = Lab::new(1);
    lab.functions.say(pci(1), administered());
    let own = mac("02:00:00:00:00:01");
    lab.functions.change(pci(1), |facts| {
        facts.vf.netdev = pf(1500).netdev.map(|netdev| Netdev { hw_addr: Some(own.clone()), ..netdev });
    });
    lab.functions.let_choose(pci(1));
    let spec = claim("c1", "p1", vec![set(1, everything())]);
    lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)).mac, everything().mac);
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    let none = VfSettings { mac: Some(mac("00:00:00:00:00:00")), ..administered() };
    assert_eq!(lab.functions.settings_of(pci(1)), none);
    let link = &lab.kernel.links_of(crate::host::Kernel::host(&lab.kernel).id())["ens1v1"].0;
    assert_eq!(link.hw_addr, Some(own), "the VF has it by its own choice again");
}

#[test]
fn originals_are_on_the_disk_before_the_first_change_and_only_of_what_is_changed() {
    let lab = Lab::new(1);
    lab.functions.say(pci(1), administered());
    lab.functions.refuse_set(0, Errno::EOPNOTSUPP);
    // A process that is killed here would leave just this.
    let spec = claim("c1", "p1", vec![set(1, WantedSettings { trust: Some(true), ..Default::default() })]);
    lab.engine.prepare(&spec, soon()).unwrap_err();
    lab.engine.prepare(&spec, soon()).unwrap();
    let (_, owner) = lab.engine.site.ledger.owned().unwrap().remove(0);
    assert_eq!(owner.clean.settings, VfSettings { trust: Some(false), ..Default::default() });
}

#[test]
fn whichever_setting_is_refused_those_before_it_are_taken_back_and_the_error_names_vf_field_and_errno() {
    for k in 0..6 {
        let lab = Lab::new(1);
        lab.functions.say(pci(1), administered());
        lab.functions.refuse_set(k, Errno::EOPNOTSUPP);
        let error = lab.refusal(&claim("c1", "p1", vec![set(1, everything())]));
        assert!(error.starts_with("VF 0000:81:02.1: vf."), "{error}");
        assert!(error.contains("on VF 0 of PF ens1f0: Operation not supported (os error 95)"), "{error}");
        assert_eq!(lab.functions.settings_of(pci(1)), administered(), "{error}");
        let link = &lab.kernel.links_of(crate::host::Kernel::host(&lab.kernel).id())["ens1v1"].0;
        assert_eq!(link.hw_addr, Some(mac("02:00:00:00:00:01")), "{error}");
    }
}

/// The second refusal is that of the way back.
#[test]
fn a_vf_whose_way_back_was_refused_too_is_nobody_elses_and_its_claims_end_puts_it_back() {
    let spec = claim("c1", "p1", vec![set(1, everything())]);
    let told = |fate: &Fate| {
        let lab = Lab::new(1);
        lab.functions.say(pci(1), administered());
        let done = fate.live(|| lab.engine.prepare(&spec, soon())).unwrap();
        (lab, done)
    };
    let well = Fate::default();
    told(&well).1.unwrap();
    let mut stuck = 0;
    for first in (0..well.effects().len()).filter(|k| well.effects()[*k].starts_with("set ")) {
        for second in first + 1.. {
            let refused = |fate: Fate, k| fate.at(k, Turn::Fails(Errno::EIO));
            let fate = refused(refused(Fate::default(), first), second);
            let (lab, done) = told(&fate);
            if fate.is_open() {
                break;
            }
            done.unwrap_err();
            let ledger = &lab.engine.site.ledger;
            let has = lab.functions.settings_of(pci(1));
            if has != administered() {
                stuck += 1;
                let owner = ledger.ownership(pci(1)).unwrap().map(|owner| owner.claim);
                assert_eq!(owner.as_ref(), Some(&spec.id), "it is free with {has:?}: {:?}", fate.effects());
            }
            lab.engine.unprepare(&spec.id, soon()).unwrap();
            assert_eq!(lab.functions.settings_of(pci(1)), administered(), "{:?}", fate.effects());
            assert!(ledger.owned().unwrap().is_empty() && ledger.claims().unwrap().is_empty());
        }
    }
    assert!(stuck > 3, "{stuck}");
}

#[test]
fn a_busy_driver_is_asked_again() {
    let lab = Lab::new(1);
    lab.functions.refuse_set(0, Errno::EBUSY);
    let spec = claim("c1", "p1", vec![set(1, WantedSettings { trust: Some(true), ..Default::default() })]);
    lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)).trust, Some(true));
}

#[test]
fn a_setting_that_somebody_changed_is_repaired_by_the_next_prepare_and_the_first_original_counts() {
    let lab = Lab::new(1);
    lab.functions.say(pci(1), administered());
    let spec = claim("c1", "p1", vec![set(1, everything())]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions
        .say(pci(1), VfSettings { vlan: Some(Vlan::default()), ..lab.functions.settings_of(pci(1)) });
    lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)).vlan, everything().vlan);
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)), administered());
}

#[test]
fn the_address_of_a_vf_that_a_pod_is_using_is_left_alone() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![set(1, everything())]);
    lab.engine.prepare(&spec, soon()).unwrap();
    let other = mac("02:99:99:99:99:99");
    lab.functions.say(pci(1), VfSettings { mac: Some(other.clone()), ..lab.functions.settings_of(pci(1)) });
    lab.functions.change(pci(1), |facts| facts.vf.place = Place::Elsewhere);
    lab.engine.prepare(&spec, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)).mac, Some(other), "a trusted pod may choose its own");
}

#[test]
fn a_vf_whose_settings_can_not_be_put_back_is_withheld_and_its_claim_ends() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![set(1, everything())]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions.refuse_set(2, Errno::EIO);
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    let ledger = &lab.engine.site.ledger;
    assert!(ledger.owned().unwrap().is_empty() && ledger.entry("c1").unwrap().is_none());
    let unclean = ledger.unclean().unwrap();
    assert!(unclean[0].1.reason.contains("Input/output error"), "{unclean:?}");
    // All the others are what they were.
    let left = lab.functions.settings_of(pci(1)).each();
    let fresh = FakeFunctions::default().settings_of(pci(1)).each();
    assert_eq!(left.iter().zip(&fresh).filter(|(is, was)| is != was).count(), 1, "{left:?}");

    // Withheld until it is made anew; of what it was in its former life nothing stays.
    lab.engine.sweep().unwrap();
    assert_eq!(ledger.unclean().unwrap(), unclean);
    lab.functions.make_anew(pci(1));
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.engine.sweep().unwrap();
    assert_eq!(ledger.unclean().unwrap(), unclean, "somebody is at work at it");
    lab.functions.refuse_set(2, Errno::EIO);
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    lab.engine.sweep().unwrap();
    assert_ne!(ledger.unclean().unwrap(), unclean, "of this life");
    lab.functions.make_anew(pci(1));
    lab.engine.sweep().unwrap();
    assert_eq!(ledger.unclean().unwrap(), []);
}

#[test]
fn a_note_that_is_written_while_former_ones_are_forgotten_stays() {
    let lab = Lab::new(2);
    let ledger = lab.engine.site.ledger.clone();
    let spec = claim("c2", "p2", vec![set(2, everything())]);
    for n in [1, 2] {
        ledger.mark_unclean(pci(n), &note("boot-1", 1)).unwrap();
        lab.functions.make_anew(pci(n));
    }
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions.refuse_set(2, Errno::EIO);
    let other = (lab.engine.clone(), spec.id.clone());
    let ends = Turn::Meanwhile(Box::new(move || other.0.unprepare(&other.1, Instant::now()).unwrap()));
    let fate = Fate::default().at(0, ends);
    fate.live(|| lab.engine.sweep()).unwrap().unwrap();
    assert!(!fate.is_open(), "the first note was not removed");
    let left = ledger.unclean().unwrap();
    assert_eq!(left.iter().map(|(vf, _)| *vf).collect::<Vec<_>>(), [pci(2)], "{left:?}");
    assert!(left[0].1.reason.contains("Input/output error"), "{left:?}");
}

#[test]
fn a_note_ends_with_the_boot_and_not_with_a_vf_that_is_away_for_a_while() {
    let lab = Lab::new(1);
    let ledger = &lab.engine.site.ledger;
    ledger.mark_unclean(pci(1), &note("an earlier boot", 1)).unwrap();
    ledger.mark_unclean(pci(7), &note("boot-1", 1)).unwrap();
    lab.engine.sweep().unwrap();
    assert_eq!(ledger.unclean().unwrap(), [(pci(7), note("boot-1", 1))]);
}

#[test]
fn a_note_that_a_newer_agent_wrote_hides_no_other_and_keeps_no_orphan() {
    let lab = Lab::new(2);
    let ledger = &lab.engine.site.ledger;
    let folder = lab.dir.path().join("durable/unclean");
    ledger.mark_unclean(pci(1), &note("boot-1", 1)).unwrap();
    let text = std::fs::read_to_string(folder.join(format!("{}.json", pci(1)))).unwrap();
    let newer = text.replace("\"minReader\":1", "\"minReader\":99");
    assert_ne!(newer, text);
    std::fs::write(folder.join(format!("{}.json", pci(7))), newer).unwrap();
    lab.engine.prepare(&claim("c1", "p1", vec![wants(2)]), soon()).unwrap();
    std::fs::remove_file(lab.dir.path().join("durable/claims/c1.json")).unwrap();
    lab.engine.sweep().unwrap();
    assert_eq!(ledger.unclean().unwrap(), [(pci(1), note("boot-1", 1))]);
    assert_eq!(ledger.kept_by_newer().unwrap(), [pci(7)], "not to be offered");
    assert!(ledger.owned().unwrap().is_empty());
}

fn note(boot: &str, life: u64) -> Unclean {
    Unclean { boot_id: boot.into(), incarnation: Incarnation(life), reason: "refused".into() }
}

#[test]
fn settings_that_could_not_be_put_back_or_can_not_be_are_refused_before_anything_is_touched() {
    let lab = Lab::new(1);
    let only = |settings| claim("c1", "p1", vec![set(1, settings)]);
    let trust = WantedSettings { trust: Some(true), ..Default::default() };
    let rate = |min, max| WantedSettings {
        min_tx_rate_mbps: min,
        max_tx_rate_mbps: max,
        ..WantedSettings::default()
    };
    let known = lab.functions.settings_of(pci(1));
    lab.functions.say(pci(1), VfSettings { trust: None, ..known.clone() });
    let error = lab.refusal(&only(trust.clone()));
    assert!(
        error.contains("vf.trust can't be set on VF 0000:81:02.1: driver igb of PF ens1f0 does not say"),
        "{error}"
    );
    lab.functions.say(pci(1), VfSettings { rate: Some(Rate { min_mbps: 0, max_mbps: 100 }), ..known });
    let error = lab.refusal(&only(rate(Some(200), None)));
    assert!(error.contains("vf.minTxRateMbps 200 would be above the 100 Mbit/s"), "{error}");
    lab.functions.change(pci(1), |facts| {
        facts.pf.as_mut().unwrap().netdev.as_mut().unwrap().speed_mbps = Some(1000);
    });
    let error = lab.refusal(&only(rate(None, Some(1001))));
    assert!(error.contains("vf.maxTxRateMbps 1001 is above the 1000 Mbit/s of PF ens1f0"), "{error}");

    lab.functions.change(pci(1), |facts| facts.vf.link_type = Some(LinkType::Infiniband));
    let error = lab.refusal(&only(trust.clone()));
    assert!(error.contains("vf.trust can't be set on VF 0000:81:02.1: it is InfiniBand"), "{error}");
    lab.functions.change(pci(1), |facts| {
        facts.vf.link_type = Some(LinkType::Ethernet);
        facts.pf.as_mut().unwrap().netdev = None;
    });
    let error = lab.refusal(&only(trust.clone()));
    assert!(
        error.contains("its PF 0000:81:00.0 has no network interface on the host (driver igb)"),
        "{error}"
    );
    lab.functions.change(pci(1), |facts| facts.pf = None);
    let error = lab.refusal(&only(trust));
    assert!(error.contains("it has no PF on this node, as inside a virtual machine"), "{error}");
}

#[test]
fn a_vf_whose_driver_did_not_come_back_after_its_address_was_set_has_it_when_prepare_has_failed() {
    let lab = Lab::new(1);
    lab.functions.refuse_bind(pci(1));
    let error = lab.refusal(&claim("c1", "p1", vec![set(1, everything())]));
    assert!(error.contains("Input/output error"), "{error}");
    assert_eq!(lab.facts(1).vf.driver.as_deref(), Some("igbvf"));
    assert_eq!(lab.functions.settings_of(pci(1)), FakeFunctions::default().settings_of(pci(1)));
}

#[test]
fn a_setting_that_its_driver_no_longer_tells_is_put_back_all_the_same() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![set(1, WantedSettings { trust: Some(true), ..Default::default() })]);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions.say(pci(1), VfSettings { trust: None, ..lab.functions.settings_of(pci(1)) });
    lab.engine.unprepare(&spec.id, soon()).unwrap();
    assert_eq!(lab.functions.settings_of(pci(1)).trust, Some(false));
}

#[test]
fn a_prepare_that_fails_leaves_the_entry_that_was_there() {
    let mut lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![set(1, everything())]);
    let entry = lab.engine.prepare(&spec, soon()).unwrap();
    let fails = |lab: &Lab| {
        lab.functions.say(pci(1), administered());
        lab.functions.refuse_set(1, Errno::EOPNOTSUPP);
        lab.engine.prepare(&spec, soon()).unwrap_err();
        assert_eq!(lab.engine.site.ledger.entry("c1").unwrap().as_ref(), Some(&entry));
    };
    fails(&lab);
    // Of another boot, it stays void: else a sandbox would get a VF without its settings.
    lab.engine.site.boot_id = "boot-2".into();
    fails(&lab);
}
