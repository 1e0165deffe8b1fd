//! The decoders of the wire for tests that feed them anything a runtime may send.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::link::{Answers as _, Link, Question};
use super::plugin::RunErrors;
use super::proto::google::rpc::Status;
use super::proto::ttrpc::Request;
use super::session::{PLUGIN_SERVICE, Session};
use super::ttrpc::Messages;
use super::{NriError, PodEvents, mux};

/// A message of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The connection of the mux.
    pub connection: u32,
    /// The stream of ttrpc.
    pub stream: u32,
    /// The type of ttrpc.
    pub kind: u8,
    /// What is in it.
    pub data: Vec<u8>,
}

/// The messages of both connections, from a stream that is read `read` bytes at a time; in the order in which they became
/// whole.
///
/// # Errors
/// As of a live connection, which ends then; with what came before.
pub fn taken_apart(stream: &[u8], read: usize) -> (Vec<Piece>, Result<(), NriError>) {
    let mut demux = mux::Demux::default();
    let mut connections = [(1, Messages::default()), (2, Messages::default())];
    let mut pieces = Vec::new();
    let outcome = stream.chunks(read.max(1)).try_for_each(|part| {
        demux.feed(part, |connection, piece| {
            let known = connections.iter_mut().find(|(number, _)| *number == connection);
            let Some((_, messages)) = known else { return Ok(()) };
            messages.push(piece);
            while let Some(message) = messages.next()? {
                let (stream, kind, data) = (message.stream, message.kind, message.data.to_vec());
                pieces.push(Piece { connection, stream, kind, data });
            }
            Ok(())
        })
    });
    (pieces, outcome)
}

/// Messages in frames, as they are sent.
pub fn put_together(pieces: &[Piece]) -> Vec<u8> {
    let message = |piece: &Piece| {
        let mut bytes = u32::try_from(piece.data.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        bytes.extend(piece.stream.to_be_bytes());
        bytes.extend([piece.kind, 0]);
        bytes.extend(&piece.data);
        mux::frames(piece.connection, &bytes)
    };
    pieces.iter().flat_map(message).collect()
}

/// A request of the runtime as it is sent to a plugin.
pub fn request(stream: u32, method: &str, payload: Vec<u8>) -> Piece {
    let request = Request {
        service: PLUGIN_SERVICE.to_owned(),
        method: method.to_owned(),
        payload: payload.into(),
        timeout_nano: 0,
        metadata: Vec::new(),
    };
    Piece { connection: mux::PLUGIN.serves, stream, kind: 1, data: request.encode_to_vec() }
}

/// Answers to one request of a runtime that was not heard of before.
///
/// # Errors
/// The code and the sentence of the answer.
pub async fn answer<E: PodEvents>(
    events: Arc<E>,
    method: &str,
    payload: Vec<u8>,
) -> Result<Vec<u8>, (i32, String)> {
    let (service, method) = (PLUGIN_SERVICE.to_owned(), method.to_owned());
    let question = Question { service, method, payload: payload.into(), timeout: None };
    let answer = session(events).answer(question).await;
    answer.map_err(|Status { code, message }| (code, message))
}

/// Serves a runtime that sends these bytes and hangs up.
///
/// # Errors
/// Why the connection ended, if not because the runtime hung up.
pub async fn serve<E: PodEvents>(events: Arc<E>, stream: &[u8]) -> Result<(), NriError> {
    let (mut runtime, plugin) = UnixStream::pair()?;
    let mut link = Link::start(plugin, mux::PLUGIN, session(events));
    // Who stopped reading is told by its own outcome.
    let _ = runtime.write_all(stream).await;
    let _ = runtime.shutdown().await;
    let outcome = link.closed().await;
    link.close(Duration::from_secs(1)).await;
    outcome
}

fn session<E: PodEvents>(events: Arc<E>) -> Arc<Session<E>> {
    Arc::new(Session::new(events, Arc::default(), RunErrors::Answer))
}
