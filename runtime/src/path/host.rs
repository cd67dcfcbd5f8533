//! Paths of the host.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;

/// Opens a path of the host: one of config.json, the command line or davit's own, which are trusted. Only before the
/// root changes, for afterwards every path is the container's.
///
/// # Errors
/// Those of open(2).
///
/// By openat(2): musl's open() goes on to call fcntl(F_SETFD), for kernels before 2.6.23.
#[allow(clippy::disallowed_methods, reason = "the one place for paths of the host")]
pub fn open(path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::openat(AT_FDCWD, path, flags | OFlag::O_CLOEXEC, Mode::empty())?)
}
