//! What the container's process may do: capabilities, LSM labels, Landlock, the session keyring.
//!
//! Called by the container's process between its last mount and execve. The order (runc's): keyring,
//! AppArmor profile, SELinux label, bounding set, user and groups, capabilities.

pub mod apparmor;
pub mod capabilities;
pub mod keyring;
pub mod landlock;
pub mod selinux;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// A label or profile that the kernel did not take.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A profile is asked for on a host without AppArmor.
    #[error("unable to apply apparmor profile {profile:?}: apparmor is not enabled on this host")]
    AppArmorDisabled {
        /// The profile.
        profile: String,
    },
    /// The profile is not loaded (ENOENT).
    #[error("unable to apply apparmor profile {profile:?}: no such profile is loaded")]
    AppArmorNoProfile {
        /// The profile.
        profile: String,
    },
    /// AppArmor refused the profile.
    #[error("unable to apply apparmor profile {profile:?}: write /proc/self/attr/{attribute}: {source}")]
    AppArmor {
        /// The profile.
        profile: String,
        /// The file below `/proc/self/attr`.
        attribute: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A label is asked for on a host without SELinux.
    #[error("selinux label is specified in config, but selinux is disabled or not supported")]
    SelinuxDisabled,
    /// SELinux refused the label.
    #[error("can't set selinux label {label:?}: write /proc/self/attr/{attribute}: {source}")]
    Selinux {
        /// The label.
        label: String,
        /// The file below `/proc/self/attr`.
        attribute: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Opens a file below `/proc/self/attr` for writing.
///
/// The directory is verified procfs; anything mounted over its files is refused with EXDEV, links with
/// ELOOP (CVE-2025-52881).
fn open_attribute(attr: BorrowedFd<'_>, attribute: &str) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    openat2(attr, attribute, how)
}

/// Writes an attribute in one write: the kernel takes each write for a whole value.
fn write_attribute(file: OwnedFd, value: &[u8]) -> Result<(), Errno> {
    let written = nix::unistd::write(&file, value)?;
    if written == value.len() { Ok(()) } else { Err(Errno::EIO) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir, read_to_string, write};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_attribute_is_written_through_the_directory_only() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("exec"), "").unwrap();
        create_dir(dir.path().join("apparmor")).unwrap();
        symlink("../exec", dir.path().join("apparmor/exec")).unwrap();
        let attr = File::open(dir.path()).unwrap();
        let open = |name| open_attribute(attr.as_fd(), name);
        assert_eq!(write_attribute(open("exec").unwrap(), b"label"), Ok(()));
        assert_eq!(read_to_string(dir.path().join("exec")).unwrap(), "label");
        assert_eq!(open("apparmor/exec").unwrap_err(), Errno::ELOOP);
        assert_eq!(open("../exec").unwrap_err(), Errno::EXDEV);
        assert_eq!(open("keycreate").unwrap_err(), Errno::ENOENT);
    }
}
