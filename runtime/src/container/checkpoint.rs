//! `checkpoint`: a container's processes are written to images by CRIU.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::criu_mounts::{Settings, dump_mounts};
use super::dir::write_atomically;
use super::idmap::is_ordinary_user;
use super::lifecycle::{KILL_PATIENCE, Loaded, destroy, load, open_init, wait_for_end};
use super::state::State;
use super::{Error, Result, Runtime, Status, find_helper};
use crate::criu::{self, CgroupsMode, Criu, Features, Kind, Mounts, NetworkLock, Options, Request, Setup};

/// The file beside the images that says what stdio was, as runc writes it.
pub(super) const DESCRIPTORS: &str = "descriptors.json";
/// CRIU's options for containers, when the annotation names no other file: runc's.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";
/// The annotation that names another; an empty one means none.
pub(super) const CONFIG_ANNOTATION: &str = "org.criu.config";
/// CRIU's log of a dump.
const LOG: &str = "dump.log";

/// Arguments of [`super::checkpoint`].
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// `--image-path`: directory of the images; made if it is missing.
    pub image_path: PathBuf,
    /// `--work-path`: directory of CRIU's log and statistics; the images' when not given. Made if it is missing.
    pub work_path: Option<PathBuf>,
    /// `--parent-path`: images of an earlier pre-dump, relative to `image_path`.
    pub parent_path: Option<PathBuf>,
    /// `--leave-running`.
    pub leave_running: bool,
    /// `--pre-dump`: write memory only, and let the container run.
    pub pre_dump: bool,
    /// `--tcp-established`: allow open TCP connections.
    pub tcp_established: bool,
    /// `--tcp-skip-in-flight`: leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`: give files that were unlinked a name for the time being.
    pub link_remap: bool,
    /// `--ext-unix-sk`: allow Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// `--shell-job`: allow a session and a terminal that are the caller's.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--auto-dedup`: drop pages from the parent's images that this dump has anew.
    pub auto_dedup: bool,
    /// `--lazy-pages`: CRIU stays and serves memory to the restore, at `page_server`.
    pub lazy_pages: bool,
    /// `--status-fd`: gets a NUL byte, and is closed, once the server of lazy pages is ready.
    pub status_fd: Option<RawFd>,
    /// `--page-server`: address and port that memory is sent to, or served at.
    pub page_server: Option<(String, u16)>,
    /// `--manage-cgroups-mode`.
    pub cgroups: CgroupsMode,
    /// `--network-lock` (crun's): how packets are kept away meanwhile. Not given, it is iptables-restore if that is
    /// in $PATH, else libnftables.
    pub network_lock: Option<NetworkLock>,
}

pub(super) fn checkpoint(runtime: &Runtime, id: &str, options: &CheckpointOptions) -> Result<()> {
    needs_root("checkpointed")?;
    let container = load(runtime, id)?;
    if !matches!(container.status, Status::Running | Status::Paused) {
        return Err(Error::NotCheckpointable(container.status.as_str()));
    }
    let settings: Settings = container.dir.read_part()?;
    refuse("checkpointed", &settings.obstacles(&container.state))?;
    let criu = find_criu()?;
    if options.pre_dump {
        criu.ensure_features(Features { mem_track: true, lazy_pages: false })?;
    }
    if options.lazy_pages {
        criu.ensure_features(Features { mem_track: false, lazy_pages: true })?;
        options.status_fd.map_or(Ok(()), check_status_fd)?;
    }
    dump(&criu, &container, &settings, options)?;
    if options.leave_running || options.pre_dump {
        return Ok(());
    }
    // Its processes are gone: as with runc the rest goes too, and what stays of it is no failure of the dump.
    if let Err(error) = remove(container) {
        log::warn!("after the checkpoint: {error}");
    }
    Ok(())
}

fn remove(container: Loaded) -> Result<()> {
    if let Some(init) = open_init(&container.state)? {
        wait_for_end(&init, KILL_PATIENCE, &container.cgroup)?;
    }
    destroy(Loaded { status: Status::Stopped, ..container })
}

fn dump(criu: &Criu, container: &Loaded, settings: &Settings, options: &CheckpointOptions) -> Result<()> {
    let state = &container.state;
    let pid = state.init_process_pid;
    // The one that load() saw: its pid is not another's as long as this is open.
    let _init = open_init(state)?.ok_or(Error::NotRunning)?;
    let images = Images::make(&options.image_path, options.work_path.as_deref())?;
    let stdio = if options.pre_dump { Vec::new() } else { Descriptors::of(state) };
    // When this process is killed CRIU goes on, or lets the container run again.
    let setup = Setup { mounts: Mounts::Own, ..Setup::default() };
    let mut swrk = criu.start(&setup)?;
    let images = images.seen_by(swrk.pid())?;
    let mut request = Options {
        images_dir: images.dir.as_raw_fd(),
        work_dir: images.work.as_ref().map(AsRawFd::as_raw_fd),
        log_file: LOG,
        pid: Some(pid),
        root: state.config.rootfs.clone(),
        leave_running: options.leave_running,
        tcp_established: options.tcp_established,
        tcp_skip_in_flight: options.tcp_skip_in_flight,
        link_remap: options.link_remap,
        ext_unix_sk: options.ext_unix_sk,
        shell_job: options.shell_job,
        file_locks: options.file_locks,
        auto_dedup: options.auto_dedup,
        lazy_pages: options.lazy_pages,
        page_server: options.page_server.clone(),
        parent_img: options.parent_path.clone(),
        cgroups: options.cgroups,
        empty_ns: EMPTY_NAMESPACES,
        external: external_namespaces(state)?,
        freeze_cgroup: freezer(state),
        config_file: config_file(state.annotations().get(CONFIG_ANNOTATION)),
        network_lock: options.network_lock.or_else(default_network_lock),
        ..Options::default()
    };
    if !options.pre_dump {
        request.ext_mounts = dump_mounts(state, settings)?;
        request.external.extend(stdio.iter().filter(|entry| entry.starts_with("file[")).cloned());
        let path = options.image_path.join(DESCRIPTORS);
        let text = serde_json::to_vec(&stdio).map_err(|e| Error::io("write", &path, e.into()))?;
        write_atomically(&path, &text, 0o600)?;
    }
    let kind = if options.pre_dump { Kind::PreDump } else { Kind::Dump };
    let mut status = options.status_fd;
    let done = criu::call(&mut swrk, &Request::with_options(kind, request), |notification| {
        if notification.script == "status-ready" {
            status.take().map_or(Ok(()), tell_ready)?;
        }
        Ok(())
    });
    let end = swrk.finish();
    let done = match (done, end) {
        // A pre-dump leaves CRIU waiting for the next one: that it ends otherwise than with 0 is of no account.
        (Ok(_), Ok(status)) if !status.success() && !options.pre_dump => {
            Err(Error::Criu(criu::Error::Ended(status.to_string())))
        }
        (done, _) => done.map(drop),
    };
    done.map_err(|error| with_log(error, images.log(LOG)))
}

/// Namespaces that CRIU leaves alone: runc's way, network devices are whose who set them up.
pub(super) const EMPTY_NAMESPACES: u32 = libc::CLONE_NEWNET as u32;

/// Only root can do what CRIU is asked.
pub(super) fn needs_root(action: &'static str) -> Result<()> {
    if is_ordinary_user() {
        return Err(Error::Refused { action, why: "that needs root, whose rights CRIU uses".into() });
    }
    Ok(())
}

/// CRIU of $PATH, which is new enough.
pub(super) fn find_criu() -> Result<Criu> {
    let criu = Criu::at(find_helper("criu").ok_or(criu::Error::NotFound)?);
    criu.ensure_usable()?;
    Ok(criu)
}

/// An error for the first of these reasons.
pub(super) fn refuse(action: &'static str, why: &Option<String>) -> Result<()> {
    why.as_ref().map_or(Ok(()), |why| Err(Error::Refused { action, why: why.clone() }))
}

/// Adds what CRIU's log says.
pub(super) fn with_log(error: Error, log: PathBuf) -> Error {
    match error {
        Error::Criu(error) => Error::Criu(error.with_log(log)),
        other => other,
    }
}

/// The directories of images and of CRIU's log.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) dir: File,
    pub(super) work: Option<File>,
    log_dir: PathBuf,
}

impl Images {
    /// Makes them where they are missing.
    fn make(images: &Path, work: Option<&Path>) -> Result<Self> {
        make_dir(images)?;
        Self::open(images, work)
    }

    /// Opens that of the images; that of the log is made if it is missing.
    pub(super) fn open(images: &Path, work: Option<&Path>) -> Result<Self> {
        work.map_or(Ok(()), make_dir)?;
        let log_dir = work.unwrap_or(images).to_owned();
        Ok(Images { dir: open_dir(images)?, work: work.map(open_dir).transpose()?, log_dir })
    }

    /// The same directories on the mounts of a process that has a mount namespace of its own: CRIU makes mounts in
    /// them.
    pub(super) fn seen_by(&self, pid: i32) -> Result<Self> {
        let reopen = |dir: &File| {
            let link = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            let real = std::fs::read_link(&link).map_err(|e| Error::io("read", &link, e))?;
            let inside = real.strip_prefix("/").unwrap_or(&real);
            let found = open_dir(&PathBuf::from(format!("/proc/{pid}/root")).join(inside))?;
            let identity = |dir: &File| dir.metadata().map(|of| (of.dev(), of.ino()));
            match (identity(dir), identity(&found)) {
                (Ok(ours), Ok(theirs)) if ours == theirs => Ok(found),
                _ => Err(Error::io("open", &real, std::io::Error::from_raw_os_error(libc::ESTALE))),
            }
        };
        let work = self.work.as_ref().map(reopen).transpose()?;
        Ok(Images { dir: reopen(&self.dir)?, work, log_dir: self.log_dir.clone() })
    }

    /// Path of a file in the directory of the log.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.log_dir.join(name)
    }
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::io("make directory", path, e))
}

fn open_dir(path: &Path) -> Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    let open = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    open.map_err(|e| Error::io("open", path, e))
}

/// `net[INODE]:KEY` for each namespace that was joined by its path, of the kinds that CRIU can leave outside.
fn external_namespaces(state: &State) -> Result<Vec<String>> {
    let mut external = Vec::new();
    for namespace in state.config.namespaces.iter().flatten().filter(|namespace| !namespace.path.is_empty()) {
        if let Some((word, key)) = external_key(&namespace.kind) {
            let path = Path::new(&namespace.path);
            let found = std::fs::metadata(path).map_err(|e| Error::io("stat", path, e))?;
            external.push(format!("{word}[{}]:{key}", found.ino()));
        }
    }
    Ok(external)
}

/// CRIU's word for a kind of namespaces that can be external, and runc's key for it.
pub(super) fn external_key(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "NEWNET" => Some(("net", "extRootNetNS")),
        "NEWPID" => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// The cgroup by which CRIU freezes the tree: of the v1 freezer, or that of v2.
fn freezer(state: &State) -> Option<PathBuf> {
    let paths = &state.cgroup_paths;
    // On hybrid hosts the v2 one is there too.
    paths.get("freezer").or_else(|| paths.get("").filter(|_| paths.len() == 1)).cloned()
}

/// The file of options that CRIU reads besides, by what [`CONFIG_ANNOTATION`] says; an empty one is none.
pub(super) fn config_file(annotation: Option<&String>) -> Option<PathBuf> {
    let file = annotation.map_or(CONFIG_FILE, String::as_str);
    (!file.is_empty()).then(|| PathBuf::from(file))
}

/// CRIU's own default is iptables, and fails without its programs.
fn default_network_lock() -> Option<NetworkLock> {
    let iptables =
        ["iptables-restore", "ip6tables-restore"].into_iter().all(|name| find_helper(name).is_some());
    (!iptables).then_some(NetworkLock::Nftables)
}

/// What stdio of a container's init is: what CRIU calls it where it comes from outside.
struct Descriptors;

impl Descriptors {
    fn of(state: &State) -> Vec<String> {
        // runc notes it at create; where davit notes nothing, init is asked.
        let noted = &state.external_descriptors;
        let null = |entry: &String| entry == "/dev/null";
        if noted.len() == 3 && !noted.iter().all(null) {
            return noted.clone();
        }
        let pid = state.init_process_pid;
        let outside = mount_ids(pid);
        (0..3).map(|fd| Self::one(pid, fd, &outside).unwrap_or_else(|| "/dev/null".to_owned())).collect()
    }

    fn one(pid: i32, fd: i32, own_mounts: &[String]) -> Option<String> {
        let link = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
        let target = std::fs::read_link(&link).ok()?;
        let name = target.to_str()?.to_owned();
        let found = std::fs::metadata(&link).ok()?;
        if !found.is_file() {
            return Some(name);
        }
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        if own_mounts.iter().any(|own| own == mount) {
            return Some(name);
        }
        // A file of the host's: CRIU's name for what it is not to look for.
        Some(format!("file[{:x}:{:x}]", mount.parse::<u32>().ok()?, found.ino()))
    }
}

fn mount_ids(pid: i32) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// `--status-fd` must be open for writing (runc's words).
fn check_status_fd(fd: RawFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(crate::sys::fs::borrow(fd), FcntlArg::F_GETFL);
    let flags = flags.map_err(|e| invalid_status_fd(fd, e.desc()))?;
    match OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE {
        mode if mode == OFlag::O_RDONLY => Err(invalid_status_fd(fd, "not writable")),
        _ => Ok(()),
    }
}

fn invalid_status_fd(fd: RawFd, why: &str) -> Error {
    crate::spec::Error::Invalid(format!("invalid --status-fd argument {fd}: {}", why.to_lowercase())).into()
}

/// A NUL byte, and the end: whoever waits for it goes on.
fn tell_ready(fd: RawFd) -> Result<()> {
    use std::io::Write as _;
    let name = || PathBuf::from(format!("file descriptor {fd}"));
    let owned = crate::sys::fs::adopt(fd).map_err(|e| Error::io("adopt", &name(), e))?;
    if let Err(error) = File::from(owned).write_all(&[0]) {
        log::warn!("can't write \\0 to status fd: {error}");
    }
    Ok(())
}

/// Removes files that CRIU is going to write, so that it does not follow what whoever made the images left there.
pub(super) fn clear(dir: &Images, names: &[&str]) -> Result<()> {
    for name in names {
        let path = dir.log(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// The longest `descriptors.json` that is read: three names.
const DESCRIPTORS_MAX: u64 = 64 << 10;

/// Reads [`DESCRIPTORS`] of images that somebody else may have made.
pub(super) fn read_descriptors(images: &Images) -> Result<Vec<String>> {
    use std::io::Read as _;
    let path = Path::new(DESCRIPTORS);
    let failed = |e: std::io::Error| Error::io("read", path, e);
    let flags = nix::fcntl::OFlag::O_RDONLY
        | nix::fcntl::OFlag::O_NOFOLLOW
        | nix::fcntl::OFlag::O_NONBLOCK
        | nix::fcntl::OFlag::O_CLOEXEC;
    let fd = nix::fcntl::openat(&images.dir, OsStr::new(DESCRIPTORS), flags, nix::sys::stat::Mode::empty())
        .map_err(|e| failed(e.into()))?;
    let file = File::from(fd);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::ErrorKind::InvalidData.into()));
    }
    let mut text = Vec::new();
    file.take(DESCRIPTORS_MAX).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|e| Error::io("parse", path, e.into()))
}
