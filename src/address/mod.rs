//! Addresses of pools, without leases: the address of a VF is its number in the block of its PF. Pure.
//!
//! In: AddressPools, the AddressBlocks of a node, its PFs. Out: which block a PF may claim, and for a VF its address,
//! gateways and routes, or the sentence why it has none ([`Book::assign`]). A block, once claimed, says by itself which VF
//! has which address. Never here: I/O, who claims and when (that is `controller`).

mod assign;
mod book;
mod object;
mod overlap;
mod pool;
mod read;
mod span;
mod spec;
#[cfg(test)]
mod tests;

pub use assign::{Assigned, NoAddress, PoolRoute, assign};
pub use book::{Book, OfPf, Page};
pub use object::{AddressBlock, AddressPool, BlockStatus, GROUP, PoolStatus, VERSION};
pub use overlap::{Overlap, overlaps};
pub use pool::{Family, Gateway, Pool, RouteRule, usable};
pub use read::{PoolFault, PoolFaults, gives_any, read};
pub use span::{Span, SpanError};
pub use spec::{Block, FamilySpec, Mode, Parent, PfSelector, PoolSpec, RouteSpec};
