//! demo: to be written.
