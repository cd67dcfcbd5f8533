//! The change of root.

use std::os::fd::AsFd;

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::Rootfs;
use crate::init::{Context, Failure};
use crate::plan::SwitchRoot;
use crate::sys::mount::{MountAttr, Reach, mount_setattr};

/// Makes the rootfs the root of this process and its mount namespace, and drops the host's tree.
///
/// # Errors
/// EINVAL when the rootfs is on a ramdisk (`--no-pivot` is for that).
pub fn switch_root(rootfs: &Rootfs, how: SwitchRoot) -> Result<(), Failure> {
    fchdir(rootfs.root().as_fd()).during("change directory to", || "rootfs")?;
    match how {
        SwitchRoot::Pivot => {
            // pivot_root(2), "pivot_root(".", ".")": the old root ends up stacked below ".". It is a
            // slave tree (slave_mounts), so the unmount does not propagate to the host.
            pivot_root(".", ".").during("pivot_root", String::new)?;
            umount2(".", MntFlags::MNT_DETACH).during("unmount old root", String::new)?;
        }
        SwitchRoot::Move => {
            nix::mount::mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
                .during("move rootfs to", || "/")?;
            chroot(".").during("chroot to", || "rootfs")?;
        }
    }
    chdir("/").during("change directory to", || "/")
}

/// Sets the propagation of the new root.
///
/// # Errors
/// EINVAL, EPERM.
pub fn set_propagation(rootfs: &Rootfs, flag: u64, reach: Reach) -> Result<(), Failure> {
    let attr = MountAttr { propagation: flag, ..MountAttr::default() };
    mount_setattr(rootfs.root().as_fd(), &attr, reach).during("set root propagation", String::new)
}
