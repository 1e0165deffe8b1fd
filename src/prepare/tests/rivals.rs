//! Two claims that are given one VF: one of them has it, and the other has nothing of it.

use std::collections::BTreeSet;

use super::settings::{administered, everything, set};
use super::*;
use crate::device::WantedSettings;
use crate::host::fate::{Fate, Turn};

#[test]
fn of_two_claims_that_come_for_a_vf_one_has_all_of_it_at_whichever_effect_the_second_comes() {
    let mut owners = BTreeSet::new();
    for k in 0.. {
        let lab = Lab::new(1);
        let ledger = &lab.engine.site.ledger;
        lab.functions.say(pci(1), administered());
        let vlan = WantedSettings { vlan: everything().vlan, ..Default::default() };
        let trust = WantedSettings { trust: everything().trust, ..Default::default() };
        let first = claim("c1", "p1", vec![set(1, vlan)]);
        let second = claim("c2", "p2", vec![set(1, trust)]);
        let other = (lab.engine.clone(), second.clone());
        let comes = Turn::Meanwhile(Box::new(move || drop(other.0.prepare(&other.1, Instant::now()))));
        let fate = Fate::default().at(k, comes);
        let prepared = fate.live(|| lab.engine.prepare(&first, soon())).unwrap();
        if fate.is_open() {
            break;
        }
        let owner = ledger.ownership(pci(1)).unwrap().unwrap().claim;
        assert_eq!(
            ledger.claims().unwrap(),
            std::slice::from_ref(&owner.uid),
            "effect {k}: {:?}",
            fate.effects()
        );
        assert_eq!(prepared.is_ok(), owner == first.id, "effect {k}: {prepared:?}");
        let mut wanted = administered();
        match owner == first.id {
            true => wanted.vlan = everything().vlan,
            false => wanted.trust = everything().trust,
        }
        assert_eq!(lab.functions.settings_of(pci(1)), wanted, "effect {k}");
        lab.engine.unprepare(&owner, soon()).unwrap();
        assert_eq!(lab.functions.settings_of(pci(1)), administered(), "effect {k}");
        assert!(ledger.owned().unwrap().is_empty() && ledger.claims().unwrap().is_empty());
        owners.insert(owner.uid);
    }
    assert_eq!(owners.len(), 2, "each of them was the first at some effect");
}
