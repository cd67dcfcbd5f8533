//! Delete waits for the output of an ended process, but not for ever: a grandchild may hold the pipe.

use std::time::{Duration, Instant};

use crate::api::Target;
use crate::io::stream::Channel;
use crate::serve::{Server, Timer};
use crate::task::Ticket;

/// The longest wait. CRI gives up after 10 s, and then Delete would never succeed (containerd #13377).
const LONGEST: Duration = Duration::from_secs(9);
const _: () = assert!(LONGEST.as_secs() < 10, "shorter than CRI's patience");
/// Output that pauses this long with nothing left to read is over.
const SILENCE: Duration = Duration::from_secs(2);

/// A Delete that waits.
#[derive(Debug)]
pub struct Drain {
    target: Target,
    ticket: Ticket,
    until: Instant,
    moved: u64,
}

impl Server {
    /// Goes on with a Delete once the process's output has ended.
    pub(crate) fn drain(&mut self, target: Target, ticket: Ticket) {
        let (open, _, moved) = self.output(&target);
        if !open {
            return self.remove(&target, ticket);
        }
        self.timers.set(Timer::Drain(target.clone()), SILENCE);
        self.drains.push(Drain { target, ticket, until: Instant::now() + LONGEST, moved });
    }

    /// Whether output streams are open, whether bytes wait for their reader, and how much they have moved.
    fn output(&self, target: &Target) -> (bool, bool, u64) {
        let owned =
            self.streams.values().filter(|s| s.owner == *target && s.stream.channel != Channel::Stdin);
        owned.fold((false, false, 0), |(_, stalled, moved), s| {
            (true, stalled || s.stream.is_stalled(), moved + s.stream.moved)
        })
    }

    /// A stream of the process has ended.
    pub(crate) fn drained(&mut self, target: &Target) {
        if self.drains.iter().any(|d| d.target == *target) && !self.output(target).0 {
            self.end_drain(target);
        }
    }

    pub(crate) fn drain_timer(&mut self, target: &Target) {
        let (open, stalled, moved) = self.output(target);
        let now = Instant::now();
        let mut over = !open;
        for drain in self.drains.iter_mut().filter(|d| d.target == *target) {
            // Bytes that wait for a slow reader are not lost to silence.
            over |= now >= drain.until || (moved == drain.moved && !stalled);
            drain.moved = moved;
        }
        if over {
            return self.end_drain(target);
        }
        let left = self.drains.iter().filter(|d| d.target == *target).map(|d| d.until - now).min();
        self.timers.set(Timer::Drain(target.clone()), left.unwrap_or(SILENCE).min(SILENCE));
    }

    fn end_drain(&mut self, target: &Target) {
        self.timers.clear(&Timer::Drain(target.clone()));
        let (ended, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.drains).into_iter().partition(|d| d.target == *target);
        self.drains = rest;
        for drain in ended {
            self.remove(&drain.target, drain.ticket);
        }
    }

    fn remove(&mut self, target: &Target, ticket: Ticket) {
        if target.exec.is_empty() {
            self.remove_container(&target.id, ticket);
        } else {
            self.remove_exec(target, ticket);
        }
    }
}
