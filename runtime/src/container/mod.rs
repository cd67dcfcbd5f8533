//! The life of a container: create, start, exec, kill, pause, resume, delete, and its state on disk.
//!
//! This is the library's interface: `cli` and the shim call these functions and nothing below them.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIntelRdt, LinuxResources, Mount, Process};

mod activation;
mod brief;
mod checkpoint;
mod checks;
mod create;
mod criu_mounts;
mod dir;
mod error;
mod exec;
mod explain;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod host_mounts;
mod idmap;
mod isolation;
mod lifecycle;
mod listener;
mod live_mounts;
mod monitor;
mod mounts;
mod netdevices;
mod network;
mod outside;
mod process_stat;
mod restore;
mod rootless;
mod runc_config;
mod runc_seccomp;
mod spawn;
mod state;

pub use crate::criu::{CgroupsMode, NetworkLock};
pub use activation::NotifySocket;
pub use checkpoint::CheckpointOptions;
use create::StartWhen;
pub use exec::ExecTarget;
pub use explain::{explain, explain_exec};
pub use restore::RestoreOptions;

pub use error::{CREATE_FAILED, EXEC_FAILED, Error};
pub(crate) use idmap::find_helper;
pub use monitor::{Monitor, News};
pub use mounts::user_namespace;
pub(crate) use rootless::ranges as id_ranges;

/// Result of a container operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What runc's global flags say: where state lives and how cgroups are driven.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// State directory, `--root`; each container has a directory `<root>/<id>` in it.
    pub root: PathBuf,
    /// `--systemd-cgroup`, `--cgroup-manager`: who makes cgroups.
    pub cgroups: CgroupManager,
    /// `--rootless`: whether cgroup permission errors are ignored.
    pub rootless: bool,
}

/// Who makes a container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// davit, in cgroupfs.
    #[default]
    Cgroupfs,
    /// systemd (`--systemd-cgroup`).
    Systemd,
    /// Nobody: the container stays in the caller's cgroup, and limits and device rules are not applied.
    Disabled,
}

/// Where the terminal's master end goes when `process.terminal` is true.
#[derive(Debug)]
pub enum Console {
    /// No terminal is expected: the process inherits the caller's stdio.
    Inherit,
    /// `--console-socket`: connect to this AF_UNIX stream socket and send the master by SCM_RIGHTS.
    Socket(PathBuf),
    /// The same over an already connected socket (foreground `run`, the shim).
    Connected(OwnedFd),
}

/// How the root is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSwitch {
    /// pivot_root(2), the default.
    Pivot,
    /// `--no-pivot`: MS_MOVE and chroot, for a rootfs on a ramdisk.
    Move,
}

/// Arguments of [`create`] and [`run`].
#[derive(Debug)]
pub struct CreateOptions {
    /// Container id, validated by [`create`].
    pub id: String,
    /// Directory that holds config.json.
    pub bundle: PathBuf,
    /// Another file to read in place of the bundle's config.json (crun's `--config`).
    pub config: Option<PathBuf>,
    /// Terminal hand-over.
    pub console: Console,
    /// `--pid-file`: written atomically once the process exists.
    pub pid_file: Option<PathBuf>,
    /// `--pidfd-socket`: AF_UNIX stream socket that gets the pidfd by SCM_RIGHTS.
    pub pidfd_socket: Option<PathBuf>,
    /// pivot_root or MS_MOVE.
    pub root_switch: RootSwitch,
    /// False for `--no-new-keyring`.
    pub new_keyring: bool,
    /// `--preserve-fds N`: descriptors 3 to 3+N-1 stay open in the container.
    pub preserve_fds: u32,
    /// What the service manager that started the runtime hands over.
    pub activation: Activation,
}

/// What a service manager gives to the runtime for the container (sd_listen_fds(3), sd_notify(3)).
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// `LISTEN_FDS`: the program gets so many descriptors from 3 on; those of `--preserve-fds` follow them.
    pub listen_fds: u32,
    /// `LISTEN_FDNAMES`, passed on with them.
    pub listen_names: Option<String>,
    /// `NOTIFY_SOCKET`, the manager's address: the program gets a socket of its own.
    pub notify: Option<OsString>,
}

/// Arguments of [`exec`].
#[derive(Debug)]
pub struct ExecOptions {
    /// The process to start, complete: flags are already merged into it.
    pub process: Process,
    /// Terminal hand-over.
    pub console: Console,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--pidfd-socket`.
    pub pidfd_socket: Option<PathBuf>,
    /// `--preserve-fds N`.
    pub preserve_fds: u32,
    /// `--ignore-paused`: allow it in a paused container.
    pub ignore_paused: bool,
    /// `--cgroup`: a sub-cgroup of the container's, per controller list or for all.
    pub cgroup: Vec<String>,
}

/// A process that the runtime has started.
#[derive(Debug)]
pub struct Started {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// A pidfd for it (kernel 5.3).
    pub pidfd: OwnedFd,
    /// Of [`run`] with [`Activation::notify`]: where the program says that it is ready.
    pub notify: Option<NotifySocket>,
}

/// Status words of the runtime-spec, plus runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made: `create` or `run` is at work, or was killed at it (then `delete --force` cleans up).
    Creating,
    /// Made, the user's program has not started.
    Created,
    /// The user's program runs.
    Running,
    /// Frozen by `pause`.
    Paused,
    /// The init process is gone.
    Stopped,
}

impl Status {
    /// The word that `state` and `list` print.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What `state` and `list` print of a container.
#[derive(Clone, Debug)]
pub struct ContainerState {
    /// ociVersion of the config.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// Pid of init in the caller's pid namespace; 0 when stopped.
    pub pid: i32,
    /// Status now.
    pub status: Status,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// Creation time, RFC 3339 with nanoseconds in UTC, as runc writes it.
    pub created: String,
    /// Annotations of config.json, ordered by key.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Uid that owns the state directory.
    pub owner_uid: u32,
}

/// Which processes [`kill`] signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillTarget {
    /// The init process.
    Init,
    /// `--all`: every process of the container's cgroup.
    All,
}

/// Makes the container and leaves its init waiting for [`start`].
///
/// Stdio is the caller's (descriptors 0 to 2) unless `process.terminal` is set.
///
/// # Errors
/// Any [`Error`]; nothing is left behind then.
pub fn create(runtime: &Runtime, options: CreateOptions) -> Result<Started> {
    create::create(runtime, options, StartWhen::Later)
}

/// Starts the user's program of a created container and returns once it was executed.
///
/// # Errors
/// [`Error::NotFound`], or an error in runc's words when the container is not in state created.
pub fn start(runtime: &Runtime, id: &str) -> Result<()> {
    lifecycle::start(runtime, id)
}

/// The socket on which a created container will say that it is ready, made before [`start`]; `manager` is
/// the service manager's. `None` when the container was created without one.
///
/// # Errors
/// [`Error::InvalidId`], or when a socket can't be made or connected.
pub fn notify_socket(runtime: &Runtime, id: &str, manager: &OsStr) -> Result<Option<NotifySocket>> {
    NotifySocket::bind(&dir::Dir::of(runtime, id)?, manager)
}

/// [`create`] and [`start`] in one, without the exec fifo.
///
/// # Errors
/// Any [`Error`]; nothing is left behind then.
pub fn run(runtime: &Runtime, options: CreateOptions) -> Result<Started> {
    create::create(runtime, options, StartWhen::Now)
}

/// Starts a further process in a running container and returns once it was executed.
///
/// # Errors
/// Any [`Error`]: [`Error::Stopped`] and [`Error::Paused`] among them.
pub fn exec(runtime: &Runtime, id: &str, options: ExecOptions) -> Result<Started> {
    ExecTarget::open(runtime, id)?.exec(&options)
}

/// Sends a signal.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotRunning`].
pub fn kill(runtime: &Runtime, id: &str, signal: i32, target: KillTarget) -> Result<()> {
    lifecycle::kill(runtime, id, signal, target)
}

/// Removes a stopped container (or a created one); with `force` a running one too, by SIGKILL first.
///
/// # Errors
/// [`Error::NotFound`] (also with `force`: the command line ignores it then), [`Error::NotStopped`].
pub fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    lifecycle::delete(runtime, id, force)
}

/// A container's state now.
///
/// # Errors
/// [`Error::NotFound`].
pub fn state(runtime: &Runtime, id: &str) -> Result<ContainerState> {
    lifecycle::state(runtime, id)
}

/// Every container under the root, ordered by id; those that vanish meanwhile are left out.
///
/// # Errors
/// When the root can't be read; a missing root is an empty list.
pub fn list(runtime: &Runtime) -> Result<Vec<ContainerState>> {
    lifecycle::list(runtime)
}

/// Names of the directories under the root that can be containers', ordered. Nothing in them is read.
///
/// # Errors
/// When the root can't be read; a missing root is an empty list.
pub fn ids(runtime: &Runtime) -> Result<Vec<String>> {
    lifecycle::ids(runtime)
}

/// Pids of all processes in the container's cgroup, sub-cgroups included.
///
/// # Errors
/// [`Error::NotFound`].
pub fn pids(runtime: &Runtime, id: &str) -> Result<Vec<i32>> {
    lifecycle::pids(runtime, id)
}

/// Freezes the container's cgroup.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotRunning`].
pub fn pause(runtime: &Runtime, id: &str) -> Result<()> {
    lifecycle::pause(runtime, id)
}

/// Makes further mounts in a running container: all of them or none.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotRunning`], or the mount that failed and why.
pub fn add_mounts(runtime: &Runtime, id: &str, mounts: &[Mount]) -> Result<()> {
    live_mounts::add(runtime, id, mounts)
}

/// Detaches mounts of a running container, by their destinations.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotRunning`], or the destination that is no mount.
pub fn remove_mounts(runtime: &Runtime, id: &str, mounts: &[Mount]) -> Result<()> {
    live_mounts::remove(runtime, id, mounts)
}

/// Thaws it.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotPaused`].
pub fn resume(runtime: &Runtime, id: &str) -> Result<()> {
    lifecycle::resume(runtime, id)
}

/// Changes the container's limits: only what `resources` and `intel_rdt` set; device rules are left alone
/// without any.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotRunning`], [`Error::Cgroup`], [`Error::Resctrl`].
pub fn update(
    runtime: &Runtime,
    id: &str,
    resources: &LinuxResources,
    intel_rdt: Option<&LinuxIntelRdt>,
) -> Result<()> {
    lifecycle::update(runtime, id, resources, intel_rdt)
}

/// Writes a running or paused container's processes to images, by CRIU. Afterwards the container is gone, its
/// cgroup and state too, unless `options` lets it run on ([`CheckpointOptions::leave_running`],
/// [`CheckpointOptions::pre_dump`]).
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotCheckpointable`], [`Error::Refused`], [`Error::Criu`]. The container runs on (or
/// is paused, as it was) then.
pub fn checkpoint(runtime: &Runtime, id: &str, options: &CheckpointOptions) -> Result<()> {
    checkpoint::checkpoint(runtime, id, options)
}

/// Makes a container of a bundle, with the processes that a [`checkpoint`] has written; they run when this returns.
///
/// Stdio is the caller's (descriptors 0 to 2) unless `process.terminal` is set: what was a pipe or a file of the
/// host's in the images is replaced by it. Of `create`, [`CreateOptions::preserve_fds`] and
/// [`CreateOptions::activation`] mean nothing here: descriptors are those of the images. Hooks: prestart and
/// createRuntime run once the namespaces are there, as with runc the others do not.
///
/// # Errors
/// [`Error::Refused`], [`Error::Criu`], or one of `create`; nothing is left behind then.
pub fn restore(runtime: &Runtime, create: &CreateOptions, options: &RestoreOptions) -> Result<Started> {
    restore::restore(runtime, create, options)
}

/// Opens a running container for `events`.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotRunning`].
pub fn monitor(runtime: &Runtime, id: &str) -> Result<Monitor> {
    Monitor::open(runtime, id)
}

/// The connected console socket; `None` when no terminal is asked for.
fn connect_console(console: &Console, terminal: bool) -> Result<Option<OwnedFd>> {
    match (terminal, console) {
        // runc's words (checkTerminal).
        (true, Console::Inherit) => Err(Error::NoConsoleSocket),
        (true, Console::Socket(path)) => connect(path).map(Some),
        (true, Console::Connected(socket)) => {
            socket.try_clone().map(Some).map_err(|e| Error::io("duplicate", Path::new("console socket"), e))
        }
        (false, Console::Inherit | Console::Connected(_)) => Ok(None),
        (false, Console::Socket(_)) => Err(Error::UnusedConsoleSocket),
    }
}

/// Longest path in a `sockaddr_un`, without the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Connects to an AF_UNIX stream socket.
fn connect(path: &Path) -> Result<OwnedFd> {
    short_path(path, |short| UnixStream::connect(short))
        .map(OwnedFd::from)
        .map_err(|e| Error::io("connect to", path, e))
}

/// Calls with a path that fits a socket address: one that is too long is reached through its directory's
/// descriptor.
fn short_path<T>(path: &Path, call: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return call(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    };
    let dir = std::fs::File::open(parent)?;
    call(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}
