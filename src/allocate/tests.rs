//! Searches that a naive search would not finish.
