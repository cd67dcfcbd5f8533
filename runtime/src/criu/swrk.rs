//! The process `criu swrk FD` and the socket to it.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, send, setsockopt,
    socketpair,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Error, Request, Response, Result};
use crate::sys::fs::received;
use crate::sys::process::{die_with_parent, only_stdio_and, with_private_mounts};

/// The longest message that is taken. CRIU's own are below a page.
const MESSAGE: usize = 64 << 10;

/// Standard descriptors of CRIU, which a restored process inherits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// /dev/null.
    #[default]
    Null,
    /// The caller's.
    Inherit,
}

/// What CRIU is started with.
#[derive(Debug, Default)]
pub struct Setup {
    /// Its standard descriptors.
    pub stdio: Stdio,
    /// Descriptors that it gets, under the same numbers.
    pub fds: Vec<OwnedFd>,
    /// Where its mounts are made.
    pub mounts: Mounts,
    /// It is killed when the caller's process ends.
    pub dies_with_caller: bool,
}

/// The mount namespace of CRIU, which mounts the cgroup hierarchies for itself and would leave them behind when killed.
#[derive(Debug, Default)]
pub enum Mounts {
    /// The caller's: for requests that mount nothing.
    #[default]
    Callers,
    /// One of its own.
    Own,
    /// One of its own, with the first path, and all mounts below it, bound onto the second.
    OwnWith(PathBuf, PathBuf),
}

/// CRIU, serving one request.
#[derive(Debug)]
pub struct Swrk {
    child: Option<Child>,
    socket: OwnedFd,
}

impl Swrk {
    /// Starts the program.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::Talk`].
    pub(super) fn start(program: &Path, setup: &Setup) -> Result<Self> {
        // CRIU finds descriptors of the request by the pid of the socket's maker.
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| Error::Talk(e.into()))?;
        let mut command = Command::new(program);
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        if setup.stdio == Stdio::Null {
            let null = std::process::Stdio::null;
            command.stdin(null()).stdout(null()).stderr(null());
        }
        let kept: Vec<RawFd> = setup.fds.iter().chain([&theirs]).map(AsRawFd::as_raw_fd).collect();
        only_stdio_and(&mut command, kept);
        match &setup.mounts {
            Mounts::Callers => {}
            Mounts::Own => with_private_mounts(&mut command, None),
            Mounts::OwnWith(from, onto) => {
                with_private_mounts(&mut command, Some((c_string(from)?, c_string(onto)?)));
            }
        }
        if setup.dies_with_caller {
            die_with_parent(&mut command);
        }
        let child = command.spawn().map_err(|source| Error::Start { path: program.to_owned(), source })?;
        Ok(Swrk { child: Some(child), socket: ours })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).unwrap_or(0)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`Error::Talk`].
    pub fn send(&self, request: &Request) -> Result<()> {
        let message = request.encode();
        match send(self.socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Talk(e.into())),
        }
    }

    /// Waits for a message, and the descriptor that may come with it.
    ///
    /// # Errors
    /// [`Error::Ended`] when CRIU is gone, [`Error::Unexpected`], [`Error::Talk`].
    pub fn receive(&mut self) -> Result<(Response, Option<OwnedFd>)> {
        let mut buffer = vec![0u8; MESSAGE];
        let (length, fd) = loop {
            let mut io = [IoSliceMut::new(&mut buffer)];
            let mut control = cmsg_space!([RawFd; 4]);
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message =
                match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut io, Some(&mut control), flags) {
                    Err(Errno::EINTR) => continue,
                    Err(Errno::ECONNRESET) => return Err(self.ended()),
                    Err(Errno::EAGAIN) => {
                        self.kill();
                        return Err(self.ended());
                    }
                    other => other.map_err(|e| Error::Talk(e.into()))?,
                };
            // All are taken in, so that none stays open unseen.
            let mut fds = Vec::new();
            for part in message.cmsgs().map_err(|e| Error::Talk(e.into()))? {
                if let ControlMessageOwned::ScmRights(rights) = part {
                    fds.extend(rights.into_iter().map(received));
                }
            }
            if message.flags.contains(MsgFlags::MSG_TRUNC) {
                return Err(Error::Unexpected);
            }
            break (message.bytes, fds.into_iter().next());
        };
        if length == 0 {
            return Err(self.ended());
        }
        let response = buffer.get(..length).and_then(Response::decode).ok_or(Error::Unexpected)?;
        Ok((response, fd))
    }

    fn ended(&mut self) -> Error {
        match self.finish() {
            Ok(status) => Error::Ended(status.to_string()),
            Err(error) => Error::Talk(error),
        }
    }

    /// From now on, CRIU is killed when it does not say anything for this long: it was told to give up, and may wait
    /// for processes that it can't reach.
    ///
    /// # Errors
    /// [`Error::Talk`].
    pub fn hurry(&self, patience: Duration) -> Result<()> {
        let patience = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&self.socket, ReceiveTimeout, &patience).map_err(|e| Error::Talk(e.into()))
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
        }
    }

    /// Tells CRIU that nothing more is asked, and waits for its end.
    ///
    /// # Errors
    /// Those of waitid(2).
    pub fn finish(&mut self) -> io::Result<std::process::ExitStatus> {
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        match self.child.take() {
            Some(mut child) => child.wait(),
            None => Err(io::Error::from_raw_os_error(libc::ECHILD)),
        }
    }
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Start {
        path: path.to_owned(),
        source: io::Error::from_raw_os_error(libc::EINVAL),
    })
}

impl Drop for Swrk {
    fn drop(&mut self) {
        // It gives up by itself when nobody is there any more, and undoes what it has done: it is not killed.
        if self.child.is_some() {
            let _ = self.finish();
        }
    }
}
