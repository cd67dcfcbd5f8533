//! Extended attributes by descriptor, which nix lacks.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// Reads the names of a file's extended attributes into `buffer`, each with a NUL behind it, and returns their length
/// in bytes; with an empty buffer only the length. See flistxattr(2).
///
/// # Errors
/// ERANGE: the buffer is too small. ENOTSUP: the filesystem has none.
pub fn list(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to the buffer, and nothing with a length of 0.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    bytes(length)
}

/// Reads an extended attribute into `buffer` and returns its length in bytes. See fgetxattr(2).
///
/// # Errors
/// ERANGE: the buffer is too small. ENODATA: the file has no such attribute.
pub fn get(file: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `name` ends with NUL; the kernel writes at most `buffer.len()` bytes to the buffer.
    let length =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    bytes(length)
}

/// Sets an extended attribute. See fsetxattr(2).
///
/// # Errors
/// ENOTSUP: the filesystem does not take attributes of this kind. EPERM: not this process. ENOSPC.
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: `name` ends with NUL; the kernel reads `value.len()` bytes of the value.
    let ret =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(libc::c_long::from(ret)).map(drop)
}

fn bytes(length: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}
