//! The terminal of a foreground process: its master end, relayed to davit's own stdin and stdout.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::anyhow;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, socketpair,
};
use nix::sys::termios::{LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{isatty, read, write};

use crate::sys::fs::{adopt, borrow, set_winsize, winsize};

/// Bytes moved at a time. A pipe that poll(2) calls writable takes this many without blocking.
const CHUNK: usize = 4096;

/// The two ends of the socket over which the terminal's master comes.
pub(super) fn socket_pair() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|e| anyhow!("socketpair for the console: {}", e.desc()))
}

/// The master that the process's setup has sent; `None` when the process has no terminal.
///
/// It was sent before the process was executed, so it is there by now: this does not wait.
pub(super) fn receive_master(socket: BorrowedFd<'_>) -> anyhow::Result<Option<OwnedFd>> {
    let mut name = [0u8; 256];
    let mut io = [IoSliceMut::new(&mut name)];
    let mut control = cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut io, Some(&mut control), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(e) => return Err(anyhow!("receive the console: {}", e.desc())),
    };
    let rights = message.cmsgs().map_err(|e| anyhow!("receive the console: {}", e.desc()))?;
    for right in rights {
        if let ControlMessageOwned::ScmRights(fds) = right {
            if let Some(&fd) = fds.first() {
                return Ok(Some(adopt(fd)?));
            }
        }
    }
    Ok(None)
}

/// An end that wants to be polled.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) fd: RawFd,
    pub(super) events: PollFlags,
    pub(super) which: Which,
}

/// Which end of the relay is ready.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// davit's stdin.
    Stdin,
    /// The terminal's master, either direction.
    Master,
    /// davit's stdout.
    Stdout,
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    sent: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// One read; false at the end of input.
    fn fill(&mut self, from: BorrowedFd<'_>) -> bool {
        self.sent = 0;
        self.bytes.resize(CHUNK, 0);
        let result = read(from, &mut self.bytes);
        self.bytes.truncate(*result.as_ref().unwrap_or(&0));
        match result {
            Ok(n) => n > 0,
            // A master whose slaves are all closed answers EIO.
            Err(e) => e == Errno::EAGAIN || e == Errno::EINTR,
        }
    }

    /// One write; false when nobody reads any more.
    fn flush(&mut self, to: BorrowedFd<'_>) -> bool {
        match write(to, self.pending()) {
            Ok(n) => self.sent += n,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => {
                self.sent = self.bytes.len();
                return false;
            }
        }
        true
    }
}

/// Copies stdin to the master and the master to stdout, each with one chunk in flight, so that a side
/// that does not read holds up its own direction only.
#[derive(Debug)]
pub(super) struct Relay {
    master: OwnedFd,
    host: Option<HostTerminal>,
    input: Buffer,
    output: Buffer,
    stdin_open: bool,
    master_open: bool,
    stdout_open: bool,
}

impl Relay {
    /// Takes over the master: the caller's terminal goes raw and gives the new one its size.
    pub(super) fn new(master: OwnedFd) -> anyhow::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags)).map_err(|e| anyhow!("set up the console: {}", e.desc()))?;
        // The caller's terminal turns \n into \r\n; once is enough. As runc does.
        let mut modes = tcgetattr(&master).map_err(|e| anyhow!("read the console's modes: {}", e.desc()))?;
        modes.output_flags.remove(OutputFlags::ONLCR);
        tcsetattr(&master, SetArg::TCSANOW, &modes)
            .map_err(|e| anyhow!("set the console's modes: {}", e.desc()))?;
        let relay = Relay {
            master,
            host: HostTerminal::find()?,
            input: Buffer::default(),
            output: Buffer::default(),
            stdin_open: true,
            master_open: true,
            stdout_open: true,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the process's terminal the size of the caller's. The kernel sends SIGWINCH to its foreground
    /// process group when it changes.
    pub(super) fn resize(&self) {
        let Some(host) = &self.host else { return };
        if let Ok(size) = winsize(borrow(host.fd)) {
            if let Err(e) = set_winsize(self.master.as_fd(), size) {
                log::debug!("resize the console: {e}");
            }
        }
    }

    /// The ends to poll now.
    pub(super) fn ends(&self) -> Vec<End> {
        let mut ends = Vec::with_capacity(3);
        if self.stdin_open && self.input.is_empty() {
            ends.push(End { fd: libc::STDIN_FILENO, events: PollFlags::POLLIN, which: Which::Stdin });
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.output.is_empty());
        events.set(PollFlags::POLLOUT, !self.input.is_empty());
        if self.master_open && !events.is_empty() {
            ends.push(End { fd: self.master.as_raw_fd(), events, which: Which::Master });
        }
        if !self.output.is_empty() {
            ends.push(End { fd: libc::STDOUT_FILENO, events: PollFlags::POLLOUT, which: Which::Stdout });
        }
        ends
    }

    /// Moves what a ready end has or takes.
    pub(super) fn serve(&mut self, which: Which) {
        match which {
            Which::Stdin => self.stdin_open = self.input.fill(borrow(libc::STDIN_FILENO)),
            Which::Stdout => self.stdout_open &= self.output.flush(borrow(libc::STDOUT_FILENO)),
            Which::Master => {
                if !self.input.is_empty() {
                    self.input.flush(self.master.as_fd());
                }
                if self.output.is_empty() {
                    self.master_open = self.output.fill(self.master.as_fd());
                    if !self.stdout_open {
                        // Nobody reads: the process must not block on it.
                        self.output = Buffer::default();
                    }
                }
            }
        }
    }

    /// Reads no more input: the process has ended.
    pub(super) fn stop_input(&mut self) {
        self.stdin_open = false;
        self.input = Buffer::default();
    }

    /// Whether there is output that stdout does not take at the moment.
    pub(super) fn waits_for_reader(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether output can still come or is still to be written.
    pub(super) fn has_output(&self) -> bool {
        self.master_open || !self.output.is_empty()
    }
}

/// The caller's terminal, raw until this is dropped.
#[derive(Debug)]
struct HostTerminal {
    fd: RawFd,
    saved: Termios,
}

impl HostTerminal {
    /// The first of stderr, stdout, stdin that is a terminal. `None` when none is: output is relayed, but
    /// there is nothing to make raw or to take a size from.
    fn find() -> anyhow::Result<Option<Self>> {
        let standard = [libc::STDERR_FILENO, libc::STDOUT_FILENO, libc::STDIN_FILENO];
        let Some(fd) = standard.into_iter().find(|&fd| isatty(borrow(fd)).unwrap_or(false)) else {
            return Ok(None);
        };
        let saved = tcgetattr(borrow(fd)).map_err(|e| anyhow!("read the terminal's modes: {}", e.desc()))?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        raw.local_flags.remove(LocalFlags::ECHO);
        // Output keeps its \n to \r\n translation, which the process's terminal leaves to this one.
        raw.output_flags.insert(OutputFlags::OPOST);
        tcsetattr(borrow(fd), SetArg::TCSANOW, &raw)
            .map_err(|e| anyhow!("make the terminal raw: {}", e.desc()))?;
        Ok(Some(HostTerminal { fd, saved }))
    }
}

impl Drop for HostTerminal {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(borrow(self.fd), SetArg::TCSANOW, &self.saved) {
            log::warn!("restore the terminal: {}", e.desc());
        }
    }
}
