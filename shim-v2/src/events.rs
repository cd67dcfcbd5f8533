//! The ordered queue of events to containerd: head of line first, exits for as long as it takes.
//!
//! containerd may be restarting for minutes; an exit event that is lost leaves a container "running" for ever
//! (containerd #6771), and one that overtakes another confuses Docker (moby #51925).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::api::{Code, Stamp};
use crate::wire::conn::{Conn, ConnError};
use crate::wire::events::{Event, forward, forwarded};
use crate::wire::frame::{Decoded, Kind};

/// More than this many waiting events drop the oldest one that may be lost.
const LIMIT: usize = 1024;
/// How long containerd may take to answer one.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause between attempts: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Attempts for an event that may be lost and that a living containerd refuses.
const REFUSALS: u32 = 5;

struct Queued {
    event: Event,
    at: Stamp,
    refusals: u32,
}

enum Link {
    Down,
    Idle(Conn),
    Waiting(Conn, u32),
}

/// What the reactor has to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing waits.
    Quiet,
    /// What was said last is so still.
    Unchanged,
    /// An answer is due within this time.
    Answer(Duration),
    /// Try again after this time.
    Retry(Duration),
}

/// The queue and its connection.
pub struct Publisher {
    address: Option<String>,
    namespace: String,
    queue: VecDeque<Queued>,
    link: Link,
    stream: u32,
    pause: Duration,
    fresh: bool,
    /// Connections that have ended, until the reactor watches them no more: a worker that has just been forked has them
    /// open, so that their close is not the end of their events (epoll(7)).
    ended: Vec<Conn>,
    dropped: u64,
}

impl Publisher {
    /// A publisher for `TTRPC_ADDRESS`; an empty one only logs, as for a shim that was started by hand.
    #[must_use]
    pub fn new(address: Option<String>, namespace: String) -> Publisher {
        Publisher {
            address: address.filter(|a| !a.is_empty()),
            namespace,
            queue: VecDeque::new(),
            link: Link::Down,
            stream: 1,
            pause: FIRST_PAUSE,
            fresh: false,
            ended: Vec::new(),
            dropped: 0,
        }
    }

    /// Adds an event behind all others. Call [`Publisher::advance`] next.
    pub fn push(&mut self, event: Event) {
        log::debug!("event {event:?}");
        if self.address.is_none() {
            return;
        }
        self.queue.push_back(Queued { event, at: Stamp::now(), refusals: 0 });
        // The head may be on its way.
        if self.queue.len() > LIMIT {
            let loser = self.queue.iter().skip(1).position(|q| !q.event.must_arrive());
            if let Some(index) = loser {
                self.queue.remove(index + 1);
                self.dropped += 1;
                log::warn!("{} events dropped while containerd is away", self.dropped);
            }
        }
    }

    /// Whether everything was delivered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A connection that was made since the last call, to be watched for reading.
    pub fn new_connection(&mut self) -> Option<BorrowedFd<'_>> {
        if !std::mem::take(&mut self.fresh) {
            return None;
        }
        match &self.link {
            Link::Down => None,
            Link::Idle(conn) | Link::Waiting(conn, _) => Some(conn.as_fd()),
        }
    }

    /// Connections that have ended since the last call, to be watched no more.
    pub fn take_ended(&mut self) -> Vec<impl AsFd + use<>> {
        std::mem::take(&mut self.ended)
    }

    /// Sends the head if nothing is on its way.
    pub fn advance(&mut self) -> Next {
        let Some(head) = self.queue.front() else { return Next::Quiet };
        let mut conn = match std::mem::replace(&mut self.link, Link::Down) {
            Link::Waiting(conn, stream) => {
                self.link = Link::Waiting(conn, stream);
                return Next::Answer(ANSWER);
            }
            Link::Idle(conn) => conn,
            Link::Down => match self.address.as_deref().map(dial) {
                Some(Ok(stream)) => {
                    self.fresh = true;
                    Conn::new(stream)
                }
                Some(Err(e)) => return self.back_off(&e),
                None => return Next::Quiet,
            },
        };
        let payload = forward(&head.event, head.at, &self.namespace);
        match conn.send(self.stream, Kind::Request, &payload) {
            Ok(()) => {
                self.link = Link::Waiting(conn, self.stream);
                // Odd ids only, strictly rising.
                self.stream = self.stream.wrapping_add(2);
                Next::Answer(ANSWER)
            }
            Err(e) => {
                self.ended.push(conn);
                self.back_off(&e)
            }
        }
    }

    /// The connection is readable; or one was that has ended since, while what came with that event was served.
    pub fn readable(&mut self, scratch: &mut [u8]) -> Next {
        let (mut conn, awaited) = match std::mem::replace(&mut self.link, Link::Down) {
            // The next attempt has its time.
            Link::Down => return Next::Unchanged,
            Link::Idle(conn) => (conn, None),
            Link::Waiting(conn, stream) => (conn, Some(stream)),
        };
        let frames = match conn.receive(scratch) {
            Ok(frames) => frames,
            Err(e) => {
                self.ended.push(conn);
                // Without work there is no hurry to reconnect.
                return if self.queue.is_empty() { Next::Quiet } else { self.back_off(&e) };
            }
        };
        let answer = frames.into_iter().find_map(|decoded| match decoded {
            Decoded::Frame(f) if f.kind == Kind::Response && Some(f.stream) == awaited => Some(f.payload),
            _ => None,
        });
        match (answer, awaited) {
            (Some(payload), _) => {
                self.link = Link::Idle(conn);
                self.answered(&payload)
            }
            (None, Some(stream)) => {
                self.link = Link::Waiting(conn, stream);
                Next::Answer(ANSWER)
            }
            (None, None) => {
                self.link = Link::Idle(conn);
                Next::Unchanged
            }
        }
    }

    /// The time of the last [`Next`] is over.
    pub fn expired(&mut self) -> Next {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Waiting(conn, _) => {
                self.ended.push(conn);
                self.back_off(&"no answer")
            }
            other => {
                self.link = other;
                self.advance()
            }
        }
    }

    fn answered(&mut self, payload: &[u8]) -> Next {
        let Err(error) = forwarded(payload) else {
            self.queue.pop_front();
            self.pause = FIRST_PAUSE;
            return self.advance();
        };
        let Some(head) = self.queue.front_mut() else { return Next::Quiet };
        head.refusals += 1;
        let hopeless = matches!(error.code, Code::InvalidArgument | Code::Unimplemented);
        if hopeless || (head.refusals >= REFUSALS && !head.event.must_arrive()) {
            log::error!("containerd refuses event {:?}: {}", head.event, error.text);
            self.queue.pop_front();
            return self.advance();
        }
        self.back_off(&error)
    }

    fn back_off(&mut self, why: &dyn std::fmt::Display) -> Next {
        log::debug!("{} events wait for containerd: {why}", self.queue.len());
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Next::Retry(pause)
    }
}

/// Connects without waiting. A full backlog is EAGAIN, to be tried again.
fn dial(address: &str) -> Result<UnixStream, ConnError> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(io::Error::from)?;
    let address = UnixAddr::new(path).map_err(io::Error::from)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(io::Error::from)?;
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ExitInfo;
    use protobuf::Message;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn start(id: &str) -> Event {
        Event::Start { id: id.to_owned(), pid: 1 }
    }

    /// Reads one Forward request and answers it with `code`.
    fn serve_one(peer: &mut UnixStream, code: i32) -> (u32, String) {
        let mut header = [0_u8; 10];
        peer.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[..4].try_into().unwrap());
        let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
        let mut body = vec![0; length as usize];
        peer.read_exact(&mut body).unwrap();
        let request = ttrpc::proto::Request::parse_from_bytes(&body).unwrap();
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            ("containerd.services.events.ttrpc.v1.Events", "Forward")
        );
        let forward =
            containerd_shim_protos::api::ForwardRequest::parse_from_bytes(&request.payload).unwrap();
        let event = forward.envelope.event.value.clone();
        let start = containerd_shim_protos::events::task::TaskStart::parse_from_bytes(&event).unwrap();
        let mut reply = ttrpc::proto::Response::new();
        reply.set_status(ttrpc::proto::Status {
            code: protobuf::EnumOrUnknown::from_i32(code),
            ..Default::default()
        });
        let mut out = Vec::new();
        crate::wire::frame::encode(&mut out, stream, Kind::Response, &reply.write_to_bytes().unwrap());
        peer.write_all(&out).unwrap();
        (stream, start.container_id)
    }

    #[test]
    fn order_survives_absence_and_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let mut publisher = Publisher::new(Some(path.display().to_string()), "ns".to_owned());
        let mut scratch = vec![0; 4096];
        for id in ["a", "b", "c"] {
            publisher.push(start(id));
        }
        assert_eq!(publisher.advance(), Next::Retry(FIRST_PAUSE), "nobody listens");
        assert_eq!(publisher.expired(), Next::Retry(FIRST_PAUSE * 2));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(publisher.expired(), Next::Answer(ANSWER));
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(serve_one(&mut peer, 0), (1, "a".to_owned()));
        assert_eq!(publisher.readable(&mut scratch), Next::Answer(ANSWER));
        // Unavailable: the same event comes again, nothing overtakes it.
        assert_eq!(serve_one(&mut peer, 14), (3, "b".to_owned()));
        assert!(matches!(publisher.readable(&mut scratch), Next::Retry(_)));
        assert_eq!(publisher.expired(), Next::Answer(ANSWER));
        assert_eq!(serve_one(&mut peer, 0), (5, "b".to_owned()));
        assert_eq!(publisher.readable(&mut scratch), Next::Answer(ANSWER));
        // The daemon dies with the last one on its way.
        drop(peer);
        assert!(matches!(publisher.readable(&mut scratch), Next::Retry(_)));
        assert_eq!(publisher.take_ended().len(), 1);
        // Nothing to read where there is no connection: the next attempt must stay.
        assert_eq!(publisher.readable(&mut scratch), Next::Unchanged);
        assert_eq!(publisher.expired(), Next::Answer(ANSWER));
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(serve_one(&mut peer, 0).1, "c");
        assert_eq!(publisher.readable(&mut scratch), Next::Quiet);
        assert!(publisher.is_empty());
    }

    #[test]
    fn a_full_queue_keeps_exits() {
        let mut publisher = Publisher::new(Some("/nonexistent/socket".to_owned()), "ns".to_owned());
        let exit = ExitInfo { pid: 1, status: 0, at: Stamp::ZERO };
        for n in 0..LIMIT {
            publisher.push(Event::Paused { id: n.to_string() });
            publisher.push(Event::Exit { id: n.to_string(), process: n.to_string(), exit });
        }
        let exits = publisher.queue.iter().filter(|q| q.event.must_arrive()).count();
        assert_eq!(exits, LIMIT);
        assert!(publisher.queue.len() <= LIMIT + 1);
    }

    #[test]
    fn without_an_address_nothing_is_kept() {
        let mut publisher = Publisher::new(Some(String::new()), "ns".to_owned());
        publisher.push(start("a"));
        assert_eq!(publisher.advance(), Next::Quiet);
        assert!(publisher.is_empty());
    }
}
