//! What a container leaves behind when something goes wrong: processes, mounts, cgroups, sockets, FIFOs.
//!
//! Everything of one daemon carries its word (its containerd namespace, which is in the ids of its containers too)
//! or lies below its folder, so that other daemons on the machine do not disturb.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where every containerd's shims keep their sockets, whatever the daemon's own state folder is.
const SOCKETS: &str = "/run/containerd/s";
/// Where `ctr` makes the FIFOs of a container.
const FIFOS: &str = "/run/containerd/fifo";

/// Gives this thread, and all that it starts, a mount namespace of its own in which the sockets of shims lie below
/// `dir`: those of other daemons on the machine are not among them.
pub fn own_sockets(dir: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let (flags, none) = (MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
    mount(none, "/", none, flags, none).context("make private")?;
    let own = dir.join("sockets");
    fs::create_dir(&own)?;
    fs::create_dir_all(SOCKETS)?;
    mount(Some(&own), SOCKETS, none, MsFlags::MS_BIND, none).context("mount over the sockets' folder")
}

/// Everything left that carries `word` or lies below `dir`, one line each, after [`own_sockets`].
pub fn left(word: &str, dir: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        processes(word, dir).into_iter().map(|(pid, line)| format!("process {pid}: {line}")).collect();
    found.extend(mounts(word, dir).into_iter().map(|m| format!("mount {m}")));
    found.extend(cgroups(word).into_iter().map(|c| format!("cgroup {}", c.display())));
    found.extend(entries(&dir.join("sockets")).into_iter().map(|s| format!("socket {}", s.display())));
    found.extend(fifos(word).into_iter().map(|f| format!("FIFO {}", f.display())));
    found
}

fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

/// Shims (by command line or working folder) and container processes (by cgroup), with their command lines.
/// The daemon itself is not among them: it is started with its folder as `--config`, in the test's own folder.
pub fn processes(word: &str, dir: &Path) -> Vec<(i32, String)> {
    let dir_text = dir.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let proc = entry.path();
        let line = fs::read_to_string(proc.join("cmdline")).unwrap_or_default().replace('\0', " ");
        let cwd = fs::read_link(proc.join("cwd")).unwrap_or_default();
        let cgroup = fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
        let shim = line.contains(&*dir_text) && line.contains("containerd-shim");
        if shim || cwd.starts_with(dir) || cgroup.contains(word) {
            found.push((pid, line.trim().to_owned()));
        }
    }
    found
}

/// Processes of the daemon's shims only.
pub fn shims(dir: &Path) -> Vec<i32> {
    let dir_text = dir.to_string_lossy().into_owned();
    processes("\0none", dir)
        .into_iter()
        .filter(|(_, line)| line.contains("containerd-shim") && line.contains(&dir_text))
        .map(|(pid, _)| pid)
        .collect()
}

/// Mount points, network namespace files among them, that lie below `dir` or carry `word`.
pub fn mounts(word: &str, dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| Path::new(target).starts_with(dir) || target.contains(word))
        .map(str::to_owned)
        .collect()
}

/// Cgroups of containers. The folder of the containerd namespace itself stays: runc leaves parents too, since
/// another container may be about to use them.
pub fn cgroups(word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path| {
        let carries = path.file_name().is_some_and(|n| n.to_string_lossy().contains(word));
        if carries && path.file_name().is_some_and(|n| n != word) {
            found.push(path.to_owned());
        }
    });
    found
}

/// Removes the empty parents that containers of this namespace had.
pub fn remove_cgroup_parents(word: &str) {
    let mut parents = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path| {
        if path.file_name().is_some_and(|n| n == word) {
            parents.push(path.to_owned());
        }
    });
    for parent in parents {
        // podman keeps conmon in one of its own below it.
        let mut below = Vec::new();
        walk(&parent, &mut |path| below.push(path.to_owned()));
        below.insert(0, parent);
        for cgroup in below.iter().rev() {
            crate::poll::within(2, || fs::remove_dir(cgroup).ok());
        }
    }
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), visit);
        }
    }
}

/// Removes the FIFOs of `ctr run --detach`, which only `ctr task rm` removes: where a task has gone without it, they
/// stay with any shim.
pub fn remove_fifos(word: &str) {
    for fifo in fifos(word) {
        let _ = fs::remove_file(&fifo);
        let _ = fifo.parent().map(fs::remove_dir);
    }
}

fn fifos(word: &str) -> Vec<PathBuf> {
    let dirs = entries(Path::new(FIFOS));
    dirs.iter().flat_map(|d| entries(d)).filter(|f| f.to_string_lossy().contains(word)).collect()
}
