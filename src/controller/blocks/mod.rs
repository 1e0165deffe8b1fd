//! Claims this node's blocks of addresses, keeps them, and says at the pools what is wrong with them.
//!
//! In: the node's PFs on a watch channel, the API server's AddressPools, its AddressBlocks of this node. Out: a
//! [`Book`](crate::address::Book) on a watch channel, from which every VF's address follows without asking anybody; blocks
//! created and deleted; conditions and events of pools.
//!
//! The name of a block is the whole coordination: `<pool>.<index>` can be created once. [`plan`] decides, [`claim`] finds a
//! free block, [`told`] tells people, [`run`] is the loop.

mod claim;
pub mod plan;
mod run;
mod told;

pub use plan::{NodePf, Pfs};
pub use run::{Blocks, Settings};
