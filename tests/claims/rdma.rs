//! RDMA in class and claim.

use serde_json::{Value, json};
use sriov_dra::claim::{Memlock, RdmaMode, WantedRdma};

use super::lab::Claim;

fn rdma(class: Value, claim: Value) -> Claim {
    let config = |rdma: Value| json!({"rdma": rdma});
    let claims = Claim::new().says("FromClass", &[], "VfConfig", config(class));
    claims.says("FromClaim", &[], "VfConfig", config(claim))
}

fn wanted(class: Value, claim: Value) -> WantedRdma {
    rdma(class, claim).compiled().results[0].rdma
}

#[test]
fn without_a_word_it_is_auto_and_later_entries_count() {
    assert_eq!(wanted(json!({}), json!(null)), WantedRdma::default());
    let default = WantedRdma::default();
    assert_eq!((default.mode, default.umad, default.memlock), (RdmaMode::Auto, false, Memlock::Auto));
    let both =
        wanted(json!({"umad": true, "memlock": "64Gi"}), json!({"mode": "namespace", "memlock": "1Gi"}));
    let (mode, memlock) = (RdmaMode::Namespace, Memlock::Bytes(1 << 30));
    assert_eq!(both, WantedRdma { mode, umad: true, memlock, nccl: None });
}

#[test]
fn a_claim_may_ask_for_less_than_its_class_and_not_for_more() {
    for (class, claim, says) in [
        (json!({"mode": "namespace"}), json!({"mode": "chardev"}), "rdma.mode: chardev is more than"),
        (
            json!({"mode": "namespace"}),
            json!({"mode": "auto"}),
            "which says namespace; a claim may set namespace or none",
        ),
        (json!({"mode": "none"}), json!({"mode": "auto"}), "which says none; a claim may set none"),
        (json!({"mode": "chardev"}), json!({"mode": "namespace"}), "rdma.mode: namespace is more than"),
        (json!({"memlock": "1Gi"}), json!({"memlock": "unlimited"}), "rdma.memlock: unlimited is more than"),
        (json!({"memlock": "1Gi"}), json!({"memlock": "1025Mi"}), "rdma.memlock: 1025Mi is more than"),
        (
            json!({"memlock": "none"}),
            json!({"memlock": "1"}),
            "which says none; a claim may set at most that",
        ),
        (json!({}), json!({"umad": true}), "rdma.umad: true needs a grant"),
    ] {
        let error = rdma(class, claim).refused();
        assert!(error.contains(says), "{says}: {error}");
    }
    for (class, claim) in [
        (json!({"mode": "auto"}), json!({"mode": "namespace"})),
        (json!({"mode": "namespace"}), json!({"mode": "none"})),
        (json!({"mode": "chardev"}), json!({"mode": "chardev"})),
        (json!({"memlock": "auto"}), json!({"memlock": "unlimited"})),
        (json!({"memlock": "1Gi"}), json!({"memlock": "1024Mi"})),
        (json!({"umad": true}), json!({"umad": true})),
    ] {
        rdma(class, claim).compiled();
    }
}

#[test]
fn what_needs_the_device_is_not_to_be_had_without_it() {
    let says = |parameters: Value| Claim::new().says("FromClass", &[], "VfConfig", parameters).refused();
    let vfio = says(json!({"bind": {"driver": "vfio-pci"}, "rdma": {"mode": "namespace"}}));
    assert!(vfio.contains("leaves the VF without RDMA device, but rdma.mode is namespace"), "{vfio}");
    let umad = says(json!({"rdma": {"mode": "none", "umad": true}}));
    assert!(umad.contains("rdma.umad: true needs the RDMA device, but rdma.mode is none"), "{umad}");
    let auto = json!({"bind": {"driver": "vfio-pci"}, "rdma": {"mode": "auto"}});
    Claim::new().says("FromClass", &[], "VfConfig", auto).compiled();
}
