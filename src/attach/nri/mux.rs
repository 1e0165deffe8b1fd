//! The lowest layer: two connections in one stream. Pure.
//!
//! A frame is `u32 connection, u32 length, payload`, big-endian. Frames are pieces of a byte stream per connection: one
//! message may fill many of them, one of them may hold the end of a message and the begin of the next.

use super::NriError;

/// Payload of the frames that are sent. The Go implementation hands each frame to a reader with a 4096-byte buffer and
/// closes the connection at a frame that doesn't fit (protocols of NRI 0.3 to 0.12; nominally 4 MiB are allowed).
pub(super) const MAX_SENT: usize = 4096;
/// Longest frame that is taken: the nominal maximum of older runtimes.
pub(super) const MAX_TAKEN: usize = (1 << 24) + 10;
const HEADER: usize = 8;

/// The connections of one side: on which it serves, and on which it calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides {
    pub(super) serves: u32,
    pub(super) calls: u32,
}

/// The plugin serves `Plugin` on 1 and calls `Runtime` on 2.
pub(super) const PLUGIN: Sides = Sides { serves: 1, calls: 2 };
/// The other end.
pub(super) const RUNTIME: Sides = Sides { serves: 2, calls: 1 };

/// Cuts a message into frames of at most [`MAX_SENT`] bytes.
pub(super) fn frames(connection: u32, message: &[u8]) -> Vec<u8> {
    let count = message.len().div_ceil(MAX_SENT);
    let mut out = Vec::with_capacity(message.len() + count * HEADER);
    for chunk in message.chunks(MAX_SENT) {
        out.extend_from_slice(&connection.to_be_bytes());
        // At most MAX_SENT.
        out.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        out.extend_from_slice(chunk);
    }
    out
}

/// Takes a stream apart. Payload is passed on as it comes and never collected here, so a declared length costs nothing.
#[derive(Debug, Default)]
pub(super) struct Demux {
    header: [u8; HEADER],
    /// Bytes of the header that are there; all of them while a payload is under way.
    have: usize,
    connection: u32,
    left: usize,
}

impl Demux {
    /// Gives every piece of payload in `input` to `sink` with its connection.
    pub(super) fn feed(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(u32, &[u8]) -> Result<(), NriError>,
    ) -> Result<(), NriError> {
        while !input.is_empty() {
            if self.left > 0 {
                let (piece, rest) = input.split_at(self.left.min(input.len()));
                self.left -= piece.len();
                input = rest;
                sink(self.connection, piece)?;
                continue;
            }
            let (piece, rest) = input.split_at((HEADER - self.have).min(input.len()));
            self.header[self.have..self.have + piece.len()].copy_from_slice(piece);
            self.have += piece.len();
            input = rest;
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, d, e, f, g, h] = self.header;
                self.connection = u32::from_be_bytes([a, b, c, d]);
                self.left = u32::from_be_bytes([e, f, g, h]) as usize;
                if self.left > MAX_TAKEN {
                    return Err(NriError::TooLong { what: "mux frame", length: self.left, limit: MAX_TAKEN });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(demux: &mut Demux, input: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut out: Vec<(u32, Vec<u8>)> = Vec::new();
        let sink = |connection, piece: &[u8]| {
            match out.last_mut() {
                Some((last, bytes)) if *last == connection => bytes.extend_from_slice(piece),
                _ => out.push((connection, piece.to_vec())),
            }
            Ok(())
        };
        demux.feed(input, sink).expect("well-formed");
        out
    }

    #[test]
    fn a_frame_is_connection_length_payload_in_network_order() {
        assert_eq!(frames(2, b"abc"), [0, 0, 0, 2, 0, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(collect(&mut Demux::default(), &[0, 0, 0, 1, 0, 0, 0, 2, 7, 8]), [(1, vec![7, 8])]);
    }

    #[test]
    fn long_messages_go_out_in_frames_of_at_most_4096_bytes() {
        let message: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let bytes = frames(1, &message);
        assert_eq!(bytes.len(), 10_000 + 3 * 8);
        assert_eq!(&bytes[..8], [0, 0, 0, 1, 0, 0, 0x10, 0]);
        assert_eq!(&bytes[4104..4112], [0, 0, 0, 1, 0, 0, 0x10, 0]);
        assert_eq!(&bytes[8208..8216], [0, 0, 0, 1, 0, 0, 0x07, 0x10]);
        assert_eq!(collect(&mut Demux::default(), &bytes), [(1, message)]);
    }

    #[test]
    fn reads_may_end_anywhere() {
        let mut bytes = frames(1, b"first");
        bytes.extend(frames(1, b"")); // nothing
        bytes.extend([0, 0, 0, 9, 0, 0, 0, 0]); // an empty frame of a connection nobody knows
        bytes.extend(frames(2, b"second"));
        for size in 1..bytes.len() {
            let mut demux = Demux::default();
            let mut out: Vec<(u32, Vec<u8>)> = Vec::new();
            for part in bytes.chunks(size) {
                for (connection, piece) in collect(&mut demux, part) {
                    match out.last_mut() {
                        Some((last, all)) if *last == connection => all.extend(piece),
                        _ => out.push((connection, piece)),
                    }
                }
            }
            assert_eq!(out, [(1, b"first".to_vec()), (2, b"second".to_vec())], "reads of {size}");
        }
    }

    #[test]
    fn a_length_beyond_reason_is_an_error_and_allocates_nothing() {
        let error = Demux::default()
            .feed(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], |_, _| Ok(()))
            .expect_err("too long");
        assert!(error.to_string().contains("mux frame of 4294967295 bytes"), "{error}");
    }
}
