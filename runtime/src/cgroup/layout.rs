//! Which cgroup hierarchies the host has and where.
//!
//! Pure v2 is one statfs of /sys/fs/cgroup. Otherwise /proc/self/mountinfo and /proc/self/cgroup are read:
//! the second lists every hierarchy with its controllers and the caller's place, the first where it is mounted.

use std::io;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::dir::read_all;
use super::error::Error;

/// Where distributions, systemd and containerd mount cgroups.
pub(super) const ROOT: &str = "/sys/fs/cgroup";
/// The cgroup2 mount of systemd's hybrid layout; runc knows hybrid by this path.
pub(super) const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// How the host uses cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies with controllers, and cgroup2 at /sys/fs/cgroup/unified.
    Hybrid,
    /// cgroup2 at /sys/fs/cgroup.
    V2,
}

/// Version of one hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// cgroup.
    V1,
    /// cgroup2.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its controllers in the kernel's order, `["cpu", "cpuacct"]` or `["name=systemd"]`; empty for v2.
    pub controllers: Vec<String>,
    /// cgroup or cgroup2.
    pub version: Version,
    /// The cgroup that the mount shows as its root: not `/` in a container without a cgroup namespace.
    root: PathBuf,
    /// This process's cgroup as /proc/self/cgroup has it; not read on pure v2.
    own: Option<PathBuf>,
}

impl Hierarchy {
    /// The cgroup of this process as /proc/self/cgroup has it (on pure v2 the file is read here).
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Content`] without a line for this hierarchy.
    pub fn own(&self) -> Result<PathBuf, Error> {
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        let text = read_proc("/proc/self/cgroup")?;
        let lines = parse_proc_cgroup(&text);
        let own = lines.iter().find(|line| line.is(self));
        own.map(|line| PathBuf::from(line.path)).ok_or_else(|| content("/proc/self/cgroup", &text))
    }

    /// The directory of this process's cgroup below the mount point. A place outside of what the mount shows
    /// (nested containers) counts as the mount's root.
    ///
    /// # Errors
    /// As [`Hierarchy::own`].
    pub fn own_dir(&self) -> Result<PathBuf, Error> {
        Ok(self.dir_of(&self.own()?))
    }

    /// Directory for a path of /proc/<pid>/cgroup.
    pub(super) fn dir_of(&self, cgroup: &Path) -> PathBuf {
        match cgroup.strip_prefix(&self.root) {
            Ok(below) if below.components().all(|c| matches!(c, Component::Normal(_))) => {
                self.mountpoint.join(below)
            }
            _ => self.mountpoint.clone(),
        }
    }
}

/// The host's cgroup hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    mode: Mode,
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Finds them: one statfs on pure v2, else two files of /proc.
    ///
    /// # Errors
    /// [`Error::NotMounted`] without any cgroup mount, [`Error::Read`] for /proc.
    pub fn detect() -> Result<Layout, Error> {
        match statfs(ROOT) {
            Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => Ok(Layout::pure_v2(Path::new(ROOT))),
            Ok(_) | Err(Errno::ENOENT | Errno::EACCES) => {
                Layout::parse(&read_proc("/proc/self/mountinfo")?, &read_proc("/proc/self/cgroup")?)
            }
            Err(errno) => Err(Error::Io { action: "statfs", path: ROOT.into(), errno }),
        }
    }

    /// The layout of one cgroup2 mount.
    pub(super) fn pure_v2(mountpoint: &Path) -> Layout {
        let hierarchy = Hierarchy {
            mountpoint: mountpoint.to_owned(),
            controllers: Vec::new(),
            version: Version::V2,
            // With a cgroup namespace it is /; without one runc takes it for / as well.
            root: PathBuf::from("/"),
            own: None,
        };
        Layout { mode: Mode::V2, hierarchies: vec![hierarchy] }
    }

    /// From the two files' text.
    pub(super) fn parse(mountinfo: &str, proc_cgroup: &str) -> Result<Layout, Error> {
        let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
        let mut mode = Mode::V1;
        let mut hierarchies = Vec::new();
        for line in parse_proc_cgroup(proc_cgroup) {
            let Some(mount) = pick(&mounts, &line) else { continue };
            let version = if line.controllers.is_empty() { Version::V2 } else { Version::V1 };
            let mountpoint = unescape(mount.mountpoint);
            if version == Version::V2 {
                // A cgroup2 mount elsewhere (Cilium's, for example) is not the hybrid layout.
                if mountpoint != Path::new(UNIFIED) {
                    continue;
                }
                mode = Mode::Hybrid;
            }
            hierarchies.push(Hierarchy {
                mountpoint,
                controllers: line.controllers.iter().map(|c| (*c).to_owned()).collect(),
                version,
                root: unescape(mount.root),
                own: Some(PathBuf::from(line.path)),
            });
        }
        if hierarchies.iter().all(|h| h.version == Version::V2) {
            return Err(Error::NotMounted);
        }
        Ok(Layout { mode, hierarchies })
    }

    /// v1, hybrid or v2.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Every hierarchy that is mounted, named ones too.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }
}

/// A line of /proc/<pid>/cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProcLine<'t> {
    /// Empty on v2.
    pub(super) controllers: Vec<&'t str>,
    /// Path of the cgroup.
    pub(super) path: &'t str,
}

impl ProcLine<'_> {
    /// Whether it is of this hierarchy.
    pub(super) fn is(&self, hierarchy: &Hierarchy) -> bool {
        self.controllers == hierarchy.controllers
    }
}

/// Parses /proc/<pid>/cgroup: `4:cpu,cpuacct:/path`, `0::/path`. A removed cgroup ends with ` (deleted)`.
pub(super) fn parse_proc_cgroup(text: &str) -> Vec<ProcLine<'_>> {
    text.lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let controllers = controllers.split(',').filter(|c| !c.is_empty()).collect();
            Some(ProcLine { controllers, path })
        })
        .collect()
}

/// The fields of a mountinfo line of a cgroup file system.
struct Mount<'t> {
    root: &'t str,
    mountpoint: &'t str,
    fs_type: &'t str,
    super_options: &'t str,
}

impl<'t> Mount<'t> {
    /// `36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu`.
    fn parse(line: &'t str) -> Option<Mount<'t>> {
        let (mount, fs) = line.split_once(" - cgroup")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mountpoint) = (mount.next()?, mount.next()?);
        let mut fs = fs.split(' ');
        let fs_type = match fs.next()? {
            "" => "cgroup",
            "2" => "cgroup2",
            _ => return None,
        };
        Some(Mount { root, mountpoint, fs_type, super_options: fs.nth(1)? })
    }

    fn has(&self, line: &ProcLine<'_>) -> bool {
        match line.controllers.first() {
            None => self.fs_type == "cgroup2",
            Some(controller) => {
                self.fs_type == "cgroup" && self.super_options.split(',').any(|option| option == *controller)
            }
        }
    }
}

/// The mount of a hierarchy: the first below /sys/fs/cgroup, as runc takes it, else the first.
fn pick<'m, 't>(mounts: &'m [Mount<'t>], line: &ProcLine<'_>) -> Option<&'m Mount<'t>> {
    let mut of_it = mounts.iter().filter(|mount| mount.has(line));
    let first = of_it.clone().next();
    of_it.find(|mount| Path::new(mount.mountpoint).starts_with(ROOT)).or(first)
}

/// Undoes mountinfo's octal escapes (space, tab, newline, backslash).
fn unescape(field: &str) -> PathBuf {
    if !field.contains('\\') {
        return PathBuf::from(field);
    }
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(escapes.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain)))
}

/// Reads a file of /proc.
pub(super) fn read_proc(path: &str) -> Result<String, Error> {
    let mut buffer = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let result =
        openat(AT_FDCWD, path, flags, stat::Mode::empty()).and_then(|fd| read_all(fd.as_fd(), &mut buffer));
    match result {
        Ok(()) => Ok(String::from_utf8_lossy(&buffer).into_owned()),
        Err(errno) => Err(Error::Read {
            file: path.rsplit('/').next().unwrap_or(path).to_owned(),
            dir: Path::new(path).parent().unwrap_or(Path::new("/")).to_owned(),
            errno,
        }),
    }
}

fn content(path: &str, text: &str) -> Error {
    Error::Content {
        file: path.rsplit('/').next().unwrap_or(path).to_owned(),
        dir: Path::new(path).parent().unwrap_or(Path::new("/")).to_owned(),
        content: text.chars().take(80).collect(),
    }
}

/// The errno of an I/O error.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
23 1 254:0 / / rw - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /mnt/dup rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const PROC: &str = "9:name=systemd:/\n4:memory:/docker/x/y\n2:cpu,cpuacct:/a\n0::/u\n";

    #[test]
    fn hybrid_with_joint_controllers() {
        let layout = Layout::parse(MOUNTINFO, PROC).unwrap();
        assert_eq!(layout.mode(), Mode::Hybrid);
        let of = |name: &str| {
            layout.hierarchies().iter().find(|h| h.controllers.iter().any(|c| c == name)).unwrap().clone()
        };
        assert_eq!(of("cpuacct").mountpoint, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(of("cpu").own_dir().unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));
        assert_eq!(of("memory").own_dir().unwrap(), Path::new("/sys/fs/cgroup/memory/y"));
        assert_eq!(of("name=systemd").own_dir().unwrap(), Path::new("/sys/fs/cgroup/systemd"));
        let v2 = layout.hierarchies().iter().find(|h| h.version == Version::V2).unwrap();
        assert_eq!(v2.own_dir().unwrap(), Path::new("/sys/fs/cgroup/unified/u"));
        assert!(v2.controllers.is_empty());
    }

    #[test]
    fn a_place_outside_of_the_mount_is_its_root() {
        let layout = Layout::parse(MOUNTINFO, "4:memory:/other\n").unwrap();
        assert_eq!(layout.hierarchies()[0].own_dir().unwrap(), Path::new("/sys/fs/cgroup/memory"));
        let layout = Layout::parse(MOUNTINFO, "4:memory:/docker/x/../../z\n").unwrap();
        assert_eq!(layout.hierarchies()[0].own_dir().unwrap(), Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn cgroup2_elsewhere_is_not_hybrid() {
        let mountinfo = MOUNTINFO.replace("/sys/fs/cgroup/unified", "/run/cilium/cgroupv2");
        let layout = Layout::parse(&mountinfo, PROC).unwrap();
        assert_eq!(layout.mode(), Mode::V1);
        assert!(layout.hierarchies().iter().all(|h| h.version == Version::V1));
    }

    #[test]
    fn nothing_mounted() {
        assert!(matches!(Layout::parse("", PROC), Err(Error::NotMounted)));
    }

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
    }
}
