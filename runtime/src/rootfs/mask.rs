//! Read-only and masked paths (config-linux.md "Readonly Paths", "Masked Paths").

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::fstat;

use super::Rootfs;
use crate::init::{Context, Failure};
use crate::plan::attr;
use crate::sys::mount::{
    MountAttr, Reach, clone_tree, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount, fsopen,
    move_mount,
};

impl Rootfs {
    /// Mounts the tree at a path onto itself, read-only. A path that is missing stays missing.
    ///
    /// # Errors
    /// EPERM and the like.
    pub fn readonly_path(&self, path: &Path) -> Result<(), Failure> {
        let name = || path.display().to_string();
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let tree = clone_tree(target.as_fd(), c"", Reach::Tree).during("make read-only", name)?;
        let attr = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        self.change.attach(&tree, target.as_fd(), |tree| {
            self.change.set(tree, &attr, Reach::One).during("make read-only", name)
        })
    }

    /// Hides a path: a directory under the one empty read-only directory, anything else under the null
    /// device. A path that is missing stays missing.
    ///
    /// # Errors
    /// EPERM and the like; never silently without the mask (CVE-2025-31133).
    pub fn mask_path(&mut self, path: &Path) -> Result<(), Failure> {
        let name = || path.display().to_string();
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let is_dir = fstat(&target).during("stat", name)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let mask = if is_dir { self.empty_directory()? } else { self.null()? };
        mask.place(target.as_fd()).during("mask", name)
    }

    fn existing(&self, path: &Path) -> Result<Option<OwnedFd>, Failure> {
        match self.open_inside(path) {
            Ok(target) => Ok(Some(target)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(e) => Err(e).during("open", || path.display().to_string()),
        }
    }

    fn empty_directory(&mut self) -> Result<&mut MaskSource, Failure> {
        let slot = &mut self.empty;
        if slot.is_none() {
            let tree = empty_tmpfs().during("make empty directory", String::new)?;
            *slot = Some(MaskSource::new(tree));
        }
        slot.as_mut().ok_or_else(|| Failure::other("make empty directory", "", "not made"))
    }
}

fn empty_tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen(c"tmpfs")?;
    fsconfig_string(context.as_fd(), c"source", c"tmpfs")?;
    fsconfig_flag(context.as_fd(), c"ro")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), attr::RDONLY)
}

/// A mount that hides many paths: attached where it is first needed, cloned from there for the others.
///
/// A detached mount can't be cloned before kernel 6.15 (open_tree(2)), an attached one always.
#[derive(Debug)]
pub(super) struct MaskSource {
    tree: OwnedFd,
    attached: bool,
}

impl MaskSource {
    pub(super) fn new(tree: OwnedFd) -> Self {
        MaskSource { tree, attached: false }
    }

    fn place(&mut self, target: BorrowedFd<'_>) -> io::Result<()> {
        if self.attached {
            let clone = clone_tree(self.tree.as_fd(), c"", Reach::One)?;
            return move_mount(clone.as_fd(), target);
        }
        move_mount(self.tree.as_fd(), target)?;
        self.attached = true;
        Ok(())
    }
}
