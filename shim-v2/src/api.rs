//! The task service as Rust types: what a client can ask, what it gets, and how a refusal is coded.
//!
//! `containerd.task.v2.Task` and `containerd.task.v3.Task` have the same messages, so both service names
//! lead to the same [`Request`].

use std::time::{SystemTime, UNIX_EPOCH};

/// google.rpc codes, as containerd's errgrpc maps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// Anything that has only text.
    Unknown = 2,
    /// A malformed request.
    InvalidArgument = 3,
    /// No such container or process; success for Kill and Delete in callers' eyes.
    NotFound = 5,
    /// The id is in use.
    AlreadyExists = 6,
    /// A frame above the protocol's limit.
    ResourceExhausted = 8,
    /// The call needs another state.
    FailedPrecondition = 9,
    /// No such service or method, or a feature that is missing.
    Unimplemented = 12,
}

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ApiError {
    /// How callers tell it apart.
    pub code: Code,
    /// What people and Docker's exit-code rules read.
    pub text: String,
}

impl ApiError {
    /// An error of `code`.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        ApiError { code, text: text.into() }
    }

    /// An error that has only text.
    pub fn unknown(text: impl Into<String>) -> Self {
        Self::new(Code::Unknown, text)
    }
}

/// A point in time on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999 999 999.
    pub nanos: i32,
}

impl Stamp {
    /// Go's zero time (year 1): what clients test with IsZero, "has not exited".
    pub const ZERO: Stamp = Stamp { seconds: -62_135_596_800, nanos: 0 };

    /// Now.
    #[must_use]
    pub fn now() -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Stamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
    }
}

/// One process of a container: its init (`exec` empty) or an exec.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Container id.
    pub id: String,
    /// Exec id; empty for the init process.
    pub exec: String,
}

/// Where a process's stdio goes, as containerd names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// FIFO path, or empty.
    pub stdin: String,
    /// FIFO path or URI, or empty.
    pub stdout: String,
    /// FIFO path or URI, or empty; unused with a terminal.
    pub stderr: String,
    /// A pty is wanted.
    pub terminal: bool,
}

/// One mount of the rootfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Filesystem type, or `bind`.
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// Path below the rootfs, or empty.
    pub target: String,
    /// fstab-style options.
    pub options: Vec<String>,
}

/// A typed message inside a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Any {
    /// The type's full name, perhaps after a `/`.
    pub url: String,
    /// The encoded message.
    pub value: Vec<u8>,
}

/// Arguments of Create.
#[derive(Clone, Debug)]
pub struct Create {
    /// Container id.
    pub id: String,
    /// Directory with config.json.
    pub bundle: String,
    /// What to mount on the bundle's rootfs.
    pub rootfs: Vec<Mount>,
    /// Stdio of the init process.
    pub stdio: Stdio,
    /// Checkpoint to restore from; empty for none.
    pub checkpoint: String,
    /// Runtime options.
    pub options: Option<Any>,
}

/// Arguments of Checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Container id.
    pub id: String,
    /// Directory for the images.
    pub path: String,
    /// What the client wants of it.
    pub options: CheckpointOptions,
}

/// containerd.runc.v1.CheckpointOptions. `image_path` is the daemon's: it comes as the request's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// End the container; else it runs on.
    pub exit: bool,
    /// Dump established TCP connections.
    pub open_tcp: bool,
    /// Dump sockets with a peer outside.
    pub external_unix_sockets: bool,
    /// Dump a terminal that is the caller's.
    pub terminal: bool,
    /// Dump file locks.
    pub file_locks: bool,
    /// Namespaces whose content is not dumped.
    pub empty_namespaces: Vec<String>,
    /// How CRIU treats cgroups: `soft`, `full`, `strict`; empty for the runtime's default.
    pub cgroups_mode: String,
    /// CRIU's work directory, which is kept; empty for one that is removed afterwards.
    pub work_path: String,
}

/// Arguments of Exec.
#[derive(Clone, Debug)]
pub struct Exec {
    /// Container and the new exec id.
    pub target: Target,
    /// Stdio of the process.
    pub stdio: Stdio,
    /// JSON of the OCI `process` object.
    pub spec: Vec<u8>,
}

/// A call of the task service.
#[derive(Clone, Debug)]
pub enum Request {
    /// Everything about one process.
    State(Target),
    /// Make the container.
    Create(Box<Create>),
    /// Start the init process or a recorded exec.
    Start(Target),
    /// Forget an ended process or container.
    Delete(Target),
    /// All pids of the container.
    Pids(String),
    /// Freeze.
    Pause(String),
    /// Thaw.
    Resume(String),
    /// Dump with CRIU.
    Checkpoint(Box<Checkpoint>),
    /// Send a signal.
    Kill {
        /// To which process.
        target: Target,
        /// Signal number.
        signal: u32,
        /// Every process of the container.
        all: bool,
    },
    /// Record an exec.
    Exec(Box<Exec>),
    /// Set the terminal's size.
    ResizePty {
        /// Whose terminal.
        target: Target,
        /// Columns.
        width: u32,
        /// Lines.
        height: u32,
    },
    /// Let go of stdin.
    CloseIo {
        /// Whose.
        target: Target,
        /// False means that there is nothing to do.
        stdin: bool,
    },
    /// Change limits: JSON of LinuxResources.
    Update {
        /// Container id.
        id: String,
        /// JSON.
        resources: Vec<u8>,
    },
    /// Answer once the process has ended.
    Wait(Target),
    /// Metrics of the cgroup.
    Stats(String),
    /// First call after containerd's restart.
    Connect(String),
    /// End the shim when it has no container.
    Shutdown,
}

/// Status of a process on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not started.
    Created,
    /// Started.
    Running,
    /// Ended.
    Stopped,
    /// Frozen.
    Paused,
    /// Being frozen.
    Pausing,
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitInfo {
    /// Its pid.
    pub pid: u32,
    /// Exit code, or 128 + signal.
    pub status: u32,
    /// When it was reaped.
    pub at: Stamp,
}

/// Answer to State.
#[derive(Clone, Debug)]
pub struct StateInfo {
    /// Container id for init, exec id for an exec: what Go's shim sends.
    pub id: String,
    /// Exec id.
    pub exec: String,
    /// Bundle directory.
    pub bundle: String,
    /// 0 before the process exists.
    pub pid: u32,
    /// Status.
    pub status: Status,
    /// Stdio as it was asked for.
    pub stdio: Stdio,
    /// Exit code once stopped.
    pub exit_status: u32,
    /// [`Stamp::ZERO`] until stopped.
    pub exited_at: Stamp,
}

/// One row of Pids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRow {
    /// Pid in the shim's pid namespace.
    pub pid: u32,
    /// The exec it is the first process of.
    pub exec: Option<String>,
}

/// Answer of a call.
#[derive(Clone, Debug)]
pub enum Response {
    /// Pause, Resume, Kill, Exec, ResizePty, CloseIO, Update, Shutdown.
    Empty,
    /// State.
    State(Box<StateInfo>),
    /// Create and Start: both messages hold the pid in field 1.
    Pid(u32),
    /// Delete.
    Deleted(ExitInfo),
    /// Wait.
    Waited(ExitInfo),
    /// Pids.
    Pids(Vec<ProcessRow>),
    /// Stats.
    Stats(Any),
    /// Connect.
    Connected {
        /// Of this process.
        shim: u32,
        /// Of the container's init, 0 for an unknown id.
        task: u32,
    },
}
