//! sysfs below a root path that is a value, so that a tree in a temporary folder serves as well as `/sys`.
