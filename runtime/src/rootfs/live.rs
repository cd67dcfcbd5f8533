//! Mounts of a running container. Runs in its namespaces; the root is as hostile as at create.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::fstat;
use nix::unistd::fchdir;

use super::Change;
use super::mounts::{Paths, Prepared, Site, mount};
use crate::init::{Context, Failure};
use crate::path::{ProcFs, RootDir};
use crate::plan::{Mount, MountSource, attr};
use crate::sys::mount::{Reach, is_mount_root};

/// Makes a mount; a read-only tmpfs is filled first.
///
/// # Errors
/// As at create.
pub fn add(
    root: &RootDir,
    planned: &Mount,
    prepared: Option<Prepared>,
    proc: &ProcFs,
) -> Result<(), Failure> {
    let change = Change::new(proc)?;
    let site = Site { root, proc, change: &change, paths: Paths::Container };
    let is_new = matches!(planned.source, MountSource::Filesystem { .. });
    if !(is_new && planned.options.copy_up && planned.options.readonly()) {
        return mount(site, planned, prepared).map(drop);
    }
    let writable = Mount { options: planned.options.clone().writable(), ..planned.clone() };
    match mount(site, &writable, prepared)? {
        Some(made) => change.keep(made.as_fd(), attr::RDONLY, Reach::One),
        None => {
            Err(Failure::other("make read-only", planned.destination.display().to_string(), "not mounted"))
        }
    }
}

/// Detaches the mount at a destination.
///
/// The mount is named by a descriptor through the host's procfs, since the container's may be anything.
///
/// # Errors
/// EINVAL where nothing is mounted, and for mounts that another user namespace has locked.
#[allow(clippy::disallowed_methods, reason = "a descriptor below the host's /proc/self/fd")]
pub fn remove(root: &RootDir, destination: &Path, proc: &ProcFs) -> Result<(), Failure> {
    let step = "unmount";
    let name = || destination.display().to_string();
    let there = root.open(destination, OFlag::O_PATH).during(step, name)?;
    // Before kernel 5.8 nobody can tell; umount2 says EINVAL of what is no mount.
    if is_mount_root(there.as_fd()).during(step, name)? == Some(false) {
        return Err(Failure::new(step, name(), &std::io::Error::from_raw_os_error(libc::EINVAL))
            .with_detail("nothing is mounted there"));
    }
    let (here, top) = (fstat(&there).during(step, name)?, fstat(root.as_fd()).during(step, name)?);
    if (here.st_dev, here.st_ino) == (top.st_dev, top.st_ino) {
        return Err(Failure::other(step, name(), "that is the container's root"));
    }
    let fds = proc.descriptors().during(step, name)?;
    fchdir(fds.as_fd()).during(step, name)?;
    umount2(there.as_raw_fd().to_string().as_str(), MntFlags::MNT_DETACH).during(step, name)
}
