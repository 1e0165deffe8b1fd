//! What random lives found, shrunk to what it takes.

#[allow(unused_imports, reason = "what a failure prints is pasted here as it is")]
use nix::errno::Errno::*;

#[allow(unused_imports, reason = "as above")]
use crate::asks::Ask::*;
#[allow(unused_imports, reason = "as above")]
use crate::ops::{Act, Bound::*, End::*, Fault::*, Op::*, Who::*, with};
use crate::workload::live;

fn holds(acts: &[Act]) {
    if let Some((at, faults)) = live(acts).wrong {
        panic!("at {:?}: {faults:#?}", acts[at]);
    }
}

#[test]
fn an_undisturbed_pod_leaves_nothing_behind() {
    holds(&[
        Create { slot: 0, seed: 1 }.into(),
        Prepare { slot: 0 }.into(),
        Run { slot: 0 }.into(),
        Container { slot: 0 }.into(),
        Stop { slot: 0, end: Told }.into(),
        Finish { slot: 0, end: Told }.into(),
    ]);
}

/// The same with every effect in turn.
fn holds_at_each(acts: impl Fn(usize) -> Vec<Act>) {
    for k in 0..64 {
        if let Some((at, faults)) = live(&acts(k)).wrong {
            panic!("effect {k}: at {at}: {faults:#?}");
        }
    }
}

/// The VF was without driver again when the agent was killed. Each Unprepare after that waited for an interface.
#[test]
fn a_vf_that_had_no_driver_can_be_given_back_after_a_death_half_way() {
    holds_at_each(|k| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(5, &[])]] }.into(),
            Prepare { slot: 0 }.into(),
            with(Finish { slot: 0, end: Silent }, Die { k }),
        ]
    });
}

/// The folder was made, or emptied, and nobody ever looked at it again.
#[test]
fn no_empty_folder_of_a_pod_is_left_after_a_death() {
    let place = Place { slot: 0, shared: true, claims: &[&[(3, &[])]] };
    holds_at_each(|k| {
        vec![
            place.into(),
            with(Prepare { slot: 0 }, Die { k }),
            Finish { slot: 0, end: Silent }.into(),
            Rest.into(),
            place.into(),
            Prepare { slot: 0 }.into(),
            with(Finish { slot: 0, end: Silent }, Die { k }),
        ]
    });
}

/// The kubelet was told that the claim is over, and does not ask again.
#[test]
fn a_claim_that_was_given_back_is_not_brought_back_by_a_loss_of_power() {
    holds_at_each(|k| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(3, &[Trust])]] }.into(),
            Prepare { slot: 0 }.into(),
            with(Finish { slot: 0, end: Silent }, Die { k }),
            Reboot { lossy: true }.into(),
        ]
    });
}

/// It went into the pod in its new life, and came back with the pod's name: what was noted was about its former life.
#[test]
fn a_vf_made_anew_before_its_pod_starts_comes_back_as_it_was_in_its_new_life() {
    holds(&[
        Place { slot: 0, shared: true, claims: &[&[(6, &[Name, Mtu, Addresses])]] }.into(),
        Prepare { slot: 0 }.into(),
        Anew { vf: 6 }.into(),
        Run { slot: 0 }.into(),
        Container { slot: 0 }.into(),
        Finish { slot: 0, end: Told }.into(),
    ]);
}

/// The driver was back, and what forces it was not yet lifted: the next Unprepare looked at the driver alone.
#[test]
fn no_driver_stays_forced_after_a_death_or_a_refusal_half_way() {
    let acts = |end| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(4, &[Vfio])]] }.into(),
            Prepare { slot: 0 }.into(),
            with(Finish { slot: 0, end: Told }, end),
        ]
    };
    holds_at_each(|k| acts(Die { k }));
    holds_at_each(|k| acts(Fail { k, errno: EIO }));
}

/// The agent that started at once found the file too young, and none looked again until the next one started.
#[test]
fn what_a_killed_writer_left_goes_while_the_next_agent_runs() {
    holds_at_each(|k| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(3, &[Vlan])]] }.into(),
            with(Prepare { slot: 0 }, Tear { k }),
            Force { slot: 0, lives: false }.into(),
        ]
    });
}

/// The VF was owned in its new life by then, the entry still said that all was prepared, and no setting was made.
#[test]
fn a_vf_made_anew_goes_into_no_pod_after_a_prepare_that_failed_or_was_killed() {
    let acts = |fault| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(4, &[Mac, Vlan, Trust])]] }.into(),
            Rest.into(),
            // Its sandbox comes while no agent is there.
            Kill.into(),
            Anew { vf: 4 }.into(),
            Run { slot: 0 }.into(),
            Start.into(),
            with(Prepare { slot: 0 }, fault),
            Container { slot: 0 }.into(),
        ]
    };
    holds_at_each(|k| acts(Fail { k, errno: ENOSPC }));
    holds_at_each(|k| acts(Die { k }));
}

/// An attach that a death had cut off was completed, then taken back because the pod's other claim could not be had: the
/// record went on saying that it was complete.
#[test]
fn a_record_does_not_stay_complete_when_the_pods_other_claim_takes_the_attach_back() {
    holds_at_each(|k| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(3, &[Mtu])], &[(4, &[Vlan])]] }.into(),
            Rest.into(),
            Anew { vf: 4 }.into(),
            with(Run { slot: 0 }, Die { k }),
        ]
    });
}

/// Nothing forced vfio-pci any more, and it was still bound: the next Prepare took it for the driver of the kernel's choice.
#[test]
fn a_vf_that_was_bound_by_hand_gets_its_network_driver_back_though_a_prepare_was_killed_half_way() {
    holds_at_each(|k| {
        vec![
            Place { slot: 0, shared: true, claims: &[&[(1, &[Mac]), (2, &[Vlan])]] }.into(),
            Rest.into(),
            Rebind { vf: 2, driver: Userspace }.into(),
            with(Prepare { slot: 0 }, Die { k }),
        ]
    });
}

/// No fault of the driver: a name that an administrator gave comes back with the VF, not when its driver is bound anew.
#[test]
fn a_pod_on_the_hosts_network_uses_a_vf_that_was_renamed_before() {
    holds(&[
        PlaceOnHost { slot: 0, shared: false, claims: &[&[(1, &[Mac, LinkState]), (5, &[Vfio])]] }.into(),
        Rename { vf: 1 }.into(),
        Rest.into(),
        Run { slot: 0 }.into(),
        Container { slot: 0 }.into(),
        Finish { slot: 0, end: Told }.into(),
    ]);
}
