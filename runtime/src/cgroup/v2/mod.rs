//! cgroup v2: controllers and threaded cgroups.

pub(super) mod resources;
pub(super) mod stats;

use std::path::Path;

use nix::errno::Errno;

use super::dir::{self, Dir};
use super::error::Error;

/// The controllers that containers are expected to have. The others are enabled when a limit needs them.
pub(super) const USUAL: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Enables for a cgroup every controller that the root of the mount has, as runc does.
///
/// Where the parent has them already (every container after the first) this reads one file. A controller that
/// can't be enabled is left out without an error: only a limit that needs it turns that into one.
pub(super) fn enable_all(cgroup: &Dir, mountpoint: &Path) -> Result<(), Error> {
    let enabled = cgroup.read("cgroup.controllers")?;
    if missing(&USUAL, &enabled).is_empty() {
        return Ok(());
    }
    let available = dir::read_in(mountpoint, "cgroup.controllers")?;
    let wanted: Vec<&str> = available.split_ascii_whitespace().collect();
    if missing(&wanted, &enabled).is_empty() {
        return Ok(());
    }
    enable_above(cgroup.path(), mountpoint, &wanted)
}

/// Enables controllers in every cgroup from the root of the mount to the parent of `cgroup`.
fn enable_above(cgroup: &Path, mountpoint: &Path, wanted: &[&str]) -> Result<(), Error> {
    let above: Vec<&Path> =
        cgroup.ancestors().skip(1).take_while(|path| path.starts_with(mountpoint)).collect();
    above.iter().rev().try_for_each(|path| enable_in(&Dir::open(path)?, wanted))
}

/// Enables one controller for a cgroup, and checks that it is.
pub(super) fn enable_one(cgroup: &Dir, mountpoint: &Path, controller: &str) -> Result<(), Error> {
    let has = || cgroup.read("cgroup.controllers").map(|enabled| missing(&[controller], &enabled).is_empty());
    if has()? {
        return Ok(());
    }
    enable_above(cgroup.path(), mountpoint, &[controller])?;
    if has()? {
        return Ok(());
    }
    Err(Error::Io { action: "enable controllers of", path: cgroup.path().to_owned(), errno: Errno::ENOENT })
}

/// Enables for the children of one cgroup.
fn enable_in(dir: &Dir, wanted: &[&str]) -> Result<(), Error> {
    const FILE: &str = "cgroup.subtree_control";
    let enabled = dir.read(FILE)?;
    let new: Vec<String> =
        missing(wanted, &enabled).iter().map(|controller| format!("+{controller}")).collect();
    if new.is_empty() || dir.write(FILE, &new.join(" ")).is_ok() {
        return Ok(());
    }
    // The write is all or nothing. Reasons for one to fail: not delegated (EACCES, EPERM), not available at this
    // level (ENOENT), processes in the cgroup (EBUSY), threaded (EOPNOTSUPP), realtime processes (EINVAL).
    for controller in &new {
        if let Err(e) = dir.write(FILE, controller) {
            log::debug!("{e}");
        }
    }
    Ok(())
}

fn missing<'w>(wanted: &[&'w str], enabled: &str) -> Vec<&'w str> {
    wanted.iter().copied().filter(|w| !enabled.split_ascii_whitespace().any(|e| e == *w)).collect()
}

/// Second try after EOPNOTSUPP: below a threaded cgroup a new one is `domain invalid` until it is made threaded,
/// which it can be when no domain controller (memory, io…) is enabled for it.
pub(super) fn join_threaded(dir: &Dir, pid: &str, first: Error) -> Result<(), Error> {
    let kind = dir.read("cgroup.type")?;
    if kind == "domain invalid" && dir.write("cgroup.type", "threaded").is_ok() {
        return dir.write("cgroup.procs", pid).map_err(|e| match e.errno() {
            Some(Errno::EOPNOTSUPP) => Error::BadType { dir: dir.path().to_owned(), kind },
            _ => e,
        });
    }
    if kind == "domain" { Err(first) } else { Err(Error::BadType { dir: dir.path().to_owned(), kind }) }
}

/// See [`super::Cgroup::delegate`].
pub(super) fn delegate(cgroup: &Dir, uid: u32) -> Result<(), Error> {
    const ALWAYS: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads";
    let listed = dir::read_in(Path::new("/sys/kernel/cgroup"), "delegate");
    cgroup.chown("", uid)?;
    for file in listed.as_deref().unwrap_or(ALWAYS).lines() {
        match cgroup.chown(file, uid) {
            // The list is the kernel's, the file may be of a controller that is not enabled here.
            Err(e) if e.is_gone() => {}
            result => result?,
        }
    }
    Ok(())
}
