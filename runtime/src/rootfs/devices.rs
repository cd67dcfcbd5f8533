//! Device nodes and links below /dev.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::Rootfs;
use crate::init::{Context, Failure};
use crate::path::{Create, Descriptors};
use crate::plan::Device;
use crate::sys::mount::{Reach, clone_tree, move_mount};

impl Rootfs {
    /// Makes a device node, below a descriptor of its directory: never by a path that the image could
    /// bend (CVE-2026-41579). The caller has cleared the umask.
    ///
    /// # Errors
    /// EPERM, ENOSPC; EEXIST when something other than this very device is there.
    pub fn make_device(&mut self, device: &Device) -> Result<(), Failure> {
        let path = || device.path.display().to_string();
        if device.bind {
            return self.bind_device(&device.path);
        }
        let (dir, name) = self.parent(&device.path).during("make device", path)?;
        let kind = SFlag::from_bits_truncate(device.mode & libc::S_IFMT);
        let mode = Mode::from_bits_truncate(device.mode & 0o7777);
        match mknodat(dir, Path::new(name), kind, mode, device.number) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let stat = fstatat(dir, Path::new(name), AtFlags::AT_SYMLINK_NOFOLLOW)
                    .during("stat device", path)?;
                if stat.st_mode & libc::S_IFMT != kind.bits() || stat.st_rdev != device.number {
                    return Err(Failure::other("make device", path(), "something else is there"));
                }
            }
            // Only root of the first user namespace may make them: as runc, the host's node is used for whoever is
            // not. It has the host's owner and mode.
            Err(Errno::EPERM) if device.mode & libc::S_IFMT != libc::S_IFIFO => {
                return self.bind_device(&device.path);
            }
            Err(e) => return Err(e).during("make device", path),
        }
        if device.uid != 0 || device.gid != 0 {
            let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
            fchownat(dir, Path::new(name), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .during("change owner of device", path)?;
        }
        Ok(())
    }

    /// The directory that holds `path`'s last component, and that component. The last directory is kept
    /// open: most nodes and links are in /dev.
    fn parent<'p>(&mut self, path: &'p Path) -> io::Result<(BorrowedFd<'_>, &'p std::ffi::OsStr)> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (parent, name) = (path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?);
        if self.last_parent.as_ref().is_none_or(|(last, _)| last != parent) {
            let (dir, _) = self.root().ensure_parent(path)?;
            self.last_parent = Some((parent.to_owned(), dir));
        }
        let (_, dir) = self.last_parent.as_ref().ok_or_else(invalid)?;
        Ok((dir.as_fd(), name))
    }

    /// In a user namespace mknod(2) is refused: the host's node is bound instead.
    fn bind_device(&self, path: &Path) -> Result<(), Failure> {
        let name = || path.display().to_string();
        let host = crate::sys::cstring(path).during("bind device", name)?;
        let tree = clone_tree(AT_FDCWD, &host, Reach::One).during("bind device", name)?;
        let target = self.root().ensure(path, Create::File).during("bind device", name)?;
        move_mount(tree.as_fd(), target.as_fd()).during("bind device", name)
    }

    /// Makes a symbolic link unless something is there; `ptmx` replaces what is there, since a node of
    /// another devpts instance would open host terminals.
    ///
    /// # Errors
    /// EPERM, ENOSPC, EROFS.
    #[allow(clippy::disallowed_methods, reason = "whether the host has the target")]
    pub fn make_symlink(&mut self, path: &Path, target: &str, only_if_target: bool) -> Result<(), Failure> {
        let name = || path.display().to_string();
        if only_if_target && nix::unistd::access(target, nix::unistd::AccessFlags::F_OK).is_err() {
            return Ok(());
        }
        let (dir, file) = self.parent(path).during("make link", name)?;
        let file = Path::new(file);
        match symlinkat(target, dir, file) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) if path == Path::new("/dev/ptmx") => {
                if readlinkat(dir, file).is_ok_and(|now| now == target) {
                    return Ok(());
                }
                nix::unistd::unlinkat(dir, file, nix::unistd::UnlinkatFlags::NoRemoveDir)
                    .during("replace", name)?;
                symlinkat(target, dir, file).during("make link", name)
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(e).during("make link", name),
        }
    }
}

/// Replaces standard descriptors that are the host's /dev/null by the container's, and gives the program
/// those that are not its own (runc's reOpenDevNull and fixStdioPermissions).
///
/// # Errors
/// EIO and the like; a refused chown is no error where the file system has no owners to change.
pub fn settle_stdio(root: Option<&Rootfs>, uid: u32, fds: &Descriptors) -> Result<(), Failure> {
    // The container's, looked up once.
    let mut null: Option<Option<OwnedFd>> = None;
    for number in 0..=2 {
        let fd = crate::sys::fs::borrow(number);
        let Ok(stat) = fstat(fd) else { continue };
        if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3) {
            if let Some(rootfs) = root {
                let own = match &mut null {
                    Some(own) => own,
                    none => none.insert(own_null(rootfs, fds)?),
                };
                if let Some(own) = own {
                    crate::sys::fs::dup_onto(own.as_fd(), number).during("reopen", || "/dev/null")?;
                }
            }
        } else if stat.st_uid != uid {
            match nix::unistd::fchown(fd, Some(Uid::from_raw(uid)), None) {
                // EINVAL: an id without a mapping. EPERM: a file of another user namespace. EROFS: as it says.
                Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
                Err(e) => return Err(e).during("change owner of stdio", || number.to_string()),
            }
        }
    }
    Ok(())
}

/// The container's /dev/null; without one it keeps the host's. Verified before it is opened: an image may have any
/// device there, and to open one is to use it.
fn own_null(rootfs: &Rootfs, fds: &Descriptors) -> Result<Option<OwnedFd>, Failure> {
    let Ok(node) = rootfs.root().open(Path::new("/dev/null"), OFlag::O_PATH) else { return Ok(None) };
    let stat = fstat(&node).during("stat", || "/dev/null")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Ok(None);
    }
    Ok(fds.reopen(node.as_fd(), OFlag::O_RDWR).ok())
}
