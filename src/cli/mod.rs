//! cli: to be written.

pub mod inventory;
