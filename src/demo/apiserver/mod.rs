//! An API server in memory, over plain HTTP/1.1: the resources of DRA and the few core ones around it.
//!
//! In: a TCP or unix listener. Out: get, list, watch, create, update, patch (merge, JSON, server-side apply), delete
//! and discovery, with the API's validation and the API's words for what is wrong. Tests inject faults, watch the
//! requests, and reach into the store. No authentication, no admission, no other kinds of objects, nothing on disk.

mod apply;
mod decode;
mod discovery;
mod faults;
mod fields;
mod http;
mod json_patch;
mod object;
mod openapi;
mod pods;
mod request;
mod resources;
mod rest;
mod selector;
mod status;
mod store;
mod validate;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, ToSocketAddrs, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use faults::{Fault, Faults, Logged};
pub use resources::{RESOURCES, Resource};
pub use store::{Change, Key, Objects, Store, Stored};

/// What keeps the server from running or being reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// As asked for.
        address: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// No client for it can be made.
    #[error("client for {url}")]
    Client {
        /// The server's URL.
        url: String,
        /// The API client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// It listens on a unix socket, which the API client doesn't speak.
    #[error("{0} is a unix socket; only a server on TCP has a URL")]
    NoUrl(PathBuf),
}

/// Where a server listens.
#[derive(Debug)]
pub enum Listener {
    /// TCP, the usual one.
    Tcp(TcpListener),
    /// A unix socket, for `curl --unix-socket` and guests without a network.
    Unix(UnixListener),
}

#[derive(Debug, Clone)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What every connection shares.
#[derive(Debug)]
struct Shared {
    store: Store,
    faults: Faults,
}

/// A running server; it ends with [`ApiServer::stop`] or when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: Address,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// An empty server on `address`; port 0 takes a free one.
    pub async fn start(address: impl ToSocketAddrs + std::fmt::Debug) -> Result<Self, Error> {
        Self::start_with(address, Store::default()).await
    }

    /// A server with the objects of another one, such as one that was stopped.
    pub async fn start_with(
        address: impl ToSocketAddrs + std::fmt::Debug,
        store: Store,
    ) -> Result<Self, Error> {
        let name = format!("{address:?}");
        let listener = TcpListener::bind(address).await;
        Self::serve(Listener::Tcp(listener.map_err(|source| Error::Listen { address: name, source })?), store)
    }

    /// A server on a listener of the caller.
    pub fn serve(listener: Listener, store: Store) -> Result<Self, Error> {
        let address = match &listener {
            Listener::Tcp(tcp) => tcp.local_addr().map(Address::Tcp),
            Listener::Unix(unix) => {
                let path = unix.local_addr().map(|a| a.as_pathname().map(PathBuf::from).unwrap_or_default());
                path.map(Address::Unix)
            }
        };
        let address = address.map_err(|source| Error::Listen {
            address: "the listener that was handed over".to_owned(),
            source,
        })?;
        let shared = Arc::new(Shared { store, faults: Faults::default() });
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, shared.clone(), stop.clone()));
        Ok(Self { shared, address, stop, task: Some(task) })
    }

    /// `http://127.0.0.1:12345`
    pub fn url(&self) -> Result<String, Error> {
        match &self.address {
            Address::Tcp(address) => Ok(format!("http://{address}")),
            Address::Unix(path) => Err(Error::NoUrl(path.clone())),
        }
    }

    /// The TCP address, for a server that shall listen there again.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// A client for this server. It doesn't repeat a call by itself, so that the caller sees every 429 and 503.
    pub fn client(&self) -> Result<kube::Client, Error> {
        let url = self.url()?;
        let uri = url.parse::<::http::Uri>().map_err(|source| Error::Client {
            url: url.clone(),
            source: Box::new(kube::Error::HttpError(source.into())),
        })?;
        let mut config = kube::Config::new(uri);
        // Without a CA the client looks for the system's, also for plain HTTP, and not every machine has one.
        config.root_cert = Some(Vec::new());
        config.default_retry = false;
        let client = kube::Client::try_from(config);
        client.map_err(|source| Error::Client { url, source: Box::new(source) })
    }

    /// A client without a connection between it and the server: what it asks is answered where it asks.
    pub fn client_inside(&self) -> kube::Client {
        let shared = self.shared.clone();
        let answer = move |request: ::http::Request<kube::client::Body>| http::serve(request, shared.clone());
        kube::Client::new(tower::service_fn(answer), "default")
    }

    /// A kubeconfig for other processes, as YAML.
    pub fn kubeconfig(&self) -> Result<String, Error> {
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: embedded\n  cluster:\n    server: {}\nusers:\n\
             - name: anybody\n  user: {{}}\ncontexts:\n- name: embedded\n  context:\n    cluster: embedded\n    \
             user: anybody\ncurrent-context: embedded\n",
            self.url()?
        ))
    }

    /// The objects.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Faults and the log of requests.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Closes the listener and all connections; gives back the objects.
    pub async fn stop(mut self) -> Store {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It can only end.
            let _ = task.await;
        }
        self.shared.store.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: Listener, shared: Arc<Shared>, stop: CancellationToken) {
    // Dropping the set closes the connections.
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| {
                    let _ = stream.set_nodelay(true);
                    Stream::Tcp(stream)
                }),
                Listener::Unix(unix) => unix.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = accepted => match accepted {
                Ok(Stream::Tcp(stream)) => {
                    connections.spawn(http::connection(TokioIo::new(stream), shared.clone(), http::IDLE));
                }
                Ok(Stream::Unix(stream)) => {
                    connections.spawn(http::connection(TokioIo::new(stream), shared.clone(), http::IDLE));
                }
                // Out of descriptors: closing connections free them.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}
