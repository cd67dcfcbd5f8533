//! The container's root filesystem: mounts, devices, terminal, hidden paths, and the change of root.
//!
//! Runs in the container's process, in its own mount namespace. The rootfs is hostile (rule 1), so every
//! path in it goes through [`RootDir`], and every mount goes from one descriptor onto another (rule 2).

mod cgroups;
mod console;
mod copy;
mod devices;
mod filesystem;
mod live;
mod mask;
mod mounts;
mod switch;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

use crate::init::{Context, Failure};
use crate::path::RootDir;
use crate::plan::Mount;
use crate::sys::mount::{MountAttr, Reach, clone_tree, mount_setattr, move_mount};

pub use console::Console;
pub use devices::settle_stdio;
pub use live::{add, remove};
pub use mounts::{Prepared, open_source};
pub use switch::{
    enter_root, hide_host_filesystems, host_propagation, set_propagation, switch_root, unescaped,
};

/// The rootfs while it is being made.
#[derive(Debug)]
pub struct Rootfs {
    root: RootDir,
    /// The host's /dev/null, verified: what file masks are made of.
    null: Option<mask::MaskSource>,
    /// The empty read-only directory that hides directories: one superblock for all (runc #5275).
    empty: Option<mask::MaskSource>,
    /// The directory in which the last node or link was made.
    last_parent: Option<(PathBuf, OwnedFd)>,
}

/// Makes every mount of this namespace a slave of the host's, so that nothing propagates back.
///
/// # Errors
/// EPERM.
pub fn slave_mounts() -> Result<(), Failure> {
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .during("make mounts slave", || "/")
}

impl Rootfs {
    /// Makes the rootfs at this host path a mount of its own, as pivot_root(2) needs.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EPERM.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = || path.display().to_string();
        let cpath = crate::sys::cstring(path).during("open rootfs", name)?;
        let tree = clone_tree(AT_FDCWD, &cpath, Reach::Tree).during("open rootfs", name)?;
        let below =
            nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .during("open rootfs", name)?;
        move_mount(tree.as_fd(), below.as_fd()).during("mount rootfs", name)?;
        Ok(Rootfs { root: RootDir::new(tree), null: None, empty: None, last_parent: None })
    }

    /// The root as a directory descriptor.
    #[must_use]
    pub fn root(&self) -> &RootDir {
        &self.root
    }

    /// Makes one mount of the config. One over `/` is the rootfs from then on.
    ///
    /// # Errors
    /// Those of the mount, in runc's words.
    pub fn mount(&mut self, mount: &Mount, prepared: Option<Prepared>) -> Result<(), Failure> {
        let made = mounts::mount(&self.root, mount, prepared)?;
        if let Some(made) = made.filter(|_| mount.is_root()) {
            self.root = RootDir::new(made);
            self.last_parent = None;
        }
        Ok(())
    }

    /// Makes the mount at a path read-only; `/` is the root itself.
    ///
    /// # Errors
    /// ENOENT, EPERM for a locked mount.
    pub fn make_readonly(&self, path: &Path) -> Result<(), Failure> {
        let name = || path.display().to_string();
        let attr = MountAttr { set: crate::plan::attr::RDONLY, ..MountAttr::default() };
        if path == Path::new("/") {
            return mount_setattr(self.root.as_fd(), &attr, Reach::One).during("make read-only", name);
        }
        let target = self.root.open(path, OFlag::O_PATH).during("make read-only", name)?;
        mount_setattr(target.as_fd(), &attr, Reach::One).during("make read-only", name)
    }

    fn null(&mut self) -> Result<&mut mask::MaskSource, Failure> {
        self.null.as_mut().ok_or_else(|| Failure::other("mask", "", "the host's /dev/null was not opened"))
    }

    /// Opens the host's /dev/null, before the root changes: a rootfs's own may be anything
    /// (CVE-2025-31133).
    ///
    /// # Errors
    /// When it is not the null device.
    pub fn open_null(&mut self) -> Result<(), Failure> {
        let path = "/dev/null";
        let null = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .during("open", || path)?;
        let stat = nix::sys::stat::fstat(&null).during("stat", || path)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
            return Err(Failure::other("open", path, "is not the null device"));
        }
        let tree = clone_tree(null.as_fd(), c"", Reach::One).during("clone mount of", || path)?;
        self.null = Some(mask::MaskSource::new(tree));
        Ok(())
    }
}
