//! Mounts of a container's rootfs, as containerd describes them. Everything here blocks: workers only.

mod helper;
mod idmap;
pub(crate) mod options;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use davit::sys::mount::{self as sys, Reach};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use options::Parsed;

use crate::api::Mount;

/// Longest option string that mount(2) takes: it copies one page with its NUL.
const MOUNT_DATA_LIMIT: usize = 4095;
/// Tries and pause of an unmount that is busy, as containerd's `unmount`: 2.5 s in all.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A rootfs that can't be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Making the mount point.
    #[error("create {path}: {source}")]
    MountPoint {
        /// Directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An option that only a later containerd's mount manager or an idmapped mount could serve.
    #[error("mount option {0:?} is not supported")]
    Option(String),
    /// `uidmap=` or `gidmap=`.
    #[error("mount option {option:?}: {text}")]
    IdMap {
        /// The option.
        option: String,
        /// What is wrong with it, or the step that failed.
        text: String,
    },
    /// A mount.
    #[error("failed to mount rootfs component {kind} {source_path} on {target}: {source}")]
    Mount {
        /// Filesystem type.
        kind: String,
        /// Device or directory.
        source_path: String,
        /// Where.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Reading the mount table.
    #[error("read /proc/self/mountinfo: {0}")]
    Table(io::Error),
    /// An unmount.
    #[error("failed to unmount {target}: {source}")]
    Unmount {
        /// Mount point.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes the directory `rootfs`, mode 0711; one that exists is fine.
///
/// # Errors
/// [`MountError::MountPoint`].
pub fn make_rootfs(rootfs: &Path) -> Result<(), MountError> {
    match fs::DirBuilder::new().mode(0o711).create(rootfs) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(MountError::MountPoint { path: rootfs.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

/// Mounts all, in order; on a failure what was mounted is unmounted again.
///
/// # Errors
/// [`MountError`].
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), MountError> {
    for one in mounts {
        if let Err(error) = mount_one(one, rootfs) {
            // The first error is the one to report.
            let _ = unmount_recursive(rootfs);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(one: &Mount, rootfs: &Path) -> Result<(), MountError> {
    let mut parsed = options::parse(&one.options)?;
    let userns = parsed.idmap.take().map(|maps| idmap::namespace(&maps)).transpose()?;
    let fail = |source| MountError::Mount {
        kind: one.kind.clone(),
        source_path: one.source.clone(),
        target: rootfs.join(&one.target),
        source,
    };
    {
        let (target, _held) = resolve(rootfs, &one.target)?;
        perform(one, &mut parsed, &target, userns.as_ref(), rootfs).map_err(fail)?;
    }
    // Again: a descriptor from before shows what is below the new mount.
    let (target, _held) = resolve(rootfs, &one.target)?;
    change(&parsed, &target).map_err(fail)
}

/// The path of a mount's target, and what it needs to stay valid.
fn resolve(rootfs: &Path, below: &str) -> Result<(PathBuf, Option<OwnedFd>), MountError> {
    if below.is_empty() {
        return Ok((rootfs.to_owned(), None));
    }
    let fd = below_root(rootfs, below)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), Some(fd)))
}

/// A directory below the rootfs, with symlinks resolved inside it (kernel 5.6).
fn below_root(rootfs: &Path, below: &str) -> Result<OwnedFd, MountError> {
    let fail = |source: io::Error| MountError::MountPoint { path: rootfs.join(below), source };
    let root = fs::File::open(rootfs).map_err(fail)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), below, how).map_err(|e| fail(e.into()))
}

fn perform(
    one: &Mount,
    parsed: &mut Parsed,
    target: &Path,
    userns: Option<&OwnedFd>,
    rootfs: &Path,
) -> io::Result<()> {
    if let Some(helper) = helper::of(&one.kind) {
        return helper::run(helper, one, target);
    }
    // Held until the mount is there.
    let device =
        if parsed.looped { Some(helper::loop_device(Path::new(&one.source), parsed)?) } else { None };
    let source = device.as_ref().map_or(Path::new(&one.source), |(_, path)| path);
    let flags = MsFlags::from_bits_retain(parsed.flags);
    let bind = flags.contains(MsFlags::MS_BIND);
    let _layers = match userns {
        Some(userns) if one.kind == "overlay" => Some(map_layers(parsed, rootfs, userns)?),
        _ => None,
    };
    let data = parsed.data.join(",");
    match userns {
        Some(userns) if bind => {
            let reach = if flags.contains(MsFlags::MS_REC) { Reach::Tree } else { Reach::One };
            let tree = idmap::mapped(source, reach, userns)?;
            sys::move_mount(tree.as_fd(), open_path(target)?.as_fd())?;
        }
        _ if data.len() > MOUNT_DATA_LIMIT && one.kind == "overlay" => mount_overlay(parsed, target)?,
        _ => {
            let kind = if bind { None } else { Some(one.kind.as_str()) };
            mount(Some(source), target, kind, flags, Some(data.as_str()))?;
            if let Some(userns) = userns.filter(|_| one.kind != "overlay") {
                let tree = idmap::mapped(target, Reach::One, userns)?;
                umount2(target, MntFlags::MNT_DETACH)?;
                sys::move_mount(tree.as_fd(), open_path(target)?.as_fd())?;
            }
        }
    }
    Ok(())
}

/// What a second and a third call do: the kernel ignores other flags on a bind, and propagation with others.
fn change(parsed: &Parsed, target: &Path) -> io::Result<()> {
    let flags = MsFlags::from_bits_retain(parsed.flags);
    let extra = flags & !(MsFlags::MS_BIND | MsFlags::MS_REC);
    if flags.contains(MsFlags::MS_BIND) && !extra.is_empty() {
        remount_bind(target, extra)?;
    }
    if parsed.propagation != 0 {
        let flags = MsFlags::from_bits_retain(parsed.propagation);
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Sets the flags of a bind. In a user namespace those that the source has are locked: they are kept then.
fn remount_bind(target: &Path, flags: MsFlags) -> io::Result<()> {
    let again = |flags: MsFlags| {
        let all = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(None::<&str>, target, None::<&str>, all, None::<&str>)
    };
    match again(flags) {
        Err(Errno::EPERM) => {
            let now = statvfs(target)?.flags();
            let locked = [
                (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
                (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
                (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
                (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
                (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
                (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
            ];
            let kept =
                locked.iter().filter(|(has, _)| now.contains(*has)).fold(flags, |all, (_, f)| all | *f);
            Ok(again(kept)?)
        }
        other => Ok(other?),
    }
}

fn open_path(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

/// Replaces an overlay's lower layers by mapped copies.
fn map_layers(parsed: &mut Parsed, rootfs: &Path, userns: &OwnedFd) -> io::Result<idmap::Layers> {
    let lower = parsed.data.iter_mut().find(|option| option.starts_with("lowerdir="));
    let option = lower.ok_or_else(|| io::Error::other("an overlay without lowerdir"))?;
    let (layers, value) = idmap::Layers::map(option.trim_start_matches("lowerdir="), rootfs, userns)?;
    *option = format!("lowerdir={value}");
    Ok(layers)
}

/// An overlay whose options are longer than a page: one fsconfig call per lower directory (`lowerdir+`,
/// kernel 6.5).
fn mount_overlay(parsed: &Parsed, target: &Path) -> io::Result<()> {
    const RDONLY: u64 = 1;
    const NOSUID: u64 = 2;
    const NODEV: u64 = 4;
    const NOEXEC: u64 = 8;
    let context = sys::fsopen(c"overlay")?;
    for option in &parsed.data {
        match option.split_once('=') {
            Some(("lowerdir", dirs)) => {
                for dir in dirs.split(':') {
                    sys::fsconfig_string(context.as_fd(), c"lowerdir+", &CString::new(dir)?)?;
                }
            }
            Some((key, value)) => {
                sys::fsconfig_string(context.as_fd(), &CString::new(key)?, &CString::new(value)?)?;
            }
            None => sys::fsconfig_flag(context.as_fd(), &CString::new(option.as_str())?)?,
        }
    }
    sys::fsconfig_create(context.as_fd())?;
    let flags = MsFlags::from_bits_retain(parsed.flags);
    let attrs = [
        (MsFlags::MS_RDONLY, RDONLY),
        (MsFlags::MS_NOSUID, NOSUID),
        (MsFlags::MS_NODEV, NODEV),
        (MsFlags::MS_NOEXEC, NOEXEC),
    ];
    let attrs = attrs.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |all, (_, attr)| all | attr);
    let mounted = sys::fsmount(context.as_fd(), attrs)?;
    let target = fs::OpenOptions::new().read(true).open(target)?;
    sys::move_mount(mounted.as_fd(), target.as_fd())
}

/// Unmounts everything at and below `path`, deepest first. Nothing mounted there is fine.
///
/// # Errors
/// [`MountError::Table`], or [`MountError::Unmount`] for what was busy for 2.5 s and could not even be
/// detached.
pub fn unmount_recursive(path: &Path) -> Result<(), MountError> {
    idmap::remove_left(path);
    // The bundle's path may lead through a symlink (/var/run): the table has the real one.
    let Ok(real) = fs::canonicalize(path) else { return Ok(()) };
    let table = fs::read("/proc/self/mountinfo").map_err(MountError::Table)?;
    let mut points: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(unescape)
        .filter(|point| point.starts_with(&real))
        .collect();
    // The table lists parents first, also for mounts stacked on one point.
    points.reverse();
    points.iter().try_for_each(|point| unmount(point))
}

fn unmount(point: &Path) -> Result<(), MountError> {
    let fail = |e: Errno| MountError::Unmount { target: point.to_owned(), source: e.into() };
    for _ in 0..BUSY_TRIES {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            Err(e) => return Err(fail(e)),
        }
    }
    umount2(point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).map_err(fail)
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = if *first == b'\\' { tail.get(..3) } else { None };
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape(br"/a\040b\134c\x"), Path::new(r"/a b\c\x"));
    }
}
