//! rtnetlink(7) messages: the few that moving a device takes, and the socket for them.
//!
//! All numbers are in the machine's byte order, all parts padded to 4 bytes (netlink(7), rtnetlink(3)).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The largest datagram of a dump (NLMSG_GOODSIZE is at most 32 KiB).
const BUFFER: usize = 32 * 1024;

/// A request that is being put together.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message of this kind (RTM_*), NLM_F_* flags beside REQUEST, with the family's fixed part.
    #[must_use]
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    /// Adds an attribute.
    ///
    /// # Errors
    /// When the value is longer than the 16-bit length can say (CVE-2021-43784 was a length cut short).
    pub fn with(mut self, kind: u16, value: &[u8]) -> io::Result<Self> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        Ok(self)
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        for (place, value) in [(0, length), (8, sequence)] {
            if let Some(bytes) = self.0.get_mut(place..place + 4) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        }
        self.0
    }
}

/// What the kernel answers with: the kind, and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// RTM_*.
    pub kind: u16,
    /// The family's fixed part and the attributes.
    pub body: Vec<u8>,
}

impl Reply {
    /// The 32-bit number at a place of the fixed part.
    #[must_use]
    pub fn number(&self, place: usize) -> Option<u32> {
        number(&self.body, place)
    }

    /// The attributes behind a fixed part of this size: kind and value.
    pub fn attributes(&self, fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = self.body.get(fixed..).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = usize::from(short(rest, 0)?);
            let kind = short(rest, 2)?;
            let value = rest.get(ATTRIBUTE_HEADER..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            // The two highest bits are flags (NLA_TYPE_MASK).
            Some((kind & 0x3fff, value))
        })
    }
}

/// A rtnetlink socket of one network namespace: that of the caller when it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// EMFILE, EPROTONOSUPPORT on a kernel without networking.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        // To the kernel: messages of other processes are not received then.
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// Sends a request and collects the answers up to the kernel's acknowledgement.
    ///
    /// # Errors
    /// The kernel's, or EPROTO for an answer that makes no sense.
    pub fn request(&mut self, message: Message) -> io::Result<Vec<Reply>> {
        self.sequence = self.sequence.wrapping_add(1);
        send(self.fd.as_raw_fd(), &message.finish(self.sequence), MsgFlags::empty())?;
        let mut replies = Vec::new();
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let datagram = buffer.get(..length).unwrap_or_default();
            if read(datagram, self.sequence, &mut replies)? {
                return Ok(replies);
            }
        }
    }
}

/// Reads the messages of a datagram. True once the last was there.
pub(crate) fn read(mut rest: &[u8], sequence: u32, replies: &mut Vec<Reply>) -> io::Result<bool> {
    let malformed = || io::Error::from_raw_os_error(libc::EPROTO);
    while !rest.is_empty() {
        let length = number(rest, 0).ok_or_else(malformed)? as usize;
        let body = rest.get(HEADER..length).ok_or_else(malformed)?;
        let kind = short(rest, 4).ok_or_else(malformed)?;
        let ours = number(rest, 8) == Some(sequence);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        match i32::from(kind) {
            _ if !ours => {}
            libc::NLMSG_ERROR => {
                let code = number(body, 0).ok_or_else(malformed)? as i32;
                // The smallest i32 has no positive counterpart; an errno is at most 4095 (MAX_ERRNO).
                let errno = code.checked_neg().ok_or_else(malformed)?;
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(errno)) };
            }
            libc::NLMSG_DONE => return Ok(true),
            _ => replies.push(Reply { kind, body: body.to_vec() }),
        }
    }
    Ok(false)
}

fn number(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(place..place + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(place..place + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_come_back() {
        let message = Message::new(16, libc::NLM_F_ACK as u16, &[0; 16]).with(3, b"eth0\0").unwrap();
        let bytes = message.with(28, &7u32.to_ne_bytes()).unwrap().finish(9);
        assert_eq!((number(&bytes, 0), number(&bytes, 8)), (Some(bytes.len() as u32), Some(9)));
        assert_eq!(bytes.len(), HEADER + 16 + 12 + 8);
        let mut replies = Vec::new();
        assert!(!read(&bytes, 9, &mut replies).unwrap());
        let attributes: Vec<_> = replies[0].attributes(16).collect();
        assert_eq!(attributes, [(3, &b"eth0\0"[..]), (28, &7u32.to_ne_bytes()[..])]);
        assert!(Message::new(16, 0, &[]).with(3, &[0; 65536]).is_err());
    }

    #[test]
    fn an_errno_that_has_no_negative_is_malformed() {
        let mut bytes = Message::new(libc::NLMSG_ERROR as u16, 0, &i32::MIN.to_ne_bytes()).finish(1);
        bytes.resize(40, 0);
        let error = read(&bytes, 1, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPROTO));
    }

    #[test]
    fn the_end_of_an_answer() {
        let end = |kind: i32, code: i32| Message::new(kind as u16, 0, &code.to_ne_bytes()).finish(1);
        let mut replies = Vec::new();
        assert!(read(&end(libc::NLMSG_ERROR, 0), 1, &mut replies).unwrap());
        assert!(read(&end(libc::NLMSG_DONE, 0), 1, &mut replies).unwrap());
        let error = read(&end(libc::NLMSG_ERROR, -libc::ENODEV), 1, &mut replies).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        // Of another request.
        assert!(!read(&end(libc::NLMSG_ERROR, -libc::ENODEV), 2, &mut replies).unwrap());
        assert!(replies.is_empty());
    }

    #[test]
    fn cut_messages_are_errors() {
        let whole = Message::new(16, 0, &[1; 16]).with(3, b"x\0").unwrap().finish(1);
        for length in 1..whole.len() {
            assert!(read(&whole[..length], 1, &mut Vec::new()).is_err(), "{length}");
        }
        // A length below the header's would never end.
        let mut zero = whole.clone();
        zero[..4].copy_from_slice(&0u32.to_ne_bytes());
        assert!(read(&zero, 1, &mut Vec::new()).is_err());
        let reply = Reply { kind: 16, body: vec![0; 20] };
        assert_eq!(reply.attributes(16).count(), 0, "an attribute without length ends the list");
    }
}
