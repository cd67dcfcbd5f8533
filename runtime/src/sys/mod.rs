//! The only `unsafe` code: one small wrapper for each system call that nix lacks.
//!
//! Each wrapper takes owned or borrowed descriptors and C strings, returns `io::Result`, and says which
//! kernel brought the call. Nothing here decides policy.
#![allow(unsafe_code)]

pub mod bpf;
pub mod bump;
pub mod fs;
pub mod landlock;
pub mod loopdev;
pub mod memory;
pub mod mount;
pub mod prctl;
pub mod probe;
pub mod process;
pub mod regex;
pub mod sched;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod time;
pub mod xattr;

use std::io;

/// Turns a raw system call's `-1` into the errno.
fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// A path or name as the C string that system calls take.
///
/// # Errors
/// When it holds a NUL byte: the kernel would see a shorter path than the one that was checked.
pub fn cstring(path: &std::path::Path) -> io::Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path holds a NUL byte"))
}
