//! Mounts of a container's rootfs, as containerd describes them. Everything here blocks: workers only.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use davit::sys::mount as sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

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

/// fstab-style options, sorted by what they mean to mount(2).
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    flags: u64,
    propagation: u64,
    data: Vec<String>,
}

fn parse(options: &[String]) -> Result<Parsed, MountError> {
    let mut parsed = Parsed::default();
    for option in options {
        let (set, clear) = match option.as_str() {
            "defaults" => (MsFlags::empty(), MsFlags::empty()),
            "ro" => (MsFlags::MS_RDONLY, MsFlags::empty()),
            "rw" => (MsFlags::empty(), MsFlags::MS_RDONLY),
            "bind" => (MsFlags::MS_BIND, MsFlags::empty()),
            "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, MsFlags::empty()),
            "nosuid" => (MsFlags::MS_NOSUID, MsFlags::empty()),
            "suid" => (MsFlags::empty(), MsFlags::MS_NOSUID),
            "nodev" => (MsFlags::MS_NODEV, MsFlags::empty()),
            "dev" => (MsFlags::empty(), MsFlags::MS_NODEV),
            "noexec" => (MsFlags::MS_NOEXEC, MsFlags::empty()),
            "exec" => (MsFlags::empty(), MsFlags::MS_NOEXEC),
            "sync" => (MsFlags::MS_SYNCHRONOUS, MsFlags::empty()),
            "async" => (MsFlags::empty(), MsFlags::MS_SYNCHRONOUS),
            "dirsync" => (MsFlags::MS_DIRSYNC, MsFlags::empty()),
            "remount" => (MsFlags::MS_REMOUNT, MsFlags::empty()),
            "mand" => (MsFlags::MS_MANDLOCK, MsFlags::empty()),
            "nomand" => (MsFlags::empty(), MsFlags::MS_MANDLOCK),
            "noatime" => (MsFlags::MS_NOATIME, MsFlags::empty()),
            "atime" => (MsFlags::empty(), MsFlags::MS_NOATIME),
            "nodiratime" => (MsFlags::MS_NODIRATIME, MsFlags::empty()),
            "diratime" => (MsFlags::empty(), MsFlags::MS_NODIRATIME),
            "relatime" => (MsFlags::MS_RELATIME, MsFlags::empty()),
            "norelatime" => (MsFlags::empty(), MsFlags::MS_RELATIME),
            "strictatime" => (MsFlags::MS_STRICTATIME, MsFlags::empty()),
            "nostrictatime" => (MsFlags::empty(), MsFlags::MS_STRICTATIME),
            other => {
                match propagation(other) {
                    Some(flags) => parsed.propagation = flags.bits(),
                    None if refused(other) => return Err(MountError::Option(other.to_owned())),
                    None => parsed.data.push(other.to_owned()),
                }
                continue;
            }
        };
        parsed.flags = (parsed.flags | set.bits()) & !clear.bits();
    }
    Ok(parsed)
}

fn propagation(option: &str) -> Option<MsFlags> {
    Some(match option {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => return None,
    })
}

/// Options that are instructions to containerd's own mount code, not to the kernel.
fn refused(option: &str) -> bool {
    option == "loop"
        || ["X-containerd.", "uidmap=", "gidmap="].iter().any(|prefix| option.starts_with(prefix))
}

fn mount_one(one: &Mount, rootfs: &Path) -> Result<(), MountError> {
    let parsed = parse(&one.options)?;
    let resolved = match one.target.as_str() {
        "" => None,
        below => Some(below_root(rootfs, below)?),
    };
    let target = match &resolved {
        Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        None => rootfs.to_owned(),
    };
    perform(one, &parsed, &target).map_err(|source| MountError::Mount {
        kind: one.kind.clone(),
        source_path: one.source.clone(),
        target: rootfs.join(&one.target),
        source,
    })
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

fn perform(one: &Mount, parsed: &Parsed, target: &Path) -> io::Result<()> {
    let data = parsed.data.join(",");
    let flags = MsFlags::from_bits_retain(parsed.flags);
    let bind = flags.contains(MsFlags::MS_BIND);
    if data.len() > MOUNT_DATA_LIMIT && one.kind == "overlay" {
        mount_overlay(parsed, target)?;
    } else {
        let kind = if bind { None } else { Some(one.kind.as_str()) };
        mount(Some(one.source.as_str()), target, kind, flags, Some(data.as_str()))?;
    }
    // The kernel ignores other flags on a bind: a second call sets them.
    let extra = flags & !(MsFlags::MS_BIND | MsFlags::MS_REC);
    if bind && !extra.is_empty() {
        let again = extra | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(None::<&str>, target, None::<&str>, again, None::<&str>)?;
    }
    if parsed.propagation != 0 {
        let flags = MsFlags::from_bits_retain(parsed.propagation);
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
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
fn unescape(field: &[u8]) -> PathBuf {
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

    fn options(list: &str) -> Vec<String> {
        list.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn flags_propagation_and_data() {
        let parsed = parse(&options("rbind,ro,rslave,nosuid,lowerdir=/a:/b,index=off")).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        assert_eq!(parsed.flags, flags.bits());
        assert_eq!(parsed.propagation, (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits());
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
        assert_eq!(parse(&options("ro,rw")).unwrap().flags, 0);
    }

    #[test]
    fn options_for_containerds_own_mounter_are_refused() {
        for option in ["X-containerd.mkdir.path=/x", "uidmap=0:1:2", "loop"] {
            assert!(parse(&options(option)).is_err(), "{option}");
        }
    }

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape(br"/a\040b\134c\x"), Path::new(r"/a b\c\x"));
    }
}
