//! OOM kills: their count, and a descriptor that becomes readable when there are new ones.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Cgroup;
use super::dir::{Dir, flat_key};
use super::error::Error;
use super::layout::Version;
use super::member::Member;

/// The directory that accounts memory, and its file with `oom_kill`.
fn source(cgroup: &Cgroup) -> Option<(&Member, &'static str)> {
    let member = cgroup.v1("memory").or_else(|| cgroup.v2()).filter(|member| !member.is_denied())?;
    Some((member, if member.version() == Version::V1 { "memory.oom_control" } else { "memory.events" }))
}

fn count(dir: &Dir, file: &str) -> Option<u64> {
    flat_key(&dir.read(file).ok()?, "oom_kill")
}

/// See [`Cgroup::oom_kills`].
pub(super) fn kills(cgroup: &Cgroup) -> Option<u64> {
    let (member, file) = source(cgroup)?;
    count(member.dir().ok()?, file)
}

/// Tells of OOM kills in a cgroup. Poll [`OomWatch::as_fd`] for reading, then call [`OomWatch::drain`], and again when
/// [`OomWatch::recheck`] asks for it.
///
/// On v2 it is inotify on memory.events, on v1 an eventfd registered in cgroup.event_control. Both also fire for
/// other reasons (limit reached, cgroup removed, on v1 an OOM of a cgroup above), so the count of kills decides.
#[derive(Debug)]
pub struct OomWatch {
    dir: Dir,
    file: &'static str,
    notify: Notify,
    seen: u64,
}

#[derive(Debug)]
enum Notify {
    /// v2. The directory of the watched file is held open, since inotify takes a path.
    Inotify(Inotify, Above, Modified),
    /// v1; the kernel drops the registration when the eventfd is closed.
    EventFd(EventFd, Unexplained),
}

/// When memory.events of v2 was last seen to change. The limit that is reached changes it before a victim is counted, and
/// a change soon after another is notified late, so it may be the only one that is seen of a cgroup that goes.
#[derive(Debug)]
struct Modified(Option<Instant>);

/// Notifications of v1 that no count has explained yet: the kernel notifies before it looks for a victim, here and in
/// all cgroups below the one that is out of memory (mm/memcontrol-v1.c, `mem_cgroup_oom_notify`).
#[derive(Debug)]
struct Unexplained {
    number: u64,
    last: Instant,
}

/// The victim is counted in the call that notifies, but after the kernel's report is printed, which may take its time
/// on a serial console. A notification that has no victim after this time had it elsewhere, or none.
const VICTIM: Duration = Duration::from_secs(1);

/// Milliseconds that the notification of a cgroup's removal may take at most: it comes from a workqueue, after a grace
/// period of RCU, and both take their time on a machine that is busy.
const REMOVAL: u16 = 1000;

impl Unexplained {
    fn none() -> Unexplained {
        Unexplained { number: 0, last: Instant::now() }
    }

    fn add(&mut self, eventfd: &EventFd) {
        if let Ok(new) = eventfd.read() {
            self.number = self.number.saturating_add(new);
            self.last = Instant::now();
        } else if self.last.elapsed() > VICTIM {
            self.number = 0;
        }
    }
}

/// The cgroup above, whose memory.events counts what happens below it too (cgroup-v2.rst): it can be asked when the
/// watched one went with its last process, as it does under systemd.
#[derive(Debug)]
struct Above {
    path: PathBuf,
    /// None without a count: the root has no memory.events.
    kills: Option<u64>,
}

impl Above {
    fn of(dir: &Dir, file: &str) -> Above {
        let path = dir.path().parent().map(PathBuf::from).unwrap_or_default();
        let kills = Above::read(&path, file);
        Above { path, kills }
    }

    fn read(path: &std::path::Path, file: &str) -> Option<u64> {
        count(&Dir::open(path).ok()?, file)
    }

    /// Whether there are more kills than at the last look.
    fn has_more(&mut self, file: &str) -> bool {
        let now = Above::read(&self.path, file);
        let more = now > self.kills && self.kills.is_some();
        self.kills = now;
        more
    }
}

impl OomWatch {
    pub(super) fn new(cgroup: &Cgroup) -> Result<OomWatch, Error> {
        let (member, file) = source(cgroup).ok_or(Error::NoController("memory"))?;
        let dir = Dir::open(member.path())?;
        let seen = count(&dir, file).ok_or(Error::NoController("memory"))?;
        let notify = match member.version() {
            Version::V1 => Notify::by_eventfd(&dir, file)?,
            Version::V2 => Notify::by_inotify(&dir, file)?,
        };
        Ok(OomWatch { dir, file, notify, seen })
    }

    /// Takes what is queued; true when processes were killed since the last call (or since the watch began).
    ///
    /// Never blocks. Also call it once before the cgroup is removed: a kill that came last may not have been
    /// notified yet.
    pub fn drain(&mut self) -> bool {
        let counted = count(&self.dir, self.file);
        let killed_at_last = match &mut self.notify {
            Notify::Inotify(inotify, above, modified) => {
                // EAGAIN ends the queue; anything else can only be told by the count.
                while let Ok(events) = inotify.read_events() {
                    if events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_MODIFY)) {
                        modified.0 = Some(Instant::now());
                    }
                }
                let killed = above.has_more(self.file);
                let recently = modified.0.is_some_and(|when| when.elapsed() < VICTIM);
                if counted.map_or(killed, |now| now > self.seen) {
                    modified.0 = None;
                }
                killed && recently
            }
            Notify::EventFd(eventfd, unexplained) => {
                unexplained.add(eventfd);
                // The removal notifies once; what came on top of that was an OOM.
                let killed = unexplained.number > 1;
                if counted.map_or(killed, |now| now > self.seen) {
                    unexplained.number = 0;
                }
                killed
            }
        };
        // Without a count the cgroup is gone.
        let now = counted.unwrap_or(self.seen.saturating_add(u64::from(killed_at_last)));
        let new = now > self.seen;
        self.seen = now;
        new
    }

    /// The time until [`OomWatch::drain`] has to be called again even if the descriptor stays silent: v1 has told of an
    /// OOM whose victim is not counted yet. The waits grow, and end after a second.
    #[must_use]
    pub fn recheck(&self) -> Option<Duration> {
        match &self.notify {
            Notify::EventFd(_, Unexplained { number: 1.., last }) => {
                Some(last.elapsed().max(Duration::from_millis(5)))
            }
            _ => None,
        }
    }

    /// [`OomWatch::drain`] for the last time, when the processes have ended. Of a v1 cgroup that is gone too it is
    /// known by the number of notifications whether there was a kill, so this waits for the removal's, a second at
    /// most.
    pub fn drain_at_end(&mut self) -> bool {
        if self.drain() {
            return true;
        }
        let Notify::EventFd(eventfd, unexplained) = &self.notify else { return false };
        // A victim is counted before it is killed.
        if unexplained.number == 0 || count(&self.dir, self.file).is_some() {
            return false;
        }
        if unexplained.number == 1 {
            let _ = poll(&mut [PollFd::new(eventfd.as_fd(), PollFlags::POLLIN)], REMOVAL);
        }
        self.drain()
    }

    /// Kills counted up to the last [`OomWatch::drain`].
    #[must_use]
    pub fn kills(&self) -> u64 {
        self.seen
    }
}

impl Notify {
    fn by_inotify(dir: &Dir, file: &'static str) -> Result<Notify, Error> {
        let error = |errno| Error::Io { action: "watch", path: dir.path().join(file), errno };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(error)?;
        // Through the open directory, so that it is the same cgroup.
        let path = format!("/proc/self/fd/{}/{file}", dir.as_fd().as_raw_fd());
        inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY).map_err(error)?;
        Ok(Notify::Inotify(inotify, Above::of(dir, file), Modified(None)))
    }

    fn by_eventfd(dir: &Dir, file: &'static str) -> Result<Notify, Error> {
        let error = |errno: Errno| Error::Io { action: "watch", path: dir.path().join(file), errno };
        let control = dir.open_file(file, OFlag::O_RDONLY)?;
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(error)?;
        let registration = format!("{} {}", eventfd.as_fd().as_raw_fd(), control.as_raw_fd());
        dir.write("cgroup.event_control", &registration)?;
        Ok(Notify::EventFd(eventfd, Unexplained::none()))
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.notify {
            Notify::Inotify(inotify, ..) => inotify.as_fd(),
            Notify::EventFd(eventfd, _) => eventfd.as_fd(),
        }
    }
}
