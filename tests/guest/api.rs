//! The API server the agent talks to in the guest: the embedded one, with the objects a scheduler would have made.

use anyhow::{Result, bail};
use serde_json::Value;

/// An API server for one story.
#[derive(Debug)]
pub struct Api {
    /// For `--kubeconfig`.
    pub kubeconfig: String,
}

impl Api {
    /// Starts it empty.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> Result<Self> {
        bail!("the embedded API server is not part of this tree yet")
    }

    /// Creates an object; the path is its collection's, e.g. `/api/v1/nodes`.
    ///
    /// # Errors
    /// The server's status.
    pub async fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        bail!("POST {collection} {object}")
    }

    /// Writes an object's `status`.
    ///
    /// # Errors
    /// The server's status.
    pub async fn put_status(&self, path: &str, object: &Value) -> Result<Value> {
        bail!("PUT {path}/status {object}")
    }

    /// Reads an object or a collection.
    ///
    /// # Errors
    /// The server's status.
    pub async fn get(&self, path: &str) -> Result<Value> {
        bail!("GET {path}")
    }
}
