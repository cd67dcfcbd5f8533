//! What can go wrong with a container, in the words that runc's callers match.
//!
//! containerd's shim maps `container not running`, `no such process` and `does not exist` to NotFound;
//! Docker and Podman read `executable file not found` and `permission denied` (exit codes 127, 126).

use std::path::{Path, PathBuf};

use crate::init::{Failure, io_reason};

/// What the sentence of a failed `create` begins with, as runc's does: on the command line and through the shim.
pub const CREATE_FAILED: &str = "davit create failed: ";
/// The same of `exec`.
pub const EXEC_FAILED: &str = "exec failed: ";

/// A failed container operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id has characters other than `[A-Za-z0-9_+.-]`, or is `.` or `..`.
    #[error("invalid container ID format: {0:?}")]
    InvalidId(String),
    /// The container's annotation asks for a runtime that runs from a copy of its file, and this one does not.
    #[error("the container asks for a copy of the runtime's binary ({})", crate::selfexe::ANNOTATION)]
    NeedsCopy,
    /// `create` with an id in use.
    #[error("container with given ID already exists")]
    Exists,
    /// No such container under the root.
    #[error("container does not exist")]
    NotFound,
    /// `kill` or `pause` of a container whose init is gone.
    #[error("container not running")]
    NotRunning,
    /// `exec` into a paused container.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    /// `resume` of a container that is not paused.
    #[error("container not paused")]
    NotPaused,
    /// A terminal is asked for and there is nowhere to send it.
    #[error("cannot allocate tty if davit will detach without setting console socket")]
    NoConsoleSocket,
    /// A console socket is given and no terminal asked for.
    #[error("cannot use console socket if davit will not detach or allocate tty")]
    UnusedConsoleSocket,
    /// `exec` into a stopped container.
    #[error("cannot exec in a stopped container")]
    Stopped,
    /// `start` of a running container.
    #[error("cannot start an already running container")]
    AlreadyRunning,
    /// `start` or `exec` while `create` is at work, or after it was killed.
    #[error("the container is still being created")]
    StillCreating,
    /// `start` of a container whose init is gone.
    #[error("cannot start a container that has stopped")]
    StartStopped,
    /// `delete` without force of a container that is not stopped.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// Container id.
        id: String,
        /// Its status word.
        status: &'static str,
    },
    /// A field, flag or command that davit does not implement yet: never silently ignored.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// config.json or process.json is wrong.
    #[error(transparent)]
    Spec(#[from] crate::spec::Error),
    /// A cgroup could not be made, changed, read or removed.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::Error),
    /// CRIU did not do what was asked.
    #[error(transparent)]
    Criu(#[from] crate::criu::Error),
    /// `checkpoint` of a container that has no process to be written (runc's words).
    #[error("Container cannot be checkpointed in {0} state")]
    NotCheckpointable(&'static str),
    /// A container whose checkpoint or restore would lose something that it relies on, or that needs other rights.
    #[error("container cannot be {action}: {why}")]
    Refused {
        /// `checkpointed` or `restored`.
        action: &'static str,
        /// Why not.
        why: String,
    },
    /// A resctrl group could not be made, joined or removed.
    #[error(transparent)]
    Resctrl(#[from] crate::resctrl::Error),
    /// The seccomp profile can't be compiled.
    #[error("unable to compile seccomp profile: {0}")]
    Seccomp(#[from] crate::seccomp::Error),
    /// The agent at `linux.seccomp.listenerPath` can't be reached (runc's words).
    #[error(
        "failed to connect with seccomp agent specified in the seccomp profile: {path}: {}",
        io_reason(source)
    )]
    SeccompAgent {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A filter was to have a listener, and none came.
    #[error("unable to start container process: no seccomp listener came of its filter")]
    NoListener,
    /// The container's process reported a failed step. runc's words, which Docker and Podman match.
    #[error("unable to start container process: error during container init: {0}")]
    Init(Failure),
    /// A step of the runtime itself failed while making a process.
    #[error("unable to start container process: {0}")]
    Runtime(#[from] Failure),
    /// A mount could not be added to a running container, or removed.
    #[error("{0}")]
    Mount(Failure),
    /// Mounts of a container without a mount namespace would be the host's.
    #[error("the container has no mount namespace of its own")]
    SharedMounts,
    /// The container's process ended without a word.
    #[error("unable to start container process: container init {how}")]
    Died {
        /// How it ended, with the likely reason.
        how: String,
    },
    /// `start` found no one waiting: the process ended, or its program could not be executed.
    #[error("container process is already dead")]
    AlreadyDead,
    /// A process that was to be killed is still there.
    #[error("container init still running: {0}")]
    StillRunning(String),
    /// state.json belongs to another user.
    #[error("{path} is owned by uid {owner}: refused")]
    ForeignState {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Both a user namespace's path and maps are given, and it has others (runc's words).
    #[error(
        "user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only \
         provide one"
    )]
    UserNamespaceMaps,
    /// The user namespace of an ordinary user's container without ranges in /etc/subgid denies setgroups(2).
    #[error(
        "process.user.additionalGids: cannot set any additional groups in a rootless container \
         (it can with a range of groups of /etc/subgid in linux.gidMappings)"
    )]
    RootlessGroups,
    /// A descriptor of `--preserve-fds` is not open.
    #[error("unable to preserve fd {0}: it is not open")]
    PreservedFd(u32),
    /// An ordinary user's call about the state of somebody else's containers, or with no directory for its own.
    #[error(
        "{action} {path}: {} (uid {} needs a directory of its own for the state of containers: set \
         XDG_RUNTIME_DIR, or give one with --root)",
        io_reason(source),
        nix::unistd::geteuid()
    )]
    StateDenied {
        /// What was done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A file or directory of the host.
    #[error("{action} {path}: {}", io_reason(source))]
    Io {
        /// What was done, as a verb: `open`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// A failed operation on the state of containers.
    pub(crate) fn state(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
        if denied && super::idmap::is_ordinary_user() {
            return Error::StateDenied { action, path: path.to_owned(), source };
        }
        Error::io(action, path, source)
    }

    /// A failed operation on a file of the host.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { action, path: path.to_owned(), source }
    }
}
