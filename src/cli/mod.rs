//! The commands.
//!
//! In: arguments. Out: one command run to its end. Never here: how a command does its work beyond its own file.

pub mod image;
pub mod tar;
