//! Changing mounts: mount_setattr(2), and mount(2) on kernels before 5.12.
//!
//! The old call changes only what is attached, so there a mount is attached first and changed right after. At create
//! nothing but the runtime's own process runs in the new mount namespace by then; into a container that runs
//! nothing is bound before 5.12 (`container::mounts`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::init::{Context, Failure};
use crate::path::{Descriptors, ProcFs};
use crate::plan::{Attrs, attr, remount_flags};
use crate::sys::fs::mount_flags;
use crate::sys::mount::{MountAttr, Reach, has_mount_setattr, mount_setattr, move_mount};

/// How mounts are changed on this kernel.
#[derive(Debug)]
pub enum Change {
    /// mount_setattr(2) (kernel 5.12).
    Setattr,
    /// mount(2) on `/proc/self/fd/N` of the host's procfs: the container's may be anything.
    Remount(Descriptors),
}

impl Change {
    /// What this kernel has. To be called in the process that changes the mounts.
    ///
    /// # Errors
    /// Those of opening `/proc/self/fd`.
    pub fn new(proc: &ProcFs) -> Result<Self, Failure> {
        if has_mount_setattr() {
            return Ok(Change::Setattr);
        }
        proc.descriptors().map(Change::Remount).during("open", || "/proc/self/fd")
    }

    /// Whether mounts that are attached nowhere can be changed, trees as a whole, and ids mapped.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Change::Setattr)
    }

    /// Changes a mount; before kernel 5.12 it has to be attached.
    ///
    /// # Errors
    /// Those of mount_setattr(2); ENOSYS before kernel 5.12 for attributes of a whole tree and id maps.
    pub fn set(&self, mount: BorrowedFd<'_>, change: &MountAttr, reach: Reach) -> io::Result<()> {
        match self {
            Change::Setattr => mount_setattr(mount, change, reach),
            Change::Remount(fds) => old(fds, mount, change, reach),
        }
    }

    /// Sets and clears attributes.
    ///
    /// # Errors
    /// As [`Change::set`].
    pub(super) fn attrs(&self, mount: BorrowedFd<'_>, attrs: Attrs, reach: Reach) -> Result<(), Failure> {
        if attrs.is_empty() {
            return Ok(());
        }
        let change = MountAttr { set: attrs.set, clear: attrs.clear, ..MountAttr::default() };
        self.set(mount, &change, reach).during("set mount attributes", String::new).map_err(explained)
    }

    /// Sets attributes and leaves all others as they are, so that no lock is in the way.
    ///
    /// # Errors
    /// As [`Change::set`].
    pub(super) fn keep(&self, mount: BorrowedFd<'_>, set: u64, reach: Reach) -> Result<(), Failure> {
        let basic = set & (attr::REMOUNTED | attr::NODIRATIME);
        self.attrs(mount, Attrs { set: basic, clear: 0 }, reach)
    }

    /// Attaches a mount, with changes made before that where the kernel can.
    ///
    /// # Errors
    /// Those of the changes and of move_mount(2).
    pub(super) fn attach(
        &self,
        tree: &OwnedFd,
        target: BorrowedFd<'_>,
        changes: impl FnOnce(BorrowedFd<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let attach = || move_mount(tree.as_fd(), target).during("attach mount", String::new);
        if self.is_new() {
            changes(tree.as_fd())?;
            return attach();
        }
        attach()?;
        changes(tree.as_fd())
    }
}

/// Names the kernel that a recursive option needs.
fn explained(failure: Failure) -> Failure {
    match failure.errno {
        libc::ENOSYS => {
            failure.with_detail("attributes of a whole tree of mounts need mount_setattr(2), kernel 5.12")
        }
        _ => failure,
    }
}

fn old(fds: &Descriptors, mount: BorrowedFd<'_>, change: &MountAttr, reach: Reach) -> io::Result<()> {
    if change.set | change.clear != 0 {
        if reach == Reach::Tree || change.set & attr::IDMAP != 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let wanted = Attrs { set: change.set, clear: change.clear };
        let flags = remount_flags(mount_flags(mount)?, wanted);
        fds.mount_on(mount, libc::MS_REMOUNT | libc::MS_BIND | flags)?;
    }
    if change.propagation != 0 {
        let recursive = if reach == Reach::Tree { libc::MS_REC } else { 0 };
        fds.mount_on(mount, change.propagation | recursive)?;
    }
    Ok(())
}
