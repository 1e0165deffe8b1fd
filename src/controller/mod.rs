//! Keeps the node's ResourceSlices as the policy says they are; in [`blocks`], its blocks of addresses.
//!
//! In: offered devices on a watch channel, the API server's slices of this driver and node. Out: creates, updates and
//! deletes of slices. An error backs off and is tried again; nothing here ends the process, and no Prepare ever
//! reaches this room. Never here: reading the kernel, claims.
//!
//! [`slices`] and [`split`] decide, [`view`] remembers, [`pace`] waits; only [`run`] talks to the server.

pub mod blocks;
mod dropped;
mod error;
mod listing;
mod pace;
mod run;
pub mod slices;
mod split;
mod view;

pub use error::Error;
pub use pace::Settings;
pub use run::{Controller, Offer, Published};
pub use split::Limits;
