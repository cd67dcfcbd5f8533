//! Device rules on cgroup v2: an eBPF program attached to the cgroup.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::When;
use super::program;
use super::rules::Rules;
use crate::cgroup::dir::Dir;
use crate::cgroup::error::Error;
use crate::cgroup::layout::errno_of;
use crate::sys::bpf;
use crate::sys::process::{RLimit, prlimit};

/// Name of our programs, by which an update finds the one to replace.
const NAME: &CStr = c"davit_device";

/// Loads the program for `rules` and attaches it, in the place of the one before.
pub(super) fn set(dir: &Dir, rules: &Rules, when: When) -> Result<(), Error> {
    let error =
        |action| move |e: io::Error| Error::Bpf { action, dir: dir.path().to_owned(), errno: errno_of(&e) };
    let program = load(&program::build(rules)).map_err(error("load"))?;
    let old = match when {
        When::New => None,
        When::InUse => find_old(dir).map_err(error("query"))?,
    };
    attach(dir, &program, old.as_ref()).map_err(error("attach"))
}

/// In one step since kernel 5.6; before it (EINVAL) both are attached for a moment, in which only what both allow
/// is allowed.
fn attach(dir: &Dir, program: &OwnedFd, old: Option<&OwnedFd>) -> io::Result<()> {
    match (bpf::attach_device_program(dir.as_fd(), program.as_fd(), old.map(AsFd::as_fd)), old) {
        (Err(e), Some(old)) if errno_of(&e) == Errno::EINVAL => {
            bpf::attach_device_program(dir.as_fd(), program.as_fd(), None)?;
            bpf::detach_device_program(dir.as_fd(), old.as_fd())
        }
        (result, _) => result,
    }
}

/// Before kernel 5.11 programs are charged to RLIMIT_MEMLOCK, and above it the load fails with EPERM.
fn load(program: &[bpf::Insn]) -> io::Result<OwnedFd> {
    let first = match bpf::load_device_program(program, NAME) {
        Err(e) if errno_of(&e) == Errno::EPERM => e,
        result => return result,
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    // musl and glibc give the constant different types, which sys names.
    let memlock = Resource::RLIMIT_MEMLOCK as crate::sys::process::Resource;
    if soft == libc::RLIM_INFINITY
        || prlimit(0, memlock, RLimit { soft: libc::RLIM_INFINITY, hard: libc::RLIM_INFINITY }).is_err()
    {
        return Err(first);
    }
    let second = bpf::load_device_program(program, NAME);
    // The container must not inherit the raised limit.
    prlimit(0, memlock, RLimit { soft, hard })?;
    second
}

/// The program that an earlier create or update attached: davit's by its name, else runc's, which has none.
/// Others (systemd's `sd_devices`) stay and have their say beside ours.
fn find_old(dir: &Dir) -> io::Result<Option<OwnedFd>> {
    let mut unnamed = None;
    for id in bpf::attached_device_programs(dir.as_fd())? {
        let program = match bpf::program_by_id(id) {
            Err(e) if errno_of(&e) == Errno::ENOENT => continue,
            program => program?,
        };
        match bpf::program_name(program.as_fd())? {
            name if name == NAME.to_bytes() => return Ok(Some(program)),
            name if name.is_empty() => unnamed = Some(program),
            _ => {}
        }
    }
    Ok(unnamed)
}
