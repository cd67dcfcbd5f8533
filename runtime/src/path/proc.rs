//! procfs, reached through one verified descriptor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, ResolveFlag, openat};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{chdir, fchdir};

use super::root::resolve;

/// A procfs whose root was verified; what is opened through it is on that same procfs.
///
/// A container can mount over parts of its own /proc, and containers that share mounts can do it to each
/// other (CVE-2019-16884, CVE-2025-52881), so reads and writes of /proc go through this type: no component
/// may cross a mount or be a symlink out of it. `self` resolves for the calling process in whatever pid
/// namespace the procfs belongs to, so the host's procfs serves the container's init too, and /proc/sys
/// shows the namespaces of the caller.
#[derive(Debug)]
pub struct ProcFs {
    fd: OwnedFd,
}

impl ProcFs {
    /// The host's /proc, opened before the root changes.
    ///
    /// # Errors
    /// When /proc is missing or is not a procfs.
    pub fn host() -> io::Result<Self> {
        let fd = super::host::open(Path::new("/proc"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        if fstatfs(&fd)?.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(io::Error::other("/proc is not a procfs"));
        }
        Ok(ProcFs { fd })
    }

    /// Opens a path below the procfs, which may not lead over a mount.
    ///
    /// # Errors
    /// EXDEV when something is mounted over the path, ELOOP for a magic link, and those of openat2(2).
    pub fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
        resolve(self.fd.as_fd(), path, flags, Mode::empty(), beneath)
    }

    /// Writes a whole value to a file of the procfs, in one write(2).
    ///
    /// # Errors
    /// Errors of [`ProcFs::open`] and write(2).
    pub fn write(&self, path: &Path, value: &[u8]) -> io::Result<()> {
        File::from(self.open(path, OFlag::O_WRONLY)?).write_all(value)
    }

    /// Opens the file behind a descriptor of this process again, with other flags, as
    /// `/proc/self/fd/<n>` does.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlag) -> io::Result<OwnedFd> {
        self.descriptors()?.reopen(fd, flags)
    }

    /// `/proc/self/fd` of the calling process, verified not to be mounted over.
    ///
    /// # Errors
    /// Those of [`ProcFs::open`].
    pub fn descriptors(&self) -> io::Result<Descriptors> {
        self.open(Path::new("self/fd"), OFlag::O_PATH | OFlag::O_DIRECTORY).map(Descriptors)
    }
}

/// A process's `/proc/self/fd`, for the process that opened it.
#[derive(Debug)]
pub struct Descriptors(OwnedFd);

impl Descriptors {
    /// As [`ProcFs::reopen`], but by openat(2) alone, which seccomp profiles allow that know no openat2(2).
    ///
    /// # Errors
    /// Those of open(2).
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlag) -> io::Result<OwnedFd> {
        // The one magic link below the verified directory is the point.
        let name = fd.as_raw_fd().to_string();
        Ok(openat(&self.0, name.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// mount(2) with these MS_* flags alone on the mount of a descriptor: a remount, or its propagation. The working
    /// directory is `/` afterwards, for mount(2) takes no directory descriptor.
    ///
    /// # Errors
    /// Those of fchdir(2) and mount(2): EINVAL for a mount that is attached nowhere.
    #[allow(clippy::disallowed_methods, reason = "a number in the verified directory, and the root")]
    pub fn mount_on(&self, mount: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
        fchdir(&self.0)?;
        let name = mount.as_raw_fd().to_string();
        let flags = MsFlags::from_bits_retain(flags);
        let mounted = nix::mount::mount(None::<&str>, name.as_str(), None::<&str>, flags, None::<&str>);
        // Nothing may find the host's procfs as its working directory later (CVE-2024-21626).
        chdir("/")?;
        Ok(mounted?)
    }
}

impl AsFd for Descriptors {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn reads_self_and_refuses_magic_links() {
        let proc = ProcFs::host().unwrap();
        let mut status = String::new();
        File::from(proc.open(Path::new("self/status"), OFlag::O_RDONLY).unwrap())
            .read_to_string(&mut status)
            .unwrap();
        assert!(status.contains(&format!("Pid:\t{}", std::process::id())));
        let err = proc.open(Path::new("self/root/etc"), OFlag::O_PATH).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::ELOOP));
        assert!(proc.open(Path::new("../etc"), OFlag::O_PATH).is_err());
    }

    #[test]
    fn reopen_gives_the_same_file() {
        let proc = ProcFs::host().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "x").unwrap();
        let path_fd = crate::path::host::open(file.path(), OFlag::O_PATH).unwrap();
        let mut text = String::new();
        File::from(proc.reopen(path_fd.as_fd(), OFlag::O_RDONLY).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }
}
