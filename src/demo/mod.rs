//! The embedded API server, for machines without a cluster.
//!
//! In: an address to listen on. Out: the few Kubernetes resources that DRA needs, served over HTTP with the semantics
//! that a driver, a scheduler and `kubectl` rely on. The tests use it as their double, `sriov-dra demo` as its
//! default. Never here: anything a production agent needs; no room but `cli` and `app` may import this one.

pub mod apiserver;
#[cfg(any(test, feature = "testing"))]
pub mod cri;
