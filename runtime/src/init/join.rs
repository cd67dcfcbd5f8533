//! Joining namespaces by path.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxNamespaceType;

use super::{Context, Failure};
use crate::plan::{Join, KeptGroups};
use crate::sys::process::{namespace_type, setns};

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
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
            let fd = nix::fcntl::open(&join.path, flags, Mode::empty())
                .during(&format!("open {} namespace", join.kind), || &path)?;
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
