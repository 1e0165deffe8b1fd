//! The plans of others' guides, as `examples/seeds` has them, on two simulated nodes: every interface reaches those of its
//! rail in the pod on the other node, replies leave the way they came, and `ip` shows what the guides show.
//!
//! The agents are the real ones, each in the network namespace that is its node, with one embedded API server's objects
//! between them. Needs root, or user namespaces (`unshare -Urnm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod faults;
mod nodes;
mod plans;
mod wire;
