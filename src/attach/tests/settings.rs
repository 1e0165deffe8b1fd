//! VFs with settings, and VFs on vfio-pci: who has them, and that nobody gets them otherwise.

use super::*;
use crate::claim::WantedBinding;
use crate::device::{Vlan, WantedSettings};
use crate::prepare::vfio::VfioFacts;

fn on_vfio(lab: &Lab, n: u8) -> ResultSpec {
    lab.functions.set_vfio(pci(n), VfioFacts { group: Some(42), driver: true, ..Default::default() });
    let bind = WantedBinding { vfio: true, ..Default::default() };
    ResultSpec { bind, ..plain_result(pci(n)) }
}

fn open(lab: &Lab, n: u8, open: bool) {
    lab.functions.change(pci(n), |facts| facts.vf.vfio_open = open);
}

#[test]
fn a_claim_on_vfio_pci_goes_to_another_pod_only_when_the_pod_that_has_it_is_over() {
    let lab = Lab::new(1);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.kernel.add_netns("/run/netns/b", 8);
    lab.engine.prepare(&claim("c1", "p1", vec![on_vfio(&lab, 1)]), soon()).unwrap();
    let (first, second) = (sandbox("A", "p1", "/run/netns/a"), sandbox("B", "p2", "/run/netns/b"));
    lab.attacher.run(&first, soon()).unwrap();
    let to = PodRef { uid: "p2".into(), name: "pod-p2".into() };
    for _ in 0..2 {
        let error = lab.attacher.hand_over("c1", &to, soon()).unwrap_err().sentence();
        assert!(error.contains("in use by pod pod-p1: its VF 0000:81:00.1 is in sandbox A"), "{error}");
        // Its only container starts again: the sandbox lives without a process.
        lab.kernel.kill_users(a.id());
    }
    lab.attacher.guard(&second, "c1", soon()).unwrap_err();
    lab.attacher.stop(&first, soon()).unwrap();
    open(&lab, 1, true);
    let error = lab.attacher.hand_over("c1", &to, soon()).unwrap_err().sentence();
    assert!(error.contains("a process has the vfio device of its VF 0000:81:00.1 open"), "{error}");
    open(&lab, 1, false);
    lab.attacher.hand_over("c1", &to, soon()).unwrap();
}

#[test]
fn a_claim_on_vfio_pci_is_used_while_a_process_lives_in_its_sandbox_or_has_its_device_open() {
    let lab = Lab::new(1);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&claim("c1", "p1", vec![on_vfio(&lab, 1)]), soon()).unwrap();
    assert!(!lab.attacher.is_used("c1").unwrap());
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert!(lab.attacher.is_used("c1").unwrap(), "it may open the device at any moment");
    lab.kernel.kill_users(a.id());
    assert!(!lab.attacher.is_used("c1").unwrap());
    open(&lab, 1, true);
    assert!(lab.attacher.is_used("c1").unwrap());
}

#[test]
fn a_vf_made_anew_does_not_go_into_a_pod_without_what_its_claim_sets() {
    let lab = Lab::new(2);
    let pf = |facts: &mut crate::prepare::functions::Facts| {
        facts.vf.pf = Some(pci(0));
        facts.vf.index = Some(0);
        facts.pf = Some(crate::prepare::fake::pf(pci(0)));
    };
    lab.functions.change(pci(1), pf);
    let vlan = Some(Vlan { id: 100, ..Vlan::default() });
    let settings = WantedSettings { vlan, ..Default::default() };
    let spec = claim("c1", "p1", vec![ResultSpec { settings, ..plain_result(pci(1)) }]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.functions.change(pci(1), |facts| facts.vf.incarnation.0 += 1);
    let on_host = Sandbox { netns: None, ..sandbox("H", "p1", "") };
    for pod in [&on_host, &sandbox("A", "p1", "/run/netns/a")] {
        let errors = [
            lab.attacher.run(pod, soon()).unwrap_err(),
            lab.attacher.create_container(pod, &container(&pod.id, "c1"), soon()).unwrap_err(),
        ];
        for error in errors.map(|error| error.sentence()) {
            assert!(error.contains("VF 0000:81:00.1 was made anew after its claim was prepared"), "{error}");
        }
    }
    lab.attacher.guard(&sandbox("A", "p1", "/run/netns/a"), "c1", soon()).unwrap_err();
    assert!(lab.kernel.links_of(a.id()).is_empty());
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.run(&sandbox("A", "p1", "/run/netns/a"), soon()).unwrap();
    assert!(lab.kernel.links_of(a.id()).contains_key("net1"));
}

#[test]
fn a_claim_at_whose_prepare_the_agent_was_killed_starts_nothing_until_it_is_prepared() {
    use crate::prepare::records::{Entry, Progress};
    let lab = Lab::new(1);
    let spec = claim("c1", "p1", vec![plain_result(pci(1))]);
    let a = lab.kernel.add_netns("/run/netns/a", 7);
    let pod = sandbox("A", "p1", "/run/netns/a");
    let entry = lab.engine.prepare(&spec, soon()).unwrap();
    lab.engine.site.ledger.put_entry(&Entry { progress: Progress::Preparing, ..entry }).unwrap();
    for error in [lab.attacher.run(&pod, soon()), lab.attacher.guard(&pod, "c1", soon())] {
        let error = error.unwrap_err().sentence();
        assert!(error.contains("claim c1 is not prepared on this node"), "{error}");
    }
    assert!(lab.kernel.links_of(a.id()).is_empty());
    lab.engine.prepare(&spec, soon()).unwrap();
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
}
