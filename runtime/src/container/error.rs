//! What can go wrong with a container, in the words that runc's callers match.
//!
//! containerd's shim maps `container not running`, `no such process` and `does not exist` to NotFound;
//! Docker and Podman read `executable file not found` and `permission denied` (exit codes 127, 126).

use std::path::PathBuf;

/// A failed container operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id has characters other than `[A-Za-z0-9_+.-]`, or is `.` or `..`.
    #[error("invalid container ID format: {0:?}")]
    InvalidId(String),
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
    /// `exec` into a stopped container.
    #[error("cannot exec in a stopped container")]
    Stopped,
    /// `start` of a running container.
    #[error("cannot start an already running container")]
    AlreadyRunning,
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
    /// A file or directory of the host.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was done, as a verb: `open`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
