//! Path resolution component by component: what openat2(2) does, for kernels before 5.6.
//!
//! Each component is opened below the descriptor of the one before, never through a link; links are read and their
//! text is resolved from here again. `..` goes back to the descriptor that was come from, so that a directory that is
//! moved meanwhile does not lead out. The text of a magic link is resolved like any other's, inside the scope: it
//! leads to no other file than that text does.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

/// The kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// As openat2(2) with RESOLVE_IN_ROOT or RESOLVE_BENEATH, and RESOLVE_NO_SYMLINKS and RESOLVE_NO_XDEV. The last is
/// for procfs only, whose own `self/fdinfo` tells mounts apart.
///
/// # Errors
/// Those of openat2(2).
pub(super) fn walk(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    scope: ResolveFlag,
) -> io::Result<OwnedFd> {
    let mut walk = Walk { dir, above: Vec::new(), todo: VecDeque::new(), links: 0, scope };
    walk.push(path)?;
    while let Some(name) = walk.todo.pop_front() {
        let last = walk.todo.is_empty();
        if let Some(found) = walk.step(&name, last.then_some((flags, mode)))? {
            return Ok(found);
        }
    }
    walk.open(OsStr::new("."), flags, mode)
}

struct Walk<'a> {
    dir: BorrowedFd<'a>,
    /// Directories below `dir` down to where the walk is.
    above: Vec<OwnedFd>,
    todo: VecDeque<OsString>,
    links: usize,
    scope: ResolveFlag,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.above.last().map_or(self.dir, OwnedFd::as_fd)
    }

    /// Puts a path before what is still to be walked.
    fn push(&mut self, path: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        for part in path.components() {
            match part {
                Component::RootDir if self.scope.contains(ResolveFlag::RESOLVE_IN_ROOT) => self.above.clear(),
                Component::RootDir => return Err(Errno::EXDEV.into()),
                Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => names.push(OsString::from("..")),
                Component::Normal(name) => names.push(name.to_owned()),
            }
        }
        // Demands a directory, behind a link too. Path's components leave it out.
        let text = path.as_os_str().as_bytes();
        if text.ends_with(b"/") || text.ends_with(b"/.") {
            names.push(OsString::from("."));
        }
        names.into_iter().rev().for_each(|name| self.todo.push_front(name));
        Ok(())
    }

    /// Walks one component; the last one is opened with these flags and returned.
    fn step(&mut self, name: &OsStr, last: Option<(OFlag, Mode)>) -> io::Result<Option<OwnedFd>> {
        if name == ".." {
            return self.up().map(|()| None);
        }
        let there = match self.open(name, OFlag::O_PATH, Mode::empty()) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let Some((flags, mode)) = last.filter(|(flags, _)| flags.contains(OFlag::O_CREAT)) else {
                    return Err(e);
                };
                return self.open(name, flags, mode).map(Some);
            }
            other => other?,
        };
        let kind = fstat(&there)?.st_mode & libc::S_IFMT;
        let is_link = kind == libc::S_IFLNK;
        match last {
            Some((flags, _)) if is_link && flags.contains(OFlag::O_NOFOLLOW | OFlag::O_PATH) => {
                Ok(Some(there))
            }
            Some((flags, _)) if is_link && flags.contains(OFlag::O_NOFOLLOW) => Err(Errno::ELOOP.into()),
            _ if is_link => self.follow(&there).map(|()| None),
            // What was looked at, and not what has its name by now.
            Some((flags, _)) if flags.contains(OFlag::O_PATH) => {
                match flags.contains(OFlag::O_DIRECTORY) && kind != libc::S_IFDIR {
                    true => Err(Errno::ENOTDIR.into()),
                    false => Ok(Some(there)),
                }
            }
            Some((flags, mode)) => self.open(name, flags, mode).map(Some),
            None if kind != libc::S_IFDIR => Err(Errno::ENOTDIR.into()),
            None => {
                self.above.push(there);
                Ok(None)
            }
        }
    }

    fn up(&mut self) -> io::Result<()> {
        let at_top = self.above.pop().is_none();
        match at_top && !self.scope.contains(ResolveFlag::RESOLVE_IN_ROOT) {
            true => Err(Errno::EXDEV.into()),
            false => Ok(()),
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> io::Result<()> {
        self.links += 1;
        if self.scope.contains(ResolveFlag::RESOLVE_NO_SYMLINKS) || self.links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        let target = readlinkat(link, "")?;
        self.push(Path::new(&target))
    }

    /// Opens one component where the walk is. It may have become a link since it was looked at: ELOOP then.
    fn open(&self, name: &OsStr, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let fd = openat(self.here(), name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, mode)?;
        if self.scope.contains(ResolveFlag::RESOLVE_NO_XDEV)
            && self.mount_id(fd.as_fd())? != self.mount_id(self.dir)?
        {
            return Err(Errno::EXDEV.into());
        }
        Ok(fd)
    }

    /// The mount that a descriptor is on (proc_pid_fdinfo(5)).
    fn mount_id(&self, fd: BorrowedFd<'_>) -> io::Result<String> {
        let path = format!("self/fdinfo/{}", fd.as_raw_fd());
        let file = openat(self.dir, path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text)?;
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        id.map(|id| id.trim().to_owned()).ok_or_else(|| io::Error::from_raw_os_error(libc::EXDEV))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use super::super::root::kernel_resolve;

    /// Paths in a tree with links in all directions, by both ways.
    #[test]
    fn walks_as_the_kernel_does() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        std::fs::create_dir_all(at("a/b/c")).unwrap();
        for file in ["f", "a/f", "a/b/c/f"] {
            std::fs::write(at(file), file).unwrap();
        }
        for (target, link) in [
            ("/a/b", "abs"),
            ("a/b/c", "rel"),
            ("../../f", "a/b/up"),
            ("../../../../../../f", "a/b/out"),
            ("loop2", "loop1"),
            ("loop1", "loop2"),
            ("nowhere", "dangling"),
            ("/", "root"),
            (".", "dot"),
            ("f", "tofile"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let dir = File::open(tree.path()).unwrap();
        let parts = [
            "", ".", "..", "/", "a", "b", "c", "f", "abs", "rel", "up", "out", "loop1", "dangling", "root",
            "dot", "tofile", "none",
        ];
        let mut paths: Vec<String> = Vec::new();
        for one in parts {
            for two in parts {
                paths.extend(["a/b", "", "abs"].map(|first| format!("{first}/{one}/{two}")));
                paths.push(format!("{one}/{two}").trim_start_matches('/').to_owned());
            }
        }
        let scopes = [
            ResolveFlag::RESOLVE_IN_ROOT,
            ResolveFlag::RESOLVE_BENEATH,
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS,
        ];
        let flags = [
            OFlag::O_PATH,
            OFlag::O_PATH | OFlag::O_NOFOLLOW,
            OFlag::O_RDONLY,
            OFlag::O_PATH | OFlag::O_DIRECTORY,
        ];
        let mut found = 0;
        for path in paths.iter().filter(|path| !path.is_empty()) {
            for scope in scopes {
                for flags in flags {
                    let identity = |result: io::Result<OwnedFd>| {
                        result.map(|fd| fstat(&fd).map(|s| s.st_ino).unwrap()).map_err(|e| e.raw_os_error())
                    };
                    let path = Path::new(path);
                    let ours = identity(walk(dir.as_fd(), path, flags, Mode::empty(), scope));
                    let kernels = identity(kernel_resolve(dir.as_fd(), path, flags, Mode::empty(), scope));
                    found += usize::from(kernels.is_ok());
                    // Which of two errors comes first may differ.
                    assert_eq!(
                        ours.is_ok(),
                        kernels.is_ok(),
                        "{path:?} {scope:?} {flags:?}: {ours:?} {kernels:?}"
                    );
                    assert_eq!(ours.ok(), kernels.ok(), "{path:?} {scope:?} {flags:?}");
                }
            }
        }
        assert!(found > 1000, "{found}");
    }

    #[test]
    fn a_procfs_is_not_left() {
        let proc = File::open("/proc").unwrap();
        let scope = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
        let open = |path: &str| walk(proc.as_fd(), Path::new(path), OFlag::O_PATH, Mode::empty(), scope);
        for path in ["self/status", "self/fd", "sys/kernel/hostname", "mounts"] {
            open(path).unwrap();
        }
        for path in ["self/root/etc", "../etc", "self/exe", "self/cwd"] {
            assert!(open(path).is_err(), "{path}");
        }
    }
}
