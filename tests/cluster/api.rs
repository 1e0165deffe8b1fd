//! A client that says what an API server answered, success or not.

use anyhow::{Context, Result, bail};
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// Media types of patches.
pub const MERGE: &str = "application/merge-patch+json";
/// A server-side apply.
pub const APPLY: &str = "application/apply-patch+yaml";

/// One API server, one user.
#[derive(Clone)]
pub struct Api {
    client: Client,
    impersonate: Option<String>,
}

impl Api {
    /// By a kubeconfig.
    ///
    /// # Errors
    /// When it is not usable.
    pub async fn of(kubeconfig: &str) -> Result<Self> {
        let read = Kubeconfig::from_yaml(kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        // A test wants to see every answer.
        config.default_retry = false;
        if config.cluster_url.scheme_str() == Some("http") {
            // Else the client would look for the machine's certificates, which not every machine has.
            config.root_cert.get_or_insert_default();
        }
        Ok(Self { client: Client::try_from(config)?, impersonate: None })
    }

    /// The same server as another user.
    pub fn as_user(&self, user: &str) -> Self {
        Self { impersonate: Some(user.to_owned()), ..self.clone() }
    }

    /// Status code and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask(&self, method: &str, path: &str, media: &str, body: &Value) -> Result<(u16, Value)> {
        let mut request = Request::builder().method(method).uri(path).header("content-type", media);
        if let Some(user) = &self.impersonate {
            request = request.header("impersonate-user", user);
        }
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let reply = self.client.send(request.body(body.into())?).await;
        let reply = reply.with_context(|| format!("{method} {path}"))?;
        let code = reply.status().as_u16();
        let bytes = reply.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((code, body))
    }

    async fn expect(&self, method: &str, path: &str, media: &str, body: &Value) -> Result<Value> {
        match self.ask(method, path, media, body).await? {
            (200..=299, body) => Ok(body),
            (code, body) => {
                let message = body["message"].as_str().map_or_else(|| body.to_string(), str::to_owned);
                bail!("{method} {path}: {code}: {message}")
            }
        }
    }

    /// What a path says that is no object.
    ///
    /// # Errors
    /// Any answer but 2xx.
    pub async fn text(&self, path: &str) -> Result<String> {
        let answer = self.expect("GET", path, "application/json", &Value::Null).await?;
        Ok(answer.as_str().map_or_else(|| answer.to_string(), str::to_owned))
    }

    /// Reads an object or a collection.
    ///
    /// # Errors
    /// The server's status.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.expect("GET", path, "application/json", &Value::Null).await
    }

    /// Items of a collection.
    ///
    /// # Errors
    /// The server's status.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path).await?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates an object in a collection.
    ///
    /// # Errors
    /// The server's status.
    pub async fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.expect("POST", collection, "application/json", object).await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// The server's status.
    pub async fn put(&self, path: &str, object: &Value) -> Result<Value> {
        self.expect("PUT", path, "application/json", object).await
    }

    /// Changes fields of an object.
    ///
    /// # Errors
    /// The server's status.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.expect("PATCH", path, MERGE, patch).await
    }

    /// Server-side apply, by force.
    ///
    /// # Errors
    /// The server's status.
    pub async fn apply(&self, path: &str, object: &Value) -> Result<Value> {
        self.expect("PATCH", &format!("{path}?fieldManager=cluster-suite&force=true"), APPLY, object).await
    }

    /// Deletes an object or a collection; one that is gone is fine.
    ///
    /// # Errors
    /// The server's status.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.ask("DELETE", path, "application/json", &json!({})).await? {
            (200..=299 | 404, _) => Ok(()),
            (code, body) => bail!("DELETE {path}: {code}: {body}"),
        }
    }
}
