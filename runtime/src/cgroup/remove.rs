//! Removing a container's cgroups.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::pread;

use super::Cgroup;
use super::dir::{self, Deadline, Dir, flat_key, wait_event};
use super::error::Error;
use super::layout::Version;
use super::member::Member;
use super::{stuck, tree};

/// How long killed processes may take to be gone before they are reported.
const SECONDS: u64 = 5;
/// How long processes that are about to end may hold a cgroup that is to be removed only when it is empty.
const EMPTY_SECONDS: u64 = 1;
/// First and longest pause between two looks.
const FIRST_DELAY: Duration = Duration::from_millis(1);
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// See [`Cgroup::remove`]. Every hierarchy is tried; the first error is reported.
pub(super) fn remove(cgroup: &Cgroup) -> Result<(), Error> {
    let deadline = Deadline::after(SECONDS);
    let mut first = Ok(());
    for member in cgroup.members.iter().filter(|member| !member.is_denied()) {
        first = first.and(remove_member(member, deadline));
    }
    first
}

/// See [`Cgroup::remove_empty`]. Every hierarchy is tried; the first error is reported.
pub(super) fn remove_empty(cgroup: &Cgroup) -> Result<(), Error> {
    let deadline = Deadline::after(EMPTY_SECONDS);
    let mut first = Ok(());
    for member in &cgroup.members {
        first = first.and(remove_empty_member(member, deadline));
    }
    first
}

fn remove_empty_member(member: &Member, deadline: Deadline) -> Result<(), Error> {
    let mut delay = FIRST_DELAY;
    while !rmdir(member)? && !deadline.passed() {
        thread::sleep(delay.min(deadline.left()));
        delay = (delay * 2).min(LONGEST_DELAY);
    }
    Ok(())
}

/// One rmdir when it is empty, else its sub-cgroups, then waiting.
fn remove_member(member: &Member, deadline: Deadline) -> Result<(), Error> {
    if rmdir(member)? {
        return Ok(());
    }
    let dir = match Dir::open(member.path()) {
        Err(e) if e.is_gone() => return Ok(()),
        dir => dir?,
    };
    let mut wait = Wait::new(&dir, member.version());
    loop {
        match tree::remove_below(&dir) {
            Err(e) if !e.is_gone() => return Err(e),
            _ => {}
        }
        if rmdir(member)? {
            return Ok(());
        }
        if deadline.passed() {
            let pids = tree::pids(&dir).unwrap_or_default();
            return Err(if pids.is_empty() {
                Error::Io { action: "rmdir", path: member.path().to_owned(), errno: Errno::EBUSY }
            } else {
                let processes = stuck::describe(&pids);
                Error::Survivors { dir: member.path().to_owned(), pids, processes }
            });
        }
        wait.for_change(deadline)?;
    }
}

/// True when it is gone, false when processes or sub-cgroups hold it.
fn rmdir(member: &Member) -> Result<bool, Error> {
    match dir::rmdir(member.path()) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
        // A read-only cgroup mount gives EROFS even for what is not there (runc issue 4518).
        Err(Errno::EROFS) if !member.path().exists() => Ok(true),
        Err(errno) => Err(Error::Io { action: "rmdir", path: member.path().to_owned(), errno }),
    }
}

/// Waits for processes to leave: on v2 the kernel notifies on cgroup.events, on v1 by a growing delay.
struct Wait {
    events: Option<OwnedFd>,
    delay: Duration,
}

impl Wait {
    fn new(dir: &Dir, version: Version) -> Wait {
        let events = match version {
            Version::V2 => dir.open_file("cgroup.events", OFlag::O_RDONLY).ok(),
            Version::V1 => None,
        };
        Wait { events, delay: FIRST_DELAY }
    }

    fn for_change(&mut self, deadline: Deadline) -> Result<(), Error> {
        if let Some(events) = self.events.as_ref().filter(|events| is_populated(events)) {
            return wait_event(events.as_fd(), deadline).map_err(|errno| Error::Io {
                action: "poll",
                path: "cgroup.events".into(),
                errno,
            });
        }
        // v1, or empty and yet busy: the last process is just being taken off.
        thread::sleep(self.delay.min(deadline.left()));
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Ok(())
    }
}

fn is_populated(events: &OwnedFd) -> bool {
    let mut buffer = [0; 256];
    let length = pread(events, &mut buffer, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    flat_key(&text, "populated") == Some(1)
}
