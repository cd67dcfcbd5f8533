//! What the runtime and the container's process say to each other, over one SOCK_SEQPACKET pair.
//!
//! | #  | who     | message           | when, and what it means                                          |
//! |----|---------|-------------------|------------------------------------------------------------------|
//! | –  | stage   | `Offsets`         | only with timeOffsets: time (and user) namespace are made        |
//! | –  | runtime | `Go`              | answer to it: id maps and offsets written                        |
//! | 0  | stage   | `Init` + pidfd    | only for a staged entry: the stage has cloned init               |
//! | 1  | runtime | `Go`              | id maps written, cgroup joined; not sent where clone3 has done it all |
//! | –  | runtime | `Network` + fd    | only with [`Namespaces::network_apart`]: the namespace, `lo` is up |
//! | 2  | init    | `RuntimeHooks`    | only with prestart or createRuntime hooks: mounts are in place   |
//! | 3  | runtime | `HooksDone`       | answer to 2                                                      |
//! | 4  | runtime | `Filter`          | only with seccomp in the config: the compiled program            |
//! | –  | init    | `Listening`       | only with a listener: the filter is loaded next, see `listener`  |
//! | 5  | runtime | `Start`           | state is on disk: go on to execve, or to exec.fifo (create)      |
//! | 6  | init    | `Ready`           | create only: everything is set up, init waits on exec.fifo       |
//! | –  | init    | `Failed`          | at any time instead of its next message                          |
//! | –  | init    | end of file       | execve succeeded (the socket is close-on-exec), or init died     |
//!
//! Each side accepts only the message that is next in its table; another one is an error. The runtime may
//! send ahead: messages wait in the socket's buffer, so neither side waits for the other needlessly.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use super::Failure;
#[cfg(doc)]
use crate::plan::Namespaces;

/// Kinds of message; the number is the first byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// See the table.
    Init = 0,
    /// See the table.
    Go = 1,
    /// See the table.
    Filter = 2,
    /// See the table.
    RuntimeHooks = 3,
    /// See the table.
    HooksDone = 4,
    /// See the table.
    Ready = 5,
    /// See the table.
    Start = 6,
    /// See the table.
    Failed = 7,
    /// See the table.
    Offsets = 8,
    /// See the table.
    Listening = 9,
    /// See the table.
    Network = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Init, Go, Filter, RuntimeHooks, HooksDone, Ready, Start, Failed, Offsets, Listening, Network]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// A received message.
#[derive(Debug)]
pub enum Received {
    /// A message and its payload.
    Message(Kind, Vec<u8>),
    /// The other side has closed its end.
    End,
}

impl Received {
    pub(crate) fn parse(mut bytes: Vec<u8>) -> io::Result<Received> {
        let Some(byte) = bytes.first() else { return Ok(Received::End) };
        let kind = Kind::from_byte(*byte).ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))?;
        bytes.remove(0);
        Ok(Received::Message(kind, bytes))
    }
}

/// What the runtime hears from init when it waits for one kind of message.
#[derive(Debug)]
pub enum Heard {
    /// The message.
    Expected,
    /// Init failed and said why.
    Failed(Failure),
    /// Init closed its end: it executed the program, or died.
    End,
}

/// Largest filter message: BPF_MAXINSNS (4096) instructions of 8 bytes, flags, and the kind.
const MAX_FILTER: usize = 4096 * 8 + 64;
/// Largest failure: its detail holds at most 4 KiB of a hook's stderr, escaped as JSON.
const MAX_FAILURE: usize = 32 * 1024;
/// Largest of the other messages. Init's memory is charged to the container, so its buffer is small.
const MAX_PLAIN: usize = 64;

impl Channel {
    /// A connected pair, both close-on-exec.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel { fd: a }, Channel { fd: b }))
    }

    /// Sends a message without payload.
    ///
    /// # Errors
    /// EPIPE when the other side is gone.
    pub fn send(&self, kind: Kind) -> io::Result<()> {
        self.send_with(kind, &[], None)
    }

    /// Sends a message with payload and, if given, a descriptor.
    ///
    /// # Errors
    /// EPIPE when the other side is gone, EMSGSIZE.
    pub fn send_with(&self, kind: Kind, payload: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let kind = [kind as u8];
        let parts = [IoSlice::new(&kind), IoSlice::new(payload)];
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
        sendmsg::<()>(self.fd.as_raw_fd(), &parts, rights.as_slice(), MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Init's side: sends a message without payload by write(2), the one call that every seccomp profile
    /// allows. The caller may have SIGPIPE at its default: without the runtime it has no reason to live.
    ///
    /// # Errors
    /// EPIPE when the runtime is gone and SIGPIPE ignored.
    pub fn tell(&self, kind: Kind) -> io::Result<()> {
        nix::unistd::write(&self.fd, &[kind as u8])?;
        Ok(())
    }

    /// As [`Channel::tell`], with payload.
    ///
    /// # Errors
    /// As [`Channel::tell`].
    pub fn tell_with(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.fd, &[&[kind as u8], payload].concat())?;
        Ok(())
    }

    /// Waits for the next message from init and the descriptor that may come with it.
    ///
    /// # Errors
    /// EPROTO for a message that is none of ours, and those of recvmsg(2).
    pub fn receive_from_init(&self) -> io::Result<(Received, Option<OwnedFd>)> {
        self.receive(MAX_FAILURE)
    }

    fn receive(&self, capacity: usize) -> io::Result<(Received, Option<OwnedFd>)> {
        let mut buffer = vec![0u8; capacity];
        let mut space = cmsg_space!(std::os::fd::RawFd);
        let mut fd = None;
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            {
                Err(Errno::EINTR) => {}
                // The other side ended with our messages unread. This is told once, before what it said
                // last and the end of file.
                Err(Errno::ECONNRESET) => {}
                Err(e) => return Err(e.into()),
                Ok(message) => {
                    for control in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(fds) = control {
                            fd = fds.first().map(|raw| crate::sys::fs::received(*raw));
                        }
                    }
                    break message.bytes;
                }
            }
        };
        buffer.truncate(length);
        Ok((Received::parse(buffer)?, fd))
    }

    /// The runtime's side: waits for `wanted`.
    ///
    /// # Errors
    /// EPROTO for a message out of order, and those of recvmsg(2).
    pub fn expect_from_init(&self, wanted: Kind) -> io::Result<Heard> {
        match self.receive_from_init()?.0 {
            Received::End => Ok(Heard::End),
            Received::Message(Kind::Failed, payload) => Ok(Heard::Failed(Failure::decode(&payload))),
            Received::Message(kind, _) if kind == wanted => Ok(Heard::Expected),
            Received::Message(..) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        }
    }

    /// Whether the other side is there still; messages stay where they are.
    ///
    /// # Errors
    /// EPIPE when it is gone.
    pub fn check_open(&self) -> io::Result<()> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match nix::sys::socket::recv(self.fd.as_raw_fd(), &mut [0], flags) {
            Ok(0) => Err(io::Error::from_raw_os_error(libc::EPIPE)),
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Init's side: waits for `wanted` and the descriptor that comes with it.
    ///
    /// # Errors
    /// EPROTO for a message out of order or without a descriptor, EPIPE when the runtime is gone.
    pub fn expect_descriptor(&self, wanted: Kind) -> io::Result<OwnedFd> {
        match self.receive(MAX_PLAIN)? {
            (Received::Message(kind, _), Some(fd)) if kind == wanted => Ok(fd),
            (Received::Message(..), _) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
            (Received::End, _) => Err(io::Error::from_raw_os_error(libc::EPIPE)),
        }
    }

    /// Init's side: waits for `wanted` and returns its payload.
    ///
    /// # Errors
    /// EPROTO for a message out of order, EPIPE when the runtime is gone.
    pub fn expect(&self, wanted: Kind) -> io::Result<Vec<u8>> {
        let capacity = if wanted == Kind::Filter { MAX_FILTER } else { MAX_PLAIN };
        // By read(2): a seccomp profile may be in force already, and no descriptor is to come.
        let mut buffer = vec![0u8; capacity];
        let length = loop {
            match nix::unistd::read(&self.fd, &mut buffer) {
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                other => break other?,
            }
        };
        buffer.truncate(length);
        match Received::parse(buffer)? {
            Received::Message(kind, payload) if kind == wanted => Ok(payload),
            Received::Message(..) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
            Received::End => Err(io::Error::from_raw_os_error(libc::EPIPE)),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (a, b) = Channel::pair().unwrap();
        a.send(Kind::Go).unwrap();
        a.send_with(Kind::Filter, &[7; 30_000], None).unwrap();
        assert!(b.expect(Kind::Go).unwrap().is_empty());
        assert_eq!(b.expect(Kind::Filter).unwrap().len(), 30_000);
    }

    #[test]
    fn a_message_out_of_order_is_an_error() {
        let (a, b) = Channel::pair().unwrap();
        a.send(Kind::Start).unwrap();
        assert_eq!(b.expect(Kind::Go).unwrap_err().raw_os_error(), Some(libc::EPROTO));
    }

    #[test]
    fn failures_cross_in_place_of_the_next_message() {
        let (a, b) = Channel::pair().unwrap();
        let failure = Failure::new("mount", "/proc", &io::Error::from_raw_os_error(libc::EPERM));
        a.send_with(Kind::Failed, &failure.encode(), None).unwrap();
        drop(a);
        let Heard::Failed(heard) = b.expect_from_init(Kind::Ready).unwrap() else { panic!() };
        assert_eq!(heard, failure);
        assert!(matches!(b.expect_from_init(Kind::Ready).unwrap(), Heard::End));
    }

    #[test]
    fn last_words_are_heard_though_a_message_was_not_read() {
        let (a, b) = Channel::pair().unwrap();
        b.send(Kind::Start).unwrap();
        a.send_with(Kind::Failed, &Failure::other("exec", "x", "why").encode(), None).unwrap();
        drop(a);
        assert!(matches!(b.expect_from_init(Kind::Ready).unwrap(), Heard::Failed(_)));
        assert!(matches!(b.expect_from_init(Kind::Ready).unwrap(), Heard::End));
    }

    #[test]
    fn descriptors_cross() {
        let (a, b) = Channel::pair().unwrap();
        a.send_with(Kind::Init, &[], Some(std::io::stdin().as_fd())).unwrap();
        assert!(b.receive_from_init().unwrap().1.is_some());
    }

    #[test]
    fn a_closed_channel_shows_and_nothing_is_lost_by_looking() {
        let (a, b) = Channel::pair().unwrap();
        b.check_open().unwrap();
        a.send(Kind::Go).unwrap();
        b.check_open().unwrap();
        b.expect(Kind::Go).unwrap();
        drop(a);
        assert_eq!(b.check_open().unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn a_descriptor_is_expected_with_its_message() {
        let (a, b) = Channel::pair().unwrap();
        a.send_with(Kind::Network, &[], Some(std::io::stdin().as_fd())).unwrap();
        b.expect_descriptor(Kind::Network).unwrap();
        a.send(Kind::Network).unwrap();
        assert_eq!(b.expect_descriptor(Kind::Network).unwrap_err().raw_os_error(), Some(libc::EPROTO));
        drop(a);
        assert_eq!(b.expect_descriptor(Kind::Network).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }
}
