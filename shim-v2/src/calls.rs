//! The calls of the task service on a container: what each does, as Go's shim does it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use davit::sys::fs::{WinSize, set_winsize};
use davit::sys::process::{pidfd_open, pidfd_send_signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::api::{ApiError, Code, Create, ExitInfo, ProcessRow, Request, Response, Target};
use crate::backend::{Backend, CreateArgs, Force};
use crate::config::{self, Facts};
use crate::io::{ContainerSide, Owner, pty};
use crate::jobs::{Done, Job};
use crate::options::Options;
use crate::reactor::{Interest, Token};
use crate::record;
use crate::serve::Server;
use crate::state::{Op, Phase, Role, allowed};
use crate::stats::Watched;
use crate::task::{Container, Process, ProcessIo, Ticket};
use crate::text;
use crate::wire::events::Event;
use crate::wire::options as wire_options;

/// Highest signal number of Linux.
const SIGNAL_MAX: u32 = 64;

type Answer = Result<Response, ApiError>;

impl Server {
    /// Runs a call; it is answered at once or when its worker ends.
    pub(crate) fn dispatch(&mut self, ticket: Ticket, request: Request) {
        let id = match &request {
            Request::Start(t) | Request::Delete(t) if t.exec.is_empty() => Some(t.id.clone()),
            Request::Pause(id) | Request::Resume(id) | Request::Update { id, .. } => Some(id.clone()),
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
            Request::Checkpoint(id) => {
                self.container(&id)?;
                Err(text::unimplemented("checkpoint"))
            }
            Request::Kill { target, signal, .. } => self.kill_exec(&target, signal).map(Some),
            Request::Exec(exec) => self.add_exec(*exec).map(Some),
            Request::ResizePty { target, width, height } => self.resize(&target, width, height).map(Some),
            Request::CloseIo { target, stdin } => self.close_io(&target, stdin).map(Some),
            Request::Wait(target) => self.wait(ticket, &target),
            Request::Stats(id) => {
                let container = self.container(&id)?;
                let gone = || ApiError::new(Code::NotFound, "cgroup does not exist");
                container.cgroup.as_ref().ok_or_else(gone)?.stats().map(|any| Some(Response::Stats(any)))
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
            let mut gone = Process::new(target.clone(), crate::api::Stdio::default());
            gone.phase = Phase::Stopped;
            let id = if target.exec.is_empty() { target.id.clone() } else { target.exec.clone() };
            return Ok(Response::State(Box::new(crate::api::StateInfo {
                id,
                exec: target.exec.clone(),
                bundle: String::new(),
                pid: exit.pid,
                status: gone.phase.status(),
                stdio: gone.stdio,
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
        if !pids.contains(&container.init.pid) {
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

    fn create(&mut self, ticket: Ticket, create: Create) -> Result<(), ApiError> {
        if self.containers.contains_key(&create.id) {
            return Err(text::id_in_use(&create.id));
        }
        if !create.checkpoint.is_empty() {
            return Err(text::unimplemented("restore from a checkpoint"));
        }
        let mut options = match &create.options {
            Some(any) => wire_options::decode(any)?,
            None => Options::default(),
        };
        let bundle = PathBuf::from(&create.bundle);
        let facts = config::facts(&bundle);
        options.systemd_cgroup |= facts.systemd_cgroup;
        let container = self.new_container(&create, bundle, &options, &facts);
        record::clear(&container.bundle);
        let backend = container.backend.clone();
        let args = CreateArgs {
            id: create.id.clone(),
            bundle: container.bundle.clone(),
            rootfs: create.rootfs,
            options,
        };
        let mut container = container;
        let (side, console) = open_stdio(&mut container.init, container.owner)?;
        self.launch_with(Job::Create(create.id.clone()), Some(ticket), side, console, move |socket| {
            backend.create(&args, socket)
        })?;
        self.tombstones.forget(&container.init.target);
        self.containers.insert(create.id, container);
        Ok(())
    }

    fn new_container(&self, create: &Create, bundle: PathBuf, options: &Options, facts: &Facts) -> Container {
        let asked = Owner { uid: options.io_uid, gid: options.io_gid };
        let owner = if asked == Owner::default() { facts.owner.unwrap_or_default() } else { asked };
        let target = Target { id: create.id.clone(), exec: String::new() };
        Container {
            id: create.id.clone(),
            bundle,
            backend: Backend::new(options, &self.namespace),
            rootfs: create.rootfs.clone(),
            owner,
            made: false,
            busy: true,
            queue: std::collections::VecDeque::new(),
            init: Process::new(target, create.stdio.clone()),
            execs: std::collections::BTreeMap::new(),
            cgroup: None,
            oom_serial: 0,
            kill_all: facts.kill_all,
            sweeping: false,
        }
    }

    pub(crate) fn created(&mut self, id: &str, done: Done) {
        let begun = done
            .outcome
            .map_err(|text| text::runtime_failed("create", &text))
            .and_then(|pid| self.adopt_init(id, pid, done.console.as_ref()));
        let error = match begun {
            Ok(()) if self.is_doomed() => text::unimplemented("create during shutdown"),
            Ok(()) => return self.announce(id, done.ticket),
            Err(error) => error,
        };
        let Some(container) = self.containers.get_mut(id) else { return };
        container.made = false;
        let leftovers = container.backend.has_state(id);
        if leftovers {
            let (backend, bundle, name) =
                (container.backend.clone(), container.bundle.clone(), id.to_owned());
            let job = Job::Undo(id.to_owned(), error.clone());
            let undo = move || backend.delete(&name, &bundle, Force::Yes).map(|()| 0);
            if self.launch(job, done.ticket, undo).is_ok() {
                return;
            }
        }
        self.drop_container(id);
        if let Some(ticket) = done.ticket {
            self.reply(ticket, &Err(error));
        }
    }

    fn adopt_init(&mut self, id: &str, pid: i32, console: Option<&OwnedFd>) -> Result<(), ApiError> {
        let failed = |what: &str, e: io::Error| text::runtime_failed("create", &format!("{what}: {e}"));
        let root = self.namespace.clone();
        let container = self.containers.get_mut(id).ok_or_else(text::no_container)?;
        container.init.pid = pid;
        let pidfd = pidfd_open(pid).map_err(|e| failed("open init's pidfd", e))?;
        container.cgroup = Watched::find(&container.backend.state_dir(id), pid);
        log::debug!("{root}/{id}: init is {pid}");
        let target = container.init.target.clone();
        container.init.pidfd = Some(pidfd);
        self.attach_console(&target, console).map_err(|e| failed("terminal", e))?;
        self.watch_process(&target).map_err(|e| failed("watch init", e))
    }

    /// The container exists for others from here on.
    fn announce(&mut self, id: &str, ticket: Option<Ticket>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.made = true;
        let pid = container.init.pid as u32;
        let event = Event::Create {
            id: id.to_owned(),
            bundle: container.bundle.display().to_string(),
            rootfs: std::mem::take(&mut container.rootfs),
            stdio: container.init.stdio.clone(),
            pid,
        };
        let target = container.init.target.clone();
        self.watch_oom(id);
        self.publish(event);
        self.start_streams(&target);
        self.finish(id, ticket, Ok(Response::Pid(pid)));
    }

    pub(crate) fn undone(&mut self, id: &str, error: ApiError, done: &Done) {
        if let Err(text) = &done.outcome {
            log::error!("{id}: clean up after a failed create: {text}");
        }
        self.drop_container(id);
        if let Some(ticket) = done.ticket {
            self.reply(ticket, &Err(error));
        }
    }

    /// Receives the terminal of a process and builds its streams.
    pub(crate) fn attach_console(&mut self, target: &Target, console: Option<&OwnedFd>) -> io::Result<()> {
        let Some(socket) = console else { return Ok(()) };
        let Ok(process) = self.process_any(target) else { return Ok(()) };
        let master = pty::receive_master(socket)?;
        if let Some(size) = process.size.take() {
            set_winsize(master.as_fd(), size)?;
        }
        if let Some(plan) = process.io.terminal.take() {
            process.io.planned = plan.streams(&master)?;
        }
        process.io.master = Some(master);
        Ok(())
    }

    /// A process whether or not its container is finished.
    pub(crate) fn process_any(&mut self, target: &Target) -> Result<&mut Process, ApiError> {
        self.containers.get_mut(&target.id).ok_or_else(text::no_container)?.process_mut(&target.exec)
    }

    fn start_init(&mut self, id: &str, ticket: Ticket) -> Result<(), ApiError> {
        let container = self.container_mut(id)?;
        allowed(Role::Init, Op::Start, container.init.phase)?;
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        container.init.starting = true;
        self.unwatch_process(&Target { id: id.to_owned(), exec: String::new() });
        let job = Job::Start(id.to_owned());
        let begun = self.launch(job, Some(ticket), move || backend.start(&name, &bundle).map(|()| 0));
        if begun.is_err() {
            self.start_is_over(id);
        }
        begun
    }

    pub(crate) fn started(&mut self, id: &str, done: Done) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let pid = container.init.pid as u32;
        let answer = match done.outcome {
            Ok(_) => {
                container.init.phase = Phase::Running;
                self.publish(Event::Start { id: id.to_owned(), pid });
                Ok(Response::Pid(pid))
            }
            Err(text) => Err(text::runtime_failed("start", &text)),
        };
        self.start_is_over(id);
        self.finish(id, done.ticket, answer);
    }

    /// Exits may be read again.
    fn start_is_over(&mut self, id: &str) {
        let target = Target { id: id.to_owned(), exec: String::new() };
        if let Ok(process) = self.process_any(&target) {
            process.starting = false;
        }
        if let Err(e) = self.watch_pidfd(&target) {
            log::error!("{id}: watch init: {e}");
        }
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
        let simple = container.backend.is_inproc() && !all && container.init.phase != Phase::Paused;
        if !simple || container.busy {
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
            Err(text) => {
                self.set_phase(id, Phase::Pausing, Phase::Running);
                Err(text::runtime_failed("pause", &text))
            }
        };
        self.finish(id, done.ticket, answer);
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

    fn delete_init(&mut self, target: Target, ticket: Ticket) -> Result<(), ApiError> {
        let container = self.container(&target.id)?;
        allowed(Role::Init, Op::Delete, container.init.phase)?;
        self.drain(target, ticket);
        Ok(())
    }

    /// The output of a container's init has come to its end: the runtime removes it.
    pub(crate) fn remove_container(&mut self, id: &str, ticket: Ticket) {
        let Some(container) = self.containers.get(id) else { return };
        let force = if container.init.exit.is_some() { Force::No } else { Force::Yes };
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        let work = move || backend.delete(&name, &bundle, force).map(|()| 0);
        if let Err(error) = self.launch(Job::Delete(id.to_owned()), Some(ticket), work) {
            self.finish(id, Some(ticket), Err(error));
        }
    }

    pub(crate) fn deleted(&mut self, id: &str, done: Done) {
        if let Err(text) = done.outcome {
            // It stays, so that Delete can be tried again.
            let error = ApiError::unknown(format!("failed to delete task: {text}"));
            return self.finish(id, done.ticket, Err(error));
        }
        // A created one was killed just now.
        self.force_exit(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let exit = container.init.exit_or_zero();
        let target = container.init.target.clone();
        let queue = std::mem::take(&mut container.queue);
        self.drop_container(id);
        self.tombstones.add(target, exit);
        self.publish(Event::Delete { id: id.to_owned(), exit });
        if let Some(ticket) = done.ticket {
            self.reply(ticket, &Ok(Response::Deleted(exit)));
        }
        for (ticket, request) in queue {
            self.dispatch(ticket, request);
        }
    }

    /// Forgets a container with everything the shim holds for it.
    fn drop_container(&mut self, id: &str) {
        let Some(mut container) = self.containers.remove(id) else { return };
        self.oom_watches.remove(&container.oom_serial);
        if let Some(oom) = container.cgroup.as_ref().and_then(|c| c.oom.as_ref()) {
            self.poller.remove(oom.as_fd());
        }
        for process in container.processes_mut() {
            self.release_process(process);
        }
    }

    /// Closes what the shim holds for a process that is taken out of its container.
    pub(crate) fn release_process(&mut self, process: &mut Process) {
        if let Some(pidfd) = process.pidfd.take() {
            self.poller.remove(pidfd.as_fd());
        }
        self.processes.remove(&process.serial);
        self.close_streams(&std::mem::take(&mut process.io.streams));
        process.io = ProcessIo::default();
        let exit = process.exit_or_zero();
        for ticket in std::mem::take(&mut process.waiters) {
            self.reply(ticket, &Ok(Response::Waited(exit)));
        }
    }

    /// Begins to watch a process that has just come.
    pub(crate) fn watch_process(&mut self, target: &Target) -> io::Result<()> {
        let serial = self.poller.serial();
        if let Ok(process) = self.process_any(target) {
            process.serial = serial;
        }
        self.processes.insert(serial, target.clone());
        self.watch_pidfd(target)
    }

    fn watch_pidfd(&mut self, target: &Target) -> io::Result<()> {
        let Some(container) = self.containers.get(&target.id) else { return Ok(()) };
        let Ok(process) = container.process(&target.exec) else { return Ok(()) };
        match &process.pidfd {
            Some(pidfd) => self.poller.add(pidfd.as_fd(), Token::Process(process.serial), Interest::Read),
            None => Ok(()),
        }
    }

    fn unwatch_process(&mut self, target: &Target) {
        let Some(container) = self.containers.get(&target.id) else { return };
        if let Ok(Some(pidfd)) = container.process(&target.exec).map(|p| p.pidfd.as_ref()) {
            self.poller.remove(pidfd.as_fd());
        }
    }
}

/// Plans a process's stdio: what the worker gets, and for a terminal the socket pair for its master.
pub(crate) fn open_stdio(
    process: &mut Process,
    owner: Owner,
) -> Result<(ContainerSide, Option<(OwnedFd, OwnedFd)>), ApiError> {
    let failed = |e: crate::io::IoError| ApiError::unknown(e.to_string());
    if process.stdio.terminal {
        process.io = ProcessIo::from_terminal(crate::io::plan_terminal(&process.stdio).map_err(failed)?);
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| ApiError::unknown(format!("make the console socket: {e}")))?;
        return Ok((ContainerSide::default(), Some(pair)));
    }
    let mut plan = crate::io::plan(&process.stdio, owner).map_err(failed)?;
    let side = std::mem::take(&mut plan.container);
    process.io = ProcessIo::from_plan(plan);
    Ok((side, None))
}

pub(crate) fn signal_number(signal: u32) -> Result<i32, ApiError> {
    if signal > SIGNAL_MAX {
        return Err(ApiError::new(Code::InvalidArgument, format!("unknown signal {signal}")));
    }
    Ok(signal as i32)
}
