//! The effects of Prepare, and what takes each one back. Pure.

use crate::device::{PciAddress, PfLink, Setting};

/// One effect of Prepare on one VF. Closed: each variant has its inverse in [`Step::inverse`], and the engine matches
/// exhaustively.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Has the PF set something of the VF.
    Set {
        /// Which VF.
        vf: PciAddress,
        /// Through which PF.
        pf: PfLink,
        /// Its number there.
        index: u32,
        /// What it was before this step.
        from: Setting,
        /// What it shall be.
        to: Setting,
    },
    /// Gives the VF another driver; `None` is no driver before, the kernel's network driver after.
    Bind {
        /// Which VF.
        vf: PciAddress,
        /// What was bound.
        from: Driver,
        /// What shall be bound.
        to: Driver,
    },
}

/// A driver to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// None at all.
    Unbound,
    /// The kernel's choice: the network driver.
    Network,
    /// This one.
    Named(String),
}

impl Step {
    /// What takes the step back.
    pub fn inverse(&self) -> Self {
        match self.clone() {
            Self::Set { vf, pf, index, from, to } => Self::Set { vf, pf, index, from: to, to: from },
            Self::Bind { vf, from, to } => Self::Bind { vf, from: to, to: from },
        }
    }

    /// The VF it is about.
    pub fn vf(&self) -> PciAddress {
        match self {
            Self::Set { vf, .. } | Self::Bind { vf, .. } => *vf,
        }
    }
}
