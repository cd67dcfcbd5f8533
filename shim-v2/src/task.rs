//! Records of containers and their processes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use davit::sys::fs::WinSize;

use crate::api::{ApiError, ExitInfo, Mount, Request, Stamp, StateInfo, Stdio, Target};
use crate::backend::Backend;
use crate::checkpoint::Restore;
use crate::io::pty::TerminalPlan;
use crate::io::stream::Stream;
use crate::io::{Owner, Plan};
use crate::state::Phase;
use crate::stats::Watched;
use crate::text;

/// Tombstones kept: enough for every retry of a Delete that is still under way.
const TOMBSTONES: usize = 256;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Serial of the connection.
    pub conn: u64,
    /// The client's stream id.
    pub stream: u32,
}

/// Stdio of a process while the shim has a part in it.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// Serials of the running streams.
    pub streams: Vec<u64>,
    /// Streams that start once the process exists.
    pub planned: Vec<Stream>,
    /// The same for a terminal.
    pub terminal: Option<TerminalPlan>,
    /// Our write end of the stdin FIFO.
    pub stdin_hold: Option<OwnedFd>,
    /// The pty's master.
    pub master: Option<OwnedFd>,
}

impl ProcessIo {
    /// Takes over what was planned without a terminal; the container's ends have gone to the worker.
    #[must_use]
    pub fn from_plan(plan: Plan) -> ProcessIo {
        ProcessIo { planned: plan.streams, stdin_hold: plan.stdin_hold, ..ProcessIo::default() }
    }

    /// Takes over what was planned for a terminal.
    #[must_use]
    pub fn from_terminal(mut plan: TerminalPlan) -> ProcessIo {
        let stdin_hold = plan.stdin_hold.take();
        ProcessIo { terminal: Some(plan), stdin_hold, ..ProcessIo::default() }
    }
}

/// A process of a container, from its record to its deletion.
#[derive(Debug)]
pub struct Process {
    /// Container and exec id.
    pub target: Target,
    /// State.
    pub phase: Phase,
    /// 0 before it exists.
    pub pid: i32,
    /// Its identity while it lives.
    pub pidfd: Option<OwnedFd>,
    /// Serial of the pidfd's token.
    pub serial: u64,
    /// As the client asked.
    pub stdio: Stdio,
    /// The shim's part of it.
    pub io: ProcessIo,
    /// A Start is under way: its exit must not be read before the start event is queued.
    pub starting: bool,
    /// Reaped, but to be published after others.
    pub held: Option<ExitInfo>,
    /// Published.
    pub exit: Option<ExitInfo>,
    /// Wait calls.
    pub waiters: Vec<Ticket>,
    /// A size that came before the terminal.
    pub size: Option<WinSize>,
}

impl Process {
    /// A process that does not exist yet.
    #[must_use]
    pub fn new(target: Target, stdio: Stdio) -> Process {
        Process {
            target,
            phase: Phase::Created,
            pid: 0,
            pidfd: None,
            serial: 0,
            stdio,
            io: ProcessIo::default(),
            starting: false,
            held: None,
            exit: None,
            waiters: Vec::new(),
            size: None,
        }
    }

    /// Whether its end is still to be published.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.starting || (self.phase != Phase::Created && self.phase != Phase::Stopped)
    }

    /// Its end, or what Go's shim answers for a process without one.
    #[must_use]
    pub fn exit_or_zero(&self) -> ExitInfo {
        self.exit.unwrap_or(ExitInfo { pid: self.pid as u32, status: 0, at: Stamp::ZERO })
    }
}

/// A further process.
#[derive(Debug)]
pub struct Exec {
    /// The process.
    pub process: Process,
    /// JSON of the OCI `process` object, until it is started.
    pub spec: Vec<u8>,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// How it is run.
    pub backend: Backend,
    /// Mounts of its rootfs, for the create event.
    pub rootfs: Vec<Mount>,
    /// Owner of its stdio pipes.
    pub owner: Owner,
    /// Create has succeeded: before that no call sees it.
    pub made: bool,
    /// A call that changes it is under way; others wait in `queue`.
    pub busy: bool,
    /// Calls that wait.
    pub queue: VecDeque<(Ticket, Request)>,
    /// The first process.
    pub init: Process,
    /// The others by id.
    pub execs: BTreeMap<String, Exec>,
    /// Its cgroup.
    pub cgroup: Option<Watched>,
    /// An OOM kill was seen while Start was under way: its event comes behind the start's.
    pub oom_held: bool,
    /// Serial of the OOM watch's token.
    pub oom_serial: u64,
    /// It has no pid namespace of its own: what init leaves behind must be killed.
    pub kill_all: bool,
    /// That is under way.
    pub sweeping: bool,
    /// Kill of an exec, and its end, reach its whole process group.
    pub exec_kill_group: bool,
    /// It is not made but to be restored by Start.
    pub restore: Option<Restore>,
}

impl Container {
    /// The process of an exec id; the empty one is init.
    ///
    /// # Errors
    /// NotFound.
    pub fn process(&self, exec: &str) -> Result<&Process, ApiError> {
        if exec.is_empty() {
            return Ok(&self.init);
        }
        self.execs.get(exec).map(|e| &e.process).ok_or_else(|| text::no_process(exec))
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// NotFound.
    pub fn process_mut(&mut self, exec: &str) -> Result<&mut Process, ApiError> {
        if exec.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs.get_mut(exec).map(|e| &mut e.process).ok_or_else(|| text::no_process(exec))
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.init).chain(self.execs.values().map(|e| &e.process))
    }

    /// All processes, to be changed.
    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        std::iter::once(&mut self.init).chain(self.execs.values_mut().map(|e| &mut e.process))
    }

    /// The answer to State.
    ///
    /// # Errors
    /// NotFound.
    pub fn state(&self, exec: &str) -> Result<StateInfo, ApiError> {
        let process = self.process(exec)?;
        // A running exec of a frozen container is frozen.
        let frozen = matches!(self.init.phase, Phase::Paused | Phase::Pausing);
        let phase = if frozen && process.phase == Phase::Running { self.init.phase } else { process.phase };
        Ok(StateInfo {
            id: if exec.is_empty() { self.id.clone() } else { exec.to_owned() },
            exec: exec.to_owned(),
            bundle: self.bundle.display().to_string(),
            pid: process.pid as u32,
            status: phase.status(),
            stdio: process.stdio.clone(),
            exit_status: process.exit.map_or(0, |e| e.status),
            exited_at: process.exit.map_or(Stamp::ZERO, |e| e.at),
        })
    }
}

/// What is remembered of deleted processes, so that a Delete that is tried again gets the same answer
/// (containerd #8981, #9309).
#[derive(Debug, Default)]
pub struct Tombstones {
    by_target: HashMap<Target, ExitInfo>,
    order: VecDeque<Target>,
}

impl Tombstones {
    /// Remembers; the oldest is forgotten.
    pub fn add(&mut self, target: Target, exit: ExitInfo) {
        if self.by_target.insert(target.clone(), exit).is_none() {
            self.order.push_back(target);
        }
        if self.order.len() > TOMBSTONES {
            if let Some(oldest) = self.order.pop_front() {
                self.by_target.remove(&oldest);
            }
        }
    }

    /// The end of a deleted process.
    #[must_use]
    pub fn get(&self, target: &Target) -> Option<ExitInfo> {
        self.by_target.get(target).copied()
    }

    /// A new process has this id.
    pub fn forget(&mut self, target: &Target) {
        if self.by_target.remove(target).is_some() {
            self.order.retain(|other| other != target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_are_bounded_and_replaced() {
        let mut stones = Tombstones::default();
        let target = |n: usize| Target { id: n.to_string(), exec: String::new() };
        let exit = |status| ExitInfo { pid: 1, status, at: Stamp::ZERO };
        for n in 0..TOMBSTONES + 10 {
            stones.add(target(n), exit(n as u32));
        }
        assert_eq!(stones.get(&target(9)), None);
        assert_eq!(stones.get(&target(10)), Some(exit(10)));
        stones.forget(&target(10));
        assert_eq!(stones.get(&target(10)), None);
        assert_eq!((stones.order.len(), stones.by_target.len()), (TOMBSTONES - 1, TOMBSTONES - 1));
    }
}
