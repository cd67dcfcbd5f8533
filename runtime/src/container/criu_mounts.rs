//! What of a container's mounts CRIU is to take from outside: binds, masks, device nodes, and on cgroup v1 the
//! hierarchies. Also what of a container CRIU can't write or make again.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::Deserialize;
use serde_json::Value;

use super::state::State;
use super::{Error, Result};
use crate::path::{Create, RootDir};
use crate::plan::{CgroupView, Options};
use crate::rootfs::unescaped;
use crate::spec::{list, namespace};

/// The annotation of a Landlock domain, which no one can write to an image.
const LANDLOCK: &str = "io.github.davit.landlock";

/// The part of state.json's config that is needed here, davit's or runc's.
#[derive(Debug, Deserialize)]
pub(super) struct Settings {
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    mounts: Option<Vec<Mount>>,
    #[serde(default)]
    mask_paths: Option<Vec<String>>,
    #[serde(default)]
    devices: Option<Vec<Device>>,
    #[serde(default)]
    seccomp: Option<Seccomp>,
}

#[derive(Debug, Deserialize)]
struct Mount {
    destination: PathBuf,
    #[serde(default)]
    device: String,
    #[serde(default)]
    id_mapping: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Device {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Seccomp {
    #[serde(default)]
    listener_path: String,
}

impl Settings {
    /// Why CRIU must not be asked: it would write images that lack what the container relies on.
    pub(super) fn obstacles(&self, state: &State) -> Option<String> {
        let has = |kind: &str| state.config.namespaces.iter().flatten().any(|ns| ns.kind == kind);
        let mapped = self.config.mounts.iter().flatten().find(|mount| mount.id_mapping.is_some());
        if state.annotations().contains_key(LANDLOCK) {
            return Some(landlock());
        }
        if self.config.seccomp.as_ref().is_some_and(|seccomp| !seccomp.listener_path.is_empty()) {
            return Some(listener());
        }
        if let Some(mount) = mapped {
            return Some(id_mapped(&mount.destination));
        }
        (!has("NEWNS")).then(no_mount_namespace)
    }
}

/// As [`Settings::obstacles`], of a config.json.
pub(super) fn obstacles(spec: &Spec) -> Option<String> {
    let annotation = spec.annotations().as_ref().is_some_and(|all| all.contains_key(LANDLOCK));
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let mapped = list(spec.mounts()).iter().find(|mount| {
        let option = |option: &String| option == "idmap" || option == "ridmap";
        !list(mount.uid_mappings()).is_empty() || list(mount.options()).iter().any(option)
    });
    if annotation {
        return Some(landlock());
    }
    if seccomp.is_some_and(|seccomp| seccomp.listener_path().is_some()) {
        return Some(listener());
    }
    if let Some(mount) = mapped {
        return Some(id_mapped(mount.destination()));
    }
    namespace(spec, LinuxNamespaceType::Mount).is_none().then(no_mount_namespace)
}

fn landlock() -> String {
    format!(
        "CRIU can't restore a Landlock domain: its processes would not be restricted any more ({LANDLOCK})"
    )
}

fn listener() -> String {
    "CRIU can't restore the listener of a seccomp filter (linux.seccomp.listenerPath)".to_owned()
}

fn id_mapped(destination: &Path) -> String {
    format!("CRIU can't restore a mount with ids mapped ({})", destination.display())
}

fn no_mount_namespace() -> String {
    "it has no mount namespace".to_owned()
}

/// Key and value of each mount that is not to be written.
pub(super) fn dump_mounts(state: &State, settings: &Settings) -> Result<Vec<(PathBuf, PathBuf)>> {
    let pid = state.init_process_pid;
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty())
        .map_err(|e| Error::io("open", &path, e.into()))?;
    let root = RootDir::new(root);
    let config = &settings.config;
    let mut all = Vec::new();
    let mut add = |destination: &Path| {
        // Where a link in the root file system leads: that is where the mount is.
        let found = root.open(destination, OFlag::O_PATH).ok().and_then(|fd| name_of(fd.as_fd()));
        let place = found.unwrap_or_else(|| destination.to_owned());
        all.push((place.clone(), place));
    };
    for mount in config.mounts.iter().flatten().filter(|mount| mount.device == "bind") {
        add(&mount.destination);
    }
    let has_own_cgroups = state.config.namespaces.iter().flatten().any(|ns| ns.kind == "NEWCGROUP");
    if config.mounts.iter().flatten().any(|mount| mount.device == "cgroup") && !has_own_cgroups {
        hierarchies(pid).iter().for_each(|mount| add(mount));
    }
    for device in config.devices.iter().flatten() {
        add(&device.path);
    }
    for mask in config.mask_paths.iter().flatten() {
        // Directories are covered by a file system, which is written.
        let Ok(fd) = root.open(Path::new(mask), OFlag::O_PATH) else { continue };
        if !is_dir(&fd) {
            all.push((PathBuf::from(mask), PathBuf::from("/dev/null")));
        }
    }
    Ok(all)
}

fn is_dir(fd: &OwnedFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn name_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(link).ok().filter(|path| path.is_absolute())
}

/// Where a process sees cgroup v1 hierarchies.
fn hierarchies(pid: i32) -> Vec<PathBuf> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (filesystem.split(' ').next()? == "cgroup").then(|| PathBuf::from(unescaped(point)))
    });
    mounts.collect()
}

/// A container that is being restored: what its mounts come from.
#[derive(Debug)]
pub(super) struct RestoreMounts<'a> {
    pub(super) spec: &'a Spec,
    pub(super) bundle: &'a Path,
    pub(super) rootfs: &'a Path,
    /// The container's directories on cgroup v1; none on pure v2.
    pub(super) cgroups: &'a [CgroupView],
    /// Paths of device nodes.
    pub(super) devices: Vec<PathBuf>,
}

impl RestoreMounts<'_> {
    /// Makes missing mount points in the root file system, and names what is mounted from outside: key and path.
    pub(super) fn prepare(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut all = Vec::new();
        if self.spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
            // Where CRIU puts the old root for a moment; it can't make a directory in a read-only one.
            self.mount_point(&[], Path::new("/tmp"), None)?;
        }
        let mut earlier: Vec<Placed> = Vec::new();
        for mount in list(self.spec.mounts()) {
            let destination = Path::new("/").join(mount.destination());
            let source = is_bind(mount).then(|| self.bundle.join(mount.source().clone().unwrap_or_default()));
            let is_cgroup = mount.typ().as_deref() == Some("cgroup") && source.is_none();
            let place = if is_cgroup {
                destination.clone()
            } else {
                self.mount_point(&earlier, &destination, source.as_deref())?
            };
            match &source {
                Some(source) => all.push((place.clone(), source.clone())),
                None if is_cgroup && namespace(self.spec, LinuxNamespaceType::Cgroup).is_none() => {
                    let views = self.cgroups.iter();
                    all.extend(views.map(|view| (place.join(&view.name), view.host_dir.clone())));
                }
                None => {}
            }
            earlier.push(Placed { destination, place, source });
        }
        all.extend(self.devices.iter().map(|path| (path.clone(), path.clone())));
        let masked = self.spec.linux().as_ref().map(|linux| list(linux.masked_paths())).unwrap_or_default();
        if !masked.is_empty() {
            // The value of dump_mounts() is the key here.
            all.push((PathBuf::from("/dev/null"), PathBuf::from("/dev/null")));
        }
        Ok(all)
    }

    /// Makes a mount point if it is to be in the root file system or in a bind below it: what is on a file system
    /// that the images have is in them. Returns where it is, links followed as far as they can be.
    fn mount_point(&self, earlier: &[Placed], destination: &Path, source: Option<&Path>) -> Result<PathBuf> {
        let is_above = |placed: &&Placed| {
            destination != placed.destination && destination.starts_with(&placed.destination)
        };
        let above =
            earlier.iter().filter(is_above).max_by_key(|placed| placed.destination.components().count());
        let (base, inside, root) = match above {
            None => (self.rootfs, destination, Path::new("/")),
            Some(Placed { destination: upper, place, source }) => {
                let inside = destination.strip_prefix(upper).unwrap_or(destination);
                match source {
                    Some(source) => (source.as_path(), inside, place.as_path()),
                    None => return Ok(place.join(inside)),
                }
            }
        };
        let what = match source {
            Some(path) if !std::fs::metadata(path).map_err(|e| Error::io("stat", path, e))?.is_dir() => {
                Create::File
            }
            _ => Create::Directory,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(base, flags, nix::sys::stat::Mode::empty());
        let dir = dir.map_err(|e| Error::io("open", base, e.into()))?;
        let real = name_of(dir.as_fd()).unwrap_or_else(|| base.to_owned());
        let made = RootDir::new(dir).ensure(inside, what);
        let made = made.map_err(|e| Error::io("make mount point", destination, e))?;
        let name = name_of(made.as_fd()).and_then(|name| name.strip_prefix(&real).map(Path::to_owned).ok());
        Ok(root.join(name.as_deref().unwrap_or(inside.strip_prefix("/").unwrap_or(inside))))
    }
}

/// A mount that comes before others.
#[derive(Debug)]
struct Placed {
    /// As config.json has it.
    destination: PathBuf,
    /// Where it is, links followed.
    place: PathBuf,
    /// Of a bind.
    source: Option<PathBuf>,
}

/// As in the plan: the options say so.
fn is_bind(mount: &oci_spec::runtime::Mount) -> bool {
    Options::parse(list(mount.options())).is_ok_and(|options| options.bind.is_some())
}
