//! Signals to every process of a cgroup.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::Cgroup;
use super::error::Error;
use super::layout::{Mode, errno_of};
use super::tree;
use crate::sys::process::{pidfd_open, pidfd_send_signal};

/// See [`Cgroup::kill`].
pub(super) fn kill(cgroup: &Cgroup, signal: i32) -> Result<(), Error> {
    if signal != libc::SIGKILL {
        return frozen(cgroup, signal);
    }
    if kill_file(cgroup)? {
        stragglers(cgroup)?;
    } else {
        frozen(cgroup, signal)?;
    }
    cgroup.thaw_killed()
}

/// Writes `cgroup.kill`, which misses no process however fast they fork. False where there is none: cgroup v1,
/// kernel before 5.14, or a threaded cgroup (EOPNOTSUPP).
fn kill_file(cgroup: &Cgroup) -> Result<bool, Error> {
    let Some(member) = cgroup.v2().filter(|member| !member.is_denied()) else { return Ok(false) };
    let result = member.dir().and_then(|dir| dir.write("cgroup.kill", "1"));
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.is_gone() || e.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Hybrid: a process that is in the v1 cgroups only (put there by a tool that does not know the unified tree).
fn stragglers(cgroup: &Cgroup) -> Result<(), Error> {
    if cgroup.mode() == Mode::V2 {
        return Ok(());
    }
    let killed = match cgroup.v2().map(|member| member.dir().and_then(tree::pids)) {
        Some(Ok(pids)) => pids,
        Some(Err(e)) if !e.is_gone() => return Err(e),
        _ => Vec::new(),
    };
    if cgroup.pids()?.iter().all(|pid| killed.contains(pid)) { Ok(()) } else { frozen(cgroup, libc::SIGKILL) }
}

/// Freezes, signals each process, thaws. Frozen processes can't fork, and their pids can't be reused.
fn frozen(cgroup: &Cgroup, signal: i32) -> Result<(), Error> {
    let was_frozen = cgroup.is_frozen()?;
    if !was_frozen {
        match cgroup.freeze() {
            // No freezer: signal what is there.
            Err(Error::NoController(_) | Error::NoCgroup(_)) => {}
            // It could not freeze everything in time, but killing must go on.
            Err(e @ Error::Timeout { .. }) => log::warn!("{e}"),
            Err(e) if e.is_gone() => return Ok(()),
            result => result?,
        }
    }
    let result = cgroup.pids().and_then(|pids| pids.into_iter().try_for_each(|pid| send(pid, signal)));
    if !was_frozen {
        match cgroup.thaw() {
            Err(Error::NoController(_) | Error::NoCgroup(_)) => {}
            Err(e) if e.is_gone() => {}
            thawed => return result.and(thawed),
        }
    }
    result
}

fn send(pid: i32, signal: i32) -> Result<(), Error> {
    let result = pidfd_open(pid).and_then(|pidfd| pidfd_send_signal(pidfd.as_fd(), signal));
    match result.map_err(|e| errno_of(&e)) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(Error::Signal { pid, signal, errno }),
    }
}
