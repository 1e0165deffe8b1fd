//! Limits of processes.

/// How much memory a process may let others lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemlockRoom {
    /// As much as it likes.
    All,
    /// At most these bytes: its own hard limit, which it may not raise.
    Bytes(u64),
}
