//! The end of processes: what is published when, so that every reader sees one order.
//!
//! start < exit; execs' exits < init's; OOM < exit. (containerd #9719, #10589, #12714)

use std::os::fd::{AsFd, BorrowedFd};

use davit::sys::process::{WaitFor, WaitMode, wait};

use crate::api::{ExitInfo, Response, Stamp, Target};
use crate::exec::signal_group;
use crate::io::stream::Channel;
use crate::jobs::{Done, Job};
use crate::record;
use crate::serve::Server;
use crate::state::Phase;
use crate::task::Container;
use crate::wire::events::Event;

/// What init leaves behind is killed with this.
const SIGKILL: i32 = libc::SIGKILL;

/// Whether a process has ended; it is not reaped.
fn ended(pidfd: BorrowedFd<'_>) -> bool {
    matches!(wait(WaitFor::Pidfd(pidfd), WaitMode::Peek), Ok(Some(_)))
}

/// The first thing when init has ended: systemd is about to remove its cgroup, and is seldom as fast.
fn note_metrics(container: &mut Container) {
    let Some(cgroup) = container.cgroup.as_mut().filter(|cgroup| cgroup.may_vanish()) else { return };
    if container.init.pidfd.as_ref().is_some_and(|pidfd| ended(pidfd.as_fd())) {
        cgroup.note();
    }
}

impl Server {
    /// A process's pidfd is readable.
    pub(crate) fn process_ended(&mut self, serial: u64) {
        if let Some(target) = self.processes.get(&serial).cloned() {
            self.process_gone(&target);
        }
    }

    /// Reaps a process and does what its end asks for. False when it still runs.
    pub(crate) fn process_gone(&mut self, target: &Target) -> bool {
        let gone = self.collect(target);
        if gone {
            self.after_exit(target);
        }
        gone
    }

    /// Reaps a process and notes its end. False when it still runs.
    fn collect(&mut self, target: &Target) -> bool {
        let Some(container) = self.containers.get_mut(&target.id) else { return false };
        let group = container.exec_kill_group && !target.exec.is_empty();
        let bundle = target.exec.is_empty().then(|| container.bundle.clone());
        if target.exec.is_empty() {
            note_metrics(container);
        }
        let Ok(process) = container.process_mut(&target.exec) else { return false };
        let Some(pidfd) = &process.pidfd else { return false };
        if group && ended(pidfd.as_fd()) {
            signal_group(process.pid, SIGKILL);
        }
        let status = match wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Poll) {
            Ok(None) => return false,
            Ok(Some((_, exit))) => exit.shell_code() as u32,
            Err(e) => {
                // Not our child: a runtime that keeps its container to itself. Its end is known, its code not.
                log::error!("{}/{}: reap {}: {e}", target.id, target.exec, process.pid);
                255
            }
        };
        let exit = ExitInfo { pid: process.pid as u32, status, at: Stamp::now() };
        process.held = Some(exit);
        if let Some(bundle) = bundle {
            // At once, though it may be published later: the shim may be killed meanwhile.
            if let Err(e) = record::write(&bundle, exit) {
                log::warn!("{}: exit record: {e}", target.id);
            }
        }
        let Ok(process) = self.process_any(target) else { return false };
        let (pidfd, serial) = (process.pidfd.take(), process.serial);
        if let Some(pidfd) = pidfd {
            self.poller.remove(pidfd.as_fd());
        }
        self.processes.remove(&serial);
        true
    }

    fn after_exit(&mut self, target: &Target) {
        self.close_stdin(target);
        // A terminal without a slave ends now.
        self.nudge_streams(target);
        if !target.exec.is_empty() {
            self.publish_exit(target);
            return self.publish_init_exit(&target.id);
        }
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        if container.kill_all && container.made {
            container.sweeping = true;
            let (backend, bundle, id) =
                (container.backend.clone(), container.bundle.clone(), target.id.clone());
            let frozen = container.init.phase == Phase::Paused;
            let sweep = move || {
                if frozen {
                    // A frozen process does not die on cgroup v1. The kill's error is the one that counts.
                    let _ = backend.resume(&id, &bundle);
                }
                backend.kill_all(&id, &bundle, SIGKILL).map(|()| 0)
            };
            if let Err(error) = self.launch(Job::Sweep(target.id.clone()), None, sweep) {
                self.sweep_is_over(&target.id, &error.text);
            }
        }
        self.publish_init_exit(&target.id);
    }

    pub(crate) fn swept(&mut self, id: &str, done: &Done) {
        self.sweep_is_over(id, done.outcome.as_ref().err().map_or("", String::as_str));
        self.publish_init_exit(id);
    }

    fn sweep_is_over(&mut self, id: &str, error: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            container.sweeping = false;
        }
        if !error.is_empty() {
            log::debug!("{id}: kill what init left behind: {error}");
        }
    }

    /// Publishes init's end once nothing has to come before it.
    pub(crate) fn publish_init_exit(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let waits =
            container.sweeping || !container.made || container.execs.values().any(|e| e.process.is_live());
        if container.init.held.is_none() || waits {
            return;
        }
        if let Some(cgroup) = &mut container.cgroup {
            let killed = cgroup.oom.as_mut().is_some_and(davit::cgroup::OomWatch::drain);
            cgroup.freeze_stats();
            if killed {
                self.publish(Event::Oom { id: id.to_owned() });
            }
        }
        let target = Target { id: id.to_owned(), exec: String::new() };
        self.publish_exit(&target);
    }

    /// Makes a noted end visible: state, record, event, waiters.
    fn publish_exit(&mut self, target: &Target) {
        let Some(container) = self.containers.get_mut(&target.id) else { return };
        let Ok(process) = container.process_mut(&target.exec) else { return };
        let Some(exit) = process.held.take() else { return };
        process.phase = Phase::Stopped;
        process.exit = Some(exit);
        let waiters = std::mem::take(&mut process.waiters);
        let name = if target.exec.is_empty() { &target.id } else { &target.exec };
        self.publish(Event::Exit { id: target.id.clone(), process: name.clone(), exit });
        // Nobody may come to delete it: containerd has lost this shim, and the bundle may go.
        self.look_for_idleness();
        for ticket in waiters {
            self.reply(ticket, &Ok(Response::Waited(exit)));
        }
    }

    /// Publishes the ends of processes that a forced delete has killed, as far as they can be read.
    pub(crate) fn force_exit(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.sweeping = false;
        let mut targets: Vec<Target> = container.processes().map(|p| p.target.clone()).collect();
        // Init comes last.
        targets.rotate_left(1);
        for target in targets {
            let dead = self.process_any(&target).is_ok_and(|p| p.held.is_some()) || self.collect(&target);
            if dead {
                self.publish_exit(&target);
            }
        }
    }

    /// Closes our side of a process's stdin: nobody reads it any more.
    fn close_stdin(&mut self, target: &Target) {
        let Ok(process) = self.process_any(target) else { return };
        process.io.stdin_hold = None;
        let streams = process.io.streams.clone();
        let stdin: Vec<u64> = streams
            .into_iter()
            .filter(|serial| self.streams.get(serial).is_some_and(|s| s.stream.channel == Channel::Stdin))
            .collect();
        self.close_streams(&stdin);
    }
}
