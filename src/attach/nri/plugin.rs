//! Keeps one registration alive: connect, handshake, serve, and again when the runtime goes away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::link::{CallError, Link, Peer};
use super::proto::api;
use super::session::{Phase, RUNTIME_SERVICE, Session};
use super::{NriError, PodEvents, mux};

/// What runtimes wait for a registration by default, doubled: they measure, this side only must not hang.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// First pause between attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// Longest pause while nobody listens. Pods that start meanwhile miss their event, and a connect costs nothing.
const PAUSE_ABSENT: Duration = Duration::from_secs(1);
/// Longest pause while the runtime takes connections and ends them.
const PAUSE_BROKEN: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next attempt comes soon again.
const GOOD: Duration = Duration::from_secs(5);

/// Where to register, as what.
#[derive(Debug, Clone)]
pub struct Config {
    /// The runtime's socket, `/var/run/nri/nri.sock`.
    pub socket: PathBuf,
    /// Plugin name: letters, digits and `_.+-`.
    pub name: String,
    /// Plugin index, exactly two digits: the place in the order of plugins.
    pub index: String,
    /// Where an attach that fails or takes too long stops the pod.
    pub run_errors: RunErrors,
}

impl Config {
    /// Errors of RunPodSandbox are answered where the runtime bears it.
    pub fn new(socket: impl Into<PathBuf>, name: impl Into<String>, index: impl Into<String>) -> Self {
        Self {
            socket: socket.into(),
            name: name.into(),
            index: index.into(),
            run_errors: RunErrors::ByRuntime,
        }
    }
}

/// What becomes of an error of [`PodEvents::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunErrors {
    /// The runtime hears of it: the sandbox fails, the kubelet tries again with a new one.
    ///
    /// containerd before 2.2.6 (2.1 has no fix) keeps the record of such a sandbox, and does not start any more after
    /// its next restart once the pod has got another one: `failed to reserve sandbox name ... is reserved for`
    /// (containerd issue 13609; seen with 2.1.9).
    Answer,
    /// It is logged and the sandbox goes on: for those runtimes. Then [`PodEvents::create_container`] has to refuse
    /// (or attach) until the VFs are there, which the kubelet tries again as well, in the same sandbox.
    LeaveToContainers,
    /// The former, but the latter for runtimes that have the fault ([`Runtime::keeps_failed_sandboxes`]).
    ByRuntime,
}

/// The runtime as it introduced itself in Configure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd`, `cri-o`
    pub name: String,
    /// Its version.
    pub version: String,
    /// How long it waits for an answer; answers are given within 60 % of it.
    pub request_timeout: Duration,
}

impl Runtime {
    /// Whether a sandbox that an NRI plugin refuses stops the runtime from starting again (containerd issue 13609,
    /// fixed in 2.2.6). A containerd whose version says nothing, or that the fix is not known to be in, is taken to.
    pub fn keeps_failed_sandboxes(&self) -> bool {
        if self.name != "containerd" {
            return false;
        }
        let mut numbers = self.version.trim_start_matches('v').splitn(3, '.').map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().unwrap_or(0)
        });
        let (major, minor, patch) =
            (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let fixed = matches!((major, minor, patch), (2, 2, 6..) | (2, 4.., _) | (3.., _, _));
        !fixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runtimes_that_bear_it_are_told_of_a_refused_sandbox() {
        let keeps = |name: &str, version: &str| {
            let runtime =
                Runtime { name: name.into(), version: version.into(), request_timeout: Duration::ZERO };
            runtime.keeps_failed_sandboxes()
        };
        for version in ["1.7.29", "2.0.1", "v2.1.9", "2.1.9+unknown", "2.2.5", "2.3.0-rc.1", "", "main"] {
            assert!(keeps("containerd", version), "{version}");
        }
        for version in ["2.2.6", "v2.2.10+ds1", "2.4.0", "3.0.0"] {
            assert!(!keeps("containerd", version), "{version}");
        }
        assert!(!keeps("cri-o", "1.34.0"));
    }
}

/// Whether pods that start now get their VFs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Not registered.
    Disconnected {
        /// Since when.
        since: SystemTime,
        /// Why the last attempt or connection ended; `None` before the first.
        reason: Option<String>,
    },
    /// Registered, configured and synchronized.
    Connected {
        /// Since when.
        since: SystemTime,
        /// With whom.
        runtime: Runtime,
    },
}

/// The plugin. [`Plugin::run`] does the work.
#[derive(Debug)]
pub struct Plugin {
    config: Config,
    state: watch::Sender<Connection>,
}

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Nobody,
    Runtime,
    Synchronized,
}

impl Plugin {
    /// Checks the settings; connects to nothing yet.
    ///
    /// # Errors
    /// A name or index that runtimes refuse.
    pub fn new(config: Config) -> Result<Self, NriError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'+' | b'-');
        if config.name.is_empty() || !config.name.bytes().all(plain) {
            return Err(NriError::Setting {
                what: "name",
                value: config.name,
                problem: "has to be of letters, digits and `_.+-`",
            });
        }
        if config.index.len() != 2 || !config.index.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NriError::Setting {
                what: "index",
                value: config.index,
                problem: "has to be of exactly two digits, like 10",
            });
        }
        let state = watch::Sender::new(Connection::Disconnected { since: SystemTime::now(), reason: None });
        Ok(Self { config, state })
    }

    /// The connection as it is.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.state.subscribe()
    }

    /// Serves until `stop`; then waits for open requests to be answered, so that no pod starts without its VFs because
    /// this process ends.
    pub async fn run<E: PodEvents>(self, events: Arc<E>, stop: CancellationToken) {
        let synchronizing = Arc::default();
        let mut pause = PAUSE_FIRST;
        while !stop.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let session = Arc::new(Session::new(
                Arc::clone(&events),
                Arc::clone(&synchronizing),
                self.config.run_errors,
            ));
            let mut reached = Reached::Nobody;
            let Err(error) = self.connect(&session, &stop, &mut reached).await else {
                break;
            };
            self.disconnected(&error);
            if reached == Reached::Synchronized && begun.elapsed() >= GOOD {
                pause = PAUSE_FIRST;
            }
            let longest = if reached == Reached::Nobody { PAUSE_ABSENT } else { PAUSE_BROKEN };
            if stop.run_until_cancelled(tokio::time::sleep(pause.min(longest))).await.is_none() {
                break;
            }
            pause = (pause * 2).min(longest);
        }
        let reason = Some("this driver is shutting down".to_owned());
        self.state.send_replace(Connection::Disconnected { since: SystemTime::now(), reason });
    }

    /// One connection from begin to end; `Ok` only when `stop` ended it.
    async fn connect<E: PodEvents>(
        &self,
        session: &Arc<Session<E>>,
        stop: &CancellationToken,
        reached: &mut Reached,
    ) -> Result<(), NriError> {
        let stream = UnixStream::connect(&self.config.socket)
            .await
            .map_err(|source| NriError::Connect { socket: self.config.socket.clone(), source })?;
        *reached = Reached::Runtime;
        // Whoever listens made the socket (unix(7), SO_PEERCRED); a process of another PID namespace is 0.
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid != 0);
        session.connected(pid);
        let mut link = Link::start(stream, mux::PLUGIN, Arc::clone(session));
        let peer = Arc::clone(&link.peer);
        let outcome = tokio::select! {
            outcome = self.handshake(&peer, session) => outcome,
            () = stop.cancelled() => Ok(()),
        };
        if let Err(NriError::Closed { .. }) = outcome {
            // The reader knows whether it was closed or broken.
            link.closed().await?;
        }
        outcome?;
        if !stop.is_cancelled() {
            *reached = Reached::Synchronized;
        }
        tokio::select! {
            ended = link.closed() => {
                let closed = NriError::Closed { when: "(it stopped, or an answer came too late)" };
                return Err(ended.err().unwrap_or(closed));
            }
            () = stop.cancelled() => {}
        }
        link.close(session.budget(None)).await;
        Ok(())
    }

    async fn handshake<E: PodEvents>(&self, peer: &Peer, session: &Session<E>) -> Result<(), NriError> {
        let late = |what| NriError::Handshake { what, seconds: HANDSHAKE.as_secs() };
        let deadline = tokio::time::Instant::now() + HANDSHAKE;
        let mut phase = session.phase();
        let request = api::RegisterPluginRequest {
            plugin_name: self.config.name.clone(),
            plugin_idx: self.config.index.clone(),
            nri_version: String::new(),
        };
        peer.call(RUNTIME_SERVICE, "RegisterPlugin", request.encode_to_vec(), HANDSHAKE).await.map_err(
            |error| match error {
                CallError::Status(status) => NriError::Refused { code: status.code, message: status.message },
                CallError::Timeout => late("answer"),
                CallError::Closed => NriError::Closed { when: "during the registration" },
            },
        )?;
        // Configure may have come before the answer.
        let synchronized = phase.wait_for(|phase| matches!(phase, Phase::Synchronized(_)));
        let synchronized = tokio::select! {
            outcome = tokio::time::timeout_at(deadline, synchronized) => outcome.ok().and_then(Result::ok),
            () = peer.closed() => return Err(NriError::Closed { when: "during the registration" }),
        };
        let runtime = match synchronized.as_deref() {
            Some(Phase::Synchronized(runtime)) => runtime.clone(),
            _ => {
                drop(synchronized);
                let configured = matches!(*session.phase().borrow(), Phase::Configured(_));
                return Err(late(if configured { "synchronize" } else { "configure this plugin" }));
            }
        };
        tracing::info!(socket = %self.config.socket.display(), runtime = %runtime.name, version = %runtime.version,
            request_timeout_ms = runtime.request_timeout.as_millis(), "registered with the runtime over NRI");
        self.state.send_replace(Connection::Connected { since: SystemTime::now(), runtime });
        Ok(())
    }

    /// Each reason is logged once, not at every attempt.
    fn disconnected(&self, error: &NriError) {
        let mut sentence = error.to_string();
        if let NriError::Io(source) = error {
            sentence = format!("{sentence}: {source}");
        }
        let news = self.state.send_if_modified(|now| match now {
            Connection::Disconnected { reason: Some(reason), .. } if *reason == sentence => false,
            Connection::Disconnected { reason, .. } => {
                *reason = Some(sentence.clone());
                true
            }
            Connection::Connected { .. } => {
                *now = Connection::Disconnected { since: SystemTime::now(), reason: Some(sentence.clone()) };
                true
            }
        });
        if news {
            tracing::error!(error = %sentence,
                "no NRI connection: pods that claim VFs can't get them until it is back; trying again");
        }
    }
}
