//! What is known of the container runtime when claims are prepared and containers made.

use std::sync::{Arc, Mutex, PoisonError};

use crate::device::MemlockRoom;

/// Clones share what is known.
#[derive(Debug, Clone, Default)]
pub struct RuntimeFacts(Arc<Mutex<Known>>);

/// At this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// It never calls: the hook alone attaches, which moves no RDMA devices.
    pub by_hook: bool,
    /// How much memory it can let containers lock; `None` until it has connected.
    pub memlock: Option<MemlockRoom>,
}

impl RuntimeFacts {
    /// What is known now.
    pub fn now(&self) -> Known {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It never calls.
    pub fn attached_by_hook(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_hook = true;
    }

    /// It has connected.
    pub fn can_lock(&self, memlock: Option<MemlockRoom>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).memlock = memlock;
    }
}
