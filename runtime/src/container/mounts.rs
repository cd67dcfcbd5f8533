//! What mounts need from outside the container's user namespace: id-mapped trees, and sources behind
//! directories that the namespace's ids can't pass.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::idmap;
use crate::init::{Context, Failure, PreparedMounts};
use crate::plan::{IdMaps, Mount, MountIdMap, MountSource, MountUserns, Plan, Step, SwitchRoot, attr};
use crate::rootfs::{Prepared, open_source};
use crate::sys::mount::{MountAttr, Reach, mount_setattr};
use crate::sys::prctl;
use crate::sys::process::{Fork, WaitFor, WaitMode, clone3, exit_now, pidfd_send_signal, wait};

/// Where the mounts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// In a copy of the host's mount namespace: paths mean there what they mean here.
    HostCopy,
    /// The same, in a new user namespace: its ids may not pass every directory.
    UserNamespace,
    /// In the host's mount namespace itself: its mounts are no slaves there.
    Host,
    /// In a container that runs: no path of the host exists there.
    Container,
}

/// Opens what the mounts of a plan need. Descriptors close at exec and are inherited by init.
///
/// # Errors
/// When ids can't be mapped; a source that can't be opened is left to init, whose error says more.
pub(super) fn prepare(plan: &Plan) -> Result<PreparedMounts, Failure> {
    let mounts = plan.steps.iter().filter_map(|step| match step {
        Step::Mount(mount) => Some(mount),
        _ => None,
    });
    let has = |wanted: fn(&Step) -> bool| plan.steps.iter().any(wanted);
    let from = match () {
        () if has(|step| matches!(step, Step::BecomeRoot(_))) => From::UserNamespace,
        () if has(|step| matches!(step, Step::SwitchRoot(SwitchRoot::Chroot))) => From::Host,
        () => From::HostCopy,
    };
    prepare_mounts(mounts, from)
}

/// As [`prepare`] for a list of mounts.
///
/// # Errors
/// As [`prepare`]; for a running container also when a source can't be opened.
pub(super) fn prepare_mounts<'a>(
    mounts: impl Iterator<Item = &'a Mount>,
    from: From,
) -> Result<PreparedMounts, Failure> {
    let mut namespaces = Namespaces::default();
    let mut prepared = PreparedMounts::new();
    for mount in mounts {
        let one = match (&mount.idmap, &mount.source) {
            (_, MountSource::Bind { path, .. }) if mount.options.links.copy && is_link(path) => {
                let target = nix::fcntl::readlink(path).during("read link", || path.display().to_string())?;
                Some(Prepared::Link(target.into()))
            }
            (Some(map), MountSource::Bind { path, reach }) => {
                let userns = namespaces.get(&map.userns).map_err(|failure| at(mount, failure))?;
                Some(Prepared::Source(map_ids(mount, path, *reach, map, userns)?))
            }
            (Some(map), _) => {
                let userns = namespaces.get(&map.userns).map_err(|failure| at(mount, failure))?;
                Some(Prepared::UserNamespace(userns.try_clone().during("map ids", String::new)?))
            }
            (None, MountSource::Bind { path, reach }) => open_bind(mount, path, *reach, from)?,
            _ => None,
        };
        prepared.push(one);
    }
    Ok(prepared)
}

fn open_bind(mount: &Mount, path: &Path, reach: Reach, from: From) -> Result<Option<Prepared>, Failure> {
    let open = || {
        let tree = open_source(path, reach, mount.options.links)?;
        make_slave(&tree).map(|()| tree)
    };
    match from {
        From::HostCopy => Ok(None),
        // If it can't be opened here, init finds that out too.
        From::UserNamespace if nix::unistd::geteuid().is_root() => Ok(open().ok().map(Prepared::HostTree)),
        From::UserNamespace => Ok(None),
        // A slave: else what is mounted in it would show at its source. Before kernel 5.12 only what is attached can
        // be made one, which would be too late.
        From::Host => match open() {
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
                let needs = "a bind without a mount namespace needs mount_setattr(2), kernel 5.12";
                Err(Failure::new("open source", path.display().to_string(), &e).with_detail(needs))
            }
            tree => Ok(tree.ok().map(Prepared::Source)),
        },
        From::Container => {
            let name = || path.display().to_string();
            let tree = open().during("open source", name).map_err(|failure| match failure.errno {
                // A bind that is attached before it is changed would be there without its options for a moment, for
                // all that runs in the container.
                libc::ENOSYS => {
                    failure.with_detail("a bind into a running container needs mount_setattr(2), kernel 5.12")
                }
                _ => failure,
            })?;
            Ok(Some(Prepared::Source(tree)))
        }
    }
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// What is opened here are the host's mounts: without this, what is mounted in the container would show on the
/// host.
fn make_slave(tree: &OwnedFd) -> io::Result<()> {
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), &slave, Reach::Tree)
}

fn at(mount: &Mount, failure: Failure) -> Failure {
    let detail = format!("{} {}: {}", failure.step, failure.object, failure.detail);
    let detail = detail.trim_end_matches([':', ' ']).to_owned();
    Failure {
        step: "id-mapped mount".into(),
        object: mount.destination.display().to_string(),
        errno: failure.errno,
        detail,
    }
}

fn map_ids(
    mount: &Mount,
    path: &Path,
    reach: Reach,
    map: &MountIdMap,
    userns: &OwnedFd,
) -> Result<OwnedFd, Failure> {
    let source = || path.display().to_string();
    if !nix::unistd::geteuid().is_root() {
        let words = "id-mapped mounts are not supported for rootless containers";
        return Err(Failure::other("mount", source(), words));
    }
    let tree = open_source(path, reach, mount.options.links)
        .during("open source", source)
        .map_err(|failure| at(mount, failure))?;
    make_slave(&tree).during("make slave", source).map_err(|failure| match failure.errno {
        libc::ENOSYS => at(mount, failure.with_detail("id-mapped mounts need mount_setattr(2), kernel 5.12")),
        _ => failure,
    })?;
    let userns_fd = u64::from(userns.as_raw_fd().unsigned_abs());
    let attr = MountAttr { set: attr::IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), &attr, map.reach).map_err(|error| {
        let failure = at(mount, Failure::new("map ids of", source(), &error));
        match (error.raw_os_error(), filesystem(path)) {
            (Some(libc::EINVAL), Some(kind)) => {
                let tree = if map.reach == Reach::Tree { " or one below it" } else { "" };
                failure.with_detail(format!(
                    "{}: its filesystem {kind}{tree} does not support id-mapped mounts",
                    source()
                ))
            }
            (Some(libc::EPERM), _) => failure
                .with_detail(format!("{}: its ids are mapped already, or not davit's to map", source())),
            _ => failure,
        }
    })?;
    Ok(tree)
}

/// Type of the filesystem that holds a path: by its mount's line in the mount table.
fn filesystem(path: &Path) -> Option<String> {
    let fd = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|line| line.split(' ').next() == Some(id))?;
    line.split_once(" - ")?.1.split(' ').next().map(str::to_owned)
}

/// User namespaces for id-mapped mounts; equal maps share one.
#[derive(Debug, Default)]
struct Namespaces {
    made: Vec<(IdMaps, OwnedFd)>,
    opened: Option<OwnedFd>,
}

impl Namespaces {
    fn get(&mut self, wanted: &MountUserns) -> Result<&OwnedFd, Failure> {
        match wanted {
            // A container joins one user namespace at most.
            MountUserns::Path(path) => {
                if self.opened.is_none() {
                    self.opened = Some(open(path)?);
                }
                self.opened.as_ref()
            }
            MountUserns::Maps(maps) => {
                if !self.made.iter().any(|(made, _)| made == maps) {
                    self.made.push((maps.clone(), user_namespace(maps)?));
                }
                self.made.iter().find(|(made, _)| made == maps).map(|(_, fd)| fd)
            }
        }
        .ok_or_else(|| Failure::other("make user namespace", "", "not made"))
    }
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .during("open user namespace", || path.display().to_string())
}

/// A user namespace with these maps, which lives as long as its descriptor: made by a child that only waits to
/// be killed.
///
/// # Errors
/// EPERM, EINVAL for maps that overlap.
pub fn user_namespace(maps: &IdMaps) -> Result<OwnedFd, Failure> {
    let during = "make user namespace";
    let parent = std::process::id() as i32;
    match clone3(libc::CLONE_NEWUSER as u64, None).during(during, String::new)? {
        Fork::Child => {
            while prctl::die_with(parent).is_ok() {
                nix::unistd::pause();
            }
            exit_now(1)
        }
        Fork::Parent { pid, pidfd } => {
            let result =
                idmap::write(pid, maps).and_then(|()| open(Path::new(&format!("/proc/{pid}/ns/user"))));
            pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL).during(during, String::new)?;
            wait(WaitFor::Pidfd(pidfd.as_fd()), WaitMode::Block).during(during, String::new)?;
            result
        }
    }
}
