//! Decoders of bytes that come from elsewhere, fed with anything: each target is a function of bytes that asserts what
//! holds whatever they are.
//!
//! `cargo test --test fuzz` replays `corpus/<target>/` and then runs each target for two seconds on inputs made of it.
//! `tests/fuzz/long` runs a target for as long as wanted, guided by coverage. A file in the corpus is a good input from the
//! field, or a bad one that once did harm: its name says which.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod allocations;
mod engine;
mod kernel;
mod ledger;
mod mutants;
mod node;
mod objects;
mod runtime;
