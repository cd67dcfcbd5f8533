//! One connection of a ttrpc peer: non-blocking reads into frames, buffered writes.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::frame::{self, Decoded, Decoder, FrameError, Kind};

/// A peer that takes no answers for this many bytes is cut off.
const OUT_LIMIT: usize = 16 << 20;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Bytes that are no ttrpc.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer does not read its answers.
    #[error("the peer left {0} bytes of answers unread")]
    Stalled(usize),
}

/// A ttrpc connection.
#[derive(Debug)]
pub struct Conn {
    stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
    last_stream: u32,
}

impl Conn {
    /// Takes over a connected, non-blocking stream.
    pub fn new(stream: UnixStream) -> Self {
        Conn { stream, decoder: Decoder::default(), out: Vec::new(), sent: 0, last_stream: 0 }
    }

    /// Reads what is there and returns the frames that are complete.
    ///
    /// # Errors
    /// [`ConnError`]: drop the connection. Frames before bytes that are no ttrpc are lost with it; those of a peer
    /// that has gone are not.
    pub fn receive(&mut self, scratch: &mut [u8]) -> Result<Vec<Decoded>, ConnError> {
        let mut frames = Vec::new();
        // Level-triggered epoll calls again; a bound per turn keeps one peer from starving the others.
        for _ in 0..16 {
            match self.stream.read(scratch) {
                Ok(0) if frames.is_empty() => return Err(ConnError::Closed),
                Ok(0) => break,
                Ok(n) => self.decoder.feed(scratch.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ECONNRESET of a peer that left answers unread: told once, and the next read says the end.
                Err(_) if !frames.is_empty() => break,
                Err(e) => return Err(e.into()),
            }
            while let Some(decoded) = self.decoder.next()? {
                frames.push(decoded);
            }
        }
        Ok(frames)
    }

    /// Checks the id of a request's stream: odd, and above all before it.
    ///
    /// # Errors
    /// The words of Go's server.
    pub fn admit(&mut self, stream: u32) -> Result<(), &'static str> {
        if stream % 2 == 0 {
            return Err("StreamID must be odd for client initiated streams");
        }
        if stream <= self.last_stream {
            return Err("StreamID cannot be re-used and must increment");
        }
        self.last_stream = stream;
        Ok(())
    }

    /// Queues a frame and writes as much as the peer takes now.
    ///
    /// # Errors
    /// [`ConnError`]: drop the connection.
    pub fn send(&mut self, stream: u32, kind: Kind, payload: &[u8]) -> Result<(), ConnError> {
        frame::encode(&mut self.out, stream, kind, payload);
        self.flush()?;
        let left = self.unsent();
        if left > OUT_LIMIT { Err(ConnError::Stalled(left)) } else { Ok(()) }
    }

    /// Writes what is queued, as far as the peer takes it.
    ///
    /// # Errors
    /// [`ConnError`]: drop the connection.
    pub fn flush(&mut self) -> Result<(), ConnError> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Bytes that wait for the peer.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_said_before_it_went_is_read() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut conn = Conn::new(ours);
        conn.send(1, Kind::Response, b"an answer that stays unread").unwrap();
        let mut call = Vec::new();
        frame::encode(&mut call, 3, Kind::Request, b"call");
        peer.write_all(&call).unwrap();
        // What it leaves unread makes it ECONNRESET for us.
        drop(peer);
        let mut scratch = [0; 64];
        let frames = conn.receive(&mut scratch).unwrap();
        assert!(matches!(&frames[..], [Decoded::Frame(frame)] if frame.payload == b"call"), "{frames:?}");
        assert!(matches!(conn.receive(&mut scratch), Err(ConnError::Closed)));
    }
}
