//! demo: to be written.

#[cfg(any(test, feature = "testing"))]
pub mod cri;
