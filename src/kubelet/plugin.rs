//! The life of the two sockets: served, put back when somebody deletes them, taken away in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Router;

use super::flight::Flights;
use super::proto::registration::registration_server::RegistrationServer;
use super::proto::{v1, v1beta1};
use super::service::{DraService, RegistrationService};
use super::socket::SocketFile;
use super::{ClaimRef, ClaimService, KubeletError, SocketPaths};

/// How often the socket files are looked at: two `stat`s. (A watch on a directory that is itself deleted and made again
/// would need this as well.)
const LOOK: Duration = Duration::from_secs(1);
/// How long connections get to end by themselves once the work on them is done.
const CLOSING: Duration = Duration::from_millis(500);

/// Who registers, where.
#[derive(Debug, Clone)]
pub struct Config {
    /// Driver name.
    pub driver: String,
    /// The kubelet's root directory, by the path the kubelet itself uses.
    pub kubelet_dir: PathBuf,
    /// Set where several instances may live beside each other (a DaemonSet with surge): each has its own sockets.
    pub pod_uid: Option<String>,
    /// How long [`Plugin::shutdown`] waits for work under way.
    pub drain: Duration,
}

impl Config {
    /// No pod UID; 10 s to drain.
    pub fn new(driver: impl Into<String>, kubelet_dir: impl Into<PathBuf>) -> Self {
        Self {
            driver: driver.into(),
            kubelet_dir: kubelet_dir.into(),
            pod_uid: None,
            drain: Duration::from_secs(10),
        }
    }
}

/// What the kubelet thinks of this driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// The socket is there, the kubelet has not called yet (or the socket had to be made again).
    Waiting,
    /// The kubelet said so.
    Registered,
    /// The kubelet refused; its reason. Ending the process, so that the next start tries again, is the usual answer.
    Refused(String),
    /// The socket was lost and could not be made again; tried every second.
    Broken(String),
}

/// A driver that the kubelet can find and call.
#[derive(Debug)]
pub struct Plugin {
    paths: SocketPaths,
    state: Arc<watch::Sender<Registration>>,
    stop: CancellationToken,
    supervisor: Option<JoinHandle<Vec<ClaimRef>>>,
}

impl Plugin {
    /// Serves DRA v1 and v1beta1, then the registration socket (the kubelet may call DRA at once).
    ///
    /// # Errors
    /// A path that does not fit, a directory that can't be made, a socket that can't be bound or on which another
    /// process listens.
    pub async fn start<S: ClaimService>(config: Config, service: Arc<S>) -> Result<Self, KubeletError> {
        let Config { driver, kubelet_dir, pod_uid, drain } = config;
        let paths = SocketPaths::new(&kubelet_dir, &driver, pod_uid.as_deref())?;
        let state = Arc::new(watch::Sender::new(Registration::Waiting));
        let flights = Flights::new(service);
        let calls = DraService::new(Arc::clone(&flights));
        let dra_router = Server::builder()
            .add_service(v1::dra_plugin_server::DraPluginServer::new(calls.clone()))
            .add_service(v1beta1::dra_plugin_server::DraPluginServer::new(calls));
        let registration = RegistrationService {
            driver,
            // SocketPaths has refused directories that are not UTF-8.
            endpoint: paths.dra.to_string_lossy().into_owned(),
            state: Arc::clone(&state),
        };
        let reg_router = Server::builder().add_service(RegistrationServer::new(registration));

        let dra = Served::start(paths.dra.clone(), dra_router).await?;
        let registration = match Served::start(paths.registration.clone(), reg_router).await {
            Ok(served) => served,
            Err(error) => {
                dra.end_now();
                return Err(error);
            }
        };
        tracing::info!(endpoint = %paths.dra.display(), registration = %paths.registration.display(),
            "waiting for the kubelet");
        let stop = CancellationToken::new();
        let supervisor = Supervisor { dra, registration, flights, state: Arc::clone(&state), drain };
        let supervisor = Some(tokio::spawn(supervisor.run(stop.clone())));
        Ok(Self { paths, state, stop, supervisor })
    }

    /// The registration as the kubelet last reported it.
    pub fn registration(&self) -> watch::Receiver<Registration> {
        self.state.subscribe()
    }

    /// Where the sockets are.
    pub fn paths(&self) -> &SocketPaths {
        &self.paths
    }

    /// Removes the registration socket first (the kubelet then turns to another instance, and lets go of this one),
    /// stops accepting, waits for work under way at most [`Config::drain`], removes the DRA socket. Sockets that are
    /// not this process's any more stay.
    ///
    /// Returns the claims whose work was not done in time; their tasks go on until the process ends.
    pub async fn shutdown(mut self) -> Vec<ClaimRef> {
        self.stop.cancel();
        match self.supervisor.take() {
            Some(supervisor) => supervisor.await.unwrap_or_default(),
            None => Vec::new(),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // Without `shutdown` nobody waits, but the sockets still go in order.
        self.stop.cancel();
    }
}

/// One socket and the server behind it.
#[derive(Debug)]
struct Served {
    path: PathBuf,
    file: SocketFile,
    router: Router,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    async fn start(path: PathBuf, router: Router) -> Result<Self, KubeletError> {
        let (file, listener) = SocketFile::bind(&path).await?;
        let stop = CancellationToken::new();
        let server = spawn_server(router.clone(), listener, stop.clone());
        Ok(Self { path, file, router, stop, server })
    }

    fn is_healthy(&self) -> bool {
        self.file.is_in_place() && !self.server.is_finished()
    }

    /// Listens anew. Calls on the old socket's connections end by themselves.
    async fn restart(&mut self) -> Result<(), KubeletError> {
        if self.server.is_finished() {
            self.file.unlink()?;
        }
        let (file, listener) = SocketFile::bind(&self.path).await?;
        self.stop.cancel();
        self.stop = CancellationToken::new();
        self.server = spawn_server(self.router.clone(), listener, self.stop.clone());
        self.file = file;
        Ok(())
    }

    fn unlink(&self) {
        if let Err(error) = self.file.unlink() {
            tracing::warn!(error = %error, "socket stays behind");
        }
    }

    fn end_now(self) {
        self.unlink();
        self.server.abort();
    }
}

fn spawn_server(router: Router, listener: UnixListener, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            tracing::error!(error = %error, "a server for the kubelet ended; it will be started again");
        }
    })
}

/// Owns both sockets until the end.
#[derive(Debug)]
struct Supervisor<S> {
    dra: Served,
    registration: Served,
    flights: Arc<Flights<S>>,
    state: Arc<watch::Sender<Registration>>,
    drain: Duration,
}

impl<S: ClaimService> Supervisor<S> {
    async fn run(mut self, stop: CancellationToken) -> Vec<ClaimRef> {
        let mut before_broken = None;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            // DRA first: a new registration socket makes the kubelet call it.
            if !self.dra.is_healthy() {
                // The kubelet sees a new file of the registration, not of this one: what it knows stays as it was.
                let before = self.state.borrow().clone();
                if restore(&mut self.dra, &self.state).await {
                    let now = before_broken.take().unwrap_or(before);
                    self.state.send_replace(now);
                } else {
                    before_broken.get_or_insert(before);
                }
            }
            if !self.registration.is_healthy() && restore(&mut self.registration, &self.state).await {
                self.state.send_replace(Registration::Waiting);
            }
        }
        self.end().await
    }

    async fn end(mut self) -> Vec<ClaimRef> {
        self.registration.unlink();
        self.registration.stop.cancel();
        self.dra.stop.cancel();
        let work = tokio::time::timeout(self.drain, self.flights.idle()).await;
        let unfinished = if work.is_err() { self.flights.unfinished() } else { Vec::new() };
        for claim in &unfinished {
            tracing::warn!(claim = %claim.uid, namespace = %claim.namespace, name = %claim.name,
                "stopping while this claim's work is still running; the next start repairs it");
        }
        for served in [&mut self.dra, &mut self.registration] {
            // The answers are on their way; a peer that keeps its connection open must not keep this process.
            if tokio::time::timeout(CLOSING, &mut served.server).await.is_err() {
                served.server.abort();
            }
        }
        self.dra.unlink();
        unfinished
    }
}

/// Whether the socket is there again.
async fn restore(served: &mut Served, state: &watch::Sender<Registration>) -> bool {
    let Err(error) = served.restart().await else {
        tracing::warn!(socket = %served.path.display(), "socket was gone; made it again");
        return true;
    };
    let sentence = describe(&error);
    let broken = Registration::Broken(sentence.clone());
    if state.send_if_modified(|now| std::mem::replace(now, broken.clone()) != broken) {
        tracing::error!(error = %sentence, "cannot make a socket for the kubelet again; trying every second");
    }
    false
}

/// The error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
