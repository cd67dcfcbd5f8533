//! One mount of config.json, by the new mount API (kernel 5.2, mount_setattr 5.12).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::Rootfs;
use crate::init::{Context, Failure};
use crate::path::{Create, RootDir};
use crate::plan::{Attrs, CgroupView, Mount, MountSource, Options, attr};
use crate::sys::mount::{
    MountAttr, Reach, clone_tree, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount, fsopen,
    mount_setattr, move_mount,
};

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

/// Makes one mount.
///
/// # Errors
/// A failure in runc's words: `error mounting "proc" to rootfs at "/proc": …`.
pub fn mount(rootfs: &Rootfs, mount: &Mount) -> Result<(), Failure> {
    let result = match &mount.source {
        MountSource::Bind { path, reach } => bind(rootfs.root(), mount, path, *reach),
        MountSource::Filesystem { kind, source } => filesystem(rootfs.root(), mount, kind, source),
        MountSource::CgroupV1 { views, namespaced } => cgroup_v1(rootfs.root(), mount, views, *namespaced),
    };
    result.map_err(|failure| {
        let source = match &mount.source {
            MountSource::Bind { path, .. } => path.display().to_string(),
            MountSource::Filesystem { source, .. } => source.to_string_lossy().into_owned(),
            MountSource::CgroupV1 { .. } => "cgroup".to_owned(),
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
fn filesystem(root: &RootDir, mount: &Mount, kind: &CStr, source: &CStr) -> Result<(), Failure> {
    let mut mode = None;
    let target = if kind == c"proc" || kind == c"sysfs" {
        real_directory(root, &mount.destination, kind)?
    } else {
        let target = match root.open(&mount.destination, OFlag::O_PATH) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                root.make(&mount.destination, Create::Directory).during("make mount point", String::new)?
            }
            found => {
                let target = found.during("open mount point", String::new)?;
                mode = tmpfs_mode(kind, &mount.options, target.as_fd())?;
                target
            }
        };
        check_not_in_proc(&mount.destination, target.as_fd())?;
        target
    };
    let tree = match new_tree(kind, source, &mount.options, mode.as_deref()) {
        // Without its own cgroup namespace a user namespace may not mount cgroup2 (runc #2158).
        Err(failure) if kind == c"cgroup2" && matches!(failure.errno, libc::EPERM | libc::EBUSY) => {
            let tree = clone_tree(AT_FDCWD, c"/sys/fs/cgroup", Reach::Tree)
                .during("clone /sys/fs/cgroup", String::new)?;
            set_attrs(tree.as_fd(), Attrs { set: mount.options.attrs.set, clear: 0 }, Reach::Tree)?;
            tree
        }
        other => other?,
    };
    if mount.options.copy_up {
        super::devices::copy_tree(target.as_fd(), tree.as_fd())?;
    }
    finish(tree, target.as_fd(), &mount.options)
}

/// A detached mount of a new superblock.
fn new_tree(kind: &CStr, source: &CStr, options: &Options, mode: Option<&CStr>) -> Result<OwnedFd, Failure> {
    let name = || kind.to_string_lossy().into_owned();
    let context = fsopen(kind).during("fsopen", name)?;
    let explain = |failure: Failure| match context_log(context.as_fd()) {
        Some(words) => failure.with_detail(words),
        None => failure,
    };
    if !source.is_empty() {
        fsconfig_string(context.as_fd(), c"source", source)
            .during("fsconfig", || "source")
            .map_err(explain)?;
    }
    // As mount(2) does: a read-only mount has a read-only superblock.
    if options.attrs.set & attr::RDONLY != 0 {
        fsconfig_flag(context.as_fd(), c"ro").during("fsconfig", || "ro").map_err(explain)?;
    }
    if let Some(mode) = mode {
        fsconfig_string(context.as_fd(), c"mode", mode).during("fsconfig", || "mode").map_err(explain)?;
    }
    for (key, value) in &options.data {
        let set = match value {
            Some(value) => fsconfig_string(context.as_fd(), key, value),
            None => fsconfig_flag(context.as_fd(), key),
        };
        set.during("fsconfig", || key.to_string_lossy()).map_err(explain)?;
    }
    fsconfig_create(context.as_fd()).during("create filesystem", name).map_err(explain)?;
    let known = attr::REMOUNTED | attr::ATIME_MASK | attr::NODIRATIME;
    fsmount(context.as_fd(), options.attrs.set & known).during("fsmount", name)
}

/// What the filesystem says about a bad option: `e tmpfs: Unknown parameter 'x'` (fsopen(2)).
fn context_log(context: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = [0u8; 256];
    let length = nix::unistd::read(context, &mut buffer).ok()?;
    let text = String::from_utf8_lossy(buffer.get(..length)?).trim().to_owned();
    Some(text.strip_prefix("e ").map(str::to_owned).unwrap_or(text)).filter(|words| !words.is_empty())
}

/// A tmpfs without a `mode` takes the mode of what it covers, if that was there before, as runc's does.
fn tmpfs_mode(
    kind: &CStr,
    options: &Options,
    target: BorrowedFd<'_>,
) -> Result<Option<std::ffi::CString>, Failure> {
    if kind != c"tmpfs" || options.data.iter().any(|(key, _)| key.as_c_str() == c"mode") {
        return Ok(None);
    }
    let mode = fstat(target).during("stat mount point", String::new)?.st_mode & 0o7777;
    Ok(std::ffi::CString::new(format!("{mode:o}")).ok())
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

/// Refuses a mount inside /proc, also when a link in the image leads there: what is mounted over
/// /proc/self/attr or /proc/sys would catch the runtime's own writes (CVE-2019-16884).
fn check_not_in_proc(destination: &Path, target: BorrowedFd<'_>) -> Result<(), Failure> {
    let lexical: PathBuf =
        destination.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
    // Where our own fresh filesystems are, no link of the image can be in the way.
    if lexical.starts_with("dev") || PROC_MOUNTS.iter().any(|allowed| lexical == Path::new(allowed)) {
        return Ok(());
    }
    let kind = fstatfs(target).during("statfs mount point", String::new)?.filesystem_type();
    if kind == PROC_SUPER_MAGIC && lexical != Path::new("proc") {
        return Err(Failure::other("cannot be mounted because it is inside /proc", "", ""));
    }
    Ok(())
}

/// A host path.
fn bind(root: &RootDir, mount: &Mount, path: &Path, reach: Reach) -> Result<(), Failure> {
    let source = || path.display().to_string();
    let cpath = crate::sys::cstring(path).during("open source", source)?;
    let tree = clone_tree(AT_FDCWD, &cpath, reach).during("open source", source)?;
    let target = match root.open(&mount.destination, OFlag::O_PATH) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            let is_dir = fstat(&tree).during("stat source", source)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
            let what = if is_dir { Create::Directory } else { Create::File };
            root.ensure(&mount.destination, what).during("make mount point", String::new)?
        }
        other => other.during("open mount point", String::new)?,
    };
    check_not_in_proc(&mount.destination, target.as_fd())?;
    set_attrs(tree.as_fd(), mount.options.bind_attrs(), Reach::One)?;
    finish(tree, target.as_fd(), &mount.options)
}

/// Recursive attributes and propagation, then the attach.
fn finish(tree: OwnedFd, target: BorrowedFd<'_>, options: &Options) -> Result<(), Failure> {
    set_attrs(tree.as_fd(), options.tree_attrs, Reach::Tree)?;
    for (flag, reach) in &options.propagation {
        let attr = MountAttr { propagation: *flag, ..MountAttr::default() };
        mount_setattr(tree.as_fd(), &attr, *reach).during("set propagation", String::new)?;
    }
    move_mount(tree.as_fd(), target).during("attach mount", String::new)
}

fn set_attrs(tree: BorrowedFd<'_>, attrs: Attrs, reach: Reach) -> Result<(), Failure> {
    if attrs.is_empty() {
        return Ok(());
    }
    let change = MountAttr { set: attrs.set, clear: attrs.clear, ..MountAttr::default() };
    let result = match mount_setattr(tree, &change, reach) {
        // In a user namespace the source's flags are locked: keep them, they only restrict.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && attrs.set != 0 => {
            let clear = if attrs.set & attr::ATIME_MASK != 0 { attr::ATIME_MASK } else { 0 };
            mount_setattr(tree, &MountAttr { set: attrs.set, clear, ..MountAttr::default() }, reach)
        }
        other => other,
    };
    result.during("set mount attributes", String::new)
}

/// A tmpfs with one directory for each v1 hierarchy, and links for joint controllers (cpu → cpu,cpuacct).
fn cgroup_v1(root: &RootDir, mount: &Mount, views: &[CgroupView], namespaced: bool) -> Result<(), Failure> {
    let readonly = mount.options.attrs.set & attr::RDONLY != 0;
    let flags = mount.options.attrs.set & (attr::NOSUID | attr::NODEV | attr::NOEXEC);
    let target =
        root.ensure(&mount.destination, Create::Directory).during("make mount point", String::new)?;
    let options = Options { attrs: Attrs { set: flags, clear: 0 }, ..Options::default() };
    let tmpfs = new_tree(c"tmpfs", c"tmpfs", &options, Some(c"755"))?;
    let dir = RootDir::new(tmpfs.try_clone().during("clone descriptor of", || "tmpfs")?);
    move_mount(tmpfs.as_fd(), target.as_fd()).during("attach mount", String::new)?;
    for view in views {
        let tree = if namespaced { cgroup_v1_tree(view, flags)? } else { cgroup_v1_bind(view, flags)? };
        if readonly {
            set_attrs(tree.as_fd(), Attrs { set: attr::RDONLY, clear: 0 }, Reach::One)?;
        }
        let at =
            dir.ensure(Path::new(&view.name), Create::Directory).during("make mount point", || &view.name)?;
        move_mount(tree.as_fd(), at.as_fd()).during("attach mount", || &view.name)?;
        for link in view.controllers.iter().filter(|c| **c != view.name && !c.contains('=')) {
            nix::unistd::symlinkat(view.name.as_str(), dir.as_fd(), link.as_str()).during("link", || link)?;
        }
    }
    if readonly {
        set_attrs(tmpfs.as_fd(), Attrs { set: attr::RDONLY, clear: 0 }, Reach::One)?;
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
fn cgroup_v1_bind(view: &CgroupView, flags: u64) -> Result<OwnedFd, Failure> {
    let clone = |dir: &Path| clone_tree(AT_FDCWD, &crate::sys::cstring(dir)?, Reach::One);
    let tree = match (clone(&view.host_dir), &view.own_dir) {
        // Not made, for lack of rights (rootless).
        (Err(e), Some(own)) if e.raw_os_error() == Some(libc::ENOENT) => clone(own),
        (result, _) => result,
    };
    let tree = tree.during("open", || view.host_dir.display().to_string())?;
    set_attrs(tree.as_fd(), Attrs { set: flags, clear: 0 }, Reach::One)?;
    Ok(tree)
}
