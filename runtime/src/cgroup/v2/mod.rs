//! cgroup v2: controllers and threaded cgroups.

pub(super) mod resources;
pub(super) mod stats;

use std::path::Path;

use nix::errno::Errno;

use super::dir::Dir;
use super::error::Error;
use super::layout;

/// Enables for a cgroup every controller that the root of the mount has, as runc does.
///
/// Where the parent has them already (every container after the first) this is two reads. A controller that
/// can't be enabled is left out without an error: only a limit that needs it turns that into one.
pub(super) fn enable_all(cgroup: &Path, mountpoint: Option<&Path>) -> Result<(), Error> {
    let (Some(mountpoint), Some(parent)) = (mountpoint, cgroup.parent()) else { return Ok(()) };
    let root = Dir::open(mountpoint)?;
    let available = root.read("cgroup.controllers")?;
    let wanted: Vec<&str> = available.split_ascii_whitespace().collect();
    let enabled = if parent == mountpoint {
        root.read("cgroup.subtree_control")?
    } else {
        Dir::open(parent)?.read("cgroup.subtree_control")?
    };
    if missing(&wanted, &enabled).next().is_none() {
        return Ok(());
    }
    let mut above: Vec<&Path> = parent.ancestors().take_while(|path| *path != mountpoint).collect();
    above.push(mountpoint);
    for path in above.iter().rev() {
        enable_in(&Dir::open(path)?, &wanted)?;
    }
    Ok(())
}

/// Hybrid: enables one controller of the unified tree for a cgroup, and checks that it is.
pub(super) fn enable_one(dir: &Dir, mountpoint: Option<&Path>, controller: &str) -> Result<(), Error> {
    let has = |dir: &Dir| dir.read("cgroup.controllers").map(|text| text.split(' ').any(|c| c == controller));
    if has(dir)? {
        return Ok(());
    }
    let mountpoint = mountpoint.unwrap_or(Path::new(layout::UNIFIED));
    let above: Vec<&Path> =
        dir.path().ancestors().skip(1).take_while(|path| path.starts_with(mountpoint)).collect();
    for path in above.iter().rev() {
        enable_in(&Dir::open(path)?, &[controller])?;
    }
    if has(dir)? {
        return Ok(());
    }
    Err(Error::Io { action: "enable controllers of", path: dir.path().to_owned(), errno: Errno::ENOENT })
}

/// Enables for the children of one cgroup.
fn enable_in(dir: &Dir, wanted: &[&str]) -> Result<(), Error> {
    const FILE: &str = "cgroup.subtree_control";
    let enabled = dir.read(FILE)?;
    let new: Vec<String> = missing(wanted, &enabled).map(|controller| format!("+{controller}")).collect();
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

fn missing<'w>(wanted: &'w [&'w str], enabled: &str) -> impl Iterator<Item = &'w str> {
    wanted
        .iter()
        .copied()
        .filter(move |w| !enabled.split_ascii_whitespace().any(|e| e == *w))
        .collect::<Vec<_>>()
        .into_iter()
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
