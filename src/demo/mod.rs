//! The embedded default: a node, an API server, a scheduler's and a kubelet's part, on any Linux machine.
//!
//! In: an address to listen on, claims to run. Out: the few Kubernetes resources that DRA needs, served over HTTP with
//! the semantics that a driver, a scheduler and `kubectl` rely on ([`apiserver`]); a simulated node of 8 or 16 rails
//! ([`world`]), with GPUs in name ([`gpus`]), with pods that are processes in network namespaces ([`pod`]); all that a claim needs around it ([`stage`], and [`claims`] as control planes write them).
//! The agent there is the real one, a process of its own behind its real sockets ([`agent`]). Never here: anything a production
//! agent needs; no room but `cli` and `app` may import this one.

pub mod agent;
pub mod apiserver;
pub mod claims;
pub mod gpus;
pub mod pod;
pub mod stage;
pub mod world;
