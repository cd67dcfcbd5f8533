//! Init's side of a seccomp listener's hand-over (see `container::listener`).

use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Channel, Context, Failure, Kind};
use crate::seccomp::Filter;
use crate::sys::prctl;
use crate::sys::seccomp::set_mode_filter;
use crate::sys::shared::SharedWord;

/// What the runtime puts into the word once the agent has the listener.
pub const TAKEN: i32 = -1;

/// The listener's number, once its filter is loaded: the word holds the number plus one.
#[must_use]
pub fn loaded(word: &SharedWord) -> Option<i32> {
    word.get().checked_sub(1).filter(|fd| *fd >= 0)
}

/// What it takes to hand a listener over.
#[derive(Debug)]
pub struct Handover {
    /// Where its number is put.
    pub word: SharedWord,
    /// Whether the runtime is an ordinary user's, who may take a descriptor only from a dumpable process.
    pub show: bool,
}

/// Loads a filter with a listener and waits until the agent has it. Makes no call between the load and the close.
///
/// # Errors
/// EBUSY when a filter with a listener is in force already: one process has one at most (seccomp(2)).
pub fn load(filter: &Filter, handover: &Handover, channel: &Channel) -> Result<(), Failure> {
    let Handover { word, show } = handover;
    channel.tell(Kind::Listening).during("tell the runtime", || "that a seccomp listener comes")?;
    // Changing ids has cleared it. What follows waits without a call, so that only a signal ends it should the
    // runtime die.
    prctl::set_pdeathsig(libc::SIGKILL).during("set parent death signal", String::new)?;
    runtime_lives(channel)?;
    if *show {
        prctl::set_dumpable(true).during("make dumpable", String::new)?;
    }
    let listener = set_mode_filter(&filter.program, filter.flags).map_err(|error| {
        let failure = Failure::new("load seccomp filter", "", &error);
        match error.raw_os_error() {
            Some(libc::EBUSY) => failure.with_detail("davit itself runs under a filter with a listener"),
            _ => failure,
        }
    })?;
    let Some(listener) = listener else {
        return Err(Failure::other("load seccomp filter", "", "the kernel made no listener"));
    };
    word.set(listener.as_raw_fd().saturating_add(1));
    while word.get() != TAKEN {
        std::hint::spin_loop();
    }
    // So that calls fail with ENOSYS when the agent goes away, and do not wait for an answer that can't come. Where
    // the filter refuses close(2), execve(2) does it.
    let _ = nix::unistd::close(listener);
    if *show {
        prctl::set_dumpable(false).during("make undumpable", String::new)?;
    }
    Ok(())
}

/// The signal was set too late if the runtime has died before.
fn runtime_lives(channel: &Channel) -> Result<(), Failure> {
    let mut ready = [PollFd::new(channel.as_fd(), PollFlags::empty())];
    poll(&mut ready, PollTimeout::ZERO).during("poll", || "channel")?;
    let [ready] = ready;
    match ready.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
        true => Err(Failure::other("load seccomp filter", "", "the runtime is gone")),
        false => Ok(()),
    }
}
