//! OOM kills: their count, and a descriptor that becomes readable when there are new ones.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::read;

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
/// On v2 it is an epoll on memory.events, on v1 an eventfd registered in cgroup.event_control. Both also fire for
/// other reasons (limit reached, on v1 the cgroup removed or an OOM of a cgroup above), so the count of kills decides.
#[derive(Debug)]
pub struct OomWatch {
    dir: Dir,
    file: &'static str,
    notify: Notify,
    seen: u64,
}

#[derive(Debug)]
enum Notify {
    /// v2. The last is when the file was last seen to change: see [`CHANGE`].
    Epoll(Changes, Above, Option<Instant>),
    /// v1; the kernel drops the registration when the eventfd is closed.
    EventFd(EventFd, Unexplained),
}

/// Changes of a file of v2, told by poll(2): the kernel wakes who polls in the call that counts, before the victim is
/// killed (`kernfs_notify`). Of a cgroup that is gone it is known to the end whether there was one: the removal wakes
/// nobody, and a file that is gone is ready only for who asks without having been woken, which an edge-triggered
/// epoll does not do. inotify would be told by a workqueue, which may be later than systemd's removal of the cgroup.
#[derive(Debug)]
struct Changes {
    epoll: Epoll,
    /// The registration ends with it.
    _file: OwnedFd,
}

impl Changes {
    fn of(dir: &Dir, file: &str) -> Result<Changes, Error> {
        let error = |errno| Error::Io { action: "watch", path: dir.path().join(file), errno };
        let watched = dir.open_file(file, OFlag::O_RDONLY)?;
        // What was never read counts as changed.
        read(&watched, &mut [0; 1024]).map_err(error)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(error)?;
        let event = EpollEvent::new(EpollFlags::EPOLLPRI | EpollFlags::EPOLLET, 0);
        epoll.add(&watched, event).map_err(error)?;
        Ok(Changes { epoll, _file: watched })
    }

    /// Whether there were any since the last call.
    fn any(&self) -> bool {
        matches!(self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO), Ok(1))
    }
}

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

/// The limit that is reached changes memory.events of v2 before a victim is counted, and a change within ten
/// milliseconds of another is told late, or never if the cgroup goes first (`cgroup_file_notify`). So the change from
/// before may be the only one of a kill; between the two a starved machine may take its time.
const CHANGE: Duration = Duration::from_secs(10);

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
    fn of(dir: &Dir) -> Above {
        Above { path: dir.path().parent().map(PathBuf::from).unwrap_or_default(), kills: None }
    }

    fn read(path: &Path, file: &str) -> Option<u64> {
        count(&Dir::open(path).ok()?, file)
    }

    /// The watched cgroup's own count, None when it is gone, and whether there are more kills above than at the last
    /// look. Both are of one moment: a kill counted between the two reads would be taken for known above, and be lost
    /// with the cgroup.
    fn look(&mut self, dir: &Dir, file: &str) -> (Option<u64>, bool) {
        const TRIES: usize = 10;
        let mut own = count(dir, file);
        let mut now = None;
        for _ in 0..TRIES {
            now = Above::read(&self.path, file);
            let before = std::mem::replace(&mut own, count(dir, file));
            if own == before {
                break;
            }
        }
        let more = now > self.kills && self.kills.is_some();
        self.kills = now;
        (own, more)
    }
}

impl OomWatch {
    pub(super) fn new(cgroup: &Cgroup) -> Result<OomWatch, Error> {
        let (member, file) = source(cgroup).ok_or(Error::NoController("memory"))?;
        let dir = Dir::open(member.path())?;
        let none = || Error::NoController("memory");
        let (notify, seen) = match member.version() {
            Version::V1 => {
                let seen = count(&dir, file).ok_or_else(none)?;
                (Notify::by_eventfd(&dir, file)?, seen)
            }
            Version::V2 => {
                let (changes, mut above) = (Changes::of(&dir, file)?, Above::of(&dir));
                let (seen, _) = above.look(&dir, file);
                (Notify::Epoll(changes, above, None), seen.ok_or_else(none)?)
            }
        };
        Ok(OomWatch { dir, file, notify, seen })
    }

    /// Takes what is queued; true when processes were killed since the last call (or since the watch began).
    ///
    /// Never blocks. Also call it once before the cgroup is removed: a kill that came last may not have been
    /// notified yet.
    pub fn drain(&mut self) -> bool {
        let (counted, killed_at_last) = match &mut self.notify {
            Notify::Epoll(changes, above, changed) => {
                // Before the count is read: a kill behind that makes the descriptor readable again.
                if changes.any() {
                    *changed = Some(Instant::now());
                }
                let (counted, more) = above.look(&self.dir, self.file);
                (counted, more && changed.is_some_and(|when| when.elapsed() < CHANGE))
            }
            Notify::EventFd(eventfd, unexplained) => {
                let counted = count(&self.dir, self.file);
                unexplained.add(eventfd);
                // The removal notifies once; what came on top of that was an OOM.
                let killed = unexplained.number > 1;
                if counted.map_or(killed, |now| now > self.seen) {
                    unexplained.number = 0;
                }
                (counted, killed)
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
            // The descriptor of an epoll can be polled as any other.
            Notify::Epoll(changes, ..) => changes.epoll.0.as_fd(),
            Notify::EventFd(eventfd, _) => eventfd.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command};

    use super::*;

    /// A cgroup of v2, wherever this machine has them.
    fn made(name: &str) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        let path = Path::new(mount.split(' ').nth(1)?).join(format!("davit-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(path)
    }

    fn remove(path: &Path) {
        let start = Instant::now();
        while let Err(e) = fs::remove_dir(path) {
            assert!(start.elapsed() < Duration::from_secs(30), "{e}");
        }
    }

    fn sleeper(cgroup: &Path) -> Child {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        child
    }

    fn is_readable(changes: &Changes) -> bool {
        let mut fds = [PollFd::new(changes.epoll.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 0_u8).unwrap() == 1
    }

    /// As systemd removes a cgroup: at once when its last process has gone, with the file that tells so.
    #[test]
    fn a_change_is_known_of_a_file_that_is_gone() {
        for round in 0..20 {
            let Some(path) = made("gone") else {
                println!(
                    "SKIPPED cgroup::oom::a_change_is_known_of_a_file_that_is_gone: no cgroup v2 to write"
                );
                return;
            };
            let changes = round % 2 == 0;
            let child = changes.then(|| sleeper(&path));
            let dir = Dir::open(&path).unwrap();
            // What comes sooner after the start of the process would be told late.
            std::thread::sleep(Duration::from_millis(30));
            let watched = Changes::of(&dir, "cgroup.events").unwrap();
            assert!(!is_readable(&watched) && !watched.any(), "round {round}: nothing has happened yet");
            if let Some(mut child) = child {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            remove(&path);
            assert_eq!(is_readable(&watched), changes, "round {round}");
            assert_eq!(watched.any(), changes, "round {round}");
            assert!(!is_readable(&watched) && !watched.any(), "round {round}: it is told once");
        }
    }
}
