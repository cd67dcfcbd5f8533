//! A container without a mount namespace: its rootfs is a mount on the host, which goes with the container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::state::State;
use super::{Error, Result};
use crate::init::Context;
use crate::path::ProcFs;
use crate::rootfs::{Change, unescaped};
use crate::spec::namespace;
use crate::sys::mount::{MountAttr, Reach};

/// The mount that the rootfs's own is going to cover; `None` with a mount namespace. Known before anything is
/// mounted, so that what a killed `create` has mounted is told from what was there.
///
/// # Errors
/// When the rootfs is `/`: a mount on it would cover the host's root for everybody.
pub(super) fn covered(spec: &Spec, rootfs: &Path) -> Result<Option<i32>> {
    if namespace(spec, LinuxNamespaceType::Mount).is_some() {
        return Ok(None);
    }
    let real = std::fs::canonicalize(rootfs).map_err(|e| Error::io("resolve", rootfs, e))?;
    if real == Path::new("/") {
        let words = "root.path / needs a mount namespace: what is mounted on it would cover the host's root";
        return Err(crate::spec::Error::Invalid(words.into()).into());
    }
    let id = mount_id(&open(rootfs)?, rootfs)?;
    if is_on_its_peer(&mountinfo()?, id) {
        let words = format!(
            "root.path {} is a shared mount on itself, without a mount namespace: make it private first",
            rootfs.display()
        );
        return Err(crate::spec::Error::Invalid(words).into());
    }
    Ok(Some(id))
}

/// Unmounts the rootfs and all below it, if it was mounted.
///
/// # Errors
/// When something else covers it; errors of umount2(2).
pub(super) fn undo(rootfs: &Path, covered: Option<i32>) -> Result<()> {
    let Some(covered) = covered else { return Ok(()) };
    let Ok(real) = std::fs::canonicalize(rootfs) else { return Ok(()) };
    let root = open(&real)?;
    let top = mount_id(&root, &real)?;
    let parents = mountinfo()?;
    match parent(&parents, top) {
        Some(below) if below == covered => {}
        // Somebody's mount is on ours.
        _ if is_mounted_on(&parents, covered, &real) => {
            let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
            return Err(Error::io("unmount the container's mount below another at", rootfs, busy));
        }
        _ => return Ok(()),
    }
    // umount2(2) propagates: what is bound in here from the host must stay there.
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    let change = ProcFs::host()
        .during("open", || "/proc")
        .and_then(|proc| Change::new(&proc))
        .map_err(Error::Mount)?;
    change.set(root.as_fd(), &private, Reach::Tree).map_err(|e| Error::io("make private", rootfs, e))?;
    umount2(&real, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|e| Error::io("unmount", rootfs, e.into()))
}

/// Init's root, where there is no mount namespace that has it.
///
/// # Errors
/// EACCES; [`Error::Stopped`].
pub(super) fn root_of(state: &State) -> Result<Option<OwnedFd>> {
    if state.namespace_flags() & libc::CLONE_NEWNS != 0 {
        return Ok(None);
    }
    let path = format!("/proc/{}/root", state.init_process_pid);
    match open(Path::new(&path)) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Err(Error::Stopped),
        other => other.map(Some),
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e.into()))
}

/// The id of the mount that a descriptor is in (proc_pid_fdinfo(5)).
fn mount_id(fd: &OwnedFd, path: &Path) -> Result<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
        .map_err(|e| Error::io("read mount id of", path, e))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| Error::io("read mount id of", path, std::io::Error::from_raw_os_error(libc::ENODATA)))
}

fn mountinfo() -> Result<String> {
    let path = "/proc/self/mountinfo";
    std::fs::read_to_string(path).map_err(|e| Error::io("read", Path::new(path), e))
}

/// Whether a mount is on, or below, one of its own peer group (`mount --bind DIR DIR` of what is shared): what is
/// mounted on it propagates to below it, and unmounting that takes this one along.
fn is_on_its_peer(mountinfo: &str, id: i32) -> bool {
    let group = |id| {
        let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(&format!("{id}")))?;
        line.split(' ').skip(6).take_while(|field| *field != "-").find(|field| field.starts_with("shared:"))
    };
    let Some(own) = group(id) else { return false };
    // A mount namespace's root is on itself.
    let up = |id: &i32| parent(mountinfo, *id).filter(|above| above != id);
    std::iter::successors(up(&id), up).any(|above| group(above) == Some(own))
}

/// The mount that this one is on (proc_pid_mountinfo(5): the first two fields).
fn parent(mountinfo: &str, id: i32) -> Option<i32> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()?.parse() == Ok(id)).then(|| fields.next()?.parse().ok())?
    })
}

/// Whether a mount is on this one at a path.
fn is_mounted_on(mountinfo: &str, id: i32, path: &Path) -> bool {
    mountinfo.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        let on = fields.next().and_then(|field| field.parse().ok());
        let point = fields.nth(2).map(unescaped);
        on == Some(id) && point.is_some_and(|point| Path::new(&point) == path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_by_what_they_are_on() {
        let table = "22 1 254:0 / / rw - ext4 /dev/vda rw\n60 22 254:0 /b /a\\040b rw - ext4 /dev/vda rw\n";
        assert_eq!((parent(table, 60), parent(table, 22), parent(table, 6)), (Some(22), Some(1), None));
        let shared = "22 1 8:0 / / rw shared:2 - ext4 a rw\n60 22 8:0 /b /b rw shared:2 - ext4 a rw\n\
                      61 22 8:0 /b /b rw shared:3 master:2 - ext4 a rw\n";
        let found = [22, 60, 61].map(|id| is_on_its_peer(shared, id));
        assert_eq!(found, [false, true, false]);
        assert!(is_mounted_on(table, 22, Path::new("/a b")));
        assert!(!is_mounted_on(table, 60, Path::new("/a b")));
        assert!(!is_mounted_on(table, 22, Path::new("/a")));
    }
}
