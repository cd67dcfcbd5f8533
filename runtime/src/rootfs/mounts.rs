//! One mount of config.json, by the new mount API (kernel 5.2, mount_setattr 5.12).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, readlinkat};
use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::symlinkat;

use super::Change;
use super::cgroups::{self, Show};
use super::filesystem::{New, reconfigure, target};
use crate::init::{Context, Failure};
use crate::path::{Create, ProcFs, RootDir};
use crate::plan::{Attrs, Links, Mount, MountSource, Options, attr};
use crate::sys::fs::mount_flags;
use crate::sys::mount::{MountAttr, Reach, clone_link, clone_tree};

/// What the runtime opened for a mount, before the container's process was made: things that a user namespace
/// has no rights to.
#[derive(Debug)]
pub enum Prepared {
    /// The bind's source: its ids are mapped, or its path means something else where init is.
    Source(OwnedFd),
    /// What the link at the bind's source says, for `copy-symlink`.
    Link(PathBuf),
    /// The user namespace that maps the ids of a new filesystem.
    UserNamespace(OwnedFd),
    /// The bind's source, should the container's user namespace have no access to its path.
    HostTree(OwnedFd),
}

/// Files below /proc that may be mounted over, as runc allows (they are lxcfs's and checkpoint tools').
const PROC_MOUNTS: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
];

/// Whose paths the process sees that makes a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// The host's: its root has not changed yet.
    Host,
    /// The container's, which may lead anywhere: no path is opened but in its root.
    Container,
}

/// Where mounts are made.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The container's root.
    pub root: &'a RootDir,
    /// The host's procfs.
    pub proc: &'a ProcFs,
    /// How they are changed.
    pub change: &'a Change,
    /// What other paths mean.
    pub paths: Paths,
}

/// Makes one mount. Returns the root of what was mounted, for a bind and for a new filesystem.
///
/// # Errors
/// A failure in runc's words: `error mounting "proc" to rootfs at "/proc": …`.
pub fn mount(site: Site<'_>, mount: &Mount, prepared: Option<Prepared>) -> Result<Option<OwnedFd>, Failure> {
    let result = match &mount.source {
        MountSource::Bind { path, reach } => bind(site, mount, path, *reach, prepared),
        MountSource::Filesystem { kind, source } => filesystem(site, mount, kind, source, prepared).map(Some),
        MountSource::CgroupV1 { views, namespaced, readonly } => {
            let show = if *namespaced { Show::Namespace } else { Show::OwnDirectory };
            cgroups::v1(site, mount, views, show, *readonly).map(|()| None)
        }
        MountSource::CgroupV2 { host_mount, host_dir, readonly } => {
            cgroups::v2(site, mount, host_mount.as_deref(), host_dir.as_deref(), *readonly).map(|()| None)
        }
        MountSource::RemountBind | MountSource::RemountFilesystem => remount(site, mount).map(|()| None),
    };
    result.map_err(|failure| {
        let source = match &mount.source {
            MountSource::Bind { path, .. } => path.display().to_string(),
            MountSource::Filesystem { source, .. } => source.to_string_lossy().into_owned(),
            MountSource::CgroupV1 { .. } | MountSource::CgroupV2 { .. } => "cgroup".to_owned(),
            MountSource::RemountBind | MountSource::RemountFilesystem => "remount".to_owned(),
        };
        let object = format!("{source:?} to rootfs at {:?}", mount.destination.display().to_string());
        let part = format!("{} {}", failure.step, failure.object);
        let detail = match (part.trim_end(), failure.detail.as_str()) {
            (part, "") => part.to_owned(),
            (part, detail) => format!("{part}: {detail}"),
        };
        Failure { step: "error mounting".into(), object, errno: failure.errno, detail }
    })
}

/// A new filesystem of this type.
fn filesystem(
    site: Site<'_>,
    mount: &Mount,
    kind: &CStr,
    source: &CStr,
    prepared: Option<Prepared>,
) -> Result<OwnedFd, Failure> {
    let (root, options) = (site.root, &mount.options);
    let (target, mode) = if kind == c"proc" || kind == c"sysfs" {
        (real_directory(root, &mount.destination, kind)?, None)
    } else {
        target(root, kind, &mount.destination)?
    };
    if kind != c"proc" {
        check_not_in_proc(&mount.destination, target.as_fd(), Covers::Filesystem)?;
    }
    let new = New { kind, source, label: mount.label.as_deref(), mode };
    if options.has_long_data() {
        new.mount2(options, target.as_fd(), site.proc)?;
        // mount(2) gives no descriptor of what it made.
        let made = root.open(&mount.destination, OFlag::O_PATH).during("open mount", String::new)?;
        return adjust(site.change, made.as_fd(), options).map(|()| made);
    }
    let mut kept = 0;
    let tree = match new.mount(options) {
        // A user namespace may mount these only if it owns the network and the pid namespace (crun #2178).
        Err(failure)
            if failure.errno == libc::EPERM && site.paths == Paths::Host && host_view(kind).is_some() =>
        {
            let tree = host_view(kind).and_then(|path| clone_tree(AT_FDCWD, path, Reach::Tree).ok());
            let fits = |tree: &OwnedFd| kind != c"proc" || shows_own_pids(tree.as_fd());
            let tree = tree.filter(fits).ok_or(failure)?;
            kept = options.mount_attrs();
            tree
        }
        other => other?,
    };
    if let Some(Prepared::UserNamespace(userns)) = prepared {
        let map = MountAttr { set: attr::IDMAP, userns_fd: raw(&userns), ..MountAttr::default() };
        site.change
            .set(tree.as_fd(), &map, Reach::One)
            .during("map ids of", || kind.to_string_lossy())
            .map_err(|failure| failure.with_detail("does this filesystem support id-mapped mounts?"))?;
    }
    if options.copy_up {
        super::copy::copy_tree(target.as_fd(), tree.as_fd())?;
    }
    site.change.attach(&tree, target.as_fd(), |tree| {
        site.change.keep(tree, kept, Reach::Tree)?;
        adjust(site.change, tree, options)
    })?;
    Ok(tree)
}

fn raw(fd: &OwnedFd) -> u64 {
    // Descriptors are not negative.
    u64::from(fd.as_raw_fd().unsigned_abs())
}

/// Whether a procfs is that of this process's pid namespace. The host's is not, for a container with one of its
/// own: there the kernel refuses a new procfs when the host's is partly hidden, and to show all of the host's
/// processes in its place would undo that.
fn shows_own_pids(proc: BorrowedFd<'_>) -> bool {
    readlinkat(proc, "self").is_ok_and(|pid| pid == *nix::unistd::getpid().to_string())
}

/// Where the host shows what a user namespace may not mount anew.
fn host_view(kind: &CStr) -> Option<&'static CStr> {
    match kind.to_bytes() {
        b"sysfs" => Some(c"/sys"),
        b"proc" => Some(c"/proc"),
        _ => None,
    }
}

/// `remount`: what is mounted at the destination gets these options.
fn remount(site: Site<'_>, mount: &Mount) -> Result<(), Failure> {
    let options = &mount.options;
    let target = site.root.open(&mount.destination, OFlag::O_PATH).during("open mount point", String::new)?;
    check_not_in_proc(&mount.destination, target.as_fd(), Covers::Nothing)?;
    if matches!(mount.source, MountSource::RemountFilesystem) {
        reconfigure(target.as_fd(), options)?;
    }
    remount_attrs(site.change, target.as_fd(), options)?;
    adjust(site.change, target.as_fd(), options)
}

/// A mount point for proc or sysfs: a real directory. Behind a link, masks and labels would miss the
/// real one (CVE-2019-19921, CVE-2023-27561).
fn real_directory(root: &RootDir, destination: &Path, kind: &CStr) -> Result<OwnedFd, Failure> {
    let ordinary = || {
        Failure::other(&format!("{:?} must be mounted on ordinary directory", kind.to_string_lossy()), "", "")
    };
    match root.ensure_real_directory(destination) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => Err(ordinary()),
        other => other.during("make mount point", String::new),
    }
}

/// What a mount point is covered with.
#[derive(Clone, Copy, Debug)]
enum Covers<'a> {
    /// A new filesystem that is no procfs.
    Filesystem,
    /// A tree of the host's.
    Tree(BorrowedFd<'a>),
    /// Nothing: what is there is changed.
    Nothing,
}

/// Refuses a mount inside /proc, also when a link in the image leads there: what is mounted over
/// /proc/self/attr or /proc/sys would catch the runtime's own writes (CVE-2019-16884). Over /proc itself only
/// a procfs may be mounted.
fn check_not_in_proc(destination: &Path, target: BorrowedFd<'_>, with: Covers<'_>) -> Result<(), Failure> {
    let lexical: PathBuf =
        destination.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
    // Where our own fresh filesystems are, no link of the image can be in the way.
    if lexical.starts_with("dev") || PROC_MOUNTS.iter().any(|allowed| lexical == Path::new(allowed)) {
        return Ok(());
    }
    let is_proc = |fd: BorrowedFd<'_>| {
        Ok(fstatfs(fd).during("statfs mount point", String::new)?.filesystem_type() == PROC_SUPER_MAGIC)
    };
    if lexical == Path::new("proc") {
        let fits = match with {
            Covers::Nothing => true,
            Covers::Tree(source) => is_proc(source)?,
            Covers::Filesystem => false,
        };
        return match fits {
            true => Ok(()),
            false => Err(Failure::other("cannot be mounted because it is not of type proc", "", "")),
        };
    }
    if is_proc(target)? {
        return Err(Failure::other("cannot be mounted because it is inside /proc", "", ""));
    }
    Ok(())
}

/// A host path.
fn bind(
    site: Site<'_>,
    mount: &Mount,
    path: &Path,
    reach: Reach,
    prepared: Option<Prepared>,
) -> Result<Option<OwnedFd>, Failure> {
    let source = || path.display().to_string();
    let links = mount.options.links;
    let tree = match prepared {
        Some(Prepared::Link(target)) => {
            return copy_link(site.root, &target, &mount.destination).map(|()| None);
        }
        Some(Prepared::Source(tree)) => tree,
        prepared => match (open_source(path, reach, links), prepared) {
            (Err(e), Some(Prepared::HostTree(tree))) if e.raw_os_error() == Some(libc::EACCES) => tree,
            (result, _) => result.during("open source", source)?,
        },
    };
    let target = bind_target(site.root, mount, tree.as_fd())?;
    check_not_in_proc(&mount.destination, target.as_fd(), Covers::Tree(tree.as_fd()))?;
    site.change.attach(&tree, target.as_fd(), |tree| {
        remount_attrs(site.change, tree, &mount.options)?;
        adjust(site.change, tree, &mount.options)
    })?;
    Ok(Some(tree))
}

/// A detached copy of what is at a host path.
///
/// # Errors
/// Those of open_tree(2).
pub fn open_source(path: &Path, reach: Reach, links: Links) -> std::io::Result<OwnedFd> {
    let path = crate::sys::cstring(path)?;
    if links.source_nofollow { clone_link(AT_FDCWD, &path) } else { clone_tree(AT_FDCWD, &path, reach) }
}

/// Where a bind goes: what is at the destination, or a new directory or file.
fn bind_target(root: &RootDir, mount: &Mount, source: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let nofollow = if mount.options.links.destination_nofollow { OFlag::O_NOFOLLOW } else { OFlag::empty() };
    match root.open(&mount.destination, OFlag::O_PATH | nofollow) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            let kind = fstat(source).during("stat source", String::new)?.st_mode & libc::S_IFMT;
            let what = if kind == libc::S_IFDIR { Create::Directory } else { Create::File };
            root.ensure(&mount.destination, what).during("make mount point", String::new)
        }
        other => other.during("open mount point", String::new),
    }
}

/// `copy-symlink`: the same link in the rootfs. One that is there must say the same.
fn copy_link(root: &RootDir, target: &Path, destination: &Path) -> Result<(), Failure> {
    let (dir, name) = root.ensure_parent(destination).during("make link", String::new)?;
    match symlinkat(target, &dir, name) {
        Err(Errno::EEXIST) if readlinkat(&dir, name).is_ok_and(|there| Path::new(&there) == target) => Ok(()),
        other => other.during("make link", String::new),
    }
}

/// Recursive attributes and propagation.
pub(super) fn adjust(change: &Change, tree: BorrowedFd<'_>, options: &Options) -> Result<(), Failure> {
    change.attrs(tree, options.tree_attrs, Reach::Tree)?;
    for (flag, reach) in &options.propagation {
        let attr = MountAttr { propagation: *flag, ..MountAttr::default() };
        change.set(tree, &attr, *reach).during("set propagation", String::new)?;
    }
    Ok(())
}

/// A bind's flags, as a bind remount sets them. Where the kernel has locked some (a mount of another user
/// namespace's), those stay as they are, unless the options want them off (runc's rule).
pub(super) fn remount_attrs(how: &Change, tree: BorrowedFd<'_>, options: &Options) -> Result<(), Failure> {
    let Some(attrs) = options.bind_attrs() else { return Ok(()) };
    let change = |attrs: Attrs| {
        let change = MountAttr { set: attrs.set, clear: attrs.clear, ..MountAttr::default() };
        how.set(tree, &change, Reach::One)
    };
    let result = match change(attrs) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let now = mount_flags(tree).during("statfs", || "source")?;
            match options.bind_attrs_keeping(now) {
                Some(attrs) => change(attrs),
                None => Err(e),
            }
        }
        other => other,
    };
    result.during("set mount attributes", String::new)
}
