//! The calls of the task service on a container: what each does, as Go's shim does it.

use std::os::fd::AsFd;

use davit::sys::fs::{WinSize, set_winsize};
use davit::sys::process::pidfd_send_signal;

use crate::api::{ApiError, Code, ExitInfo, ProcessRow, Request, Response, StateInfo, Status, Stdio, Target};
use crate::jobs::{Done, Job};
use crate::serve::Server;
use crate::state::{Op, Phase, Role, allowed};
use crate::stats::Watched;
use crate::task::{Container, Ticket};
use crate::text;
use crate::wire::events::Event;

/// Highest signal number of Linux.
const SIGNAL_MAX: u32 = 64;

type Answer = Result<Response, ApiError>;

impl Server {
    /// Runs a call; it is answered at once or when its worker ends.
    pub(crate) fn dispatch(&mut self, ticket: Ticket, request: Request) {
        let id = match &request {
            Request::Start(t) | Request::Delete(t) if t.exec.is_empty() => Some(t.id.clone()),
            Request::Pause(id) | Request::Resume(id) | Request::Update { id, .. } => Some(id.clone()),
            Request::Checkpoint(call) => Some(call.id.clone()),
            Request::Kill { target, .. } if target.exec.is_empty() => Some(target.id.clone()),
            _ => None,
        };
        let result = match id {
            Some(id) => self.change(&id, ticket, request),
            None => self.look(ticket, request),
        };
        match result {
            Ok(Some(response)) => self.reply(ticket, &Ok(response)),
            Ok(None) => {}
            Err(error) => self.reply(ticket, &Err(error)),
        }
    }

    /// Calls that change a container as a whole: one after the other.
    fn change(&mut self, id: &str, ticket: Ticket, request: Request) -> Result<Option<Response>, ApiError> {
        if let Request::Delete(target) = &request {
            if let Some(exit) = self.buried(target) {
                return Ok(Some(Response::Deleted(exit)));
            }
        }
        self.container(id)?;
        if let Request::Kill { signal, all, .. } = &request {
            if let Some(answer) = self.kill_init_directly(id, *signal, *all) {
                return answer.map(Some);
            }
        }
        if !self.enter(id, ticket, &request) {
            return Ok(None);
        }
        let begun = match request {
            Request::Start(_) => self.start_init(id, ticket),
            Request::Delete(target) => self.delete_init(target, ticket),
            Request::Pause(_) => self.pause(id, ticket),
            Request::Resume(_) => self.resume(id, ticket),
            Request::Update { resources, .. } => self.update(id, ticket, resources),
            Request::Checkpoint(call) => self.checkpoint(ticket, *call),
            Request::Kill { signal, all, .. } => self.kill_by_runtime(id, ticket, signal, all),
            // `dispatch` sends nothing else here.
            other => Err(text::unimplemented(&format!("{other:?}"))),
        };
        if begun.is_err() {
            self.leave(id);
        }
        begun.map(|()| None)
    }

    /// Calls that are answered whatever else runs.
    fn look(&mut self, ticket: Ticket, request: Request) -> Result<Option<Response>, ApiError> {
        match request {
            Request::State(target) => self.state(&target).map(Some),
            Request::Create(create) => self.create(ticket, *create).map(|()| None),
            Request::Start(target) => self.start_exec(ticket, &target).map(|()| None),
            Request::Delete(target) => self.delete_exec(ticket, target),
            Request::Pids(id) => self.pids(&id).map(Some),
            Request::Kill { target, signal, .. } => self.kill_exec(&target, signal).map(Some),
            Request::Exec(exec) => self.add_exec(*exec).map(Some),
            Request::ResizePty { target, width, height } => self.resize(&target, width, height).map(Some),
            Request::CloseIo { target, stdin } => self.close_io(&target, stdin).map(Some),
            Request::Wait(target) => self.wait(ticket, &target),
            Request::Stats(id) => {
                let container = self.container_mut(&id)?;
                let gone = || ApiError::new(Code::NotFound, "cgroup does not exist");
                container.cgroup.as_mut().ok_or_else(gone)?.stats().map(|any| Some(Response::Stats(any)))
            }
            Request::Connect(id) => {
                let task = self.container(&id).map_or(0, |c| c.init.pid as u32);
                Ok(Some(Response::Connected { shim: std::process::id(), task }))
            }
            Request::Shutdown => {
                self.shutdown(ticket);
                Ok(None)
            }
            // `dispatch` sends nothing else here.
            other => Err(text::unimplemented(&format!("{other:?}"))),
        }
    }

    /// A container that Create has finished.
    pub(crate) fn container(&self, id: &str) -> Result<&Container, ApiError> {
        self.containers.get(id).filter(|c| c.made).ok_or_else(text::no_container)
    }

    pub(crate) fn container_mut(&mut self, id: &str) -> Result<&mut Container, ApiError> {
        self.containers.get_mut(id).filter(|c| c.made).ok_or_else(text::no_container)
    }

    /// The end of a process that was deleted and that no new one replaces.
    pub(crate) fn buried(&self, target: &Target) -> Option<ExitInfo> {
        let replaced = match self.containers.get(&target.id) {
            None => false,
            Some(container) => target.exec.is_empty() || container.execs.contains_key(&target.exec),
        };
        if replaced { None } else { self.tombstones.get(target) }
    }

    fn state(&self, target: &Target) -> Answer {
        if let Some(exit) = self.buried(target) {
            // After a Delete whose answer was lost the caller must not see "not found" before it has tried
            // again (containerd #11392).
            let id = if target.exec.is_empty() { target.id.clone() } else { target.exec.clone() };
            return Ok(Response::State(Box::new(StateInfo {
                id,
                exec: target.exec.clone(),
                bundle: String::new(),
                pid: exit.pid,
                status: Status::Stopped,
                stdio: Stdio::default(),
                exit_status: exit.status,
                exited_at: exit.at,
            })));
        }
        self.container(&target.id)?.state(&target.exec).map(|info| Response::State(Box::new(info)))
    }

    fn wait(&mut self, ticket: Ticket, target: &Target) -> Result<Option<Response>, ApiError> {
        if let Some(exit) = self.buried(target) {
            return Ok(Some(Response::Waited(exit)));
        }
        let process = self.container_mut(&target.id)?.process_mut(&target.exec)?;
        if let Some(exit) = process.exit {
            return Ok(Some(Response::Waited(exit)));
        }
        process.waiters.push(ticket);
        Ok(None)
    }

    /// All pids of the cgroup, and init's until Delete: containerd drops a task without pids when it restarts, and
    /// its exit code with it (#6771).
    fn pids(&self, id: &str) -> Answer {
        let container = self.container(id)?;
        let mut pids = container.cgroup.as_ref().map(Watched::pids).unwrap_or_default();
        // One that is to be restored has none yet.
        if container.init.pid != 0 && !pids.contains(&container.init.pid) {
            pids.insert(0, container.init.pid);
        }
        let exec_of = |pid: i32| {
            let live = container.execs.values().find(|e| e.process.pid == pid && e.process.exit.is_none());
            live.map(|e| e.process.target.exec.clone())
        };
        let rows = pids.iter().map(|pid| ProcessRow { pid: *pid as u32, exec: exec_of(*pid) }).collect();
        Ok(Response::Pids(rows))
    }

    fn resize(&mut self, target: &Target, width: u32, height: u32) -> Answer {
        let role = if target.exec.is_empty() { Role::Init } else { Role::Exec };
        let process = self.container_mut(&target.id)?.process_mut(&target.exec)?;
        allowed(role, Op::Resize, process.phase)?;
        // Truncated as Go's uint16 conversion does.
        let size = WinSize { rows: height as u16, cols: width as u16 };
        match &process.io.master {
            Some(master) => set_winsize(master.as_fd(), size)
                .map_err(|e| ApiError::unknown(format!("resize the terminal: {e}")))?,
            // Applied when the terminal comes.
            None => process.size = Some(size),
        }
        Ok(Response::Empty)
    }

    fn close_io(&mut self, target: &Target, stdin: bool) -> Answer {
        let process = self.container_mut(&target.id)?.process_mut(&target.exec)?;
        if stdin {
            process.io.stdin_hold = None;
        }
        Ok(Response::Empty)
    }

    /// A signal to init of a container of ours needs no worker.
    fn kill_init_directly(&self, id: &str, signal: u32, all: bool) -> Option<Answer> {
        let container = self.container(id).ok()?;
        let signal = match signal_number(signal) {
            Ok(signal) => signal,
            Err(error) => return Some(Err(error)),
        };
        if container.init.held.is_some() || container.init.exit.is_some() {
            return Some(Err(text::finished()));
        }
        // Also while another call changes the container: a Start whose hook hangs can still be killed. A frozen
        // process on cgroup v1 needs the runtime, which thaws it.
        let frozen = matches!(container.init.phase, Phase::Paused | Phase::Pausing);
        if !container.backend.is_inproc() || all || frozen {
            return None;
        }
        let pidfd = container.init.pidfd.as_ref()?;
        Some(match pidfd_send_signal(pidfd.as_fd(), signal) {
            Ok(()) => Ok(Response::Empty),
            Err(e) => Err(text::kill_failed(&e.to_string())),
        })
    }

    fn kill_by_runtime(&mut self, id: &str, ticket: Ticket, signal: u32, all: bool) -> Result<(), ApiError> {
        let signal = signal_number(signal)?;
        let container = self.container(id)?;
        if container.init.held.is_some() || container.init.exit.is_some() {
            return Err(text::finished());
        }
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        self.launch(Job::Kill(id.to_owned()), Some(ticket), move || {
            let done = if all {
                backend.kill_all(&name, &bundle, signal)
            } else {
                backend.kill(&name, &bundle, signal)
            };
            done.map(|()| 0)
        })
    }

    pub(crate) fn killed(&mut self, id: &str, done: Done) {
        let answer = done.outcome.map(|_| Response::Empty).map_err(|text| text::kill_failed(&text));
        self.finish(id, done.ticket, answer);
    }

    fn pause(&mut self, id: &str, ticket: Ticket) -> Result<(), ApiError> {
        let container = self.container_mut(id)?;
        allowed(Role::Init, Op::Pause, container.init.phase)?;
        container.init.phase = Phase::Pausing;
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        let begun = self.launch(Job::Pause(id.to_owned()), Some(ticket), move || {
            backend.pause(&name, &bundle).map(|()| 0)
        });
        if begun.is_err() {
            self.set_phase(id, Phase::Pausing, Phase::Running);
        }
        begun
    }

    /// Changes the state of init unless it has changed otherwise meanwhile: its end wins.
    fn set_phase(&mut self, id: &str, from: Phase, to: Phase) {
        if let Some(container) = self.containers.get_mut(id) {
            if container.init.phase == from {
                container.init.phase = to;
            }
        }
    }

    pub(crate) fn paused(&mut self, id: &str, done: Done) {
        let answer = match done.outcome {
            Ok(_) => {
                self.set_phase(id, Phase::Pausing, Phase::Paused);
                self.publish(Event::Paused { id: id.to_owned() });
                Ok(Response::Empty)
            }
            Err(text) => return self.thaw(id, done.ticket, text::runtime_failed("pause", &text)),
        };
        self.finish(id, done.ticket, answer);
    }

    /// A pause or checkpoint that has failed, or whose worker was killed, may have frozen the container: who is told that
    /// it runs could never resume it.
    pub(crate) fn thaw(&mut self, id: &str, ticket: Option<Ticket>, error: ApiError) {
        let Some(container) = self.containers.get(id) else { return };
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        let resume = move || backend.resume(&name, &bundle).map(|()| 0);
        if let Err(e) = self.launch(Job::Thaw(id.to_owned(), error.clone()), ticket, resume) {
            let done = Done { outcome: Err(e.text), ticket, console: None };
            self.thawed(id, error, &done);
        }
    }

    pub(crate) fn thawed(&mut self, id: &str, error: ApiError, done: &Done) {
        if let Err(text) = &done.outcome {
            // The usual case: nothing was frozen.
            log::debug!("{id}: resume after a failed pause or checkpoint: {text}");
        }
        self.set_phase(id, Phase::Pausing, Phase::Running);
        self.finish(id, done.ticket, Err(error));
    }

    fn resume(&mut self, id: &str, ticket: Ticket) -> Result<(), ApiError> {
        let container = self.container(id)?;
        allowed(Role::Init, Op::Resume, container.init.phase)?;
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        self.launch(Job::Resume(id.to_owned()), Some(ticket), move || {
            backend.resume(&name, &bundle).map(|()| 0)
        })
    }

    pub(crate) fn resumed(&mut self, id: &str, done: Done) {
        let answer = match done.outcome {
            Ok(_) => {
                self.set_phase(id, Phase::Paused, Phase::Running);
                self.publish(Event::Resumed { id: id.to_owned() });
                Ok(Response::Empty)
            }
            Err(text) => Err(text::runtime_failed("resume", &text)),
        };
        self.finish(id, done.ticket, answer);
    }

    fn update(&mut self, id: &str, ticket: Ticket, resources: Vec<u8>) -> Result<(), ApiError> {
        let container = self.container(id)?;
        allowed(Role::Init, Op::Update, container.init.phase)?;
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        self.launch(Job::Update(id.to_owned()), Some(ticket), move || {
            backend.update(&name, &bundle, &resources).map(|()| 0)
        })
    }

    pub(crate) fn updated(&mut self, id: &str, done: Done) {
        let answer =
            done.outcome.map(|_| Response::Empty).map_err(|text| text::runtime_failed("update", &text));
        self.finish(id, done.ticket, answer);
    }
}

pub(crate) fn signal_number(signal: u32) -> Result<i32, ApiError> {
    if signal > SIGNAL_MAX {
        return Err(ApiError::new(Code::InvalidArgument, format!("unknown signal {signal}")));
    }
    Ok(signal as i32)
}
