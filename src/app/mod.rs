//! The one composition root: makes every part, wires the channels, starts and ends them in order.
//!
//! In: the effective configuration. Out: a running agent. Never here: work of its own; each file beside this one joins
//! two rooms that must not know each other.

mod addresses;
mod advertise;
#[cfg(test)]
#[path = "tests/agent.rs"]
mod agent;
#[cfg(test)]
#[path = "tests/calls.rs"]
mod calls;
mod checks;
mod claims;
mod client;
mod doctor;
mod explain;
mod functions;
mod hook;
mod inventory;
#[cfg(test)]
#[path = "tests/lab.rs"]
mod lab;
mod node;
mod pods;
mod strays;

#[cfg(any(test, feature = "testing"))]
pub use claims::{Claims, PREPARES};
pub use doctor::{examine, roots as doctor_roots};
pub use explain::{Supply, read_cluster, read_machine};
#[cfg(any(test, feature = "testing"))]
pub use functions::NodeFunctions;
pub use hook::{Places, run_hook};
pub use inventory::{Looked, take_inventory};
pub use node::{NodeConfig, run_node};
