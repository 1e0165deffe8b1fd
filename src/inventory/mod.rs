//! What the kernel shows, as one [`Snapshot`](crate::device::Snapshot).
//!
//! In: a sysfs root and the host's links and routes. Out: PFs and VFs with every fact that could be read; what could
//! not be read is absent, never guessed. Never here: whether a VF is offered (`policy`), Kubernetes.
