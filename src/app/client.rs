//! The API client: from a kubeconfig, else from the pod's service account.

use std::path::Path;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// What has no budget of its own, such as the beginning of a watch, is asked again after this.
const UNANSWERED: std::time::Duration = std::time::Duration::from_secs(120);

/// Makes the client; nothing is asked yet.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {} can't be read", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("kubeconfig {} is not usable", path.display()))?
        }
        None => Config::incluster().context(
            "there is no service account to reach the API server with: outside a cluster, name a kubeconfig with \
             --kubeconfig (or KUBECONFIG)",
        )?,
    };
    // Callers have budgets of their own, and say what they wait for.
    config.default_retry = false;
    config.connect_timeout = Some(std::time::Duration::from_secs(5));
    if config.cluster_url.scheme_str() == Some("http") {
        // Without a CA the client looks for the system's, also for plain HTTP, and an image from scratch has none.
        config.root_cert.get_or_insert_default();
    }
    let client = kube::client::ClientBuilder::try_from(config).context("the API client can't be set up")?;
    // Until an answer begins: a watch that begins may be quiet for as long as it likes.
    Ok(client.with_layer(&TimeoutLayer::new(UNANSWERED)).build())
}
