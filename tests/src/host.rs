//! The host: cgroup hierarchies, mounts, processes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Keeps the test process in a memory cgroup of its own, so that containers are not made below the one
/// that the caller's shell is limited by. Shared by the tests of a process; the last one moves it back.
#[derive(Debug)]
pub struct OwnCgroup(());

struct Moved {
    users: usize,
    own: PathBuf,
    before: PathBuf,
}

static MOVED: Mutex<Option<Moved>> = Mutex::new(None);

const MEMORY: &str = "/sys/fs/cgroup/memory";

impl OwnCgroup {
    /// Moves this process, unless it has moved already or there is no v1 memory hierarchy.
    #[must_use]
    pub fn enter() -> Self {
        let mut moved = MOVED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(moved) = moved.as_mut() {
            moved.users += 1;
            return OwnCgroup(());
        }
        let Some(path) = v1_path("self", "memory") else { return OwnCgroup(()) };
        let own = Path::new(MEMORY).join(format!("davit-tests-{}", std::process::id()));
        if fs::create_dir(&own).is_ok() && join(&own).is_ok() {
            *moved =
                Some(Moved { users: 1, own, before: Path::new(MEMORY).join(path.trim_start_matches('/')) });
        }
        OwnCgroup(())
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let mut moved = MOVED.lock().unwrap_or_else(|e| e.into_inner());
        let Some(now) = moved.as_mut() else { return };
        now.users -= 1;
        if now.users == 0 && join(&now.before).is_ok() {
            remove_when_empty(&now.own);
            *moved = None;
        }
    }
}

/// Removes a cgroup. What the test has started may still be dying in it: EBUSY until then.
pub fn remove_when_empty(cgroup: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::remove_dir(cgroup).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn join(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

/// The path of a process (a pid or `self`) in a v1 hierarchy.
#[must_use]
pub fn v1_path(process: &str, controller: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|c| c == controller).then(|| path.to_owned())
    })
}

/// The directories of a process's cgroups, by hierarchy: `memory`, `cpu,cpuacct`, `systemd`, `unified`.
#[must_use]
pub fn cgroups_of(pid: i32) -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let dir = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (name, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let name = if name.is_empty() { "unified" } else { name.trim_start_matches("name=") };
        let mount =
            if name == "unified" && !root.join(name).exists() { root.to_owned() } else { root.join(name) };
        Some((name.to_owned(), mount.join(path)))
    };
    text.lines().filter_map(dir).collect()
}

/// Whether the host has cgroup v2 alone, or v1 (perhaps with v2 beside it).
#[must_use]
pub fn has_v1() -> bool {
    Path::new(MEMORY).exists()
}

/// Roots of all mounted cgroup hierarchies.
#[must_use]
pub fn cgroup_roots() -> Vec<PathBuf> {
    mounts()
        .lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let fs_type = back.split(' ').next()?;
            matches!(fs_type, "cgroup" | "cgroup2")
                .then(|| PathBuf::from(front.split(' ').nth(4).unwrap_or_default()))
        })
        .collect()
}

/// Directories of any hierarchy whose path holds `name`, at most four levels deep.
#[must_use]
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    fn search(dir: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(name) {
                found.push(entry.path());
            } else if depth > 0 {
                search(&entry.path(), name, depth - 1, found);
            }
        }
    }
    let (mut found, mut searched) = (Vec::new(), Vec::new());
    for root in cgroup_roots() {
        // One that is mounted more than once (as a criu leaves it that was killed) is searched once.
        let device = fs::metadata(&root).map(|meta| meta.dev()).ok();
        if !searched.contains(&device) {
            search(&root, name, 3, &mut found);
            searched.push(device);
        }
    }
    found
}

/// The host's mount table.
#[must_use]
pub fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("mount table")
}

/// Pids of all processes in a cgroup whose path holds `name`.
#[must_use]
pub fn processes_in_cgroup(name: &str) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse().ok()) else { continue };
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroups.contains(name) && is_alive(pid) && !is_exiting(pid) {
            found.insert(pid);
        }
    }
    found
}

/// Whether a process is on its way out: the kernel takes it off its cgroup a moment before it is a zombie, so that the
/// cgroup can be gone and the process still be there.
fn is_exiting(pid: i32) -> bool {
    // PF_EXITING of linux/sched.h.
    const EXITING: u64 = 0x4;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & EXITING != 0)
}

/// Pids and names of processes that have this variable (`NAME=value`) in their environment.
#[must_use]
pub fn processes_with(variable: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|other| other == variable.as_bytes()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} {}", entry.file_name().to_string_lossy(), name.trim_end()));
        }
    }
    found
}

/// Whether a process exists and has not ended. A zombie that is reaped while it is looked at has ended.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The command line of a process, its words ended by NUL. Empty of one that has ended, and for a moment while a
/// program is executed: its memory is made after descriptors were closed, which is what a runtime waits for.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
}
