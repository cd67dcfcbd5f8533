//! A container's cgroup as the shim sees it: metrics, pids, OOM kills.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use davit::cgroup::{Cgroup, Mode, OomWatch, Stats};

use crate::api::{Any, ApiError, Code};
use crate::wire::metrics;

/// The open cgroup of a container.
#[derive(Debug)]
pub struct Watched {
    cgroup: Cgroup,
    /// Fires on OOM kills; absent where memory is not accounted.
    pub oom: Option<OomWatch>,
    keeper: Keeper,
    /// The metrics that were read last: CRI reads oom_kill after exit code 137.
    last: Option<Stats>,
    /// Init has ended: they stay.
    ended: bool,
}

/// Who removes the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// Delete. It can be read when init has ended.
    Delete,
    /// systemd, as soon as its last process has ended: a zombie counts no more (cgroup-v2.rst, "(Un)populated
    /// Notification"), so nothing can make it wait. What was read before is kept.
    Systemd,
}

impl Keeper {
    /// Of a scope, or of a cgroup in one.
    fn of(paths: &BTreeMap<String, PathBuf>) -> Keeper {
        let is_scope = |name: &std::ffi::OsStr| name.as_bytes().ends_with(b".scope");
        if paths.values().any(|dir| dir.iter().any(is_scope)) { Keeper::Systemd } else { Keeper::Delete }
    }
}

impl Watched {
    /// Finds the cgroup of a new container: `cgroup_paths` of its state.json (runc, davit), else where init
    /// is (other runtimes).
    #[must_use]
    pub fn find(state_dir: &Path, pid: i32) -> Option<Watched> {
        let paths = from_state(state_dir).or_else(|| from_proc(pid))?;
        let cgroup = Cgroup::open(&paths).inspect_err(|e| log::warn!("cgroup of pid {pid}: {e}")).ok()?;
        let oom = cgroup.oom_watch().inspect_err(|e| log::debug!("no OOM events for pid {pid}: {e}")).ok();
        Some(Watched { cgroup, oom, keeper: Keeper::of(&paths), last: None, ended: false })
    }

    /// Metrics now, or the last ones of a container that has ended or whose cgroup has gone.
    ///
    /// # Errors
    /// NotFound when the cgroup was gone before they were read.
    pub fn stats(&mut self) -> Result<Any, ApiError> {
        self.note();
        let last = self.last.as_ref().map(metrics::encode);
        last.ok_or_else(|| ApiError::new(Code::NotFound, "cgroup does not exist"))
    }

    /// Whether systemd may remove the cgroup before Delete does.
    #[must_use]
    pub fn may_vanish(&self) -> bool {
        self.keeper == Keeper::Systemd
    }

    /// Keeps the metrics of this moment, if there are any.
    pub fn note(&mut self) {
        if self.ended {
            return;
        }
        if let Some(now) = self.read() {
            self.last = Some(now);
        }
    }

    /// Init has ended: keeps the metrics of this moment. Of a cgroup that is gone, those that were read last, with the
    /// OOM kills that are known since.
    pub fn freeze_stats(&mut self) {
        self.note();
        self.ended = true;
        let kills = self.oom.as_ref().map_or(0, OomWatch::kills);
        if kills > 0 {
            let none = || match self.cgroup.mode() {
                Mode::V2 => Stats::V2(Box::default()),
                Mode::V1 | Mode::Hybrid => Stats::V1(Box::default()),
            };
            let known = match self.last.get_or_insert_with(none) {
                Stats::V1(metrics) => &mut metrics.memory_oom_control.get_or_insert_default().oom_kill,
                Stats::V2(metrics) => &mut metrics.memory_events.get_or_insert_default().oom_kill,
            };
            *known = kills.max(*known);
        }
    }

    /// None when the cgroup is gone, also when it went meanwhile: what was read of it then may be half of it.
    fn read(&self) -> Option<Stats> {
        let stats = self.cgroup.stats().ok()?;
        self.cgroup.exists().then_some(stats)
    }

    /// All pids, sub-cgroups included; empty when the cgroup is gone.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.cgroup.pids().inspect_err(|e| log::warn!("{e}")).unwrap_or_default()
    }
}

/// The cgroup that a container's state.json names.
#[must_use]
pub fn open(state_dir: &Path) -> Option<Cgroup> {
    Cgroup::open(&from_state(state_dir)?).ok()
}

fn from_state(dir: &Path) -> Option<BTreeMap<String, PathBuf>> {
    #[derive(serde::Deserialize)]
    struct State {
        #[serde(default)]
        cgroup_paths: BTreeMap<String, PathBuf>,
    }
    let bytes = std::fs::read(dir.join("state.json")).ok()?;
    let state: State = serde_json::from_slice(&bytes).ok()?;
    Some(state.cgroup_paths).filter(|paths| !paths.is_empty())
}

/// `/proc/<pid>/cgroup` below the customary mount points. Hierarchies where the process is in the root are
/// left out: those are not the container's.
fn from_proc(pid: i32) -> Option<BTreeMap<String, PathBuf>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let base = Path::new("/sys/fs/cgroup");
    let unified = if base.join("cgroup.procs").exists() { base.to_owned() } else { base.join("unified") };
    let mut paths = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let Some(below) = path.strip_prefix('/').filter(|below| !below.is_empty()) else { continue };
        if names.is_empty() {
            paths.insert(String::new(), unified.join(below));
            continue;
        }
        for name in names.split(',') {
            let dir = base.join(name.trim_start_matches("name="));
            paths.insert(name.to_owned(), dir.join(below));
        }
    }
    // What is not mounted here is nothing to look at.
    paths.retain(|_, dir: &mut PathBuf| dir.is_dir());
    Some(paths).filter(|paths| !paths.is_empty())
}
