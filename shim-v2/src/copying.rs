//! Drives the streams of stdio from the reactor.

use std::time::Duration;

use crate::api::Target;
use crate::io::fifo;
use crate::io::stream::{Channel, Wants};
use crate::reactor::{Interest, Token};
use crate::serve::{ActiveStream, Server, Timer};

/// First and longest pause between two looks at a FIFO without a reader or a terminal without a slave.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// Looks until a FIFO is taken as one that nobody will open soon: about 30 s, Go's limit for the open.
const LOOKS: u32 = 66;

impl Server {
    /// Begins to copy what was planned for a process.
    pub(crate) fn start_streams(&mut self, target: &Target) {
        let Ok(process) = self.process_any(target) else { return };
        let planned = std::mem::take(&mut process.io.planned);
        for stream in planned {
            let serial = self.poller.serial();
            if let Ok(process) = self.process_any(target) {
                process.io.streams.push(serial);
            }
            let active = ActiveStream { stream, owner: target.clone(), wants: None, tries: 0 };
            self.streams.insert(serial, active);
            self.pump(serial);
        }
    }

    /// Moves what can be moved and waits for what the stream needs next.
    pub(crate) fn pump(&mut self, serial: u64) {
        let Some(active) = self.streams.get_mut(&serial) else { return };
        let wants = active.stream.pump(&mut self.scratch);
        if Some(wants) == active.wants {
            return;
        }
        if let Some(fd) = active.wants.and_then(|before| active.stream.fd(before)) {
            self.poller.remove(fd);
        }
        active.wants = Some(wants);
        let interest = if wants == Wants::Sink { Interest::Write } else { Interest::Read };
        let watched = match active.stream.fd(wants) {
            Some(fd) => self.poller.add(fd, Token::Stream(serial), interest),
            None => Ok(()),
        };
        match (wants, watched) {
            (Wants::Finished, _) => self.stream_ended(serial),
            (Wants::Timer, _) => self.park(serial),
            (_, Err(e)) => {
                log::warn!("stdio stream: {e}");
                self.stream_ended(serial);
            }
            (_, Ok(())) => {}
        }
    }

    /// Looks again later, or ends a terminal whose process has gone.
    fn park(&mut self, serial: u64) {
        let Some(active) = self.streams.get_mut(&serial) else { return };
        let owner = active.owner.clone();
        let pause = FIRST_LOOK.saturating_mul(1 << active.tries.min(10)).min(LONGEST_LOOK);
        active.tries += 1;
        let hung_up = active.stream.absent_sink().is_none();
        if hung_up && self.has_ended(&owner) {
            return self.stream_ended(serial);
        }
        self.timers.set(Timer::Stream(serial), pause);
    }

    fn has_ended(&mut self, target: &Target) -> bool {
        self.process_any(target).map_or(true, |p| p.held.is_some() || p.exit.is_some())
    }

    pub(crate) fn stream_timer(&mut self, serial: u64) {
        let Some(active) = self.streams.get_mut(&serial) else { return };
        if let Some(path) = active.stream.absent_sink().cloned() {
            let opened =
                if active.tries > LOOKS { fifo::force_output(&path) } else { fifo::try_output(&path) };
            match opened {
                Ok(sink) => active.stream.set_sink(sink),
                Err(e) => {
                    log::warn!("open {}: {e}", path.display());
                    return self.stream_ended(serial);
                }
            }
            if active.stream.absent_sink().is_none() {
                active.tries = 0;
            }
        }
        active.wants = None;
        self.pump(serial);
    }

    /// A process has ended: its terminal may have nothing more to say.
    pub(crate) fn nudge_streams(&mut self, target: &Target) {
        let Ok(process) = self.process_any(target) else { return };
        for serial in process.io.streams.clone() {
            let parked = self.streams.get(&serial).is_some_and(|s| s.wants == Some(Wants::Timer));
            if parked {
                self.stream_timer(serial);
            }
        }
    }

    fn stream_ended(&mut self, serial: u64) {
        let Some(active) = self.streams.get(&serial) else { return };
        let (owner, channel) = (active.owner.clone(), active.stream.channel);
        self.close_streams(&[serial]);
        if let Ok(process) = self.process_any(&owner) {
            process.io.streams.retain(|other| *other != serial);
            if channel == Channel::Stdin {
                process.io.stdin_hold = None;
            }
        }
        self.drained(&owner);
    }

    /// Drops streams: their descriptors close.
    pub(crate) fn close_streams(&mut self, serials: &[u64]) {
        for serial in serials {
            if let Some(active) = self.streams.remove(serial) {
                if let Some(fd) = active.wants.and_then(|wants| active.stream.fd(wants)) {
                    self.poller.remove(fd);
                }
                self.timers.clear(&Timer::Stream(*serial));
            }
        }
    }
}
