//! Further processes of a container.

use std::os::fd::AsFd;

use davit::sys::process::{pidfd_open, pidfd_send_signal};

use crate::api::{ApiError, Code, Exec as ExecCall, Response, Target};
use crate::backend::ExecArgs;
use crate::calls::signal_number;
use crate::jobs::{Done, Job};
use crate::lifecycle::open_stdio;
use crate::serve::Server;
use crate::state::{Op, Phase, Role, allowed};
use crate::task::{Exec, Process, Ticket};
use crate::text;
use crate::wire::events::Event;

/// Signals the process group that an exec leads; false when there is none. The exec must not be reaped: while
/// its pid is taken, no other group can have the number.
pub(crate) fn signal_group(leader: i32, signal: i32) -> bool {
    let Ok(signal) = nix::sys::signal::Signal::try_from(signal) else { return false };
    leader > 1 && nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), signal).is_ok()
}

impl Server {
    /// Exec: records what Start is to run.
    pub(crate) fn add_exec(&mut self, call: ExecCall) -> Result<Response, ApiError> {
        let ExecCall { target, stdio, spec } = call;
        // The id becomes part of file names in the bundle.
        if target.exec.is_empty() || target.exec.contains('/') || target.exec.starts_with('.') {
            return Err(ApiError::new(Code::InvalidArgument, format!("invalid exec id {:?}", target.exec)));
        }
        let container = self.container_mut(&target.id)?;
        if container.execs.contains_key(&target.exec) {
            return Err(text::id_in_use(&target.exec));
        }
        if container.init.held.is_some() {
            return Err(text::init_gone(&target.id));
        }
        allowed(Role::Init, Op::Exec, container.init.phase)?;
        let process = Process::new(target.clone(), stdio);
        container.execs.insert(target.exec.clone(), Exec { process, spec });
        self.tombstones.forget(&target);
        self.publish(Event::ExecAdded { id: target.id, exec: target.exec });
        Ok(Response::Empty)
    }

    /// Start of an exec. Several run side by side; nothing waits for them.
    pub(crate) fn start_exec(&mut self, ticket: Ticket, target: &Target) -> Result<(), ApiError> {
        let container = self.container(&target.id)?;
        let stdio = &container.process(&target.exec)?.stdio;
        let logger = self.logger(stdio, container.owner);
        let container = self.container_mut(&target.id)?;
        let (backend, bundle, owner) = (container.backend.clone(), container.bundle.clone(), container.owner);
        let init = (container.init.phase, container.init.held.is_some());
        let exec = container.execs.get_mut(&target.exec).ok_or_else(|| text::no_process(&target.exec))?;
        if exec.process.starting {
            return Err(ApiError::unknown("cannot start a running process"));
        }
        allowed(Role::Exec, Op::Start, exec.process.phase)?;
        match init {
            (Phase::Stopped, _) | (_, true) => return Err(text::init_gone(&target.id)),
            (Phase::Paused | Phase::Pausing, _) => {
                return Err(ApiError::unknown("cannot exec in a paused state"));
            }
            _ => {}
        }
        let args = ExecArgs {
            id: target.id.clone(),
            exec: target.exec.clone(),
            bundle,
            spec: exec.spec.clone(),
            terminal: exec.process.stdio.terminal,
            size: exec.process.size,
            logger,
        };
        let (side, console) = open_stdio(&mut exec.process, owner)?;
        exec.process.starting = true;
        let job = Job::StartExec(target.clone());
        let begun =
            self.launch_with(job, Some(ticket), side, console, move |socket| backend.exec(&args, socket));
        if begun.is_err() {
            self.exec_failed(target);
        }
        begun
    }

    pub(crate) fn exec_started(&mut self, target: &Target, done: Done) {
        let begun = done
            .outcome
            .map_err(|text| text::runtime_failed("exec", &text))
            .and_then(|pid| self.adopt_exec(target, pid, done.console.as_ref()));
        let answer = match begun {
            Ok(pid) => {
                let event = Event::ExecStarted { id: target.id.clone(), exec: target.exec.clone(), pid };
                self.publish(event);
                self.start_streams(target);
                // Only now, so that its exit comes behind its start.
                if let Err(e) = self.watch_process(target) {
                    log::error!("{}/{}: watch: {e}", target.id, target.exec);
                }
                Ok(Response::Pid(pid))
            }
            Err(error) => {
                self.exec_failed(target);
                Err(error)
            }
        };
        if let Some(ticket) = done.ticket {
            self.reply(ticket, &answer);
        }
        self.publish_init_exit(&target.id);
    }

    fn adopt_exec(
        &mut self,
        target: &Target,
        pid: i32,
        console: Option<&std::os::fd::OwnedFd>,
    ) -> Result<u32, ApiError> {
        let failed = |what: &str, e: std::io::Error| text::runtime_failed("exec", &format!("{what}: {e}"));
        let container = self.containers.get_mut(&target.id).ok_or_else(text::no_container)?;
        let exec = container.execs.get_mut(&target.exec).ok_or_else(|| text::no_process(&target.exec))?;
        let pidfd = pidfd_open(pid).map_err(|e| failed("open its pidfd", e))?;
        exec.spec = Vec::new();
        exec.process.pid = pid;
        exec.process.phase = Phase::Running;
        exec.process.starting = false;
        exec.process.pidfd = Some(pidfd);
        if let Err(e) = self.attach_console(target, console) {
            // The process runs: it is better reported without a terminal than lost.
            log::error!("{}/{}: terminal: {e}", target.id, target.exec);
        }
        Ok(pid as u32)
    }

    /// As in Go's shim a failed exec stays "created", its Wait returns at once, and it has no exit event.
    fn exec_failed(&mut self, target: &Target) {
        let Ok(process) = self.process_any(target) else { return };
        process.starting = false;
        process.io = crate::task::ProcessIo::default();
        let exit = process.exit_or_zero();
        for ticket in std::mem::take(&mut process.waiters) {
            self.reply(ticket, &Ok(Response::Waited(exit)));
        }
    }

    /// Kill of an exec: one signal to the one process, as in Go's shim, or to its group where that is asked for.
    pub(crate) fn kill_exec(&mut self, target: &Target, signal: u32) -> Result<Response, ApiError> {
        let signal = signal_number(signal)?;
        let container = self.container(&target.id)?;
        let process = container.process(&target.exec)?;
        if process.exit.is_some() || process.phase == Phase::Stopped {
            return Err(text::finished());
        }
        let pidfd = process.pidfd.as_ref().ok_or_else(text::not_started)?;
        if container.exec_kill_group && signal_group(process.pid, signal) {
            return Ok(Response::Empty);
        }
        match pidfd_send_signal(pidfd.as_fd(), signal) {
            Ok(()) => Ok(Response::Empty),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(text::finished()),
            Err(e) => Err(ApiError::unknown(format!("exec kill error: {e}"))),
        }
    }

    /// Delete of an exec: waits for its output, then forgets it. There is no event.
    pub(crate) fn delete_exec(
        &mut self,
        ticket: Ticket,
        target: Target,
    ) -> Result<Option<Response>, ApiError> {
        if let Some(exit) = self.buried(&target) {
            return Ok(Some(Response::Deleted(exit)));
        }
        let process = self.container(&target.id)?.process(&target.exec)?;
        if process.starting {
            return Err(ApiError::unknown("cannot delete a running process"));
        }
        allowed(Role::Exec, Op::Delete, process.phase)?;
        self.drain(target, ticket);
        Ok(None)
    }

    /// The output of an exec has come to its end.
    pub(crate) fn remove_exec(&mut self, target: &Target, ticket: Ticket) {
        let removed = self.containers.get_mut(&target.id).and_then(|c| c.execs.remove(&target.exec));
        let Some(mut exec) = removed else {
            // Another Delete was faster.
            let answer = self.tombstones.get(target).map(Response::Deleted);
            return self.reply(ticket, &answer.ok_or_else(|| text::no_process(&target.exec)));
        };
        let exit = exec.process.exit_or_zero();
        self.release_process(&mut exec.process);
        self.tombstones.add(target.clone(), exit);
        self.reply(ticket, &Ok(Response::Deleted(exit)));
    }
}
