//! A container's directory in one hierarchy: making it, joining it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::dir::{self, Dir, Made, flat_key};
use super::error::Error;
use super::layout::{self, Hierarchy, Layout, Mode, Version, parse_proc_cgroup, read_proc};
use super::{OnDenied, tree, v1, v2};

/// The v1 controllers and the named hierarchy that runc joins, by which it keys `cgroup_paths`.
const V1_KEYS: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// The keys of a hierarchy's directory in state.json; None for a hierarchy that runc does not join.
pub(super) fn keys(hierarchy: &Hierarchy) -> Option<Vec<String>> {
    if hierarchy.version == Version::V2 {
        return Some(vec![String::new()]);
    }
    let known = hierarchy.controllers.iter().filter(|c| V1_KEYS.contains(&c.as_str()));
    let keys: Vec<String> = known.cloned().collect();
    (!keys.is_empty()).then_some(keys)
}

/// The directory, opened at its first use; `None` inside when it could not be made and that is ignored.
#[derive(Debug)]
pub(super) struct Member {
    keys: Vec<String>,
    version: Version,
    path: PathBuf,
    hierarchy: Option<Hierarchy>,
    dir: OnceLock<Option<Dir>>,
    /// Whether [`Member::create`] made it or found it.
    made: OnceLock<Made>,
    /// Set when no process may be moved in, so that it is as good as none.
    closed: OnceLock<()>,
}

impl Member {
    pub(super) fn new(
        keys: Vec<String>,
        version: Version,
        path: PathBuf,
        hierarchy: Option<Hierarchy>,
    ) -> Member {
        Member {
            keys,
            version,
            path,
            hierarchy,
            dir: OnceLock::new(),
            made: OnceLock::new(),
            closed: OnceLock::new(),
        }
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(super) fn has_key(&self, controller: &str) -> bool {
        self.keys.iter().any(|key| key == controller)
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it could not be made or joined for lack of permission.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self.dir.get(), Some(None)) || self.closed.get().is_some()
    }

    /// Gives it up after [`Member::create`]: limits in it would be no one's.
    fn close(&self) {
        self.closed.get_or_init(|| ());
        if self.is_fresh() {
            // Without a process in it there is no reason to fail; if it does, it is an empty directory.
            let _ = dir::rmdir(&self.path);
        }
    }

    /// Whether this object made the directory, so that nothing was set in it before.
    pub(super) fn is_fresh(&self) -> bool {
        self.made.get() == Some(&Made::New)
    }

    /// The directory.
    pub(super) fn dir(&self) -> Result<&Dir, Error> {
        let missing = || Error::Io { action: "open", path: self.path.clone(), errno: Errno::ENOENT };
        if let Some(dir) = self.dir.get() {
            return dir.as_ref().ok_or_else(missing);
        }
        let dir = Dir::open(&self.path)?;
        self.dir.get_or_init(|| Some(dir)).as_ref().ok_or_else(missing)
    }

    /// Where the hierarchy is mounted. Unknown for one from state.json, which is never created again.
    pub(super) fn mountpoint(&self) -> Option<&Path> {
        self.hierarchy.as_ref().map(|hierarchy| hierarchy.mountpoint.as_path())
    }

    /// The directory at a path below (empty: the same).
    pub(super) fn sub(&self, below: &Path) -> Member {
        let path = if below.as_os_str().is_empty() { self.path.clone() } else { self.path.join(below) };
        Member::new(self.keys.clone(), self.version, path, self.hierarchy.clone())
    }

    /// The directory that a process is in, which must be this one or below it.
    pub(super) fn of_process(&self, pid: i32) -> Result<Member, Error> {
        let text = read_proc(&format!("/proc/{pid}/cgroup"))?;
        let hierarchy = self.known_hierarchy()?;
        let line = parse_proc_cgroup(&text).into_iter().find(|line| line.is(&hierarchy));
        let found = line.map_or("", |line| line.path);
        let path = hierarchy.dir_of(Path::new(found));
        if !path.starts_with(&self.path) {
            return Err(Error::NotMoved { pid, expected: self.path.clone(), found: found.to_owned() });
        }
        Ok(Member::new(self.keys.clone(), self.version, path, Some(hierarchy)))
    }

    fn known_hierarchy(&self) -> Result<Hierarchy, Error> {
        if let Some(hierarchy) = &self.hierarchy {
            return Ok(hierarchy.clone());
        }
        let layout = Layout::detect()?;
        let of_it =
            |h: &&Hierarchy| keys(h).is_some_and(|keys| self.keys.iter().any(|key| keys.contains(key)));
        layout.hierarchies().iter().find(of_it).cloned().ok_or(Error::NotMounted)
    }

    /// Makes the directory and its missing ancestors; appends what is new to `made`.
    pub(super) fn create(
        &self,
        denied: OnDenied,
        rootless: OnDenied,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        let before = made.len();
        let result = self.try_create(made);
        match result {
            Err(e) if denied == OnDenied::Ignore && e.is_denied() && made.len() == before => {
                log::debug!("without cgroup {}: {e}", self.path.display());
                self.dir.get_or_init(|| None);
                Ok(())
            }
            Err(e) if rootless == OnDenied::Ignore && e.is_denied() => {
                Err(not_delegated(e, "mkdir", &self.path))
            }
            result => result,
        }
    }

    /// The systemd driver: refuses a directory that is in use; makes nothing.
    pub(super) fn check_unused(&self) -> Result<(), Error> {
        match Dir::open(&self.path) {
            Ok(dir) => refuse_used(&dir, self),
            Err(e) if e.is_gone() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Takes over the directory that systemd has just made. On v1 it makes none in the hierarchies of controllers
    /// that it does not use (cpuset, freezer…): they are made here.
    pub(super) fn adopt(&self) -> Result<(), Error> {
        self.made.get_or_init(|| Made::New);
        if self.version == Version::V1 && !self.has_key("name=systemd") {
            let fresh = self.mkdirs(&mut Vec::new())?;
            let dir = self.dir()?;
            return match self.mountpoint() {
                Some(mountpoint) if self.has_key("cpuset") && fresh == Made::New => {
                    v1::inherit_cpuset(dir, mountpoint)
                }
                _ => Ok(()),
            };
        }
        let dir = self.dir()?;
        // systemd enables those that a property needs or that are delegated: hugetlb, rdma and misc are not.
        let whole = self.mountpoint().filter(|mountpoint| *mountpoint == Path::new(layout::ROOT));
        whole.map_or(Ok(()), |mountpoint| v2::enable_all(dir, mountpoint))
    }

    /// A cgroup is frozen with the one above it, and a process that starts in it hangs. The runtime's own is not
    /// frozen, so this is asked only of a configured path.
    pub(super) fn refuse_frozen_above(&self) -> Result<(), Error> {
        let dir = self.dir()?;
        let frozen = match self.version {
            Version::V2 => dir.read("cgroup.events").map(|text| flat_key(&text, "frozen") == Some(1)),
            Version::V1 if self.has_key("freezer") => {
                dir.read("freezer.parent_freezing").map(|text| text != "0")
            }
            Version::V1 => return Ok(()),
        };
        if frozen? { Err(Error::FrozenAbove(self.path.clone())) } else { Ok(()) }
    }

    fn try_create(&self, made: &mut Vec<PathBuf>) -> Result<(), Error> {
        let fresh = self.mkdirs(made)?;
        self.made.get_or_init(|| fresh);
        let dir = self.dir()?;
        if fresh == Made::Existing {
            refuse_used(dir, self)?;
        }
        let Some(mountpoint) = self.mountpoint() else { return Ok(()) };
        match self.version {
            // Hybrid: controllers on the unified tree are enabled when a limit needs them.
            Version::V2 if mountpoint == Path::new(layout::ROOT) => v2::enable_all(dir, mountpoint),
            Version::V1 if self.has_key("cpuset") && fresh == Made::New => {
                v1::inherit_cpuset(dir, mountpoint)
            }
            _ => Ok(()),
        }
    }

    /// One mkdir where the parent exists, else from the top.
    fn mkdirs(&self, made: &mut Vec<PathBuf>) -> Result<Made, Error> {
        let first = match dir::mkdir(&self.path) {
            Err(Errno::ENOENT) => None,
            result => Some(result),
        };
        let result = match first {
            Some(result) => result,
            None => {
                let mountpoint = self.mountpoint().unwrap_or(Path::new("/"));
                let above = self.path.ancestors().skip(1).take_while(|path| *path != mountpoint);
                let mut missing: Vec<&Path> = above.collect();
                missing.reverse();
                for path in missing {
                    let new = dir::mkdir(path).map_err(|errno| io("mkdir", path, errno))?;
                    if new == Made::New {
                        made.push(path.to_owned());
                    }
                }
                dir::mkdir(&self.path)
            }
        };
        let result = result.map_err(|errno| io("mkdir", &self.path, errno))?;
        if result == Made::New {
            made.push(self.path.clone());
        }
        Ok(result)
    }
}

/// The same with what would help.
fn not_delegated(error: Error, action: &'static str, path: &Path) -> Error {
    let errno = error.errno().unwrap_or(Errno::EACCES);
    let path = if let Error::Io { path, .. } = error { path } else { path.to_owned() };
    Error::NotDelegated { action, path, errno }
}

fn io(action: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Io { action, path: path.to_owned(), errno }
}

/// An existing cgroup is taken over only if it is empty and not frozen: what is in it would be killed with
/// the container, and a process that starts in a frozen cgroup hangs.
fn refuse_used(dir: &Dir, member: &Member) -> Result<(), Error> {
    let pids = tree::pids(dir)?;
    if !pids.is_empty() {
        return Err(Error::NotEmpty(pids.len()));
    }
    let (file, frozen) = match member.version() {
        Version::V2 => ("cgroup.freeze", "1"),
        Version::V1 if member.has_key("freezer") => ("freezer.state", "FROZEN"),
        Version::V1 => return Ok(()),
    };
    match dir.read(file) {
        Ok(state) if state == frozen => Err(Error::Frozen),
        Ok(_) => Ok(()),
        // cgroup.freeze came with kernel 5.2.
        Err(e) if e.is_gone() => Ok(()),
        Err(e) => Err(e),
    }
}

/// After someone else has moved the process: checks that it is where it should be.
pub(super) fn verify_all(members: &[Member], pid: i32) -> Result<(), Error> {
    verify(&members.iter().collect::<Vec<_>>(), pid)
}

/// Writes the pid in every hierarchy, then verifies.
pub(super) fn attach(
    members: &[Member],
    pid: i32,
    (denied, rootless): (OnDenied, OnDenied),
    mode: Mode,
) -> Result<(), Error> {
    let mut joined = Vec::with_capacity(members.len());
    let value = pid.to_string();
    for member in members.iter().filter(|member| !member.is_denied()) {
        match join(member.dir()?, &value) {
            Ok(()) => joined.push(member),
            Err(e) if denied == OnDenied::Ignore && e.is_denied() && mode != Mode::V2 => {
                log::debug!("process {pid} stays outside of {}: {e}", member.path.display());
                member.close();
            }
            // As runc: a v2 cgroup that could be made is meant to be used.
            Err(e) if rootless == OnDenied::Ignore && e.is_denied() => {
                return Err(not_delegated(e, "join", &member.path));
            }
            Err(e) => return Err(e),
        }
    }
    if joined.is_empty() {
        return Ok(());
    }
    verify(&joined, pid)
}

/// One write to `cgroup.procs`.
fn join(dir: &Dir, pid: &str) -> Result<(), Error> {
    // A process that fork has not finished yet (TASK_NEW) gives EINVAL for a moment.
    const LONGEST: Duration = Duration::from_millis(64);
    let mut delay = Duration::from_millis(1);
    loop {
        match dir.write("cgroup.procs", pid) {
            Err(e) if e.errno() == Some(Errno::EINVAL) && delay <= LONGEST => {
                thread::sleep(delay);
                delay *= 2;
            }
            Err(e) if e.errno() == Some(Errno::EOPNOTSUPP) => return v2::join_threaded(dir, pid, e),
            result => return result,
        }
    }
}

/// A write can succeed and yet not move the process where we think: under a mount of another hierarchy, for
/// example. Nothing may be limited, signalled or removed on that belief.
fn verify(joined: &[&Member], pid: i32) -> Result<(), Error> {
    let text = read_proc(&format!("/proc/{pid}/cgroup"))?;
    let lines = parse_proc_cgroup(&text);
    let detected;
    let known = joined.iter().all(|member| member.hierarchy.is_some());
    let hierarchies: &[Hierarchy] = if known {
        &[]
    } else {
        detected = Layout::detect()?;
        detected.hierarchies()
    };
    for member in joined {
        let of_member =
            |h: &&Hierarchy| keys(h).is_some_and(|keys| member.keys.iter().any(|k| keys.contains(k)));
        let hierarchy = member.hierarchy.as_ref().or_else(|| hierarchies.iter().find(of_member));
        let hierarchy = hierarchy.ok_or(Error::NotMounted)?;
        let found = lines.iter().find(|line| line.is(hierarchy)).map_or("", |line| line.path);
        if hierarchy.dir_of(Path::new(found)) != member.path {
            return Err(Error::NotMoved { pid, expected: member.path.clone(), found: found.to_owned() });
        }
    }
    Ok(())
}
