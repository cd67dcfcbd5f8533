//! Calls that run in workers: how they begin and what their end means.

use std::os::fd::{AsFd, OwnedFd};

use davit::sys::process::{WaitFor, WaitMode, wait};

use crate::api::{ApiError, Request, Response, Target};
use crate::backend::Outcome;
use crate::io::ContainerSide;
use crate::reactor::{Interest, Token};
use crate::serve::Server;
use crate::task::Ticket;
use crate::worker::{Worker, spawn};

/// What a worker was forked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Create of a container.
    Create(String),
    /// Removal of what a failed Create has left; then the error is answered.
    Undo(String, ApiError),
    /// Start of init.
    Start(String),
    /// Start of a container that is restored.
    Restore(String),
    /// Removal of what a failed restore has left; then the error is answered.
    UndoRestore(String, ApiError),
    /// Checkpoint.
    Checkpoint(String),
    /// Start of an exec.
    StartExec(Target),
    /// Kill by the runtime.
    Kill(String),
    /// Kill of what init left behind.
    Sweep(String),
    /// Pause.
    Pause(String),
    /// Resume of what a failed pause or checkpoint may have frozen; then the error is answered.
    Thaw(String, ApiError),
    /// Resume.
    Resume(String),
    /// Update.
    Update(String),
    /// Delete of a container.
    Delete(String),
}

/// A worker with what waits for it.
#[derive(Debug)]
pub struct Running {
    worker: Worker,
    job: Job,
    ticket: Option<Ticket>,
    console: Option<OwnedFd>,
}

/// A worker's end, handed to the code of its job.
#[derive(Debug)]
pub struct Done {
    /// What the worker answered.
    pub outcome: Outcome<i32>,
    /// Who is to be answered.
    pub ticket: Option<Ticket>,
    /// The shim's end of the console socket.
    pub console: Option<OwnedFd>,
}

impl Server {
    /// Forks a worker without stdio.
    pub(crate) fn launch(
        &mut self,
        job: Job,
        ticket: Option<Ticket>,
        work: impl FnOnce() -> Outcome<i32>,
    ) -> Result<(), ApiError> {
        self.launch_with(job, ticket, ContainerSide::default(), None, |_| work())
    }

    /// Forks a worker. `console` is a socket pair: the shim's end and the worker's.
    pub(crate) fn launch_with(
        &mut self,
        job: Job,
        ticket: Option<Ticket>,
        stdio: ContainerSide,
        console: Option<(OwnedFd, OwnedFd)>,
        work: impl FnOnce(Option<OwnedFd>) -> Outcome<i32>,
    ) -> Result<(), ApiError> {
        let (ours, theirs) = console.unzip();
        let failed = |e: std::io::Error| ApiError::unknown(format!("start a worker: {e}"));
        let worker = spawn(stdio, theirs, work).map_err(failed)?;
        let serial = self.poller.serial();
        self.poller.add(worker.as_fd(), Token::Worker(serial), Interest::Read).map_err(failed)?;
        self.workers.insert(serial, Running { worker, job, ticket, console: ours });
        Ok(())
    }

    /// A worker's pidfd is readable: takes its answer and goes on with its job.
    pub(crate) fn worker_ended(&mut self, serial: u64) {
        let Some(running) = self.workers.get_mut(&serial) else { return };
        let Some(outcome) = running.worker.finished() else { return };
        let Some(running) = self.workers.remove(&serial) else { return };
        self.poller.remove(running.worker.as_fd());
        let done = Done { outcome, ticket: running.ticket, console: running.console };
        log::debug!("{:?}: {:?}", running.job, done.outcome);
        match running.job {
            Job::Create(id) => self.created(&id, done),
            Job::Undo(id, error) => self.undone(&id, error, &done),
            Job::Start(id) => self.started(&id, done),
            Job::Restore(id) => self.restored(&id, done),
            Job::UndoRestore(id, error) => self.restore_undone(&id, error, &done),
            Job::Checkpoint(id) => self.checkpointed(&id, done),
            Job::StartExec(target) => self.exec_started(&target, done),
            Job::Kill(id) => self.killed(&id, done),
            Job::Sweep(id) => self.swept(&id, &done),
            Job::Pause(id) => self.paused(&id, done),
            Job::Thaw(id, error) => self.thawed(&id, error, &done),
            Job::Resume(id) => self.resumed(&id, done),
            Job::Update(id) => self.updated(&id, done),
            Job::Delete(id) => self.deleted(&id, done),
        }
    }

    /// SIGCHLD: workers first, then processes that are known, then orphans that the subreaper got.
    pub(crate) fn reap(&mut self) {
        loop {
            self.finish_workers();
            let Ok(Some((pid, _))) = wait(WaitFor::Any, WaitMode::Peek) else { return };
            let processes = || self.containers.values().flat_map(|c| c.processes());
            let known = processes().find(|p| p.pid == pid && p.pidfd.is_some());
            if let Some((target, starting)) = known.map(|p| (p.target.clone(), p.starting)) {
                // Before its start event is queued it must wait: the worker's end brings us back here.
                if starting || !self.process_gone(&target) {
                    return;
                }
                continue;
            }
            // An init can show up between the look at the workers and the look at the zombies; its worker
            // has ended before that, so a second look finds it.
            if self.finish_workers() {
                continue;
            }
            if wait(WaitFor::Pid(pid), WaitMode::Poll).is_err() {
                return;
            }
        }
    }

    fn finish_workers(&mut self) -> bool {
        let before = self.workers.len();
        let serials: Vec<u64> = self.workers.keys().copied().collect();
        for serial in &serials {
            self.worker_ended(*serial);
        }
        // A job's end may begin another one.
        serials.iter().any(|serial| !self.workers.contains_key(serial)) || self.workers.len() != before
    }

    /// Makes a call wait while another one changes the container. False means that it was queued.
    pub(crate) fn enter(&mut self, id: &str, ticket: Ticket, request: &Request) -> bool {
        let Some(container) = self.containers.get_mut(id) else { return true };
        if container.busy {
            container.queue.push_back((ticket, request.clone()));
            return false;
        }
        container.busy = true;
        true
    }

    /// The call is over: the next one that waits goes on.
    pub(crate) fn leave(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.busy = false;
        while let Some(container) = self.containers.get_mut(id) {
            if container.busy {
                return;
            }
            let Some((ticket, request)) = container.queue.pop_front() else { return };
            self.dispatch(ticket, request);
        }
    }

    /// Answers and goes on with the next call.
    pub(crate) fn finish(&mut self, id: &str, ticket: Option<Ticket>, result: Result<Response, ApiError>) {
        if let Some(ticket) = ticket {
            self.reply(ticket, &result);
        }
        self.leave(id);
    }
}
