//! Walking a cgroup and what is below it.
//!
//! A container can nest cgroups as deep as it likes, so the walk holds one descriptor whatever the depth, goes
//! back up by `..` (a cgroup can't be moved to another parent) and does not recurse.

use std::ffi::{OsStr, OsString};

use nix::errno::Errno;

use super::dir::Dir;
use super::error::Error;
use super::layout::read_proc;
use crate::sorted::list_of;

/// Calls `visit` for `top` and every cgroup below it, parents first. A cgroup that vanishes meanwhile is skipped.
pub(super) fn walk(top: &Dir, visit: &mut dyn FnMut(&Dir) -> Result<(), Error>) -> Result<(), Error> {
    visit(top)?;
    descend(top, visit, &mut |_, _| Ok(()))
}

/// Removes every cgroup below `top` that has no processes. Those that have stay, with their parents.
pub(super) fn remove_below(top: &Dir) -> Result<(), Error> {
    descend(top, &mut |_| Ok(()), &mut |parent, name| match parent.remove_child(name) {
        Ok(()) | Err(Errno::ENOENT | Errno::EBUSY | Errno::ENOTEMPTY) => Ok(()),
        Err(errno) => Err(Error::Io { action: "rmdir", path: parent.path().join(name), errno }),
    })
}

/// The walk itself: `enter` on the way down, `leave(parent, name)` on the way up.
fn descend(
    top: &Dir,
    enter: &mut dyn FnMut(&Dir) -> Result<(), Error>,
    leave: &mut dyn FnMut(&Dir, &OsStr) -> Result<(), Error>,
) -> Result<(), Error> {
    // For each level the names still to visit, and the name of the level below that is being visited.
    let mut levels: Vec<(Vec<OsString>, OsString)> = vec![(top.children()?, OsString::new())];
    let mut current: Option<Dir> = None;
    while let Some((names, below)) = levels.last_mut() {
        let here = current.as_ref().unwrap_or(top);
        if let Some(name) = names.pop() {
            let entered = here.child(&name).and_then(|dir| {
                enter(&dir)?;
                Ok((dir.children()?, dir))
            });
            match entered {
                Ok((children, dir)) => {
                    *below = name;
                    levels.push((children, OsString::new()));
                    current = Some(dir);
                }
                Err(e) if e.is_gone() => {}
                Err(e) => return Err(e),
            }
            continue;
        }
        levels.pop();
        let Some((_, name)) = levels.last() else { break };
        let parent = if levels.len() > 1 { Some(here.parent()?) } else { None };
        leave(parent.as_ref().unwrap_or(top), name)?;
        current = parent;
    }
    Ok(())
}

/// The processes in `top` and below it.
pub(super) fn pids(top: &Dir) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    let mut buffer = Vec::new();
    let mut threaded = false;
    walk(top, &mut |dir| {
        match dir.read_into("cgroup.procs", &mut buffer) {
            Ok(()) => pids.extend(buffer.split(|b| *b == b'\n').filter_map(parse_pid)),
            // A threaded cgroup (v2) lists only threads.
            Err(e) if e.errno() == Some(Errno::EOPNOTSUPP) => {
                dir.read_into("cgroup.threads", &mut buffer)?;
                pids.extend(buffer.split(|b| *b == b'\n').filter_map(parse_pid).filter_map(process_of));
                threaded = true;
            }
            Err(e) => return Err(e),
        }
        Ok(())
    })?;
    if threaded {
        pids = list_of(pids);
        pids.dedup();
    }
    Ok(pids)
}

/// The process that a thread belongs to; None when it has ended.
fn process_of(thread: i32) -> Option<i32> {
    let status = read_proc(&format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// One line of cgroup.procs. A process outside of our pid namespace is shown as 0 and can't be signalled.
fn parse_pid(line: &[u8]) -> Option<i32> {
    std::str::from_utf8(line).ok()?.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn walks_everything_once_and_removes_bottom_up() {
        let top = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(top.path().join(path)).unwrap();
        }
        fs::write(top.path().join("cgroup.procs"), "1\n2\n0\n").unwrap();
        fs::write(top.path().join("a/b/cgroup.procs"), "30\n").unwrap();
        for path in ["a", "a/b/c", "a/d", "e"] {
            fs::write(top.path().join(path).join("cgroup.procs"), "").unwrap();
        }
        let dir = Dir::open(top.path()).unwrap();
        let mut seen = Vec::new();
        walk(&dir, &mut |d| {
            seen.push(d.path().strip_prefix(top.path()).unwrap().display().to_string());
            Ok(())
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, ["", "a", "a/b", "a/b/c", "a/d", "e"]);
        assert_eq!(pids(&dir).unwrap(), [1, 2, 30]);
    }

    #[test]
    fn removes_what_is_empty() {
        let top = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/d", "e", "full"] {
            fs::create_dir_all(top.path().join(path)).unwrap();
        }
        fs::write(top.path().join("full/file"), "").unwrap();
        remove_below(&Dir::open(top.path()).unwrap()).unwrap();
        let left: Vec<_> = fs::read_dir(top.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["full"]);
    }
}
