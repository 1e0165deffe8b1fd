//! Kubelet, scheduler and runtime around a node that outlives every agent, what can happen to it, and what has to be so: the
//! same on every ground. The suites that tell lives on other grounds take it from here.

pub mod asks;
pub mod chance;
pub mod container;
pub mod create;
#[allow(dead_code, reason = "each suite has grounds of its own, and the double lacks nothing")]
pub mod ground;
pub mod hosted;
pub mod invariants;
pub mod misfortune;
pub mod node;
pub mod ops;
pub mod pods;
pub mod workload;
pub mod world;
