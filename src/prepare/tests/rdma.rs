//! What is refused of RDMA before anything is done, and what is noted.

use crate::claim::{Memlock, RdmaMode, WantedRdma};
use crate::device::{MemlockRoom, RdmaNetnsMode};
use crate::prepare::records::RdmaWay;

use super::*;

fn asks(n: u8, rdma: WantedRdma) -> ResultSpec {
    ResultSpec { rdma, ..wants(n) }
}

fn mode(n: u8, mode: RdmaMode) -> ResultSpec {
    asks(n, WantedRdma { mode, ..WantedRdma::default() })
}

impl Lab {
    fn refused(&self, result: ResultSpec) -> String {
        let error = self.engine.prepare(&claim("c1", "p1", vec![result]), soon()).unwrap_err().sentence();
        assert!(self.engine.site.ledger.entry("c1").unwrap().is_none(), "an entry is left");
        assert!(self.engine.site.ledger.owned().unwrap().iter().all(|(_, o)| o.claim.uid != "c1"));
        error
    }

    fn way(&self, result: ResultSpec) -> Option<RdmaWay> {
        let spec = claim("c1", "p1", vec![result]);
        let entry = self.engine.prepare(&spec, soon()).unwrap();
        self.engine.unprepare(&spec.id, soon()).unwrap();
        entry.vfs[0].rdma.as_ref().map(|rdma| rdma.way)
    }
}

#[test]
fn auto_is_what_the_node_can_do_and_nothing_for_a_vf_without_device() {
    let lab = Lab::new(2);
    lab.kernel.add_rdma(pci(1), "mlx5_1");
    assert_eq!(lab.way(mode(1, RdmaMode::Auto)), None, "a kernel that tells no mode");
    for (node, auto) in
        [(RdmaNetnsMode::Exclusive, RdmaWay::Namespace), (RdmaNetnsMode::Shared, RdmaWay::CharDevice)]
    {
        lab.kernel.set_rdma_mode(node);
        assert_eq!(lab.way(mode(1, RdmaMode::Auto)), Some(auto));
        assert_eq!(lab.way(mode(1, RdmaMode::None)), None);
        assert_eq!(lab.way(mode(1, RdmaMode::CharDevice)), Some(RdmaWay::CharDevice));
        assert_eq!(lab.way(mode(2, RdmaMode::Auto)), None);
    }
    lab.kernel.set_rdma_mode(RdmaNetnsMode::Exclusive);
    assert_eq!(lab.way(mode(1, RdmaMode::Namespace)), Some(RdmaWay::Namespace));
    lab.engine.site.runtime.attached_by_hook();
    assert_eq!(lab.way(mode(1, RdmaMode::Auto)), None, "nobody could move it");
}

#[test]
fn what_the_node_or_the_vf_can_not_do_is_refused_with_what_would_be_right() {
    let lab = Lab::new(2);
    lab.kernel.add_rdma(pci(1), "mlx5_1");
    lab.kernel.set_rdma_mode(RdmaNetnsMode::Shared);
    let shared = lab.refused(mode(1, RdmaMode::Namespace));
    assert!(
        shared.contains("ib_core netns_mode=0") && shared.contains("rdma system set netns exclusive"),
        "{shared}"
    );
    for mode_word in [RdmaMode::Namespace, RdmaMode::CharDevice] {
        let none = lab.refused(mode(2, mode_word));
        let says = format!("rdma.mode {}: VF {} has no RDMA device", mode_word.as_str(), pci(2));
        assert!(none.contains(&says), "{none}");
    }
    lab.kernel.set_rdma_mode(RdmaNetnsMode::Exclusive);
    lab.engine.site.runtime.attached_by_hook();
    assert!(lab.refused(mode(1, RdmaMode::Namespace)).contains("attaches by the hook alone"));
}

#[test]
fn memory_that_the_runtime_can_not_let_lock_is_refused_with_the_mend() {
    let lab = Lab::new(1);
    lab.kernel.add_rdma(pci(1), "mlx5_1");
    lab.kernel.set_rdma_mode(RdmaNetnsMode::Shared);
    let memlock = |memlock| asks(1, WantedRdma { memlock, ..WantedRdma::default() });
    lab.engine.site.runtime.can_lock(Some(MemlockRoom::Bytes(8 << 20)));
    for too_much in [Memlock::Unlimited, Memlock::Bytes(64 << 30)] {
        let error = lab.refused(memlock(too_much));
        let says = format!("rdma.memlock {too_much}: the container runtime has no CAP_SYS_RESOURCE");
        assert!(error.contains(&says) && error.contains("LimitMEMLOCK=infinity"), "{error}");
    }
    for fine in [Memlock::Auto, Memlock::None, Memlock::Bytes(8 << 20)] {
        assert!(lab.way(memlock(fine)).is_some(), "{fine}");
    }
    lab.engine.site.runtime.can_lock(Some(MemlockRoom::All));
    assert!(lab.way(memlock(Memlock::Unlimited)).is_some());
}

#[test]
fn nccl_is_told_of_nothing_where_there_is_no_device_or_nobody_to_tell() {
    let lab = Lab::new(2);
    lab.kernel.add_rdma(pci(1), "mlx5_1");
    lab.kernel.set_rdma_mode(RdmaNetnsMode::Shared);
    let nccl = |n| asks(n, WantedRdma { nccl: Some(false), ..WantedRdma::default() });
    let none = lab.refused(nccl(2));
    assert!(none.contains(&format!("rdma.nccl: VF {} has no RDMA device", pci(2))), "{none}");
    assert!(lab.way(nccl(1)).is_some());
    lab.engine.site.runtime.attached_by_hook();
    let by_hook = lab.refused(nccl(1));
    assert!(by_hook.contains("rdma.nccl: VF") && by_hook.contains("attach over NRI"), "{by_hook}");
}

#[test]
fn a_device_of_two_vfs_is_one_claims() {
    let lab = Lab::new(2);
    for n in [1, 2] {
        lab.kernel.add_rdma(pci(n), "mlx5_bond_0");
    }
    lab.kernel.set_rdma_mode(RdmaNetnsMode::Exclusive);
    lab.engine.prepare(&claim("c0", "p0", vec![wants(1)]), soon()).unwrap();
    let error = lab.refused(wants(2));
    let says = format!("VF {}: its RDMA device mlx5_bond_0 is that of VF {}, too", pci(2), pci(1));
    assert!(error.contains(&says) && error.contains("which claim ns/claim-c0 has"), "{error}");
    assert_eq!(lab.way(mode(2, RdmaMode::None)), None, "without it the VF can be had");
}
