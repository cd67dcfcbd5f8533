//! The container's root filesystem: mounts, devices, terminal, hidden paths, and the change of root.
//!
//! Runs in the container's process, in its own mount namespace. The rootfs is hostile (rule 1), so every
//! path in it goes through [`RootDir`], and every mount goes from one descriptor onto another (rule 2).
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod cgroups;
mod change;
mod console;
mod copy;
mod devices;
mod filesystem;
mod live;
mod mask;
mod mounts;
mod switch;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::MsFlags;

use crate::init::{Context, Failure};
use crate::path::{ProcFs, RootDir, host};
use crate::plan::Mount;
use crate::sys::mount::{MountAttr, Reach, clone_tree, move_mount};

pub use change::Change;
pub use console::Console;
pub use devices::settle_stdio;
pub use live::{add, remove};
pub use mounts::{Paths, Prepared, Site, open_source};
pub use switch::{
    enter_root, hide_host_filesystems, host_propagation, set_propagation, switch_root, unescaped,
};

/// The rootfs while it is being made.
#[derive(Debug)]
pub struct Rootfs {
    root: RootDir,
    /// How mounts are changed.
    change: Change,
    /// The host's /dev/null, verified: what file masks are made of.
    null: Option<mask::MaskSource>,
    /// The empty read-only directory that hides directories: one superblock for all (runc #5275).
    empty: Option<mask::MaskSource>,
    /// The roots of what is mounted on /proc and /sys.
    kernel: Vec<(&'static str, RootDir)>,
    /// The directory in which the last node or link was made.
    last_parent: Option<(PathBuf, OwnedFd)>,
}

/// Makes every mount of this namespace a slave of the host's, so that nothing propagates back.
///
/// # Errors
/// EPERM.
#[allow(clippy::disallowed_methods, reason = "the root, of the host still")]
pub fn slave_mounts() -> Result<(), Failure> {
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .during("make mounts slave", || "/")
}

impl Rootfs {
    /// Makes the rootfs at this host path a mount of its own, as pivot_root(2) needs.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EPERM.
    pub fn open(path: &Path, change: Change) -> Result<Self, Failure> {
        let name = || path.display().to_string();
        let cpath = crate::sys::cstring(path).during("open rootfs", name)?;
        let tree = clone_tree(AT_FDCWD, &cpath, Reach::Tree).during("open rootfs", name)?;
        let below = host::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY).during("open rootfs", name)?;
        move_mount(tree.as_fd(), below.as_fd()).during("mount rootfs", name)?;
        Ok(Rootfs {
            root: RootDir::new(tree),
            change,
            null: None,
            empty: None,
            kernel: Vec::new(),
            last_parent: None,
        })
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
    pub fn mount(&mut self, mount: &Mount, prepared: Option<Prepared>, proc: &ProcFs) -> Result<(), Failure> {
        let site = Site { root: &self.root, proc, change: &self.change, paths: Paths::Host };
        match mounts::mount(site, mount, prepared)? {
            Some(made) if mount.is_root() => {
                self.root = RootDir::new(made);
                self.last_parent = None;
                self.kernel.clear();
            }
            Some(made) => self.keep_mounted(&mount.destination, made),
            None => {}
        }
        Ok(())
    }

    /// Keeps the root of what was mounted on /proc or /sys. Paths below those are looked up from here, since another
    /// container that shares the rootfs may exchange the directory that is their mount point (CVE-2023-27561).
    fn keep_mounted(&mut self, destination: &Path, tree: OwnedFd) {
        let mut names = destination.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let (first, None) = (names.next(), names.next()) else { return };
        let Some(name) = ["proc", "sys"].into_iter().find(|name| first == Some(OsStr::new(name))) else {
            return;
        };
        self.kernel.retain(|(kept, _)| *kept != name);
        self.kernel.push((name, RootDir::new(tree)));
    }

    /// Opens what is at a path of the container; below /proc and /sys, what is in those very mounts.
    fn open_inside(&self, path: &Path) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let upwards = relative.components().any(|part| part == Component::ParentDir);
        for (name, mounted) in self.kernel.iter().filter(|_| !upwards) {
            match relative.strip_prefix(name) {
                Ok(below) if below.as_os_str().is_empty() => return mounted.as_fd().try_clone_to_owned(),
                Ok(below) => return mounted.open(below, OFlag::O_PATH),
                Err(_) => {}
            }
        }
        self.root.open(path, OFlag::O_PATH)
    }

    /// Makes the mount at a path read-only; `/` is the root itself.
    ///
    /// # Errors
    /// ENOENT, EPERM for a locked mount.
    pub fn make_readonly(&self, path: &Path) -> Result<(), Failure> {
        let name = || path.display().to_string();
        let attr = MountAttr { set: crate::plan::attr::RDONLY, ..MountAttr::default() };
        if path == Path::new("/") {
            return self.change.set(self.root.as_fd(), &attr, Reach::One).during("make read-only", name);
        }
        let target = self.open_inside(path).during("make read-only", name)?;
        self.change.set(target.as_fd(), &attr, Reach::One).during("make read-only", name)
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
        let null = host::open(Path::new(path), OFlag::O_PATH).during("open", || path)?;
        let stat = nix::sys::stat::fstat(&null).during("stat", || path)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
            return Err(Failure::other("open", path, "is not the null device"));
        }
        let tree = clone_tree(null.as_fd(), c"", Reach::One).during("clone mount of", || path)?;
        self.null = Some(mask::MaskSource::new(tree));
        Ok(())
    }
}
