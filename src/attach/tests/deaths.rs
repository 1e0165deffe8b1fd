//! What is on the disk is enough, where the kernel does not help: namespaces that outlive their processes, files that are
//! lost.

use super::*;
use crate::host::fate::{Fate, Turn};

#[test]
fn a_stop_that_was_killed_at_any_effect_is_finished_by_the_pods_next_sandbox_though_the_namespace_stays() {
    for k in 0.. {
        let lab = Lab::new(2);
        let spec = claim("c1", "p1", vec![wants(1), wants(2)]);
        let a = lab.kernel.add_netns("/run/netns/a", 7);
        let b = lab.kernel.add_netns("/run/netns/b", 8);
        lab.engine.prepare(&spec, soon()).unwrap();
        lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
        lab.kernel.kill_users(a.id());
        let fate = Fate::default().at(k, Turn::Dies);
        let stopped = fate.live(|| lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()));
        let effects = fate.effects();
        let next = lab.attacher.run(&sandbox("B", "p1", "/run/netns/b"), soon());
        assert!(next.is_ok(), "killed before {:?}: {next:?}", effects.last());
        let inside: Vec<String> = lab.kernel.links_of(b.id()).into_keys().collect();
        assert_eq!(inside, ["net1", "net2"], "killed before {:?}", effects.last());
        lab.unprepare(&spec).unwrap();
        lab.assert_pristine(2);
        assert!(lab.engine.site.ledger.attachments().unwrap().is_empty());
        if stopped.is_some() {
            assert!(k > 8, "{effects:?}");
            return;
        }
    }
}

#[test]
fn a_lost_file_of_ownership_is_made_again_by_the_next_agent_and_says_what_the_vf_was() {
    let lab = Lab::new(1);
    let ledger = &lab.engine.site.ledger;
    let spec = claim("c1", "p1", vec![wants(1)]);
    lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    let owner = ledger.ownership(pci(1)).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    std::fs::remove_file(lab.dir.path().join("durable/vf/0000:81:00.1.json")).unwrap();
    ledger.survey("boot-1").unwrap();
    assert_eq!(ledger.ownership(pci(1)).unwrap(), owner);
    let other = lab.engine.prepare(&claim("c2", "p2", vec![wants(1)]), soon()).unwrap_err();
    assert!(matches!(other, PrepareError::Held { .. }), "{other:?}");
    lab.attacher.stop(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.unprepare(&spec).unwrap();
    lab.assert_pristine(1);
}

#[test]
fn a_sandbox_that_the_runtime_does_not_list_keeps_its_vf_until_no_process_lives_there() {
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![wants(1)]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    lab.attacher.synchronize(&[], soon());
    assert!(lab.kernel.links_of(a.id()).contains_key("net1"), "taken from where process 7 runs");
    assert!(lab.engine.site.ledger.attachment("c1").unwrap().is_some_and(|record| record.complete));
    lab.kernel.kill_users(a.id());
    lab.attacher.synchronize(&[], soon());
    lab.assert_pristine(1);
    assert_eq!(lab.engine.site.ledger.attachment("c1").unwrap(), None);
    lab.unprepare(&spec).unwrap();
}
