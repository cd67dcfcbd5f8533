//! Joining namespaces by path.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxNamespaceType;

use super::{Context, Failure};
use crate::path::{ProcFs, host};
use crate::plan::{Join, KeptGroups};
use crate::sys::process::{namespace_type, pidfd_send_signal, setns};

/// A namespace file, open.
#[derive(Debug)]
pub struct Opened {
    kind: LinuxNamespaceType,
    path: String,
    fd: OwnedFd,
}

/// Opens every namespace before any is joined: a mount namespace changes what the other paths mean.
///
/// # Errors
/// ENOENT, EACCES.
pub fn open_namespaces(joins: &[Join]) -> Result<Vec<Opened>, Failure> {
    joins
        .iter()
        .map(|join| {
            let path = join.path.display().to_string();
            let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
            let fd =
                host::open(&join.path, flags).during(&format!("open {} namespace", join.kind), || &path)?;
            Ok(Opened { kind: join.kind, path, fd })
        })
        .collect()
}

/// Joins namespaces: those that the host's user namespace owns first, then the user namespace, then those
/// that it owns (rule 7; runc #4492). Which is which shows by trying.
///
/// # Errors
/// EINVAL when a file is a namespace of another kind; EPERM.
pub fn join_namespaces(all: &[Opened]) -> Result<(), Failure> {
    let (user, others): (Vec<_>, Vec<_>) = all.iter().partition(|ns| ns.kind == LinuxNamespaceType::User);
    let mut later = Vec::new();
    for ns in others {
        match enter(ns) {
            Err(failure) if failure.errno == libc::EPERM && !user.is_empty() => later.push(ns),
            other => other?,
        }
    }
    for ns in user {
        enter(ns)?;
        // Groups are cleared, or not, by the step of the same name.
        super::identity::become_root(KeptGroups::All)?;
    }
    later.into_iter().try_for_each(enter)
}

/// Files below `/proc/PID/ns`, mount namespaces last: they change what paths mean.
const FILES: [(LinuxNamespaceType, &str); 8] = [
    (LinuxNamespaceType::User, "user"),
    (LinuxNamespaceType::Pid, "pid"),
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
    (LinuxNamespaceType::Cgroup, "cgroup"),
    (LinuxNamespaceType::Time, "time"),
    (LinuxNamespaceType::Mount, "mnt"),
];

/// Enters namespaces of a process, named by CLONE_NEW* flags: by its pidfd at once, or, where setns(2) takes none
/// (EINVAL before kernel 5.8), by their files below /proc one after the other.
///
/// # Errors
/// EPERM; ESRCH when the process has ended.
pub fn join_process(process: BorrowedFd<'_>, flags: libc::c_int, proc: &ProcFs) -> Result<(), Failure> {
    match setns(process, flags) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => join_namespaces(&files_of(process, flags, proc)?),
        other => other.during("join namespaces of", || "container"),
    }
}

fn files_of(process: BorrowedFd<'_>, flags: libc::c_int, proc: &ProcFs) -> Result<Vec<Opened>, Failure> {
    let step = "open namespaces of";
    let name = || "container";
    let pid = pidfd_pid(process, proc)?;
    let flag_dir = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let dir = proc.open(Path::new(&format!("{pid}/ns")), flag_dir).during(step, name)?;
    let wanted = FILES.iter().filter(|(kind, _)| flags & *kind as libc::c_int != 0);
    let opened = wanted.map(|(kind, file)| {
        // Magic links, and meant to be followed.
        let fd = openat(&dir, *file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).during(step, name)?;
        Ok(Opened { kind: *kind, path: format!("/proc/{pid}/ns/{file}"), fd })
    });
    let opened = opened.collect::<Result<_, Failure>>()?;
    // It lives still, so they were not those of a later process with its pid.
    pidfd_send_signal(process, 0).during(step, name)?;
    Ok(opened)
}

/// The pid behind a pidfd, by its fdinfo (kernel 5.3).
///
/// # Errors
/// When it has ended, or is in no pid namespace of ours.
pub fn pidfd_pid(pidfd: BorrowedFd<'_>, proc: &ProcFs) -> Result<i32, Failure> {
    let path = format!("self/fdinfo/{}", pidfd.as_raw_fd());
    let mut text = String::new();
    let read = |fd| File::from(fd).read_to_string(&mut text);
    proc.open(Path::new(&path), OFlag::O_RDONLY).and_then(read).during("read", || &path)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| Failure::other("read", path, "no pid"))
}

fn enter(ns: &Opened) -> Result<(), Failure> {
    // The enum's discriminants are the CLONE_NEW* flags; the kernel checks the kind.
    setns(ns.fd.as_fd(), ns.kind as libc::c_int)
        .during(&format!("join {} namespace", ns.kind), || &ns.path)
        .map_err(|failure| explain(ns, failure))
}

/// What EINVAL means (setns(2)).
fn explain(ns: &Opened, failure: Failure) -> Failure {
    if failure.errno != libc::EINVAL {
        return failure;
    }
    let word = match namespace_type(ns.fd.as_fd()) {
        Err(_) => "the path is not a namespace",
        Ok(kind) if kind == ns.kind as libc::c_int => "the runtime is in this namespace, or may not join it",
        Ok(_) => "the path is a namespace of another type",
    };
    failure.with_detail(format!("linux.namespaces: {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::pidfd_open;

    #[test]
    fn the_pid_behind_a_pidfd() {
        let own = std::process::id() as i32;
        let (pidfd, proc) = (pidfd_open(own).unwrap(), ProcFs::host().unwrap());
        assert_eq!(pidfd_pid(pidfd.as_fd(), &proc).unwrap(), own);
    }

    #[test]
    fn namespaces_of_a_process_by_their_files() {
        let own = std::process::id() as i32;
        let (pidfd, proc) = (pidfd_open(own).unwrap(), ProcFs::host().unwrap());
        let flags = libc::CLONE_NEWNS | libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
        let kinds: Vec<_> = files_of(pidfd.as_fd(), flags, &proc)
            .unwrap()
            .iter()
            .map(|ns| (ns.kind, namespace_type(ns.fd.as_fd()).unwrap()))
            .collect();
        let wanted = [LinuxNamespaceType::User, LinuxNamespaceType::Network, LinuxNamespaceType::Mount];
        assert_eq!(kinds, wanted.map(|kind| (kind, kind as i32)));
    }
}
