//! Questions and answers in both directions over one socket. Either end can use it: it only needs to know its side.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::NriError;
use super::mux::{Demux, Sides, frames};
use super::proto::google::rpc::Status;
use super::proto::ttrpc::{Request, Response};
use super::ttrpc::{self, Message, Messages, code};

/// Messages that wait to be written. The other end waits for answers, so more than a few never do.
const QUEUE: usize = 64;
/// How long the last answers get to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// A question from the other end.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) service: String,
    pub(super) method: String,
    pub(super) payload: Bytes,
    /// How long the other end waits; `None` without a limit of this request's own.
    pub(super) timeout: Option<Duration>,
}

/// Answers the other end's questions; each in its own task.
pub(super) trait Answers: Send + Sync + 'static {
    fn answer(self: Arc<Self>, question: Question) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;
}

/// How a call of the other end failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// It said so.
    Status(Status),
    /// No answer in time.
    Timeout,
    /// No answer any more.
    Closed,
}

#[derive(Debug, Default)]
struct Calls {
    last: u32,
    waiting: HashMap<u32, oneshot::Sender<Response>>,
}

/// The other end, to call.
#[derive(Debug)]
pub(super) struct Peer {
    out: mpsc::Sender<Vec<u8>>,
    connection: u32,
    calls: Mutex<Calls>,
    gone: CancellationToken,
}

impl Peer {
    pub(super) async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let (tell, answer) = oneshot::channel();
        let stream = {
            let mut calls = self.lock();
            if self.gone.is_cancelled() {
                return Err(CallError::Closed);
            }
            calls.last = if calls.last == 0 { 1 } else { calls.last.wrapping_add(2) };
            let stream = calls.last;
            calls.waiting.insert(stream, tell);
            stream
        };
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: payload.into(),
            timeout_nano: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let exchange = async {
            let message = ttrpc::request(stream, &request).map_err(|e| {
                CallError::Status(Status { code: code::RESOURCE_EXHAUSTED, message: e.to_string() })
            })?;
            self.out.send(frames(self.connection, &message)).await.map_err(|_| CallError::Closed)?;
            answer.await.map_err(|_| CallError::Closed)
        };
        let outcome = tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(CallError::Timeout));
        self.lock().waiting.remove(&stream);
        let response = outcome?;
        match response.status {
            Some(status) if status.code != 0 => Err(CallError::Status(status)),
            _ => Ok(response.payload),
        }
    }

    fn settle(&self, message: Message) {
        let Some(waiting) = self.lock().waiting.remove(&message.stream) else {
            tracing::debug!(stream = message.stream, "answer to a call that nobody waits for");
            return;
        };
        // Nothing sensible inside: the call ends as closed.
        if let Ok(response) = Response::decode(message.data) {
            let _ = waiting.send(response);
        }
    }

    /// Returns when no more answers can come.
    pub(super) async fn closed(&self) {
        self.gone.cancelled().await;
    }

    fn close(&self) {
        let mut calls = self.lock();
        self.gone.cancel();
        calls.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One live socket; dropping it cuts the connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Arc<Peer>,
    reader: JoinHandle<Result<(), NriError>>,
    writer: JoinHandle<()>,
    /// Questions that are not answered yet.
    open: watch::Receiver<usize>,
    /// Nothing new is written; what is queued goes out.
    flush: CancellationToken,
}

impl Link {
    pub(super) fn start(stream: UnixStream, sides: Sides, answers: Arc<impl Answers>) -> Self {
        let (read, write) = stream.into_split();
        let (out, queue) = mpsc::channel(QUEUE);
        let peer = Arc::new(Peer {
            out: out.clone(),
            connection: sides.calls,
            calls: Mutex::default(),
            gone: CancellationToken::new(),
        });
        let (tell_open, open) = watch::channel(0);
        let reader = Reader { sides, answers, out, peer: Arc::clone(&peer), open: Arc::new(tell_open) };
        let flush = CancellationToken::new();
        Self {
            peer,
            reader: tokio::spawn(reader.run(read)),
            writer: tokio::spawn(write_all(write, queue, flush.clone())),
            open,
            flush,
        }
    }

    /// Returns when the other end closed (`Ok`), or the stream can't be read or understood any more. To be awaited
    /// until it has returned once.
    pub(super) async fn closed(&mut self) -> Result<(), NriError> {
        (&mut self.reader).await.unwrap_or(Ok(()))
    }

    /// Waits at most `patience` for open questions to be answered, then closes: a runtime that gets no answer goes on
    /// as if the plugin had agreed.
    pub(super) async fn close(mut self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.open.wait_for(|n| *n == 0)).await;
        self.reader.abort();
        self.peer.close();
        self.flush.cancel();
        let _ = tokio::time::timeout(FLUSH, &mut self.writer).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        self.peer.close();
    }
}

async fn write_all(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>, flush: CancellationToken) {
    loop {
        let next = tokio::select! {
            // In this order: what is queued is written before the end is seen.
            biased;
            next = queue.recv() => next,
            () = flush.cancelled() => None,
        };
        let Some(bytes) = next else { break };
        if let Err(error) = socket.write_all(&bytes).await {
            // The reader sees the same end and reports it.
            tracing::debug!(%error, "NRI write failed");
            return;
        }
    }
    let _ = socket.shutdown().await;
}

struct Reader<A> {
    sides: Sides,
    answers: Arc<A>,
    out: mpsc::Sender<Vec<u8>>,
    peer: Arc<Peer>,
    open: Arc<watch::Sender<usize>>,
}

impl<A: Answers> Reader<A> {
    async fn run(self, mut socket: OwnedReadHalf) -> Result<(), NriError> {
        let outcome = self.read(&mut socket).await;
        self.peer.close();
        outcome
    }

    async fn read(&self, socket: &mut OwnedReadHalf) -> Result<(), NriError> {
        let mut demux = Demux::default();
        let (mut questions, mut answers) = (Messages::default(), Messages::default());
        let mut buffer = vec![0; 16 << 10];
        loop {
            let n = socket.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            demux.feed(&buffer[..n], |connection, piece| {
                if connection == self.sides.serves {
                    questions.push(piece);
                    while let Some(message) = questions.next()? {
                        self.question(message);
                    }
                } else if connection == self.sides.calls {
                    answers.push(piece);
                    while let Some(message) = answers.next()? {
                        if message.is_response() {
                            self.peer.settle(message);
                        }
                    }
                }
                // Frames of other connections are dropped, as every implementation does.
                Ok(())
            })?;
        }
    }

    fn question(&self, message: Message) {
        if !message.is_request() {
            // Streams are not used by NRI.
            tracing::debug!(kind = message.kind, "message of a kind that is no request");
            return;
        }
        let stream = message.stream;
        let (answers, out, connection) = (Arc::clone(&self.answers), self.out.clone(), self.sides.serves);
        let open = Open::new(&self.open);
        tokio::spawn(async move {
            let outcome = match Request::decode(message.data) {
                Err(error) => Err(Status {
                    code: code::INVALID_ARGUMENT,
                    message: format!("the ttrpc request can't be decoded: {error}"),
                }),
                Ok(Request { service, method, payload, timeout_nano, .. }) => {
                    let timeout =
                        u64::try_from(timeout_nano).ok().filter(|n| *n > 0).map(Duration::from_nanos);
                    answers.answer(Question { service, method, payload, timeout }).await
                }
            };
            match ttrpc::response(stream, outcome) {
                // A closed queue: the connection is gone, and with it who asked.
                Ok(bytes) => drop(out.send(frames(connection, &bytes)).await),
                Err(error) => tracing::error!(%error, "an answer could not be encoded"),
            }
            drop(open);
        });
    }
}

/// Counts as one open question while it lives, also when its task panics.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(counter: &Arc<watch::Sender<usize>>) -> Self {
        counter.send_modify(|n| *n += 1);
        Self(Arc::clone(counter))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}
