//! Watching a running container: its counters, its OOM kills, its end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::lifecycle::{load, open_init};
use super::state::State;
use super::{Error, Result, Runtime, Status};
use crate::cgroup::{self, Cgroup, OomWatch};
use crate::init::Failure;

/// A running container that is watched.
#[derive(Debug)]
pub struct Monitor {
    cgroup: Cgroup,
    state: State,
    init: OwnedFd,
    oom: Option<OomWatch>,
}

/// What [`Monitor::wait`] waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The OOM killer has killed processes of the container.
    Oom,
    /// Init has ended.
    Ended,
    /// The time is up.
    Time,
}

impl Monitor {
    pub(super) fn open(runtime: &Runtime, id: &str) -> Result<Monitor> {
        let container = load(runtime, id)?;
        if matches!(container.status, Status::Stopped | Status::Creating) {
            return Err(Error::NotRunning);
        }
        let init = open_init(&container.state)?.ok_or(Error::NotRunning)?;
        Ok(Monitor { cgroup: container.cgroup, state: container.state, init, oom: None })
    }

    /// Begins to count OOM kills. Where memory is not accounted a warning says so and none will be told.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub fn watch_oom(&mut self) -> Result<()> {
        match self.cgroup.oom_watch() {
            Ok(watch) => self.oom = Some(watch),
            Err(cgroup::Error::NoController(_)) => {
                log::warn!("no OOM events: the container's memory is not accounted");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Counters and limits as runc's `events` prints them.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the cgroup is gone.
    pub fn stats(&self) -> Result<serde_json::Value> {
        Ok(self.cgroup.report(self.state.resctrl_stats()?)?)
    }

    /// Waits until a moment for something to happen. OOM kills are told before the end that they cause.
    ///
    /// # Errors
    /// When poll(2) fails.
    pub fn wait(&mut self, until: Instant) -> Result<News> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = self.oom.as_ref().and_then(OomWatch::recheck).map_or(left, |soon| soon.min(left));
            // Rounded up: to come back a little early would make this loop spin.
            let milliseconds =
                left.as_millis().saturating_add(u128::from(left.subsec_nanos() % 1_000_000 != 0));
            let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
            let mut fds = vec![PollFd::new(self.init.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.oom.as_ref().map(|oom| PollFd::new(oom.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(Error::Runtime(Failure::new("wait for", "events", &e.into()))),
            }
            let ended = fds.first().and_then(PollFd::any).unwrap_or(false);
            let look = if ended { OomWatch::drain_at_end } else { OomWatch::drain };
            if self.oom.as_mut().is_some_and(look) {
                return Ok(News::Oom);
            }
            if ended {
                return Ok(News::Ended);
            }
            if until <= Instant::now() {
                return Ok(News::Time);
            }
        }
    }
}
