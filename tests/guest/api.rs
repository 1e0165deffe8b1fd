//! The API server the agent talks to in the guest: the embedded one, with the objects a scheduler would have made.

use anyhow::{Context, Result};
use kube::Client;
use serde_json::Value;
use sriov_dra::demo::apiserver::{ApiServer, Stored};

/// An API server for one story.
pub struct Api {
    server: ApiServer,
    client: Client,
}

impl Api {
    /// Starts it empty.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> Result<Self> {
        let server = ApiServer::start("127.0.0.1:0").await?;
        let mut config = kube::Config::new(server.url()?.parse()?);
        // The guest has no root certificates, and the client would look for some even for plain HTTP.
        config.root_cert = Some(Vec::new());
        Ok(Self { server, client: Client::try_from(config)? })
    }

    /// For `--kubeconfig`.
    ///
    /// # Errors
    /// None, as it listens on TCP.
    pub fn kubeconfig(&self) -> Result<String> {
        Ok(self.server.kubeconfig()?)
    }

    /// Creates an object; the path is its collection's, e.g. `/api/v1/nodes`.
    ///
    /// # Errors
    /// The server's status.
    pub async fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.send("POST", collection, object).await
    }

    /// Writes an object's `status`.
    ///
    /// # Errors
    /// The server's status.
    pub async fn put_status(&self, path: &str, object: &Value) -> Result<Value> {
        self.send("PUT", &format!("{path}/status"), object).await
    }

    /// Reads an object or a collection.
    ///
    /// # Errors
    /// The server's status.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, &Value::Null).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The server's status.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.send("DELETE", path, &Value::Null).await.map(drop)
    }

    /// Writes an object past the rules of the API, UID and all: this server is new, and the one before had it.
    ///
    /// # Errors
    /// When it is not of that kind, or the server does not serve that.
    pub fn put_back<K: Stored>(&self, object: Value) -> Result<()> {
        let object: K = serde_json::from_value(object)?;
        self.server.store().create(&object).context("the API server does not serve this kind").map(drop)
    }

    /// Begins to count writes of slices anew.
    pub fn forget_requests(&self) {
        self.server.faults().forget_requests();
    }

    /// Writes of ResourceSlices since then.
    pub fn slice_writes(&self) -> usize {
        self.server.faults().writes("resourceslices").len()
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let reply = self.client.request(request.body(body)?).await;
        reply.with_context(|| format!("{method} {path}"))
    }
}
