//! Freezing: `cgroup.freeze` on v2 (kernel 5.2), `freezer.state` on v1.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::pread;

use super::Cgroup;
use super::dir::{Deadline, Dir, flat_key, wait_event};
use super::error::Error;
use super::layout::Version;
use super::member::Member;
use super::{stuck, tree};

/// How long processes may take to reach a point where they can be frozen (uninterruptible sleep delays it).
const SECONDS: u64 = 10;

/// The directory whose freezer is used: v1's where the host has it (hybrid too), else v2's.
fn member(cgroup: &Cgroup) -> Option<&Member> {
    cgroup.v1("freezer").or_else(|| cgroup.v2()).filter(|member| !member.is_denied())
}

fn freezer(cgroup: &Cgroup) -> Result<&Member, Error> {
    if cgroup.is_absent() {
        return Err(Error::NoCgroup("cannot toggle freezer"));
    }
    member(cgroup).ok_or(Error::NoController("freezer"))
}

/// See [`Cgroup::freeze`].
pub(super) fn freeze(cgroup: &Cgroup) -> Result<(), Error> {
    let member = freezer(cgroup)?;
    let dir = member.dir()?;
    let result = match member.version() {
        Version::V1 => freeze_v1(dir),
        Version::V2 => set_v2(dir, State::Frozen),
    };
    if result.is_err() {
        // A half-frozen container would hang whoever waits for it. The first error is the one to report.
        let _ = thaw(cgroup);
    }
    result
}

/// See [`Cgroup::thaw`].
pub(super) fn thaw(cgroup: &Cgroup) -> Result<(), Error> {
    let member = freezer(cgroup)?;
    let dir = member.dir()?;
    match member.version() {
        Version::V1 => dir.write("freezer.state", "THAWED"),
        Version::V2 => set_v2(dir, State::Thawed),
    }
}

/// See [`Cgroup::thaw_killed`]. v2 kills frozen processes as well.
pub(super) fn thaw_killed(cgroup: &Cgroup) -> Result<(), Error> {
    let Some(member) = cgroup.v1("freezer").filter(|member| !member.is_denied()) else { return Ok(()) };
    let thaw = |dir: &Dir| match dir.write("freezer.state", "THAWED") {
        Err(e) if e.is_gone() => Ok(()),
        result => result,
    };
    match member.dir().and_then(|dir| tree::walk(dir, &mut |below| thaw(below))) {
        Err(e) if e.is_gone() => Ok(()),
        result => result,
    }
}

/// v1: whether a cgroup above keeps this one frozen, so that not even killed processes end.
pub(super) fn is_frozen_above(cgroup: &Cgroup) -> bool {
    let dir = cgroup.v1("freezer").and_then(|member| member.dir().ok());
    dir.and_then(|dir| dir.read("freezer.parent_freezing").ok()).is_some_and(|text| text != "0")
}

/// See [`Cgroup::is_frozen`].
pub(super) fn is_frozen(cgroup: &Cgroup) -> Result<bool, Error> {
    let Some(member) = member(cgroup) else { return Ok(false) };
    let result = match member.version() {
        Version::V1 => is_frozen_v1(member),
        Version::V2 => member.dir().and_then(|dir| dir.read("cgroup.freeze")).map(|text| text == "1"),
    };
    match result {
        // No such cgroup (any more), or no freezer before kernel 5.2: nothing can be frozen.
        Err(e) if e.is_gone() => Ok(false),
        result => result,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Frozen,
    Thawed,
}

impl State {
    fn flag(self) -> u64 {
        u64::from(self == State::Frozen)
    }
}

/// Writes `cgroup.freeze` and waits for `frozen` of cgroup.events, which notifies of changes by POLLPRI.
fn set_v2(dir: &Dir, state: State) -> Result<(), Error> {
    let value = if state == State::Frozen { "1" } else { "0" };
    match dir.write("cgroup.freeze", value) {
        // Before kernel 5.2 nothing can be frozen, so everything is thawed.
        Err(e) if e.errno() == Some(Errno::ENOENT) && state == State::Frozen => {
            return Err(Error::NoController("freezer"));
        }
        Err(e) if e.is_gone() && state == State::Thawed => return Ok(()),
        result => result?,
    }
    const FILE: &str = "cgroup.events";
    let read_error = |errno| Error::Read { file: FILE.to_owned(), dir: dir.path().to_owned(), errno };
    let events = dir.open_file(FILE, OFlag::O_RDONLY)?;
    let deadline = Deadline::after(SECONDS);
    let mut buffer = [0; 256];
    loop {
        let length = pread(&events, &mut buffer, 0).map_err(read_error)?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        if flat_key(&text, "frozen") == Some(state.flag()) {
            return Ok(());
        }
        // A thawed cgroup below a frozen one stays frozen; that is not ours to wait for.
        if state == State::Thawed {
            return Ok(());
        }
        if deadline.passed() {
            return Err(not_in_time(dir));
        }
        wait_event(events.as_fd(), deadline).map_err(read_error)?;
    }
}

/// The error of a cgroup that did not freeze, with its processes.
fn not_in_time(dir: &Dir) -> Error {
    let pids = tree::pids(dir).unwrap_or_default();
    Error::Timeout { dir: dir.path().to_owned(), seconds: SECONDS, processes: stuck::describe(&pids) }
}

/// v1's freezer can hang in FREEZING when processes fork or are traced meanwhile; writing FROZEN again moves it
/// on, and now and then a thaw is needed (as runc found, its issue 2774).
fn freeze_v1(dir: &Dir) -> Result<(), Error> {
    const TRIES_BEFORE_THAW: u32 = 50;
    let deadline = Deadline::after(SECONDS);
    let mut delay = Duration::from_micros(10);
    for attempt in 1_u32.. {
        if attempt % TRIES_BEFORE_THAW == 0 {
            dir.write("freezer.state", "THAWED")?;
            thread::sleep(delay);
        }
        dir.write("freezer.state", "FROZEN")?;
        let state = dir.read("freezer.state")?;
        match state.as_str() {
            "FROZEN" => return Ok(()),
            "FREEZING" => {}
            other => return Err(dir.content_error("freezer.state", other)),
        }
        if deadline.passed() {
            break;
        }
        thread::sleep(delay);
        delay = (delay * 2).min(Duration::from_millis(10));
    }
    Err(not_in_time(dir))
}

/// FROZEN by an ancestor does not count: it is not this container that is paused.
fn is_frozen_v1(member: &Member) -> Result<bool, Error> {
    let dir = member.dir()?;
    let deadline = Deadline::after(SECONDS);
    let mut delay = Duration::from_micros(100);
    loop {
        let state = dir.read("freezer.state")?;
        match state.as_str() {
            "THAWED" => return Ok(false),
            "FROZEN" => return Ok(dir.read("freezer.self_freezing")? != "0"),
            "FREEZING" => {}
            other => return Err(dir.content_error("freezer.state", other)),
        }
        if deadline.passed() {
            return Err(not_in_time(dir));
        }
        thread::sleep(delay);
        delay = (delay * 2).min(Duration::from_millis(10));
    }
}
