//! observe: to be written.
