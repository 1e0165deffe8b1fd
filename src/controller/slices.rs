//! Offered devices to ResourceSlices, and the difference to what exists. Pure.
