//! One thread, one epoll: tokens, interest and timers.
//!
//! A token is a kind and a serial number that is never used twice, so an event that was queued for
//! something that is gone meanwhile finds nothing.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken from the kernel at once.
const BATCH: usize = 64;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The listening socket.
    Listener,
    /// The signalfd.
    Signals,
    /// The connection to containerd's event service.
    Events,
    /// A client's connection.
    Conn(u64),
    /// A worker's pidfd.
    Worker(u64),
    /// A container process's pidfd.
    Process(u64),
    /// A direction of stdio.
    Stream(u64),
    /// A container's OOM watch.
    Oom(u64),
}

const KIND_SHIFT: u32 = 56;

impl Token {
    fn encode(self) -> u64 {
        let (kind, serial) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::Events => (2, 0),
            Token::Conn(n) => (3, n),
            Token::Worker(n) => (4, n),
            Token::Process(n) => (5, n),
            Token::Stream(n) => (6, n),
            Token::Oom(n) => (7, n),
        };
        (kind << KIND_SHIFT) | serial
    }

    fn decode(data: u64) -> Option<Token> {
        let serial = data & ((1 << KIND_SHIFT) - 1);
        Some(match data >> KIND_SHIFT {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Events,
            3 => Token::Conn(serial),
            4 => Token::Worker(serial),
            5 => Token::Process(serial),
            6 => Token::Stream(serial),
            7 => Token::Oom(serial),
            _ => return None,
        })
    }
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Data or the end.
    Read,
    /// Room to write.
    Write,
    /// Both.
    Both,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Write => EpollFlags::EPOLLOUT,
            Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

/// The epoll instance and the serial numbers.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    serial: u64,
}

impl Poller {
    /// A new epoll.
    ///
    /// # Errors
    /// EMFILE.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, serial: 0 })
    }

    /// A serial number that was never given before.
    pub fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Starts watching, level-triggered.
    ///
    /// # Errors
    /// EPERM for a regular file, EEXIST when it is watched already.
    pub fn add(&self, fd: BorrowedFd<'_>, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(interest.flags(), token.encode()))?)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// ENOENT when it is not watched.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token.encode()))?)
    }

    /// Stops watching. Needed before a close too: a worker may still hold a copy of the descriptor, and
    /// epoll follows the open file. Not watched is fine.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    /// Waits for events, at most until `until`.
    ///
    /// # Errors
    /// None in practice; EINTR gives no events.
    pub fn wait(&self, until: Option<Instant>) -> io::Result<Vec<Token>> {
        let timeout = match until {
            None => EpollTimeout::NONE,
            Some(at) => timeout_until(at),
        };
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        Ok(events.iter().take(count).filter_map(|event| Token::decode(event.data())).collect())
    }
}

/// Milliseconds until `at`, rounded up: rounding down would spin for the last one.
fn timeout_until(at: Instant) -> EpollTimeout {
    let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
}

/// Deadlines with what they are for. There are a handful at most, so a list does.
#[derive(Debug)]
pub struct Timers<K> {
    list: Vec<(Instant, K)>,
}

impl<K: PartialEq> Timers<K> {
    /// No timer.
    #[must_use]
    pub fn new() -> Self {
        Timers { list: Vec::new() }
    }

    /// Arms a timer in `delay`; one of the same kind is replaced.
    pub fn set(&mut self, kind: K, delay: Duration) {
        self.clear(&kind);
        self.list.push((Instant::now() + delay, kind));
    }

    /// Disarms.
    pub fn clear(&mut self, kind: &K) {
        self.list.retain(|(_, other)| other != kind);
    }

    /// The next deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.list.iter().map(|(at, _)| *at).min()
    }

    /// Takes those that are due.
    pub fn due(&mut self) -> Vec<K> {
        if self.list.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.list).into_iter().partition(|(at, _)| *at <= now);
        self.list = rest;
        due.into_iter().map(|(_, kind)| kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Events,
            Token::Conn(1),
            Token::Worker(u64::MAX >> 8),
            Token::Process(3),
            Token::Stream(4),
            Token::Oom(5),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn timers_replace_and_expire() {
        let mut timers = Timers::new();
        timers.set(1, Duration::from_secs(3600));
        timers.set(2, Duration::ZERO);
        assert_eq!(timers.due(), [2]);
        timers.set(1, Duration::ZERO);
        assert_eq!(timers.due(), [1]);
        assert_eq!(timers.next(), None);
    }
}
