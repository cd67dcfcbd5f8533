//! Create, start and delete of a container, and what the shim holds for it meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use davit::sys::fs::set_winsize;
use davit::sys::process::pidfd_open;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::api::{ApiError, Create, Response, Stdio, Target};
use crate::backend::{Backend, CreateArgs, Force, LoggerArgs};
use crate::checkpoint::{Restore, restore_args};
use crate::config::{self, Facts};
use crate::io::logger::{Feed, Logger};
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

impl Server {
    pub(crate) fn create(&mut self, ticket: Ticket, create: Create) -> Result<(), ApiError> {
        if self.containers.contains_key(&create.id) {
            return Err(text::id_in_use(&create.id));
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
        let logger = self.logger(&create.stdio, container.owner);
        let restore = restore_args(&create, &options, logger.clone());
        let args = CreateArgs {
            id: create.id.clone(),
            bundle: container.bundle.clone(),
            rootfs: create.rootfs,
            options,
            logger,
        };
        let mut container = container;
        let ends = open_stdio(&mut container.init, container.owner)?;
        let job = Job::Create(create.id.clone());
        if let Some(args_of_start) = restore {
            container.init.phase = Phase::CreatedCheckpoint;
            container.restore = Some(Restore { args: args_of_start, stdio: Some(ends) });
            self.launch(job, Some(ticket), move || backend.prepare(&args).map(|()| 0))?;
        } else {
            let (side, console) = ends;
            self.launch_with(job, Some(ticket), side, console, move |socket| backend.create(&args, socket))?;
        }
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
            oom_held: false,
            oom_serial: 0,
            kill_all: facts.kill_all,
            sweeping: false,
            exec_kill_group: options.exec_kill_group || facts.exec_kill_group,
            restore: None,
        }
    }

    /// The program that a process's stdout names, if it names one.
    pub(crate) fn logger(&self, stdio: &Stdio, owner: Owner) -> Option<LoggerArgs> {
        let logger = Logger::parse(&stdio.stdout)?;
        let feed = if stdio.terminal { Feed::Terminal } else { Feed::Container };
        Some(LoggerArgs { logger, namespace: self.namespace.clone(), owner, feed })
    }

    pub(crate) fn created(&mut self, id: &str, done: Done) {
        let begun = done.outcome.map_err(|text| text::runtime_failed("create", &text)).and_then(|pid| {
            match self.is_to_be_restored(id) {
                true => Ok(()),
                false => self.adopt_init("create", id, pid, done.console.as_ref()),
            }
        });
        let error = match begun {
            Ok(()) if self.is_doomed() => text::unimplemented("create during shutdown"),
            Ok(()) => return self.announce(id, done.ticket),
            Err(error) => error,
        };
        let Some(container) = self.containers.get_mut(id) else { return };
        container.made = false;
        // A worker that failed has cleaned up; one that was killed has not.
        let external = !container.backend.is_inproc();
        if external || container.backend.has_state(id) || !container.rootfs.is_empty() {
            let (backend, bundle, name) =
                (container.backend.clone(), container.bundle.clone(), id.to_owned());
            let job = Job::Undo(id.to_owned(), error.clone());
            let undo = move || backend.clean_up(&name, &bundle).map(|()| 0);
            if self.launch(job, done.ticket, undo).is_ok() {
                return;
            }
        }
        self.drop_container(id);
        if let Some(ticket) = done.ticket {
            self.reply(ticket, &Err(error));
        }
    }

    /// Takes over the init that the runtime's `call` (create, restore) has made.
    pub(crate) fn adopt_init(
        &mut self,
        call: &str,
        id: &str,
        pid: i32,
        console: Option<&OwnedFd>,
    ) -> Result<(), ApiError> {
        let failed = |what: &str, e: io::Error| text::runtime_failed(call, &format!("{what}: {e}"));
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
            checkpoint: container
                .restore
                .as_ref()
                .map_or_else(String::new, |r| r.args.images.display().to_string()),
            pid,
        };
        let target = container.init.target.clone();
        let is_made = container.restore.is_none();
        self.is_used();
        self.watch_oom(id);
        self.publish(event);
        if is_made {
            self.start_streams(&target);
        }
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

    pub(crate) fn start_init(&mut self, id: &str, ticket: Ticket) -> Result<(), ApiError> {
        let container = self.container_mut(id)?;
        allowed(Role::Init, Op::Start, container.init.phase)?;
        if container.restore.is_some() {
            return self.start_restore(id, ticket);
        }
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
        self.release_oom(id);
        self.start_is_over(id);
        self.finish(id, done.ticket, answer);
        self.code_unused = true;
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

    pub(crate) fn delete_init(&mut self, target: Target, ticket: Ticket) -> Result<(), ApiError> {
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

/// The container's ends of its stdio, and for a terminal the socket pair for its master: the shim's and the worker's.
pub(crate) type StdioEnds = (ContainerSide, Option<(OwnedFd, OwnedFd)>);

/// Plans a process's stdio.
pub(crate) fn open_stdio(process: &mut Process, owner: Owner) -> Result<StdioEnds, ApiError> {
    let failed = |e: crate::io::IoError| ApiError::unknown(e.to_string());
    if process.stdio.terminal {
        let mut plan = crate::io::plan_terminal(&process.stdio).map_err(failed)?;
        let side = ContainerSide { stdout: plan.logger.take(), ..ContainerSide::default() };
        process.io = ProcessIo::from_terminal(plan);
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| ApiError::unknown(format!("make the console socket: {e}")))?;
        return Ok((side, Some(pair)));
    }
    let mut plan = crate::io::plan(&process.stdio, owner).map_err(failed)?;
    let side = std::mem::take(&mut plan.container);
    process.io = ProcessIo::from_plan(plan);
    Ok((side, None))
}
