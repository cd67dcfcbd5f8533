//! seccomp(2).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::check;

/// One classic BPF instruction, as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump offset when true.
    pub jt: u8,
    /// Jump offset when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Loads a filter into the calling thread (kernel 3.17), without touching no_new_privs.
///
/// With `SECCOMP_FILTER_FLAG_NEW_LISTENER` in `flags` (kernel 5.0) the notification descriptor is
/// returned.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN and no_new_privs, EINVAL for a bad program or flag.
pub fn set_mode_filter(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Fprog {
        len: libc::c_ushort,
        filter: *const Instruction,
    }
    let len =
        libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let prog = Fprog { len, filter: program.as_ptr() };
    // SAFETY: prog points at `len` instructions that outlive the call; the kernel copies them.
    let ret =
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &prog) })?;
    if flags & u64::from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32) == 0 {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the return value is a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as RawFd) }))
}

/// Whether the kernel knows a seccomp action (SECCOMP_GET_ACTION_AVAIL, kernel 4.14).
#[must_use]
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 through the pointer.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}
