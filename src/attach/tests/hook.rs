//! The hook: whom it works for, and what it lets start.

use serde_json::{Value, json};

use super::super::hook::{HookError, process_of, sandbox_of};
use super::*;

const UID: &str = "c0ffee00-1111-4222-8333-444455556666";

fn containerd() -> Value {
    json!({
        "ociVersion": "1.2.1", "id": "x", "status": "creating", "pid": 2800, "bundle": "/run/x",
        "annotations": {
            "io.kubernetes.cri.container-name": "main", "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": "A", "io.kubernetes.cri.sandbox-name": "worker",
            "io.kubernetes.cri.sandbox-namespace": "ns", "io.kubernetes.cri.sandbox-uid": UID,
        },
    })
}

fn whom(state: &Value, cgroups: &str) -> Result<Sandbox, HookError> {
    sandbox_of(&state.to_string(), cgroups, "0::/")
}

#[test]
fn the_pod_of_a_container_is_known_by_the_annotations_of_its_runtime() {
    let expected = Sandbox {
        id: "A".into(),
        pod_uid: UID.into(),
        pod_name: "worker".into(),
        pod_namespace: "ns".into(),
        netns: Some("/proc/2800/ns/net".into()),
        lists_namespaces: true,
        pid: 2800,
    };
    assert_eq!(whom(&containerd(), ""), Ok(expected.clone()));
    let mut cri_o = json!({ "pid": 2800, "annotations": {
        "io.container.manager": "cri-o", "io.kubernetes.cri-o.SandboxID": "A", "io.kubernetes.pod.uid": UID,
        "io.kubernetes.pod.name": "worker", "io.kubernetes.pod.namespace": "ns",
    }});
    assert_eq!(whom(&cri_o, ""), Ok(expected.clone()));
    // CRI-O hands a pod's own annotations on: they must not say which pod it is.
    cri_o["annotations"]["io.kubernetes.cri.sandbox-uid"] = "another".into();
    cri_o["annotations"]["io.kubernetes.cri.sandbox-id"] = "B".into();
    assert_eq!(whom(&cri_o, ""), Ok(expected));
}

#[test]
fn the_cgroup_of_the_process_names_the_pod_too_and_must_agree() {
    let dashed = UID.replace('-', "_");
    for cgroup in [
        format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{dashed}.slice/cri-containerd-x.scope\n"
        ),
        format!("0::/kubepods/besteffort/pod{UID}/x\n"),
        format!("12:cpu:/kubepods/pod{UID}/x\n0::/\n"),
        // A node that is itself a pod of another cluster.
        format!("0::/kubepods/pod00000000-0000-4000-8000-000000000000/y/kubelet/kubepods/pod{UID}/x\n"),
    ] {
        assert_eq!(whom(&containerd(), &cgroup).map(|s| s.pod_uid), Ok(UID.into()), "{cgroup}");
        let mut silent = containerd();
        silent["annotations"].as_object_mut().unwrap().remove("io.kubernetes.cri.sandbox-uid");
        assert_eq!(whom(&silent, &cgroup).map(|s| s.pod_uid), Ok(UID.into()), "{cgroup}");
        let mut lying = containerd();
        lying["annotations"]["io.kubernetes.cri.sandbox-uid"] = "11111111-1111-4222-8333-444455556666".into();
        assert!(matches!(whom(&lying, &cgroup), Err(HookError::OtherPod { .. })), "{cgroup}");
    }
    // This very node is a pod, and its containers are in that pod's cgroup.
    let node = "0::/kubepods/pod00000000-0000-4000-8000-000000000000/y";
    let on_node = sandbox_of(&containerd().to_string(), node, node);
    assert_eq!(on_node.map(|sandbox| sandbox.pod_uid), Ok(UID.into()));
    for other in ["0::/system.slice/podman.service", "0::/machine/pod-template-x", ""] {
        assert_eq!(whom(&containerd(), other).map(|s| s.pod_uid), Ok(UID.into()), "{other}");
    }
}

#[test]
fn a_state_that_does_not_say_enough_is_refused_with_what_is_missing() {
    let sentence = |state: Value| whom(&state, "").unwrap_err().to_string();
    assert!(sentence(json!({"pid": 7, "annotations": {}})).contains("do not say its sandbox"));
    let mut state = containerd();
    state["annotations"].as_object_mut().unwrap().remove("io.kubernetes.cri.sandbox-uid");
    assert!(sentence(state).contains("do not say its pod's UID"));
    for pid in [json!(0), json!(-1), json!(null)] {
        let mut state = containerd();
        state["pid"] = pid;
        assert!(whom(&state, "").is_err(), "{state}");
    }
    assert!(matches!(process_of("not JSON"), Err(HookError::NoState(_))));
    assert!(matches!(process_of(""), Err(HookError::NoState(_))));
}

/// A pod `p1` with claim `c1` of two VFs, prepared, and its namespace.
fn prepared() -> (Lab, NetnsId, Sandbox) {
    prepared_as(claim("c1", "p1", vec![wants(1), wants(2)]))
}

/// A claim that people made, and that pods use one after the other under its own name.
fn named() -> ClaimSpec {
    ClaimSpec { pod_claim_name: "claim-c1".into(), ..claim("c1", "p1", vec![wants(1), wants(2)]) }
}

fn prepared_as(spec: ClaimSpec) -> (Lab, NetnsId, Sandbox) {
    let lab = Lab::new(2);
    lab.engine.prepare(&spec, soon()).unwrap();
    let ns = lab.kernel.add_netns("/run/netns/a", 7).id();
    (lab, ns, sandbox("A", "p1", "/run/netns/a"))
}

fn names_up(lab: &Lab, ns: NetnsId) -> Vec<String> {
    let links = lab.kernel.links_of(ns);
    links.into_iter().filter(|(_, (link, _))| link.up).map(|(name, _)| name).collect()
}

#[test]
fn the_hook_attaches_what_nobody_attached_and_changes_nothing_the_second_time() {
    let (lab, ns, pod) = prepared();
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
    assert_eq!(names_up(&lab, ns), ["net1", "net2"]);
    let report = lab.attacher.outbox.waiting().remove(0).1.report;
    assert!(report.devices.iter().all(|device| device.reason == Reason::Attached), "{report:?}");
    let changes = lab.kernel.changes();
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
    lab.attacher.run(&pod, soon()).unwrap();
    assert_eq!(lab.kernel.changes(), changes);
    lab.attacher.stop(&pod, soon()).unwrap();
    lab.assert_pristine(2);
}

#[test]
fn a_container_that_starts_again_finds_its_vfs_up_and_under_their_names_whatever_the_pod_did_to_them() {
    let (lab, ns, pod) = prepared();
    lab.attacher.run(&pod, soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| link.up = false);
    lab.kernel.meddle(pci(2), |link| link.mtu = 1400);
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
    assert_eq!(names_up(&lab, ns), ["net1", "net2"]);
    assert_eq!(
        lab.kernel.links_of(ns)["net2"].0.mtu,
        1400,
        "what does not keep a container from starting is the pod's affair"
    );
}

#[test]
fn a_vf_that_cannot_be_brought_stops_the_container_and_leaves_nothing_half_done() {
    let (lab, ns, pod) = prepared();
    lab.functions.remove(pci(2));
    lab.kernel.meddle(pci(2), |link| link.pci = None);
    let error = lab.attacher.guard(&pod, "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("0000:81:00.2"), "{error}");
    assert_eq!(names_up(&lab, ns), Vec::<String>::new());
}

#[test]
fn a_claim_that_is_not_prepared_or_whose_pod_lives_elsewhere_starts_nothing() {
    let (lab, _, pod) = prepared_as(named());
    let error = lab.attacher.guard(&pod, "c9", soon()).unwrap_err().sentence();
    assert!(error.contains("claim c9 is not prepared on this node"), "{error}");
    lab.attacher.run(&pod, soon()).unwrap();
    let thief_ns = lab.kernel.add_netns("/run/netns/b", 8).id();
    let error = lab.attacher.guard(&sandbox("B", "p2", "/run/netns/b"), "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("is in use by pod"), "{error}");
    assert_eq!(names_up(&lab, thief_ns), Vec::<String>::new());
}

#[test]
fn a_claim_that_was_prepared_before_a_reboot_starts_nothing_until_it_is_prepared_again() {
    let (mut lab, ns, pod) = prepared();
    lab.attacher.site.boot_id = "boot-2".into();
    let error = lab.attacher.guard(&pod, "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("claim c1 is not prepared on this node"), "{error}");
    lab.engine.site.boot_id = "boot-2".into();
    lab.engine.prepare(&claim("c1", "p1", vec![wants(1), wants(2)]), soon()).unwrap();
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
    assert_eq!(names_up(&lab, ns), ["net1", "net2"]);
}

#[test]
fn a_claim_goes_to_its_next_pod_once_the_former_ones_namespace_is_gone() {
    let (lab, former, pod) = prepared_as(named());
    lab.attacher.run(&pod, soon()).unwrap();
    lab.kernel.destroy(former);
    let ns = lab.kernel.add_netns("/run/netns/b", 8).id();
    lab.attacher.guard(&sandbox("B", "p2", "/run/netns/b"), "c1", soon()).unwrap();
    assert_eq!(names_up(&lab, ns), ["net1", "net2"]);
}

#[test]
fn the_hook_of_a_sandbox_that_stopped_does_nothing_more() {
    let (lab, ns, pod) = prepared();
    lab.attacher.run(&pod, soon()).unwrap();
    lab.attacher.stop(&pod, soon()).unwrap();
    let error = lab.attacher.guard(&pod, "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("no longer the pod's current one"), "{error}");
    assert_eq!(names_up(&lab, ns), Vec::<String>::new());
    lab.assert_pristine(2);
}

#[test]
fn on_the_hosts_network_nothing_is_moved_and_interface_settings_are_refused() {
    let (lab, _, mut pod) = prepared();
    // A container of such a pod is where process 1 is.
    (pod.netns, pod.pid) = (Some("/proc/1/ns/net".into()), 1);
    let error = lab.attacher.guard(&pod, "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("hostNetwork: true"), "{error}");
    lab.assert_pristine(2);
}

#[test]
fn on_the_hosts_network_a_vf_that_is_not_there_stops_the_container() {
    let lab = Lab::new(2);
    let plain = ResultSpec { interface_asked: false, mtu: None, addresses: Vec::new(), ..wants(1) };
    lab.engine.prepare(&claim("c1", "p1", vec![plain]), soon()).unwrap();
    let pod = Sandbox { netns: Some("/proc/1/ns/net".into()), pid: 1, ..sandbox("A", "p1", "") };
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
    lab.kernel.meddle(pci(1), |link| link.pci = None);
    let error = lab.attacher.guard(&pod, "c1", soon()).unwrap_err().sentence();
    assert!(error.contains("VF 0000:81:00.1 is neither on the host nor"), "{error}");
    let report = lab.attacher.outbox.waiting().remove(0).1.report;
    assert_eq!(report.devices[0].reason, Reason::AttachFailed);
}

#[test]
fn a_claim_that_only_watches_starts_the_containers_of_every_pod_that_shares_it() {
    let lab = Lab::new(1);
    let ns = lab.kernel.add_netns("/run/netns/a", 7).id();
    let watches = ResultSpec { admin_access: true, interface_asked: false, ..wants(1) };
    let shared = ClaimSpec { pod: None, ..claim("c1", "p1", vec![watches]) };
    lab.engine.prepare(&shared, soon()).unwrap();
    for pod in ["p1", "p2"] {
        lab.attacher.guard(&sandbox("A", pod, "/run/netns/a"), "c1", soon()).unwrap();
    }
    assert!(lab.kernel.links_of(ns).is_empty());
    lab.assert_pristine(1);
}

#[test]
fn a_vf_whose_name_the_pod_gave_to_another_link_stops_the_container_and_stays_up_for_the_others() {
    let (lab, ns, pod) = prepared();
    lab.attacher.run(&pod, soon()).unwrap();
    lab.kernel.meddle(pci(2), |link| link.name = "rail0".into());
    lab.kernel.add_other(ns, "net2");
    lab.attacher.guard(&pod, "c1", soon()).unwrap_err();
    let up = names_up(&lab, ns);
    assert!(up.contains(&"net1".to_owned()) && up.contains(&"rail0".to_owned()), "{up:?}");
}

#[test]
fn a_claim_that_was_made_for_one_pod_is_no_other_pods_even_before_that_pod_uses_it() {
    let (lab, ns, pod) = prepared();
    let thief_ns = lab.kernel.add_netns("/run/netns/b", 8).id();
    let error = lab.attacher.guard(&sandbox("B", "p2", "/run/netns/b"), "c1", soon()).unwrap_err().sentence();
    assert_eq!(error, "claim ns/claim-c1 belongs to pod pod-p1, and is not reserved for pod ns/pod-p2");
    lab.attacher.guard(&pod, "c1", soon()).unwrap();
    assert_eq!(names_up(&lab, ns), ["net1", "net2"]);
    assert_eq!(names_up(&lab, thief_ns), Vec::<String>::new());
}
