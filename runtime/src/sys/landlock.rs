//! landlock(7): a process restricts itself, for good.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// The same on all machines (scripts/syscall.tbl).
const CREATE_RULESET: libc::c_long = 444;
const ADD_RULE: libc::c_long = 445;
const RESTRICT_SELF: libc::c_long = 446;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`, `LANDLOCK_RULE_NET_PORT`.
const PATH_BENEATH: u32 = 1;
const NET_PORT: u32 = 2;

/// The version of Landlock that the kernel has: 1 in 5.13, 3 in 6.2, 4 in 6.7.
///
/// # Errors
/// ENOSYS before 5.13, EOPNOTSUPP where it is switched off at boot.
pub fn version() -> io::Result<u32> {
    // SAFETY: with this flag the pointer must be null and the size 0.
    let version = check(unsafe { libc::syscall(CREATE_RULESET, std::ptr::null::<u8>(), 0usize, VERSION) })?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// What a process may no longer do unless a rule allows it.
#[derive(Debug)]
pub struct Ruleset(OwnedFd);

impl Ruleset {
    /// Makes one that handles these rights of files (`LANDLOCK_ACCESS_FS_*`) and of TCP ports
    /// (`LANDLOCK_ACCESS_NET_*`, version 4; 0 before).
    ///
    /// # Errors
    /// EINVAL for a right that the kernel does not know, E2BIG for ports before version 4.
    pub fn new(files: u64, ports: u64) -> io::Result<Ruleset> {
        #[repr(C)]
        struct Attr {
            files: u64,
            ports: u64,
        }
        let attr = Attr { files, ports };
        // The kernel takes a longer structure than it knows if the rest is zero.
        // SAFETY: attr is as long as the size says and is only read.
        let fd = check(unsafe {
            libc::syscall(CREATE_RULESET, &raw const attr, std::mem::size_of::<Attr>(), 0u32)
        })?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Ruleset(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Allows rights on a file, or below a directory.
    ///
    /// # Errors
    /// EINVAL for a directory's right on a file.
    pub fn allow_path(&self, path: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
        #[repr(C, packed)]
        struct Attr {
            rights: u64,
            parent: i32,
        }
        let attr = Attr { rights, parent: path.as_raw_fd() };
        // SAFETY: attr has the layout of struct landlock_path_beneath_attr, which is packed, and is only read.
        check(unsafe { libc::syscall(ADD_RULE, self.0.as_raw_fd(), PATH_BENEATH, &raw const attr, 0u32) })?;
        Ok(())
    }

    /// Allows rights on a TCP port (version 4).
    ///
    /// # Errors
    /// EINVAL for a right that the ruleset does not handle.
    pub fn allow_port(&self, port: u16, rights: u64) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            rights: u64,
            port: u64,
        }
        let attr = Attr { rights, port: u64::from(port) };
        // SAFETY: attr has the layout of struct landlock_net_port_attr and is only read.
        check(unsafe { libc::syscall(ADD_RULE, self.0.as_raw_fd(), NET_PORT, &raw const attr, 0u32) })?;
        Ok(())
    }

    /// Restricts the calling thread.
    ///
    /// # Errors
    /// EPERM without no_new_privs and CAP_SYS_ADMIN.
    pub fn restrict_self(&self) -> io::Result<()> {
        // SAFETY: takes a descriptor and a number.
        check(unsafe { libc::syscall(RESTRICT_SELF, self.0.as_raw_fd(), 0u32) })?;
        Ok(())
    }
}
