//! The terminal: its master comes over a socket once the runtime has made it.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::stream::{Channel, Sink, Source, Stream, duplicate};

/// Stdio of a process with a terminal before its master is known.
#[derive(Debug, Default)]
pub struct TerminalPlan {
    /// Read end of the stdin FIFO.
    pub stdin: Option<OwnedFd>,
    /// Our write end of it.
    pub stdin_hold: Option<OwnedFd>,
    /// Where the output goes.
    pub stdout: Option<Sink>,
    /// Read end of the pipe that `stdout` is, for a logging program.
    pub logger: Option<OwnedFd>,
}

impl TerminalPlan {
    /// The two streams of `master`. With no stdout the output is left in the pty, as in Go's shim.
    ///
    /// # Errors
    /// EMFILE.
    pub fn streams(self, master: &OwnedFd) -> io::Result<Vec<Stream>> {
        super::set_nonblocking(master)?;
        let mut streams = Vec::new();
        // Each direction has a descriptor of its own: epoll takes a descriptor once.
        if let Some(stdin) = self.stdin {
            let sink = Sink::ready(duplicate(master)?);
            let mut stream = Stream::new(Channel::Stdin, Source::Pipe(stdin), sink);
            stream.copy_only();
            streams.push(stream);
        }
        if let Some(stdout) = self.stdout {
            streams.push(Stream::new(Channel::Stdout, Source::Tty(duplicate(master)?), stdout));
        }
        Ok(streams)
    }
}

/// Takes the master that a runtime has sent over `socket` (SCM_RIGHTS), without blocking.
///
/// # Errors
/// EAGAIN when nothing was sent; InvalidData for a message without a descriptor.
pub fn receive_master(socket: &OwnedFd) -> io::Result<OwnedFd> {
    // runc sends the name of the pty as the message's data, at most a path.
    let mut data = [0_u8; 4096];
    let mut iov = [IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            if let Some(fd) = fds.first() {
                return davit::sys::fs::adopt(*fd);
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the runtime sent no terminal"))
}
