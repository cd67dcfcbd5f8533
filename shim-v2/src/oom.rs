//! OOM kills while a container runs.

use std::os::fd::AsFd;

use crate::reactor::{Interest, Token};
use crate::serve::{Server, Timer};
use crate::wire::events::Event;

impl Server {
    /// Watches a new container's cgroup. Where memory is not accounted there is nothing to watch.
    pub(crate) fn watch_oom(&mut self, id: &str) {
        let serial = self.poller.serial();
        let Some(container) = self.containers.get_mut(id) else { return };
        container.oom_serial = serial;
        let Some(oom) = container.cgroup.as_ref().and_then(|c| c.oom.as_ref()) else { return };
        match self.poller.add(oom.as_fd(), Token::Oom(serial), Interest::Read) {
            Ok(()) => {
                self.oom_watches.insert(serial, id.to_owned());
            }
            Err(e) => log::warn!("{id}: watch for OOM kills: {e}"),
        }
    }

    /// The watch has fired: an event for each time that kills were counted.
    pub(crate) fn oom(&mut self, serial: u64) {
        let Some(id) = self.oom_watches.get(&serial).cloned() else { return };
        let Some(container) = self.containers.get_mut(&id) else { return };
        // The exit was published already: an OOM event behind it would be out of order.
        let ended = container.init.exit.is_some();
        let Some(cgroup) = container.cgroup.as_mut() else { return };
        let Some(oom) = cgroup.oom.as_mut() else { return };
        let killed = oom.drain();
        if killed && cgroup.may_vanish() {
            // The victim may be the last that keeps it.
            cgroup.note();
        }
        let Some(oom) = &cgroup.oom else { return };
        if let Some(soon) = oom.recheck().filter(|_| !ended) {
            self.timers.set(Timer::Oom(serial), soon);
        }
        if ended {
            // A removed v1 cgroup makes its eventfd readable for good.
            self.poller.remove(oom.as_fd());
        } else if killed && container.init.starting {
            container.oom_held = true;
        } else if killed {
            self.publish(Event::Oom { id });
        }
    }

    /// Start is over: what was seen meanwhile is told.
    pub(crate) fn release_oom(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if std::mem::take(&mut container.oom_held) {
            self.publish(Event::Oom { id: id.to_owned() });
        }
    }
}
