//! Mounts that a program of the host makes: FUSE, and files behind a loop device.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use davit::sys::loopdev::{self, LoopAccess};
use nix::mount::MsFlags;

use super::options::Parsed;
use crate::api::Mount;

/// Type prefixes with their programs, as in containerd's mount_linux.go.
const HELPERS: [(&str, &str); 2] = [("fuse3.", "mount.fuse3"), ("fuse.", "mount.fuse")];
/// How long a FUSE server may take until its mount is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program for a type, and the type's name for it.
#[must_use]
pub fn of(kind: &str) -> Option<(&'static str, &str)> {
    HELPERS.iter().find_map(|(prefix, program)| kind.strip_prefix(prefix).map(|kind| (*program, kind)))
}

/// Runs `mount.fuse3 SOURCE TARGET -o … -t KIND` and waits for the mount: the program stays as the server.
///
/// # Errors
/// A missing program; one that ends with an error; no mount within 30 s.
pub fn run((program, kind): (&str, &str), one: &Mount, target: &Path) -> io::Result<()> {
    let before = std::fs::metadata(target)?.dev();
    let mut command = Command::new(program);
    command.arg(&one.source).arg(target);
    for option in &one.options {
        command.arg("-o").arg(option);
    }
    command.arg("-t").arg(kind).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child =
        command.spawn().map_err(|e| io::Error::new(e.kind(), format!("mount helper {program}: {e}")))?;
    let until = Instant::now() + PATIENCE;
    loop {
        if std::fs::metadata(target).is_ok_and(|now| now.dev() != before) {
            return Ok(());
        }
        match child.try_wait()? {
            Some(status) if !status.success() => {
                return Err(io::Error::other(format!("mount helper {program}: {status}")));
            }
            _ if Instant::now() >= until => {
                // It may have ended by itself.
                let _ = child.kill();
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("mount helper {program}")));
            }
            // The server tells nobody when it is ready.
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A loop device for a file; it goes with its mount.
///
/// # Errors
/// As [`loopdev::attach`], and those of opening the file.
pub fn loop_device(source: &Path, parsed: &Parsed) -> io::Result<(std::fs::File, PathBuf)> {
    let read_only = MsFlags::from_bits_retain(parsed.flags).contains(MsFlags::MS_RDONLY);
    let file = OpenOptions::new().read(true).write(!read_only).open(source)?;
    let access = if read_only { LoopAccess::ReadOnly } else { LoopAccess::ReadWrite };
    loopdev::attach(file.as_fd(), access)
}
