//! The middle layer: messages of the ttrpc protocol. Pure.
//!
//! A message is `u32 length, u32 stream, u8 type, u8 flags, data`, big-endian. NRI uses requests and responses only:
//! one of each per stream, streams of a client are odd and increase.

use bytes::{Buf, Bytes, BytesMut};

use super::NriError;
use super::proto::google::rpc::Status;
use super::proto::ttrpc::{Request, Response};

/// Longest data that either side may send.
pub(super) const MAX_DATA: usize = 4 << 20;
const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// gRPC codes that are used here.
pub(super) mod code {
    /// A plugin's error; what the Go implementation gives errors without a code.
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) stream: u32,
    pub(super) kind: u8,
    pub(super) data: Bytes,
}

impl Message {
    pub(super) fn is_request(&self) -> bool {
        self.kind == REQUEST
    }

    pub(super) fn is_response(&self) -> bool {
        self.kind == RESPONSE
    }
}

/// A request in bytes.
pub(super) fn request(stream: u32, request: &Request) -> Result<Vec<u8>, NriError> {
    encode(stream, REQUEST, request)
}

/// A response in bytes; one that is too long becomes an error to the caller instead of a broken connection.
pub(super) fn response(stream: u32, outcome: Result<Vec<u8>, Status>) -> Result<Vec<u8>, NriError> {
    let response = match outcome {
        Ok(payload) => Response { status: None, payload: payload.into() },
        Err(status) => Response { status: Some(status), payload: Bytes::new() },
    };
    encode(stream, RESPONSE, &response).or_else(|error| {
        let status = Status { code: code::RESOURCE_EXHAUSTED, message: error.to_string() };
        encode(stream, RESPONSE, &Response { status: Some(status), payload: Bytes::new() })
    })
}

/// Data that is sent at most: the Go mux closes the connection when 256 frames of 4096 bytes wait (2 MB failed, 1 MB
/// did not).
pub(super) const MAX_SENT: usize = 900 << 10;

fn encode(stream: u32, kind: u8, message: &impl prost::Message) -> Result<Vec<u8>, NriError> {
    let length = message.encoded_len();
    if length > MAX_SENT {
        return Err(NriError::TooLong { what: "ttrpc message", length, limit: MAX_SENT });
    }
    let mut out = Vec::with_capacity(HEADER + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&message.encode_to_vec());
    Ok(out)
}

/// The messages of one connection, put together again.
#[derive(Debug, Default)]
pub(super) struct Messages {
    buffer: BytesMut,
}

impl Messages {
    /// Takes the next piece of the connection's byte stream.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next complete message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, NriError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h, kind, _flags] = *header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_DATA {
            return Err(NriError::TooLong { what: "ttrpc message", length, limit: MAX_DATA });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let data = self.buffer.split_to(length).freeze();
        Ok(Some(Message { stream: u32::from_be_bytes([e, f, g, h]), kind, data }))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::attach::nri::mux::{Demux, frames};
    use crate::attach::nri::proto::api;

    #[test]
    fn a_request_has_the_bytes_of_the_specification() {
        let request = Request {
            service: "s".into(),
            method: "m".into(),
            payload: Bytes::from_static(b"\x0a\x01x"),
            timeout_nano: 5,
            metadata: Vec::new(),
        };
        let expected = [
            0, 0, 0, 13, // length
            0, 0, 0, 1, // stream
            1, 0, // request, no flags
            0x0a, 1, b's', 0x12, 1, b'm', 0x1a, 3, 0x0a, 1, b'x', 0x20, 5,
        ];
        assert_eq!(super::request(1, &request).expect("short"), expected);
        let mut messages = Messages::default();
        messages.push(&expected);
        let message = messages.next().expect("well-formed").expect("complete");
        assert!(message.is_request() && message.stream == 1);
        assert_eq!(Request::decode(message.data).expect("decodes"), request);
    }

    #[test]
    fn a_failure_is_a_response_with_a_status() {
        let bytes = response(7, Err(Status { code: 12, message: "no".into() })).expect("short");
        assert_eq!(bytes, [0, 0, 0, 8, 0, 0, 0, 7, 2, 0, 0x0a, 6, 0x08, 12, 0x12, 2, b'n', b'o']);
        assert_eq!(response(9, Ok(Vec::new())).expect("short"), [0, 0, 0, 0, 0, 0, 0, 9, 2, 0]);
    }

    #[test]
    fn an_answer_that_no_runtime_would_take_becomes_an_error_answer() {
        let bytes = response(3, Ok(vec![0; MAX_SENT + 1])).expect("an error is short");
        let mut messages = Messages::default();
        messages.push(&bytes);
        let message = messages.next().expect("well-formed").expect("complete");
        let status = Response::decode(message.data).expect("decodes").status.expect("status");
        assert_eq!(status.code, code::RESOURCE_EXHAUSTED);
        assert!(status.message.contains("ttrpc message of"), "{}", status.message);
    }

    #[test]
    fn a_message_of_gigabytes_is_refused_when_it_is_announced() {
        let mut messages = Messages::default();
        messages.push(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]);
        assert!(matches!(messages.next(), Err(NriError::TooLong { .. })));
    }

    /// xorshift: enough disorder for this, the same in every run.
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn no_bytes_make_the_decoders_panic() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let pod = api::PodSandbox { id: "a".into(), uid: "b".into(), ..Default::default() };
        let payload = api::RunPodSandboxRequest { pod: Some(pod) }.encode_to_vec();
        let valid = Request { method: "RunPodSandbox".into(), payload: payload.into(), ..Request::default() };
        let mut decoded = 0;
        for round in 0..20_000 {
            // Pure noise, and valid streams with a few bytes changed.
            let mut bytes = if round % 2 == 0 {
                (0..random(&mut seed) % 200).map(|_| random(&mut seed) as u8).collect()
            } else {
                frames(1, &request(1, &valid).expect("short"))
            };
            for _ in 0..random(&mut seed) % 4 {
                let at = random(&mut seed) as usize % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random(&mut seed) as u8;
                }
            }
            let (mut demux, mut messages) = (Demux::default(), Messages::default());
            let _ = demux.feed(&bytes, |_, piece| {
                messages.push(piece);
                while let Some(message) = messages.next()? {
                    decoded += usize::from(Request::decode(message.data.clone()).is_ok());
                    let _ = Response::decode(message.data.clone());
                    let _ = api::RunPodSandboxRequest::decode(message.data.clone());
                    let _ = api::SynchronizeRequest::decode(message.data);
                }
                Ok(())
            });
        }
        assert!(decoded > 1000, "only {decoded} inputs reached the last layer");
    }
}
