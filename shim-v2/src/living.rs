//! Whether a shim lives at a socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::wire::frame::{Kind, encode};

/// A shim that says nothing for this long is there all the same: it was stopped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// Whether a shim answers at `path`. That a connection is made says little: a worker that was forked right before its
/// shim was killed holds the listening socket until it gets to run, and connections to it end with it.
#[must_use]
pub fn answers(path: &Path) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            // EMFILE and the like say nothing of a shim.
            Err(e) => return !matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
        };
        // Who only hangs up is connected to again: what was held is gone by then, and a shim of somebody else refuses us
        // to the end.
        if is_answered(stream).unwrap_or(false) || Instant::now() >= until {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks for no service, to which there is an answer. False when the peer hangs up, ECONNRESET or EPIPE likewise.
fn is_answered(mut stream: UnixStream) -> io::Result<bool> {
    let mut question = Vec::new();
    encode(&mut question, 1, Kind::Request, &[]);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&question)?;
    match stream.read(&mut [0; 1]) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(true),
        read => Ok(read? > 0),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    /// A shim that answers one question.
    pub fn answer_once(listener: UnixListener) -> JoinHandle<UnixListener> {
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.read_exact(&mut [0; 10]).unwrap();
            peer.write_all(&[0; 10]).unwrap();
            listener
        })
    }

    #[test]
    fn a_socket_that_is_held_by_nobody_who_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(!answers(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let served = answer_once(listener);
        assert!(answers(&path));
        // The shim is gone, and its worker is about to go.
        let listener = served.join().unwrap();
        let waiting = std::thread::spawn(move || {
            drop(listener.accept().unwrap());
            drop(listener);
        });
        assert!(!answers(&path));
        waiting.join().unwrap();
    }
}
