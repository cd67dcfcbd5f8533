//! ttrpc framing: a 10-byte header (length, stream id, type, flags) and a protobuf payload.
//!
//! Source: PROTOCOL.md of containerd/ttrpc. Only unary calls exist in the task service.

pub use ttrpc::proto::MESSAGE_LENGTH_MAX;
use ttrpc::proto::{
    FLAG_REMOTE_CLOSED, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE,
};

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Request,
    /// Its answer.
    Response,
    /// A message of a stream; no service of ours has streams.
    Data,
}

/// One complete frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Chosen by the client; odd.
    pub stream: u32,
    /// What `payload` is.
    pub kind: Kind,
    /// The protobuf message.
    pub payload: Vec<u8>,
}

/// What [`Decoder::next`] finds in the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame.
    Frame(Frame),
    /// A frame longer than the protocol's 4 MiB; its payload is skipped.
    TooLarge {
        /// Its stream id, to be answered.
        stream: u32,
        /// The length that its header claims, in bytes.
        length: u32,
    },
}

/// A header that no peer of the protocol sends: the connection can't be followed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An unknown message type.
    #[error("unknown ttrpc message type {0:#x}")]
    Type(u8),
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    skip: usize,
}

impl Decoder {
    /// Adds bytes that were read.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let cut = self.skip.min(bytes.len());
            self.skip -= cut;
            bytes = bytes.get(cut..).unwrap_or_default();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`]: close the connection.
    pub fn next(&mut self) -> Result<Option<Decoded>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<MESSAGE_HEADER_LENGTH>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let kind = match kind {
            MESSAGE_TYPE_REQUEST => Kind::Request,
            MESSAGE_TYPE_RESPONSE => Kind::Response,
            MESSAGE_TYPE_DATA => Kind::Data,
            other => return Err(FrameError::Type(other)),
        };
        let size = length as usize;
        if size > MESSAGE_LENGTH_MAX {
            let have = rest.len().min(size);
            self.skip = size - have;
            self.consume(MESSAGE_HEADER_LENGTH + have);
            return Ok(Some(Decoded::TooLarge { stream, length }));
        }
        let Some(payload) = rest.get(..size) else { return Ok(None) };
        let frame = Frame { stream, kind, payload: payload.to_vec() };
        self.consume(MESSAGE_HEADER_LENGTH + size);
        Ok(Some(Decoded::Frame(frame)))
    }

    fn consume(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
        // A large request must not leave its capacity behind in an idle shim.
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }
}

/// Appends one frame to `out`.
pub fn encode(out: &mut Vec<u8>, stream: u32, kind: Kind, payload: &[u8]) {
    let (kind, flags) = match kind {
        Kind::Request => (MESSAGE_TYPE_REQUEST, FLAG_REMOTE_CLOSED),
        Kind::Response => (MESSAGE_TYPE_RESPONSE, 0),
        Kind::Data => (MESSAGE_TYPE_DATA, 0),
    };
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, stream, Kind::Request, payload);
        out
    }

    #[test]
    fn one_byte_at_a_time() {
        let mut bytes = frame(1, b"hello");
        bytes.extend(frame(3, b""));
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for byte in bytes {
            decoder.feed(&[byte]);
            while let Some(decoded) = decoder.next().unwrap() {
                found.push(decoded);
            }
        }
        let expect = |stream, payload: &[u8]| {
            Decoded::Frame(Frame { stream, kind: Kind::Request, payload: payload.to_vec() })
        };
        assert_eq!(found, [expect(1, b"hello"), expect(3, b"")]);
    }

    #[test]
    fn oversized_payload_is_skipped_and_the_next_frame_is_read() {
        let length = MESSAGE_LENGTH_MAX as u32 + 1;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 7, MESSAGE_TYPE_REQUEST, 0]);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        assert_eq!(decoder.next().unwrap(), Some(Decoded::TooLarge { stream: 7, length }));
        let mut left = length as usize;
        while left > 0 {
            let chunk = left.min(65536);
            decoder.feed(&vec![0xff; chunk]);
            assert_eq!(decoder.next().unwrap(), None, "nothing inside the skipped payload");
            left -= chunk;
        }
        decoder.feed(&frame(9, b"x"));
        assert!(matches!(decoder.next().unwrap(), Some(Decoded::Frame(f)) if f.stream == 9));
    }

    #[test]
    fn unknown_type_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.feed(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(decoder.next(), Err(FrameError::Type(b'T')));
    }

    #[test]
    fn short_header_waits() {
        let mut decoder = Decoder::default();
        decoder.feed(&[0, 0, 0, 1, 0]);
        assert_eq!(decoder.next(), Ok(None));
    }
}
