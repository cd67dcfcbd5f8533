//! A container's cgroup as the shim sees it: metrics, pids, OOM kills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use davit::cgroup::{Cgroup, OomWatch};

use crate::api::{Any, ApiError, Code};
use crate::wire::metrics;

/// The open cgroup of a container.
#[derive(Debug)]
pub struct Watched {
    cgroup: Cgroup,
    /// Fires on OOM kills; absent where memory is not accounted.
    pub oom: Option<OomWatch>,
    /// The last metrics, taken when init ended: the cgroup may go before somebody asks (CRI reads oom_kill
    /// after exit code 137).
    last: Option<Any>,
}

impl Watched {
    /// Finds the cgroup of a new container: `cgroup_paths` of its state.json (runc, davit), else where init
    /// is (other runtimes).
    #[must_use]
    pub fn find(state_dir: &Path, pid: i32) -> Option<Watched> {
        let paths = from_state(state_dir).or_else(|| from_proc(pid))?;
        let cgroup = Cgroup::open(&paths).inspect_err(|e| log::warn!("cgroup of pid {pid}: {e}")).ok()?;
        let oom = cgroup.oom_watch().inspect_err(|e| log::debug!("no OOM events for pid {pid}: {e}")).ok();
        Some(Watched { cgroup, oom, last: None })
    }

    /// Metrics now, or the last ones of a container that has ended.
    ///
    /// # Errors
    /// NotFound when the cgroup is gone.
    pub fn stats(&self) -> Result<Any, ApiError> {
        if let Some(last) = &self.last {
            return Ok(last.clone());
        }
        let gone = || ApiError::new(Code::NotFound, "cgroup does not exist");
        if !self.cgroup.exists() {
            return Err(gone());
        }
        self.cgroup.stats().map(|stats| metrics::encode(&stats)).map_err(|_| gone())
    }

    /// Keeps the metrics of this moment for later.
    pub fn freeze_stats(&mut self) {
        self.last = self.stats().ok();
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
