//! The new mount API (kernel 5.2; mount_setattr 5.12).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; 0 leaves it.
    pub propagation: u64,
    /// User namespace descriptor for MOUNT_ATTR_IDMAP.
    pub userns_fd: u64,
}

/// Whether a mount call acts on one mount or on the whole tree below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This mount only.
    One,
    /// AT_RECURSIVE.
    Tree,
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Whether a descriptor is the root of a mount; `None` on a kernel that can't tell (before 5.8).
///
/// # Errors
/// Those of statx(2).
pub fn is_mount_root(fd: BorrowedFd<'_>) -> io::Result<Option<bool>> {
    // SAFETY: statx is plain data for which all-zero is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is the empty string; the kernel writes one statx.
    let ret = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, 0, &raw mut found) };
    check(libc::c_long::from(ret))?;
    Ok(mount_root_in(found.stx_attributes, found.stx_attributes_mask))
}

/// The answer in statx's attributes, which mean something only where their mask says so.
fn mount_root_in(attributes: u64, mask: u64) -> Option<bool> {
    const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    (mask & STATX_ATTR_MOUNT_ROOT != 0).then_some(attributes & STATX_ATTR_MOUNT_ROOT != 0)
}

/// fsopen(2): a context for a new filesystem of this type.
///
/// # Errors
/// ENODEV for an unknown type, EPERM, ENOSYS before 5.2.
pub fn fsopen(fstype: &CStr) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    // SAFETY: fstype outlives the call.
    check(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) }).map(owned)
}

/// fsconfig(FSCONFIG_SET_STRING).
///
/// # Errors
/// EINVAL for an unknown key or bad value.
pub fn fsconfig_string(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> io::Result<()> {
    const SET_STRING: libc::c_uint = 1;
    // SAFETY: key and value outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    })
    .map(drop)
}

/// fsconfig(FSCONFIG_SET_FLAG).
///
/// # Errors
/// EINVAL for an unknown key.
pub fn fsconfig_flag(context: BorrowedFd<'_>, key: &CStr) -> io::Result<()> {
    const SET_FLAG: libc::c_uint = 0;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: key outlives the call.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), SET_FLAG, key.as_ptr(), none, 0) })
        .map(drop)
}

/// fsconfig(FSCONFIG_CMD_CREATE): makes the superblock.
///
/// # Errors
/// Whatever the filesystem's mount would give.
pub fn fsconfig_create(context: BorrowedFd<'_>) -> io::Result<()> {
    const CMD_CREATE: libc::c_uint = 6;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the command takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CMD_CREATE, none, none, 0) })
        .map(drop)
}

/// fspick(2): a context that changes the filesystem mounted on this very descriptor.
///
/// # Errors
/// EINVAL when it is not the root of a mount, EPERM, ENOSYS before 5.2.
pub fn fspick(mount: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const FSPICK_CLOEXEC: libc::c_uint = 1;
    const FSPICK_EMPTY_PATH: libc::c_uint = 8;
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: the path is the empty string.
    check(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) }).map(owned)
}

/// fsconfig(FSCONFIG_CMD_RECONFIGURE): applies what was set to the picked filesystem.
///
/// # Errors
/// Whatever the filesystem's remount would give.
pub fn fsconfig_reconfigure(context: BorrowedFd<'_>) -> io::Result<()> {
    const CMD_RECONFIGURE: libc::c_uint = 7;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the command takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CMD_RECONFIGURE, none, none, 0) })
        .map(drop)
}

/// fsmount(2): a detached mount of a context's superblock, with MOUNT_ATTR_* set.
///
/// # Errors
/// EPERM where the user namespace may not show such a mount, EINVAL.
pub fn fsmount(context: BorrowedFd<'_>, attrs: u64) -> io::Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attrs) }).map(owned)
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `path` (empty: at `dir` itself).
///
/// # Errors
/// EPERM, ENOENT, EINVAL for an unbindable mount or one of another mount namespace.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, reach: Reach) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    if reach == Reach::Tree {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    // SAFETY: path outlives the call.
    check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) }).map(owned)
}

/// As [`clone_tree`] of one mount at a symbolic link: of the link itself.
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_link(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_SYMLINK_NOFOLLOW as libc::c_uint;
    // SAFETY: path outlives the call.
    check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) }).map(owned)
}

/// move_mount(2): attaches the detached mount `from` on the directory or file `to`, both by descriptor.
///
/// # Errors
/// EINVAL when the target is unsuitable, ENOTDIR for file on directory, EPERM.
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    const F_EMPTY_PATH: libc::c_uint = 0x4;
    const T_EMPTY_PATH: libc::c_uint = 0x40;
    let empty = c"".as_ptr();
    // SAFETY: both paths are the empty string.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            empty,
            to.as_raw_fd(),
            empty,
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Whether the kernel has mount_setattr(2) (5.12).
#[must_use]
pub fn has_mount_setattr() -> bool {
    let none = std::ptr::null::<MountAttr>();
    // SAFETY: a size of zero is refused (EINVAL) before the pointer is looked at.
    let result = check(unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, none, 0) });
    !matches!(result, Err(e) if e.raw_os_error() == Some(libc::ENOSYS))
}

/// mount_setattr(2) on the mount of a descriptor (kernel 5.12).
///
/// # Errors
/// ENOSYS before 5.12, EPERM for a locked flag in a user namespace, EINVAL.
pub fn mount_setattr(mount: BorrowedFd<'_>, attr: &MountAttr, reach: Reach) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    let mut flags = libc::AT_EMPTY_PATH as libc::c_uint;
    if reach == Reach::Tree {
        flags |= AT_RECURSIVE;
    }
    let size = size_of::<MountAttr>();
    // SAFETY: attr has the kernel's layout of version 0 and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_kernel_that_does_not_know_says_so() {
        assert_eq!(mount_root_in(0x2000, 0x2000), Some(true));
        assert_eq!(mount_root_in(0, 0x2000), Some(false));
        assert_eq!(mount_root_in(0x2000, 0), None);
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(is_mount_root(proc.as_fd()).unwrap(), Some(true));
        let own = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(is_mount_root(own.as_fd()).unwrap(), Some(false));
    }
}
