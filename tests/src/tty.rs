//! Terminals: console sockets and ptys.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use davit::sys::fs::{WinSize, pty_peer, pty_unlock, set_winsize};
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::sys::stat::Mode;

use crate::DEADLINE;

/// A pty pair that plays the caller's terminal.
#[derive(Debug)]
pub struct Pty {
    /// What a person at the terminal types and sees.
    pub master: Terminal,
    /// Stdio of the runtime.
    pub slave: OwnedFd,
    /// Device of the slave.
    pub path: PathBuf,
}

impl Pty {
    /// Opens one of this size. Not by openpty(3), whose descriptors what another test starts just then would inherit
    /// and hold open.
    #[must_use]
    pub fn open(rows: u16, cols: u16) -> Self {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = open("/dev/ptmx", flags, Mode::empty()).expect("ptmx");
        pty_unlock(master.as_fd()).expect("unlock");
        let slave = pty_peer(master.as_fd(), flags.bits()).expect("slave");
        set_winsize(slave.as_fd(), WinSize { rows, cols }).expect("size");
        let path = nix::unistd::ttyname(&slave).expect("ttyname");
        Pty { master: Terminal::new(master), slave, path }
    }

    /// Changes its size, as a terminal emulator does when its window is resized.
    pub fn resize(&self, rows: u16, cols: u16) {
        let (rows, cols) = (rows.to_string(), cols.to_string());
        let status = std::process::Command::new("stty")
            .args(["-F", self.path.to_str().expect("UTF-8"), "rows", &rows, "cols", &cols])
            .status()
            .expect("stty");
        assert!(status.success());
    }
}

/// A master end with all that was read from it.
#[derive(Debug)]
pub struct Terminal {
    file: File,
    seen: String,
}

impl Terminal {
    /// Takes a master end.
    #[must_use]
    pub fn new(master: OwnedFd) -> Self {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).expect("nonblocking");
        Terminal { file: File::from(master), seen: String::new() }
    }

    /// Types text.
    pub fn send(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Reads until the text was shown, and returns all that was read so far.
    ///
    /// # Panics
    /// When it was not shown before the [`DEADLINE`] or the terminal was closed.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        while !self.seen.contains(text) {
            assert!(start.elapsed() < DEADLINE, "{text:?} was not shown: {:?}", self.seen);
            assert!(self.read_some(), "closed before {text:?} was shown: {:?}", self.seen);
        }
        self.seen.clone()
    }

    /// Reads until the terminal is closed, and returns all that was read.
    pub fn read_to_end(&mut self) -> String {
        let start = Instant::now();
        while self.read_some() {
            assert!(start.elapsed() < DEADLINE, "the terminal was not closed: {:?}", self.seen);
        }
        self.seen.clone()
    }

    /// Whether the terminal is still open.
    fn read_some(&mut self) -> bool {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(200u16)).expect("poll");
        let mut buffer = [0u8; 4096];
        match self.file.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                true
            }
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

/// A console socket that waits for one master.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    /// Its path, for `--console-socket`.
    pub path: PathBuf,
}

impl ConsoleSocket {
    /// Binds it.
    #[must_use]
    pub fn bind(path: &Path) -> Self {
        ConsoleSocket { listener: UnixListener::bind(path).expect("bind"), path: path.to_owned() }
    }

    /// The file descriptor that the runtime has sent, and the data beside it.
    ///
    /// # Panics
    /// When none has come by now: it is called after the runtime has ended.
    #[must_use]
    pub fn receive(&self) -> (OwnedFd, String) {
        self.listener.set_nonblocking(true).expect("nonblocking");
        let (stream, _) = self.listener.accept().expect("no connection to the socket");
        receive_fd(&stream)
    }
}

fn receive_fd(stream: &UnixStream) -> (OwnedFd, String) {
    let mut data = [0u8; 4096];
    let mut io = [IoSliceMut::new(&mut data)];
    let mut control = cmsg_space!([RawFd; 4]);
    let message =
        recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut io, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
            .expect("recvmsg");
    let length = message.bytes;
    let fds: Vec<RawFd> = message
        .cmsgs()
        .expect("control messages")
        .filter_map(|cmsg| if let ControlMessageOwned::ScmRights(fds) = cmsg { Some(fds) } else { None })
        .flatten()
        .collect();
    assert_eq!(fds.len(), 1, "one descriptor");
    (
        davit::sys::fs::adopt(fds[0]).expect("an open descriptor"),
        String::from_utf8_lossy(&data[..length]).into_owned(),
    )
}
