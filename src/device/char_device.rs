//! Character devices that containers get.

use serde::{Deserialize, Serialize};

/// A character device node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CharDevice {
    /// Absolute, the same in the container.
    pub path: String,
    /// Of its driver.
    pub major: u32,
    /// Of the device; an RDMA device gets others whenever it is moved.
    pub minor: u32,
}
