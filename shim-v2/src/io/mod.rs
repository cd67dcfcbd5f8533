//! Stdio between containerd's FIFOs and the container.
//!
//! The container gets pipes (or a pty), never containerd's FIFO: that way neither a restart nor the absence
//! of the reader reaches it (containerd #2823), and its output can be drained after its end.

pub mod fifo;
pub mod logger;
pub mod pty;
pub mod stream;

use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown, pipe2};

use crate::api::Stdio;
use stream::{Channel, Sink, Source, Stream};

/// A stdio that can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// A URI scheme that no shim of this kind serves.
    #[error("unknown STDIO scheme {0:?}")]
    Scheme(String),
    /// A file of the host.
    #[error("open stdio {path}: {source}")]
    Open {
        /// FIFO or file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Making a pipe.
    #[error("make a stdio pipe: {0}")]
    Pipe(std::io::Error),
}

/// Owner of the pipes that the container gets, so that a user namespace's root can reopen /dev/stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id on the host.
    pub uid: u32,
    /// Group id on the host.
    pub gid: u32,
}

/// The container's ends: descriptors 0, 1, 2. `None` is /dev/null.
#[derive(Debug, Default)]
pub struct ContainerSide {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// What a process's stdio needs before the process is made.
#[derive(Debug, Default)]
pub struct Plan {
    /// Handed to the runtime.
    pub container: ContainerSide,
    /// Copied by the shim.
    pub streams: Vec<Stream>,
    /// Our own write end of the stdin FIFO: closing it (CloseIO) lets the reader see the end.
    pub stdin_hold: Option<OwnedFd>,
}

/// Opens everything for a process without a terminal.
///
/// # Errors
/// [`IoError`]; nothing blocks, whatever the FIFO's peer does.
pub fn plan(stdio: &Stdio, owner: Owner) -> Result<Plan, IoError> {
    let mut plan = Plan::default();
    if !stdio.stdin.is_empty() {
        let (read, hold) = fifo::open_stdin(Path::new(&stdio.stdin))?;
        let (ours, theirs) = stdin_pipe(owner)?;
        plan.streams.push(Stream::new(Channel::Stdin, Source::Pipe(read), Sink::ready(ours)));
        plan.container.stdin = Some(theirs);
        plan.stdin_hold = Some(hold);
    }
    // A logging program reads from the container itself; the worker starts it.
    if logger::Logger::parse(&stdio.stdout).is_some() {
        return Ok(plan);
    }
    if !stdio.stdout.is_empty() {
        let (source, theirs) = output_pipe(owner)?;
        let sink = open_sink(&stdio.stdout)?;
        plan.streams.push(Stream::new(Channel::Stdout, Source::Pipe(source), sink));
        plan.container.stdout = Some(theirs);
    }
    // With file:// both go into the one file, as in Go's shim.
    let stderr = if stdio.stdout.starts_with("file://") { &stdio.stdout } else { &stdio.stderr };
    if !stderr.is_empty() {
        let (source, theirs) = output_pipe(owner)?;
        let sink = open_sink(stderr)?;
        plan.streams.push(Stream::new(Channel::Stderr, Source::Pipe(source), sink));
        plan.container.stderr = Some(theirs);
    }
    Ok(plan)
}

/// Opens everything for a process with a terminal, whose master is still to come.
///
/// # Errors
/// [`IoError`].
pub fn plan_terminal(stdio: &Stdio) -> Result<pty::TerminalPlan, IoError> {
    let mut plan = pty::TerminalPlan::default();
    if !stdio.stdin.is_empty() {
        let (read, hold) = fifo::open_stdin(Path::new(&stdio.stdin))?;
        plan.stdin = Some(read);
        plan.stdin_hold = Some(hold);
    }
    if logger::Logger::parse(&stdio.stdout).is_some() {
        // The program gets what the shim reads from the terminal, through a pipe.
        let (read, write) = pipe(Owner::default()).map_err(IoError::Pipe)?;
        set_nonblocking(&write).map_err(IoError::Pipe)?;
        plan.stdout = Some(Sink::ready(write));
        plan.logger = Some(read);
    } else if !stdio.stdout.is_empty() {
        plan.stdout = Some(open_sink(&stdio.stdout)?);
    }
    Ok(plan)
}

fn open_sink(target: &str) -> Result<Sink, IoError> {
    match target.split_once("://") {
        None => fifo::open_output(Path::new(target)),
        Some(("fifo", path)) => fifo::open_output(Path::new(path)),
        Some(("file", path)) => open_file(Path::new(path)).map(Sink::ready),
        Some((scheme, _)) => Err(IoError::Scheme(scheme.to_owned())),
    }
}

fn open_file(path: &Path) -> Result<OwnedFd, IoError> {
    let fail = |source| IoError::Open { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path).map_err(fail)?;
    Ok(file.into())
}

fn pipe(owner: Owner) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    if owner != Owner::default() {
        // Both ends are one inode.
        fchown(&read, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    }
    Ok((read, write))
}

/// Our write end (non-blocking) and the container's read end.
fn stdin_pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), IoError> {
    let (read, write) = pipe(owner).map_err(IoError::Pipe)?;
    set_nonblocking(&write).map_err(IoError::Pipe)?;
    Ok((write, read))
}

/// Our read end (non-blocking) and the container's write end.
fn output_pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), IoError> {
    let (read, write) = pipe(owner).map_err(IoError::Pipe)?;
    set_nonblocking(&read).map_err(IoError::Pipe)?;
    Ok((read, write))
}

/// Sets O_NONBLOCK on this end; the other end is another open file and keeps blocking.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> std::io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
