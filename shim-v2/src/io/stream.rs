//! One direction of stdio: splice between pipes for bulk, copy for small pieces and where splice can't.
//!
//! splice(2) moves whole pipe buffers and never fills one up, so sixteen short lines would fill a FIFO whose reader
//! is slow; copied, they share pages, and the FIFO holds its 64 KiB.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

/// Most bytes moved in one turn, so that one stream can't starve the rest of the shim.
const TURN_BYTES: usize = 1 << 20;
/// A read of this size shows a writer that is ahead of us: worth splicing.
const BULK_FROM: usize = 16 << 10;
/// A splice below this size ends it.
const BULK_UNTIL: usize = 8 << 10;
/// A pipe's default capacity: more can't be moved by one splice.
const SPLICE_BYTES: usize = 64 << 10;

/// Which of a process's three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// From the client to the process.
    Stdin,
    /// From the process; with a terminal everything it prints.
    Stdout,
    /// From the process.
    Stderr,
}

/// Where bytes come from.
#[derive(Debug)]
pub enum Source {
    /// A pipe or FIFO, non-blocking.
    Pipe(OwnedFd),
    /// A pty master, non-blocking: EIO means that no slave is open at the moment.
    Tty(OwnedFd),
}

/// Where bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A FIFO, non-blocking, with our own read end.
    Fifo {
        /// Where to write.
        write: OwnedFd,
        /// Never read: keeps the FIFO alive without a reader.
        _hold: OwnedFd,
    },
    /// A pipe, a pty master or a file.
    Other(OwnedFd),
    /// A FIFO that has no reader yet.
    Absent(PathBuf),
}

impl Sink {
    /// A sink that is open.
    #[must_use]
    pub fn ready(fd: OwnedFd) -> Sink {
        Sink::Other(fd)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Fifo { write, .. } => Some(write.as_fd()),
            Sink::Other(fd) => Some(fd.as_fd()),
            Sink::Absent(_) => None,
        }
    }
}

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// The source to be readable.
    Source,
    /// The sink to be writable.
    Sink,
    /// A timer: the FIFO's reader or the tty's next slave.
    Timer,
    /// Nothing more: the end was reached or the sink is gone.
    Finished,
}

/// One direction of a process's stdio.
#[derive(Debug)]
pub struct Stream {
    /// Which one.
    pub channel: Channel,
    source: Source,
    sink: Sink,
    copy: bool,
    bulk: bool,
    pending: Vec<u8>,
    /// Total bytes moved: a drain that still makes progress is waited for.
    pub moved: u64,
}

enum Step {
    Moved(usize),
    /// Moved all that was there: epoll tells of more, and asking at once would mostly be in vain.
    MovedLast(usize),
    Blocked(Wants),
    End,
}

impl Stream {
    /// A stream that has not moved anything.
    #[must_use]
    pub fn new(channel: Channel, source: Source, sink: Sink) -> Stream {
        let copy = matches!(source, Source::Tty(_));
        Stream { channel, source, sink, copy, bulk: false, pending: Vec::new(), moved: 0 }
    }

    /// Reads and writes instead of splicing, for a sink that is a terminal.
    pub fn copy_only(&mut self) {
        self.copy = true;
    }

    /// The descriptor to watch for a state of [`Wants`].
    #[must_use]
    pub fn fd(&self, wants: Wants) -> Option<BorrowedFd<'_>> {
        match (wants, &self.source) {
            (Wants::Source, Source::Pipe(fd) | Source::Tty(fd)) => Some(fd.as_fd()),
            (Wants::Sink, _) => self.sink.fd(),
            (Wants::Timer | Wants::Finished, _) => None,
        }
    }

    /// The FIFO whose reader is awaited.
    #[must_use]
    pub fn absent_sink(&self) -> Option<&PathBuf> {
        match &self.sink {
            Sink::Absent(path) => Some(path),
            _ => None,
        }
    }

    /// Whether bytes wait that only the sink's side keeps from moving.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        let fd = match &self.source {
            Source::Pipe(fd) | Source::Tty(fd) => fd,
        };
        !self.pending.is_empty() || ready(fd).contains(PollFlags::POLLIN)
    }

    /// Replaces an absent sink by an open one.
    pub fn set_sink(&mut self, sink: Sink) {
        self.sink = sink;
    }

    /// Moves what can be moved now and says what to wait for.
    pub fn pump(&mut self, scratch: &mut [u8]) -> Wants {
        let mut turn = 0;
        while turn < TURN_BYTES {
            let spliced = self.bulk && !self.copy && self.pending.is_empty();
            let step = if spliced { self.splice_step() } else { self.copy_step(scratch) };
            match step {
                Step::Moved(bytes) => {
                    turn += bytes;
                    self.moved += bytes as u64;
                }
                Step::MovedLast(bytes) => {
                    self.moved += bytes as u64;
                    return Wants::Source;
                }
                Step::Blocked(wants) => return wants,
                Step::End => return Wants::Finished,
            }
        }
        // Level-triggered epoll comes back at once.
        if self.pending.is_empty() { Wants::Source } else { Wants::Sink }
    }

    fn splice_step(&mut self) -> Step {
        let (Source::Pipe(source), Some(sink)) = (&self.source, self.sink.fd()) else {
            return Step::Blocked(Wants::Timer);
        };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(source, None, sink, None, SPLICE_BYTES, flags) {
            Ok(0) => Step::End,
            Ok(bytes) if bytes < SPLICE_BYTES => {
                self.bulk = bytes >= BULK_UNTIL;
                Step::MovedLast(bytes)
            }
            Ok(bytes) => Step::Moved(bytes),
            // EAGAIN does not say which side; only an empty source can be waited for on the source.
            Err(Errno::EAGAIN) => {
                Step::Blocked(if !ready(source).is_empty() { Wants::Sink } else { Wants::Source })
            }
            Err(Errno::EINTR) => Step::Moved(0),
            // EINVAL: the sink is opened with O_APPEND or its filesystem has no splice.
            Err(Errno::EINVAL) => {
                self.copy = true;
                Step::Moved(0)
            }
            // EPIPE: the process closed its stdin.
            Err(_) => Step::End,
        }
    }

    fn copy_step(&mut self, scratch: &mut [u8]) -> Step {
        let Some(sink) = self.sink.fd() else { return Step::Blocked(Wants::Timer) };
        if !self.pending.is_empty() {
            return match write(sink, &self.pending) {
                Ok(bytes) => {
                    self.pending.drain(..bytes);
                    if self.pending.is_empty() {
                        self.pending = Vec::new();
                    }
                    Step::Moved(bytes)
                }
                Err(Errno::EAGAIN) => Step::Blocked(Wants::Sink),
                Err(Errno::EINTR) => Step::Moved(0),
                Err(_) => Step::End,
            };
        }
        let (source, tty) = match &self.source {
            Source::Pipe(fd) => (fd, false),
            Source::Tty(fd) => (fd, true),
        };
        let bytes = match read(source, scratch) {
            Ok(0) => return Step::End,
            Ok(bytes) => bytes,
            Err(Errno::EAGAIN) => return Step::Blocked(Wants::Source),
            Err(Errno::EINTR) => return Step::Moved(0),
            Err(Errno::EIO) if tty => return Step::Blocked(Wants::Timer),
            Err(_) => return Step::End,
        };
        let data = scratch.get(..bytes).unwrap_or_default();
        match write(sink, data) {
            Ok(written) => self.pending.extend_from_slice(data.get(written..).unwrap_or_default()),
            Err(Errno::EAGAIN | Errno::EINTR) => self.pending.extend_from_slice(data),
            Err(_) => return Step::End,
        }
        self.bulk = bytes >= BULK_FROM;
        let all = bytes < scratch.len() && self.pending.is_empty();
        let moved = bytes - self.pending.len();
        if all { Step::MovedLast(moved) } else { Step::Moved(moved) }
    }
}

/// What poll(2) says of a source now; the end of a pipe is POLLHUP, with POLLIN only when data is left.
fn ready(fd: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let [one] = fds;
    polled.ok().and_then(|_| one.revents()).unwrap_or(PollFlags::empty())
}

/// Copies a descriptor, close-on-exec.
///
/// # Errors
/// EMFILE.
pub fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    fd.try_clone()
}
