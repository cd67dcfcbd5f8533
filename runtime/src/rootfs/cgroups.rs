//! The container's view of its cgroups: the `cgroup` mount of the config.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::AT_FDCWD;

use super::filesystem::New;
use super::mounts::{Site, adjust, remount_attrs};
use crate::init::{Context, Failure};
use crate::path::{Create, RootDir};
use crate::plan::{Attrs, CgroupView, Mount, Options, attr};
use crate::sys::mount::{
    MountAttr, Reach, clone_tree, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount, fsopen,
};

/// What a v1 hierarchy shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Show {
    /// The root of the cgroup namespace.
    Namespace,
    /// A bind of the container's directory.
    OwnDirectory,
}

/// cgroup v2: the host's own mount where the plan names it and it can be had, else a new one.
pub(super) fn v2(
    site: Site<'_>,
    mount: &Mount,
    host_mount: Option<&Path>,
    host_dir: Option<&Path>,
    readonly: bool,
) -> Result<(), Failure> {
    match host_mount.map_or(Ok(false), |path| v2_of_host(site, mount, path))? {
        true => Ok(()),
        false => v2_anew(site, mount, host_dir, readonly),
    }
}

/// cgroup v2 as the host has it mounted, which changes nothing there. False, and nothing is done, where its mount can't be
/// cloned (EINVAL: it is unbindable, or has mounts on it that another user namespace has locked).
fn v2_of_host(site: Site<'_>, mount: &Mount, host_mount: &Path) -> Result<bool, Failure> {
    let name = || host_mount.display().to_string();
    let path = crate::sys::cstring(host_mount).during("bind", name)?;
    let tree = match clone_tree(AT_FDCWD, &path, Reach::One) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
        tree => tree.during("bind", name)?,
    };
    let target =
        site.root.ensure(&mount.destination, Create::Directory).during("make mount point", String::new)?;
    site.change.attach(&tree, target.as_fd(), |tree| {
        // No peer of the host's, as a mount of its own would be none.
        let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        site.change.set(tree, &private, Reach::One).during("make private", name)?;
        remount_attrs(site.change, tree, &mount.options)?;
        adjust(site.change, tree, &mount.options)
    })?;
    Ok(true)
}

/// In a cgroup namespace the mount shows the container's directory as its root.
fn v2_anew(site: Site<'_>, mount: &Mount, host_dir: Option<&Path>, readonly: bool) -> Result<(), Failure> {
    let target =
        site.root.ensure(&mount.destination, Create::Directory).during("make mount point", String::new)?;
    let new = New { kind: c"cgroup2", source: c"cgroup", label: None, mode: None };
    let mut kept = 0;
    let tree = match (new.mount(&mount.options), host_dir) {
        // A user namespace that does not own the cgroup namespace may not mount it (runc #2158). It gets to
        // see its own directory and nothing of the others'.
        (Err(failure), Some(dir)) if matches!(failure.errno, libc::EPERM | libc::EBUSY) => {
            let name = || dir.display().to_string();
            let dir = crate::sys::cstring(dir).during("bind", name)?;
            let (tree, attrs) = match clone_tree(AT_FDCWD, &dir, Reach::One) {
                // Rootless without a cgroup: nothing is to be seen, as with runc, not even by a /sys that was bound.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    let empty = New {
                        kind: c"tmpfs",
                        source: c"tmpfs",
                        label: mount.label.as_deref(),
                        mode: Some(0o755),
                    };
                    (empty.mount(&Options::default())?, attr::RDONLY)
                }
                tree => (tree.during("bind", name)?, mount.options.mount_attrs()),
            };
            kept = attrs;
            tree
        }
        (result, _) => result?,
    };
    if readonly {
        // What is above the container's directory belongs to others (CVE-2023-25809).
        kept |= attr::RDONLY;
    }
    site.change.attach(&tree, target.as_fd(), |tree| {
        site.change.keep(tree, kept, Reach::One)?;
        adjust(site.change, tree, &mount.options)
    })
}

/// A tmpfs with one directory for each v1 hierarchy, and links for joint controllers (cpu → cpu,cpuacct).
pub(super) fn v1(
    site: Site<'_>,
    mount: &Mount,
    views: &[CgroupView],
    show: Show,
    readonly: bool,
) -> Result<(), Failure> {
    let readonly = readonly || mount.options.readonly();
    let flags = mount.options.mount_attrs() & (attr::NOSUID | attr::NODEV | attr::NOEXEC);
    let target =
        site.root.ensure(&mount.destination, Create::Directory).during("make mount point", String::new)?;
    let new = New { kind: c"tmpfs", source: c"tmpfs", label: mount.label.as_deref(), mode: Some(0o755) };
    let tmpfs = new.mount(&Options::default())?;
    let dir = RootDir::new(tmpfs.try_clone().during("clone descriptor of", || "tmpfs")?);
    site.change.attach(&tmpfs, target.as_fd(), |tmpfs| {
        site.change.attrs(tmpfs, Attrs { set: flags, clear: 0 }, Reach::One)
    })?;
    for view in views {
        let (tree, bound) = match show {
            Show::Namespace => match cgroup_v1_tree(view, flags) {
                // A user namespace that does not own the cgroup namespace may not mount it.
                Err(failure) if failure.errno == libc::EPERM => (cgroup_v1_bind(view)?, true),
                other => (other?, false),
            },
            Show::OwnDirectory => (cgroup_v1_bind(view)?, true),
        };
        let kept = if readonly { flags | attr::RDONLY } else { flags };
        let at =
            dir.ensure(Path::new(&view.name), Create::Directory).during("make mount point", || &view.name)?;
        site.change.attach(&tree, at.as_fd(), |tree| {
            site.change.keep(tree, kept, Reach::One)?;
            // Without a mount namespace what was bound is the host's peer.
            let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
            let made = if bound { site.change.set(tree, &slave, Reach::One) } else { Ok(()) };
            made.during("make slave", || &view.name)
        })?;
        for link in view.controllers.iter().filter(|c| **c != view.name && !c.contains('=')) {
            nix::unistd::symlinkat(view.name.as_str(), dir.as_fd(), link.as_str()).during("link", || link)?;
        }
    }
    if readonly {
        site.change.attrs(tmpfs.as_fd(), Attrs { set: attr::RDONLY, clear: 0 }, Reach::One)?;
    }
    Ok(())
}

/// In a cgroup namespace the hierarchy is mounted anew and shows the container's directory as its root.
fn cgroup_v1_tree(view: &CgroupView, flags: u64) -> Result<OwnedFd, Failure> {
    let context = fsopen(c"cgroup").during("fsopen", || "cgroup")?;
    // Without a source the mount table says "none"; runc's has these names.
    let source = if view.name == "systemd" { c"systemd" } else { c"cgroup" };
    fsconfig_string(context.as_fd(), c"source", source).during("fsconfig", || "source")?;
    for option in &view.controllers {
        let set = match option.split_once('=') {
            Some((key, value)) => {
                let text = |t: &str| {
                    std::ffi::CString::new(t).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
                };
                text(key).and_then(|key| fsconfig_string(context.as_fd(), &key, &text(value)?))
            }
            None => std::ffi::CString::new(option.as_str())
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
                .and_then(|key| fsconfig_flag(context.as_fd(), &key)),
        };
        set.during("fsconfig", || option)?;
    }
    fsconfig_create(context.as_fd()).during("create filesystem cgroup", || &view.name)?;
    fsmount(context.as_fd(), flags).during("fsmount cgroup", || &view.name)
}

/// Without one, the directory that the container's processes are in is bound.
fn cgroup_v1_bind(view: &CgroupView) -> Result<OwnedFd, Failure> {
    let clone = |dir: &Path| clone_tree(AT_FDCWD, &crate::sys::cstring(dir)?, Reach::One);
    let tree = match (clone(&view.host_dir), &view.own_dir) {
        // Not made, for lack of rights (rootless).
        (Err(e), Some(own)) if e.raw_os_error() == Some(libc::ENOENT) => clone(own),
        (result, _) => result,
    };
    tree.during("open", || view.host_dir.display().to_string())
}
