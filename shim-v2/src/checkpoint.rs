//! Checkpoint, and Start of a container that Create was given a checkpoint for.

use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::api::{ApiError, Checkpoint, Create, Response};
use crate::backend::LoggerArgs;
use crate::backend::checkpoint::{CheckpointArgs, RestoreArgs};
use crate::jobs::{Done, Job};
use crate::lifecycle::{StdioEnds, open_stdio};
use crate::options::Options;
use crate::serve::Server;
use crate::state::{Op, Phase, Role, allowed};
use crate::task::{Container, ProcessIo, Ticket};
use crate::text;
use crate::wire::events::Event;

/// What Start of a container in [`Phase::CreatedCheckpoint`] needs.
#[derive(Debug)]
pub struct Restore {
    /// For the runtime.
    pub args: RestoreArgs,
    /// The ends of stdio that Create has opened, until the first try.
    pub stdio: Option<StdioEnds>,
}

/// What Create asks to be restored from, if it does.
pub(crate) fn restore_args(
    create: &Create,
    options: &Options,
    logger: Option<LoggerArgs>,
) -> Option<RestoreArgs> {
    if create.checkpoint.is_empty() {
        return None;
    }
    let bundle = PathBuf::from(&create.bundle);
    let work = match options.criu_work_path.as_str() {
        "" => bundle.join("work"),
        path => PathBuf::from(path),
    };
    Some(RestoreArgs {
        id: create.id.clone(),
        bundle,
        images: PathBuf::from(&create.checkpoint),
        work,
        runtime_options: options.clone(),
        logger,
    })
}

impl Server {
    pub(crate) fn checkpoint(&mut self, ticket: Ticket, call: Checkpoint) -> Result<(), ApiError> {
        let container = self.container_mut(&call.id)?;
        allowed(Role::Init, Op::Checkpoint, container.init.phase)?;
        if call.options.exit {
            // The runtime removes the cgroup right behind the container's end.
            if let Some(cgroup) = &mut container.cgroup {
                cgroup.note();
            }
        }
        let backend = container.backend.clone();
        let args = CheckpointArgs {
            id: call.id.clone(),
            bundle: container.bundle.clone(),
            images: PathBuf::from(call.path),
            options: call.options,
        };
        let work = move || backend.checkpoint(&args).map(|()| 0);
        self.launch(Job::Checkpoint(call.id), Some(ticket), work)
    }

    /// containerd tells the world of it, not the shim.
    pub(crate) fn checkpointed(&mut self, id: &str, done: Done) {
        let answer = match done.outcome {
            Ok(_) => Ok(Response::Empty),
            Err(text) => {
                let error = ApiError::unknown(text);
                if self.containers.get(id).is_some_and(|c| c.init.phase == Phase::Running) {
                    // CRIU freezes what it dumps, and may have been killed before it thawed it.
                    return self.thaw(id, done.ticket, error);
                }
                Err(error)
            }
        };
        self.finish(id, done.ticket, answer);
    }

    /// Start of a container that is to be restored.
    pub(crate) fn start_restore(&mut self, id: &str, ticket: Ticket) -> Result<(), ApiError> {
        let container = self.container_mut(id)?;
        let backend = container.backend.clone();
        let Some(restore) = &mut container.restore else { return Err(text::no_container()) };
        let (side, console) = match restore.stdio.take() {
            Some(ends) => ends,
            // An earlier try has used them up.
            None => open_stdio(&mut container.init, container.owner)?,
        };
        let args = restore.args.clone();
        container.init.starting = true;
        let job = Job::Restore(id.to_owned());
        let begun =
            self.launch_with(job, Some(ticket), side, console, move |socket| backend.restore(&args, socket));
        if begun.is_err() {
            self.forget_restored(id);
        }
        begun
    }

    pub(crate) fn restored(&mut self, id: &str, done: Done) {
        let begun = done
            .outcome
            .map_err(|text| text::runtime_failed("restore", &text))
            .and_then(|pid| self.adopt_init("restore", id, pid, done.console.as_ref()));
        match begun {
            Ok(()) => self.runs_again(id, done.ticket),
            Err(error) => self.undo_restore(id, done.ticket, error),
        }
    }

    fn runs_again(&mut self, id: &str, ticket: Option<Ticket>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.restore = None;
        container.init.phase = Phase::Running;
        container.init.starting = false;
        let pid = container.init.pid as u32;
        let target = container.init.target.clone();
        self.watch_oom(id);
        self.publish(Event::Start { id: id.to_owned(), pid });
        self.start_streams(&target);
        self.finish(id, ticket, Ok(Response::Pid(pid)));
        self.code_unused = true;
    }

    /// A runtime that failed has cleaned up; one that was killed has not.
    fn undo_restore(&mut self, id: &str, ticket: Option<Ticket>, error: ApiError) {
        let Some(container) = self.containers.get(id) else { return };
        let (backend, bundle, name) = (container.backend.clone(), container.bundle.clone(), id.to_owned());
        let others = self.containers.values().filter(|other| other.id != id).flat_map(Container::processes);
        let spared: Vec<i32> = others.map(|process| process.pid).collect();
        let undo = move || backend.undo_restore(&name, &bundle, &spared).map(|()| 0);
        if let Err(e) = self.launch(Job::UndoRestore(id.to_owned(), error.clone()), ticket, undo) {
            let done = Done { outcome: Err(e.text), ticket, console: None };
            self.restore_undone(id, error, &done);
        }
    }

    pub(crate) fn restore_undone(&mut self, id: &str, error: ApiError, done: &Done) {
        if let Err(text) = &done.outcome {
            log::error!("{id}: clean up after a failed restore: {text}");
        }
        self.forget_restored(id);
        self.finish(id, done.ticket, Err(error));
    }

    /// The container is as Create has made it, but for its stdio, which the next try opens again.
    fn forget_restored(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Container { init, cgroup, .. } = container;
        *cgroup = None;
        init.starting = false;
        init.pid = 0;
        init.io = ProcessIo::default();
        if let Some(pidfd) = init.pidfd.take() {
            self.poller.remove(pidfd.as_fd());
        }
        self.processes.remove(&init.serial);
    }

    /// Whether Start has to restore the container.
    pub(crate) fn is_to_be_restored(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|c| c.restore.is_some())
    }
}
