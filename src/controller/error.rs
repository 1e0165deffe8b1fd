//! What can go wrong between this room and the API server.

use std::error::Error as _;

use kube::core::Status;
use kube::runtime::watcher;

/// An error of one round; all of them are tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Node can't be read, so slices would have no owner.
    #[error("read Node {node}")]
    Node {
        /// Its name.
        node: String,
        /// The API client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The watch of the slices failed; it resumes by itself.
    #[error("watch ResourceSlices of driver {driver} on node {node}")]
    Watch {
        /// `spec.driver`
        driver: String,
        /// `spec.nodeName`
        node: String,
        /// The watcher's error.
        #[source]
        source: Box<watcher::Error>,
    },
    /// The watch of pools or blocks failed; it resumes by itself.
    #[error("watch {what}")]
    WatchAddresses {
        /// The kind.
        what: &'static str,
        /// The watcher's error.
        #[source]
        source: Box<watcher::Error>,
    },
    /// The server finds the object invalid (422); the causes name the fields.
    #[error("{verb} {kind} {name}: the API server rejects {causes}")]
    Rejected {
        /// create, update or delete
        verb: &'static str,
        /// Of which kind.
        kind: &'static str,
        /// Name or name prefix.
        name: String,
        /// `field: message`, separated by semicolons.
        causes: String,
    },
    /// Somebody else wrote or deleted the slice first (409, 404); the watch brings their version.
    #[error("{verb} {kind} {name}: it changed meanwhile")]
    Overtaken {
        /// create, update or delete
        verb: &'static str,
        /// Of which kind.
        kind: &'static str,
        /// Name or name prefix.
        name: String,
    },
    /// Any other failed write.
    #[error("{verb} {kind} {name}")]
    Write {
        /// create, update or delete
        verb: &'static str,
        /// Of which kind.
        kind: &'static str,
        /// Name or name prefix.
        name: String,
        /// The API client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer within the budget of a call.
    #[error("{what}: no answer from the API server within {seconds} s")]
    Timeout {
        /// The call.
        what: String,
        /// The budget.
        seconds: u64,
    },
}

impl Error {
    /// The error of a write, told apart by the server's answer.
    pub fn of_write(verb: &'static str, kind: &'static str, name: &str, source: kube::Error) -> Self {
        let name = name.to_owned();
        match source {
            kube::Error::Api(status) if status.code == 422 => {
                Self::Rejected { verb, kind, name, causes: causes(&status) }
            }
            kube::Error::Api(status) if status.code == 409 => Self::Overtaken { verb, kind, name },
            kube::Error::Api(status) if status.code == 404 && verb != "create" => {
                Self::Overtaken { verb, kind, name }
            }
            source => Self::Write { verb, kind, name, source: Box::new(source) },
        }
    }

    /// Nobody answers at all, so further calls of this round would only wait.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Write { source, .. } | Self::Node { source, .. } => {
                !matches!(**source, kube::Error::Api(_))
            }
            _ => false,
        }
    }

    /// The error and its sources in one line, the API server's answer by its message alone.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            if let Some(answer) = answer(error) {
                return format!("{text}: {answer}");
            }
            let part = match seen::<watcher::Error>(error) {
                // Its texts repeat all of the source.
                Some(watcher::Error::InitialListFailed(_)) => "list".to_owned(),
                Some(watcher::Error::WatchStartFailed(_)) => "start".to_owned(),
                Some(_) => "stream".to_owned(),
                None => error.to_string(),
            };
            // The same holds for errors of the transport.
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
            source = error.source();
        }
        text
    }
}

fn answer<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    let status = match seen::<kube::Error>(error) {
        Some(kube::Error::Api(status)) => status,
        _ => seen::<Status>(error)?,
    };
    Some(if status.message.is_empty() { &status.reason } else { &status.message })
}

/// The error as a `T`, in a box or not.
fn seen<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    error.downcast_ref::<T>().or_else(|| error.downcast_ref::<Box<T>>().map(|boxed| &**boxed))
}

fn causes(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<String> = causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    if causes.is_empty() { status.message.clone() } else { causes.join("; ") }
}
