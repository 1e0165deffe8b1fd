//! etcd, API server, controller manager and scheduler, with the usual ports on a network of their own.
//!
//! No certificates are made here: the API server signs one for itself at its start, and its key also signs service
//! account tokens. Components log in with tokens from a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::api::Api;
use crate::assets::Assets;
use crate::process::{Process, wait_for};

/// What the certificate is good for, and what pods are told; on `lo`, so that it needs no kube-proxy.
pub const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The node's address, on the pods' bridge.
pub const NODE_ADDRESS: &str = "10.97.0.1";
/// Node name.
pub const NODE: &str = "node-a";

/// Users, groups; the token is made of the user.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("kcm", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", "system:node:node-a", "system:nodes"),
];

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    /// None while it is away.
    apiserver: Option<Process>,
    others: Vec<Process>,
    assets: Assets,
    folder: PathBuf,
    logs: PathBuf,
}

impl Plane {
    /// Starts it; ready when this returns.
    ///
    /// # Errors
    /// When a part does not start or is not ready within two minutes.
    pub async fn start(assets: &Assets, folder: &Path, logs: &Path) -> Result<Self> {
        let pki = folder.join("pki");
        fs::create_dir_all(&pki)?;
        let mut tokens = String::new();
        for (name, user, groups) in USERS {
            tokens += &format!("{name}-token,{user},{name},\"{groups}\"\n");
            fs::write(folder.join(format!("{name}.kubeconfig")), kubeconfig(&pki, name))?;
        }
        fs::write(pki.join("tokens.csv"), tokens)?;
        let mut etcd = assets.command("etcd");
        etcd.arg("--data-dir").arg(folder.join("etcd")).args(["--unsafe-no-fsync", "--log-level=warn"]);
        let mut plane = Self {
            apiserver: None,
            others: vec![Process::start("etcd", etcd, logs)?],
            assets: assets.clone(),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
        };
        plane.start_apiserver().await?;

        let mut kcm = assets.command("kube-controller-manager");
        kcm.arg("--kubeconfig")
            .arg(folder.join("kcm.kubeconfig"))
            .args(["--leader-elect=false", "--use-service-account-credentials=true"])
            .arg("--service-account-private-key-file")
            .arg(pki.join("apiserver.key"))
            .arg("--root-ca-file")
            .arg(pki.join("apiserver.crt"));
        plane.others.push(Process::start("kube-controller-manager", kcm, logs)?);
        let mut scheduler = assets.command("kube-scheduler");
        scheduler.arg("--leader-elect=false").arg("--kubeconfig").arg(folder.join("scheduler.kubeconfig"));
        plane.others.push(Process::start("kube-scheduler", scheduler, logs)?);
        Ok(plane)
    }

    /// Starts the API server, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not within two minutes.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let pki = self.folder.join("pki");
        let key = pki.join("apiserver.key");
        let mut apiserver = self.assets.command("kube-apiserver");
        apiserver
            .args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=443", "--allow-privileged=true"])
            .arg(format!("--advertise-address={NODE_ADDRESS}"))
            .args(["--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=Node,RBAC"])
            .args([
                "--enable-admission-plugins=NodeRestriction",
                "--kubelet-preferred-address-types=InternalIP",
            ])
            .arg("--cert-dir")
            .arg(&pki)
            .arg("--token-auth-file")
            .arg(pki.join("tokens.csv"))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg("--service-account-key-file")
            .arg(&key)
            .arg("--service-account-signing-key-file")
            .arg(&key);
        self.apiserver = Some(Process::start("kube-apiserver", apiserver, &self.logs)?);
        wait_for(Duration::from_secs(120), "the API server", async || {
            self.check()?;
            let api = self.api().await?;
            api.text("/readyz").await
        })
        .await
        .map(drop)
    }

    /// The API server keeps its connections and says nothing any more.
    ///
    /// # Errors
    /// When there is none.
    pub fn silence_apiserver(&self) -> Result<()> {
        self.apiserver.as_ref().context("no API server is running")?.signal("STOP")
    }

    /// The API server is gone from one moment to the next: who calls is refused.
    pub fn kill_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A client with the administrator's rights.
    ///
    /// # Errors
    /// While the API server has not made its certificate yet.
    pub async fn api(&self) -> Result<Api> {
        Api::of(&fs::read_to_string(self.kubeconfig())?).await
    }

    /// A client that logs in with a token.
    ///
    /// # Errors
    /// When the kubeconfig made of it is not usable.
    pub async fn api_with(&self, token: &str) -> Result<Api> {
        let text = fs::read_to_string(self.kubeconfig())?;
        Api::of(&text.replace("admin-token", token)).await
    }

    /// That all parts still run.
    ///
    /// # Errors
    /// Names the one that ended.
    pub fn check(&mut self) -> Result<()> {
        let mut all = self.apiserver.iter_mut().chain(&mut self.others);
        all.try_for_each(Process::check).context("the control plane")
    }
}

/// The file the API server writes holds its certificate and the one that signed it.
fn kubeconfig(pki: &Path, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters: [{{name: lab, cluster: {{server: \"https://{SERVICE_ADDRESS}\", certificate-authority: {}}}}}]\n\
         users: [{{name: {name}, user: {{token: {name}-token}}}}]\n\
         contexts: [{{name: lab, context: {{cluster: lab, user: {name}}}}}]\n",
        pki.join("apiserver.crt").display()
    )
}
