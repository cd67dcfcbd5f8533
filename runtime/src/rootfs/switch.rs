//! The change of root.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::{Change, Rootfs};
use crate::init::{Context, Failure};
use crate::path::{ProcFs, host};
use crate::plan::SwitchRoot;
use crate::sys::mount::{MountAttr, Reach};

/// Makes the rootfs the root of this process and its mount namespace, and drops the host's tree.
///
/// # Errors
/// EINVAL when the rootfs is on a ramdisk (`--no-pivot` is for that).
#[allow(clippy::disallowed_methods, reason = "the working directory, which is a descriptor's, and the root")]
pub fn switch_root(rootfs: &Rootfs, how: SwitchRoot) -> Result<(), Failure> {
    fchdir(rootfs.root().as_fd()).during("change directory to", || "rootfs")?;
    match how {
        SwitchRoot::Pivot => {
            // pivot_root(2), "pivot_root(".", ".")": the old root ends up stacked below ".". It is a
            // slave tree (slave_mounts), so the unmount does not propagate to the host.
            pivot_root(".", ".").during("pivot_root", String::new)?;
            umount2(".", MntFlags::MNT_DETACH).during("unmount old root", String::new)?;
        }
        SwitchRoot::PivotShared => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let old = host::open(Path::new("/"), flags).during("open", || "/")?;
            pivot_root(".", ".").during("pivot_root", String::new)?;
            // Here "." is the new root still; only umount2(2) would look at what is stacked on it.
            fchdir(&old).during("change directory to", || "old root")?;
            let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, ".", None::<&str>, flags, None::<&str>)
                .during("make slave", || "old root")?;
            umount2(".", MntFlags::MNT_DETACH).during("unmount old root", String::new)?;
        }
        SwitchRoot::Move => {
            nix::mount::mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
                .during("move rootfs to", || "/")?;
            chroot(".").during("chroot to", || "rootfs")?;
        }
        SwitchRoot::Chroot => return enter_root(rootfs.root().as_fd()),
    }
    chdir("/").during("change directory to", || "/")
}

/// Makes a directory the root of this process alone.
///
/// # Errors
/// EPERM.
#[allow(clippy::disallowed_methods, reason = "the working directory, which is a descriptor's, and the root")]
pub fn enter_root(root: BorrowedFd<'_>) -> Result<(), Failure> {
    fchdir(root).during("change directory to", || "root of the container")?;
    chroot(".").during("chroot to", || "root of the container")?;
    chdir("/").during("change directory to", || "/")
}

/// Sets the propagation of the mounts of this namespace, and makes the mount that holds the rootfs private: a
/// bind of it would propagate to the host else, and so would all that is mounted in it (runc #4417).
///
/// # Errors
/// EINVAL, EPERM.
#[allow(clippy::disallowed_methods, reason = "the root, of the host still")]
pub fn host_propagation(flag: u64, reach: Reach, rootfs: &Path, change: &Change) -> Result<(), Failure> {
    let recursive = if reach == Reach::Tree { MsFlags::MS_REC } else { MsFlags::empty() };
    let flags = MsFlags::from_bits_truncate(flag) | recursive;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .during("set propagation of", || "/")?;
    let name = || rootfs.display().to_string();
    let open = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = host::open(rootfs, open).during("open rootfs", name)?;
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    // Upwards to the root of the mount: other descriptors are EINVAL.
    for _ in 0..MAX_DEPTH {
        match change.set(at.as_fd(), &private, Reach::One) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                at = openat(&at, "..", open, Mode::empty()).during("open parent of rootfs", name)?;
            }
            other => return other.during("make private the mount of", name),
        }
    }
    Err(Failure::other("make private the mount of", name(), "its path is too deep"))
}

/// Components of a path (PATH_MAX over two).
const MAX_DEPTH: usize = 2048;

/// Before a change of root without pivot_root: the host's mounts stay in the mount namespace, and a visible proc
/// or sysfs would allow the container to mount one without the masks (runc's msMoveRoot). Unmounts those whose
/// whole filesystem is visible, or covers them where that is not allowed.
///
/// # Errors
/// Those of umount2(2) and mount(2).
#[allow(clippy::disallowed_methods, reason = "mount points of the host, whose root it is still")]
pub fn hide_host_filesystems(proc: &ProcFs, rootfs: &Path) -> Result<(), Failure> {
    let mut table = String::new();
    let file = proc.open(Path::new("self/mountinfo"), OFlag::O_RDONLY).during("open", || "mountinfo")?;
    File::from(file).read_to_string(&mut table).during("read", || "mountinfo")?;
    for line in table.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut fields = mount.split(' ').skip(3);
        let (Some(part), Some(point)) = (fields.next(), fields.next()) else { continue };
        let kind = filesystem.split(' ').next().unwrap_or_default();
        let point = PathBuf::from(unescaped(point));
        if part != "/" || !matches!(kind, "proc" | "sysfs") || point.starts_with(rootfs) {
            continue;
        }
        let name = || point.display().to_string();
        match umount2(&point, MntFlags::MNT_DETACH) {
            // What it was mounted in is gone already.
            Ok(()) | Err(Errno::ENOENT) => {}
            // Locked in a user namespace.
            Err(Errno::EINVAL | Errno::EPERM) => {
                let flags = MsFlags::MS_RDONLY;
                nix::mount::mount(Some("tmpfs"), &point, Some("tmpfs"), flags, None::<&str>)
                    .during("cover", name)?;
            }
            Err(e) => return Err(e).during("unmount", name),
        }
    }
    Ok(())
}

/// mountinfo writes white space and backslashes as three octal digits (proc_pid_mountinfo(5)).
pub fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Sets the propagation of the new root.
///
/// # Errors
/// EINVAL, EPERM.
pub fn set_propagation(rootfs: &Rootfs, flag: u64, reach: Reach) -> Result<(), Failure> {
    let attr = MountAttr { propagation: flag, ..MountAttr::default() };
    rootfs.change.set(rootfs.root().as_fd(), &attr, reach).during("set root propagation", String::new)
}
