//! A rootfs as a directory descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, fstat, mkdirat};

use super::walk::walk;

/// What [`RootDir::ensure`] makes when there is nothing at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644: a mount point for a file.
    File,
}

/// Whether something was at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was.
    There,
    /// It was made.
    Made,
}

/// The root directory of a container. Every path given to it is resolved inside it.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

/// openat2 answers EAGAIN when a rename or mount elsewhere raced with the walk (openat2(2)); a racing
/// attacker can keep that up, so the retries are bounded.
const RACE_RETRIES: usize = 128;

/// Dangling symlinks that [`RootDir::ensure`] follows for one path; the kernel's own limit for links.
const MAX_DANGLING: usize = 40;

impl RootDir {
    /// Takes the descriptor of a directory as the root.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        RootDir { fd }
    }

    /// Opens `path` inside the root. Symlinks are followed inside the root, magic links never.
    ///
    /// # Errors
    /// Errors of openat2(2): ELOOP for a magic link or too many links.
    pub fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        resolve(self.fd.as_fd(), path, flags, Mode::empty(), ResolveFlag::RESOLVE_IN_ROOT)
    }

    /// An O_PATH descriptor of what is at `path`, made first when nothing is there.
    ///
    /// Missing parents are made too, each below a descriptor of the one before, so that a component that
    /// is swapped for a link meanwhile can't lead outside (CVE-2024-45310). What a dangling symlink names
    /// is made inside the root, as runc does: images have `/var/run -> /run` without a `/run`.
    ///
    /// # Errors
    /// Errors of openat2, mkdirat and open; ELOOP for too many symlinks.
    pub fn ensure(&self, path: &Path, what: Create) -> io::Result<OwnedFd> {
        self.ensure_through(path, what, MAX_DANGLING)
    }

    /// As [`RootDir::ensure`]; tells whether it was there.
    ///
    /// # Errors
    /// As [`RootDir::ensure`].
    pub fn find_or_make(&self, path: &Path, what: Create) -> io::Result<(OwnedFd, Found)> {
        match self.open(path, OFlag::O_PATH) {
            Ok(there) => Ok((there, Found::There)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                Ok((self.make_through(path, what, MAX_DANGLING)?, Found::Made))
            }
            Err(e) => Err(e),
        }
    }

    fn ensure_through(&self, path: &Path, what: Create, links: usize) -> io::Result<OwnedFd> {
        match self.open(path, OFlag::O_PATH) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        self.make_through(path, what, links)
    }

    fn make_through(&self, path: &Path, what: Create, links: usize) -> io::Result<OwnedFd> {
        let (parent, name) = split(path)?;
        let dir = match parent.as_os_str().is_empty() {
            true => self.fd.try_clone()?,
            false => self.ensure_through(parent, Create::Directory, links)?,
        };
        match create_at(dir.as_fd(), name, what) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::EEXIST)) && links > 0 => {
                // Not a link after all: the first error says what it is.
                let Ok(target) = readlinkat(&dir, name) else { return Err(e) };
                // Resolved from the root again, so that nothing depends on what this link said before.
                self.ensure_through(&parent.join(target), what, links - 1)
            }
            other => other,
        }
    }

    /// As [`RootDir::ensure`] for a directory that may not be reached through any symlink.
    ///
    /// # Errors
    /// ELOOP for a symlink in the path, ENOTDIR, and those of [`RootDir::ensure`].
    pub fn ensure_real_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let real = |path| {
            let scope = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
            resolve(self.fd.as_fd(), path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty(), scope)
        };
        match real(path) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                self.ensure(path, Create::Directory)?;
                real(path)
            }
            other => other,
        }
    }

    /// As [`RootDir::ensure`] for a file that may not be reached through a symlink of its own name.
    ///
    /// # Errors
    /// ELOOP for a symlink, EISDIR for a directory, and those of [`RootDir::ensure`].
    pub fn ensure_real_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let (dir, name) = self.ensure_parent(path)?;
        match create_at(dir.as_fd(), name, Create::File) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            other => return other,
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let there =
            resolve(dir.as_fd(), Path::new(name), flags, Mode::empty(), ResolveFlag::RESOLVE_BENEATH)?;
        match fstat(&there)?.st_mode & libc::S_IFMT {
            libc::S_IFLNK => Err(io::Error::from_raw_os_error(libc::ELOOP)),
            libc::S_IFDIR => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            _ => Ok(there),
        }
    }

    /// The directory that holds `path`'s last component, made when missing, and that component's name.
    ///
    /// # Errors
    /// As [`RootDir::ensure`]; EINVAL when the path has no last component.
    pub fn ensure_parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (parent, name) = split(path)?;
        if parent.as_os_str().is_empty() {
            return Ok((self.fd.try_clone()?, name));
        }
        Ok((self.ensure(parent, Create::Directory)?, name))
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Splits a path into its parent (without leading slashes) and its last component.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let path = path.strip_prefix("/").unwrap_or(path);
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => Ok((parent, name)),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn create_at(dir: BorrowedFd<'_>, name: &OsStr, what: Create) -> io::Result<OwnedFd> {
    let path = Path::new(name);
    // Below a directory descriptor the name is one component: no link may be followed any more.
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    match what {
        Create::Directory => {
            match mkdirat(dir, path, Mode::from_bits_truncate(0o755)) {
                // Someone else made it between our look and now: what counts is what opens below.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            resolve(dir, path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty(), beneath)
        }
        Create::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY;
            resolve(dir, path, flags, Mode::from_bits_truncate(0o644), beneath)
        }
    }
}

/// Opens a path in this scope, never through a magic link: by openat2(2), before kernel 5.6 (ENOSYS) one component
/// after the other.
pub(super) fn resolve(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    scope: ResolveFlag,
) -> io::Result<OwnedFd> {
    match kernel_resolve(dir, path, flags, mode, scope) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => walk(dir, path, flags, mode, scope),
        other => other,
    }
}

pub(super) fn kernel_resolve(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    scope: ResolveFlag,
) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(scope | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..RACE_RETRIES {
        match openat2(dir, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        (dir, RootDir::new(fd))
    }

    #[test]
    fn ensure_makes_missing_parents() {
        let (dir, root) = root();
        root.ensure(Path::new("/a/b/c"), Create::Directory).unwrap();
        root.ensure(Path::new("a/b/f"), Create::File).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        assert!(dir.path().join("a/b/f").is_file());
    }

    #[test]
    fn absolute_links_stay_inside() {
        let (dir, root) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        // The link's target does not exist inside the root: that is where it is made.
        root.ensure(Path::new("out/x"), Create::Directory).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = outside.path().strip_prefix("/").unwrap();
        assert!(dir.path().join(inside).join("x").is_dir());
        symlink("/../../../../../etc", dir.path().join("up")).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        root.ensure(Path::new("up/y"), Create::File).unwrap();
        assert!(dir.path().join("etc/y").is_file());
    }

    #[test]
    fn dangling_links_are_followed_inside() {
        let (dir, root) = root();
        std::fs::create_dir(dir.path().join("var")).unwrap();
        symlink("../../../../run", dir.path().join("var/run")).unwrap();
        symlink("var/run/lock", dir.path().join("lock")).unwrap();
        root.ensure(Path::new("/lock/file"), Create::File).unwrap();
        assert!(dir.path().join("run/lock/file").is_file());
        symlink("/made", dir.path().join("file")).unwrap();
        root.ensure(Path::new("file"), Create::File).unwrap();
        assert!(dir.path().join("made").is_file());
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let error = root.ensure(Path::new("a/x"), Create::Directory).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_real_file_is_no_link() {
        let (dir, root) = root();
        let path = Path::new("/dev/console");
        root.ensure_real_file(path).unwrap();
        root.ensure_real_file(path).unwrap();
        assert!(dir.path().join("dev/console").is_file());
        symlink("console", dir.path().join("dev/link")).unwrap();
        let error = |path| root.ensure_real_file(Path::new(path)).unwrap_err().raw_os_error();
        assert_eq!(error("/dev/link"), Some(libc::ELOOP));
        assert_eq!(error("/dev"), Some(libc::EISDIR));
    }

    #[test]
    fn magic_links_are_refused() {
        let root = RootDir::new(std::fs::File::open("/").unwrap().into());
        let err = root.open(Path::new("/proc/self/root/etc"), OFlag::O_PATH).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn the_root_itself_has_no_parent() {
        let (_dir, root) = root();
        assert!(root.ensure_parent(Path::new("/")).is_err());
        assert!(root.ensure_parent(Path::new("a/..")).is_err());
    }
}
