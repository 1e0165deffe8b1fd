//! What can happen to a node, as plain data: printed by a failure, pasted into a test.

use nix::errno::Errno;

use super::asks::Ask;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The scheduler places a pod in a slot; what its claims ask for comes from `seed`.
    Create { slot: u8, seed: u64 },
    /// The same, with claims as they are written here: VFs, and what is asked for each. With `shared`, people made them.
    Place { slot: u8, shared: bool, claims: &'static [&'static [(u8, &'static [Ask])]] },
    /// The same, with a pod on the host's network.
    PlaceOnHost { slot: u8, shared: bool, claims: &'static [&'static [(u8, &'static [Ask])]] },
    /// The kubelet calls Prepare for each claim of the pod.
    Prepare { slot: u8 },
    /// The runtime makes a sandbox and tells the agent, or tells it again.
    Run { slot: u8 },
    /// A container is created: NRI, if there is an agent, and then the hook.
    Container { slot: u8 },
    /// The sandbox ends, as [`End`] says; the pod may get another one.
    Stop { slot: u8, end: End },
    /// The pod is deleted: its sandbox ends, and the kubelet calls Unprepare until that succeeds.
    Finish { slot: u8, end: End },
    /// The pod is deleted by force: its claim is gone, its VFs are given out anew, and its processes may live.
    Force { slot: u8, lives: bool },
    /// The kubelet ends pods that were deleted by force.
    Reap,
    /// The pod is over, and its claims go on to a pod in another slot.
    HandOver { slot: u8, to: u8, end: End },
    /// The agent is killed.
    Kill,
    /// An agent starts: after a kill, an upgrade, a restart.
    Start,
    /// The runtime tells the agent of all sandboxes, as after each connect.
    Synchronize,
    /// The agent looks for strays.
    Sweep,
    /// The power is lost, and comes again. With `lossy`, what was not synced is gone or empty.
    Reboot { lossy: bool },
    /// From the next boot on RDMA devices are in all network namespaces at once, or each in one.
    RdmaShared { shared: bool },
    /// The CDI folder is emptied.
    WipeCdi,
    /// An administrator or udev renames a VF that is free.
    Rename { vf: u8 },
    /// The pod does something to its VFs.
    Meddle { slot: u8, what: u8 },
    /// A VF is made anew.
    Anew { vf: u8 },
    /// An administrator binds a VF to another driver.
    Rebind { vf: u8, driver: Bound },
    /// The disk is full, or has room again.
    DiskFull { full: bool },
    /// The API server does not answer, or does again.
    ApiAway { away: bool },
    /// The wall clock is set.
    Clock { by: i64 },
    /// Everybody does what they have to, and all has to be as it should.
    Rest,
    /// Time passes.
    Wait { seconds: u16 },
}

/// How a sandbox ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent is told, then the namespace ends.
    Told,
    /// The namespace ends before the agent is told.
    Early,
    /// The agent hears nothing of it.
    Silent,
}

/// A driver that somebody binds by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Nothing,
    Netdev,
    Userspace,
}

/// What goes wrong at an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    No,
    /// The k-th effect is refused, later ones work.
    Fail {
        k: usize,
        errno: Errno,
    },
    /// The agent is killed before the k-th effect, which is after the one before.
    Die {
        k: usize,
    },
    /// The agent is killed while it writes a file, or before the k-th effect if that is none.
    Tear {
        k: usize,
    },
    /// Before the k-th effect somebody else does something.
    Beside {
        k: usize,
        who: Who,
    },
}

/// Somebody beside an agent at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The pod's processes end, and its namespace.
    NamespaceEnds,
    /// A second agent, as in an upgrade, is told the same.
    SecondAgent,
    /// A second agent starts: it looks for strays and is told of all sandboxes.
    SecondStarts,
}

/// One thing that happens, and what goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    pub op: Op,
    pub fault: Fault,
}

impl From<Op> for Act {
    fn from(op: Op) -> Self {
        Self { op, fault: Fault::No }
    }
}

/// An op with a fault, as failures print it.
pub fn with(op: Op, fault: Fault) -> Act {
    Act { op, fault }
}
