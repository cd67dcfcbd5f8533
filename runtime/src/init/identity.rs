//! Who the program is: limits, ids, groups, capabilities, working directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{chdir, getcwd};

use super::{Context, Failure};
use crate::path::{Create, ProcFs, RootDir};
use crate::plan::{Identity, KeptGroups};
use crate::security::capabilities;
use crate::sys::prctl;
use crate::sys::process::{RLimit, Resource, prlimit, set_gid, set_uid, setgroups};

/// Uid and gid 0 of the user namespace, before anything in it is touched (rule 7, runc #4466).
///
/// # Errors
/// EINVAL when 0 is not mapped.
pub fn become_root(groups: KeptGroups) -> Result<(), Failure> {
    if groups == KeptGroups::None {
        match setgroups(&[]) {
            // A namespace made without privilege denies setgroups(2) (user_namespaces(7)).
            Err(e) if e.raw_os_error() != Some(libc::EPERM) => {
                return Err(e).during("clear groups", String::new);
            }
            _ => {}
        }
    }
    set_gid(0).during("become group 0 of the user namespace", String::new)?;
    set_uid(0).during("become user 0 of the user namespace", String::new)?;
    // Changing ids has made the process dumpable again (prctl(2), PR_SET_DUMPABLE).
    prctl::set_dumpable(false).during("make undumpable", String::new)
}

/// Sets limits of a process; pid 0 is the caller.
///
/// # Errors
/// EPERM when a hard limit is raised without CAP_SYS_RESOURCE.
pub fn set_rlimits(pid: i32, limits: &[(Resource, RLimit)]) -> Result<(), Failure> {
    limits.iter().try_for_each(|(number, limit)| {
        prlimit(pid, *number, *limit).during("set resource limit", || {
            format!("{} to {} (hard {})", limit_name(*number), limit.soft, limit.hard)
        })
    })
}

/// The name of an RLIMIT_* number.
#[must_use]
pub fn limit_name(number: Resource) -> &'static str {
    /// RLIMIT_* in the kernel's order (`asm-generic/resource.h`).
    const NAMES: [&str; 16] = [
        "RLIMIT_CPU",
        "RLIMIT_FSIZE",
        "RLIMIT_DATA",
        "RLIMIT_STACK",
        "RLIMIT_CORE",
        "RLIMIT_RSS",
        "RLIMIT_NPROC",
        "RLIMIT_NOFILE",
        "RLIMIT_MEMLOCK",
        "RLIMIT_AS",
        "RLIMIT_LOCKS",
        "RLIMIT_SIGPENDING",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_RTPRIO",
        "RLIMIT_RTTIME",
    ];
    NAMES.get(number as usize).copied().unwrap_or("RLIMIT_?")
}

/// personality(2).
///
/// # Errors
/// EINVAL for a domain that the kernel does not know.
pub fn set_personality(domain: u32) -> Result<(), Failure> {
    let persona = nix::sys::personality::Persona::from_bits_retain(domain as libc::c_int);
    nix::sys::personality::set(persona).map(drop).during("set personality", || format!("{domain:#x}"))
}

/// Becomes the program's user, in the order that capabilities(7) needs (rule 10): bounding set, groups,
/// ids with capabilities kept, final sets.
///
/// # Errors
/// EPERM, EINVAL for an id that the user namespace does not map.
pub fn assume(identity: &Identity, proc: &ProcFs) -> Result<(), Failure> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(identity.umask));
    // runc: as root first, since the user may lack the right to a parent; again as the user, whose home
    // may be on a file system that keeps root out.
    let as_root = change_directory(&identity.cwd);
    let sets = &identity.capabilities;
    capabilities::drop_bounding(sets).during("drop bounding capabilities", String::new)?;
    prctl::set_keepcaps(true).during("keep capabilities", String::new)?;
    if let Some(groups) = &identity.groups {
        match setgroups(groups) {
            // No groups to lose: the user namespace denies setgroups(2).
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && groups.is_empty() => {}
            // The caller is root of such a namespace (Podman without ranges). As runc; an ordinary user was
            // told before anything was made.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) && groups_are_denied(proc) => {
                log::warn!("additional groups {groups:?} are not set: the user namespace denies setgroups");
            }
            other => other.during("set additional groups", || format!("{groups:?}"))?,
        }
    }
    set_gid(identity.gid).during("set gid", || identity.gid.to_string())?;
    set_uid(identity.uid).during("set uid", || identity.uid.to_string())?;
    if as_root.is_err() {
        change_directory(&identity.cwd)
            .during("chdir to cwd", || format!("({:?}) set in config.json failed", identity.cwd))?;
    }
    verify_cwd()?;
    prctl::set_keepcaps(false).during("keep capabilities", String::new)?;
    capabilities::apply(sets).during("apply capabilities", String::new)?;
    // Changing ids has made the process dumpable; until exec it still holds the runtime's descriptors.
    prctl::set_dumpable(false).during("make undumpable", String::new)
}

#[allow(
    clippy::disallowed_methods,
    reason = "looked up as the program would; where it led is verified (verify_cwd)"
)]
fn change_directory(cwd: &Path) -> nix::Result<()> {
    chdir(cwd)
}

/// Whether the user namespace denies setgroups(2) (user_namespaces(7), kernel 3.19).
fn groups_are_denied(proc: &ProcFs) -> bool {
    let mut text = String::new();
    let file = proc.open(Path::new("self/setgroups"), OFlag::O_RDONLY).map(File::from);
    file.and_then(|mut file| file.read_to_string(&mut text)).is_ok() && text.trim_end() == "deny"
}

/// Makes the working directory of a new container, mode 0755. `exec` does not: a wrong one is an error.
///
/// # Errors
/// ENOSPC, ENOTDIR.
pub fn make_cwd(root: &RootDir, cwd: &Path) -> Result<(), Failure> {
    if cwd == Path::new("/") {
        return Ok(());
    }
    match root.ensure(cwd, Create::Directory) {
        Ok(_) => Ok(()),
        // Through a magic link (cwd below /proc/self/fd, CVE-2024-21626), or not to be made: chdir and
        // the check of where it led decide.
        Err(e)
            if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::EACCES | libc::EROFS | libc::EEXIST)) =>
        {
            Ok(())
        }
        Err(e) => Err(e).during("make cwd", || cwd.display().to_string()),
    }
}

/// The working directory must be below the root: a leaked descriptor could have led out of it
/// (CVE-2024-21626), and then getcwd(2) says so.
fn verify_cwd() -> Result<(), Failure> {
    match getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(_) | Err(Errno::ENOENT) => Err(Failure::other(
            "current working directory is outside of container mount namespace root",
            "",
            "possible container breakout",
        )),
        Err(e) => Err(e).during("verify working directory", String::new),
    }
}
