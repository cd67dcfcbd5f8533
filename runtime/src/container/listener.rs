//! The listener of a seccomp filter: its descriptor goes from the process that loaded the filter to the agent at
//! `linux.seccomp.listenerPath` (config-linux.md, "Seccomp"; runtime.md, "Container Process State").
//!
//! Any call of that process but execve(2) may be one that the agent has to answer, write(2) and sendmsg(2) too, so
//! it hands nothing over by itself. It leaves the descriptor's number in memory that it shares with the runtime;
//! the runtime takes the descriptor out of it with pidfd_getfd(2) (kernel 5.6) and sends it to the agent. Then the
//! process goes on.

use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;

use super::spawn::Spawned;
use super::{Error, Result};
use crate::cgroup::Cgroup;
use crate::init::{Context, HookState, Kind, LISTENER_TAKEN};
use crate::seccomp::Filter;
use crate::sys::process::pidfd_getfd;
use crate::sys::shared::SharedWord;

/// The name of the listener's descriptor among those sent (runtime-spec, `SeccompFdName`).
const DESCRIPTOR: &str = "seccompFd";

/// What the agent is told of the process (runtime-spec, `ContainerProcessState`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a HookState,
}

/// A connection to the agent, made before the filter is loaded: a process that waits for its listener to be taken
/// can only turn in place, and connecting may take long.
struct Agent<'a> {
    socket: UnixStream,
    path: PathBuf,
    metadata: &'a str,
}

impl<'a> Agent<'a> {
    fn connect(profile: &'a LinuxSeccomp) -> Result<Self> {
        let path = profile.listener_path().clone().unwrap_or_default();
        let metadata = profile.listener_metadata().as_deref().unwrap_or_default();
        let socket = super::short_path(&path, |short| UnixStream::connect(short))
            .map_err(|source| Error::SeccompAgent { path: path.clone(), source })?;
        Ok(Agent { socket, path, metadata })
    }

    /// One state, with the descriptor beside its first byte.
    fn tell(&self, state: &HookState, pid: i32, listener: BorrowedFd<'_>) -> Result<()> {
        let failed = |source| Error::SeccompAgent { path: self.path.clone(), source };
        let state = ProcessState {
            oci_version: &state.oci_version,
            fds: [DESCRIPTOR],
            pid,
            metadata: self.metadata,
            state,
        };
        let text = serde_json::to_vec(&state).map_err(|e| failed(e.into()))?;
        let fds = [listener.as_raw_fd()];
        let sent = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(&text)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|e| failed(e.into()))?;
        // A signal can end it early.
        (&self.socket).write_all(text.get(sent..).unwrap_or_default()).map_err(failed)
    }
}

/// Sends a process its filter and, if the filter has a listener, brings that to the agent. `state` is the
/// container's, as the agent is to see it.
///
/// # Errors
/// [`Error::SeccompAgent`], or why the process could not load the filter.
pub(super) fn send_filter(
    spawned: &Spawned,
    profile: &LinuxSeccomp,
    filter: &Filter,
    state: impl FnOnce() -> HookState,
    cgroup: &Cgroup,
) -> Result<()> {
    let agent = filter.notify.then(|| Agent::connect(profile)).transpose()?;
    spawned.tell(Kind::Filter, &filter.to_bytes(), cgroup)?;
    let Some(agent) = agent else { return Ok(()) };
    spawned.expect(Kind::Listening, cgroup)?;
    let (listener, word) = take(spawned, cgroup)?;
    agent.tell(&state(), spawned.pid, listener.as_fd())?;
    word.set(LISTENER_TAKEN);
    Ok(())
}

/// Waits until the filter is loaded and takes the listener. The process loads it at once after
/// [`Kind::Listening`], which takes some hundred microseconds, and can make no call to say so: the word has to be
/// looked at.
fn take<'a>(spawned: &'a Spawned, cgroup: &Cgroup) -> Result<(OwnedFd, &'a SharedWord)> {
    let word = spawned.listener.as_ref().ok_or(Error::NoListener)?;
    loop {
        if let Some(fd) = crate::init::loaded_listener(word) {
            let listener =
                pidfd_getfd(spawned.pidfd.as_fd(), fd).during("take seccomp listener", String::new)?;
            return Ok((listener, word));
        }
        let mut ready = [PollFd::new(spawned.channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(1u8)) {
            Ok(0) | Err(Errno::EINTR) => {}
            // It has more to say, or has ended, and the word is still empty: the load failed.
            Ok(_) if crate::init::loaded_listener(word).is_none() => {
                spawned.expect(Kind::Ready, cgroup)?;
                return Err(Error::NoListener);
            }
            Ok(_) => {}
            Err(e) => return Err(Error::io("wait for", Path::new("seccomp listener"), e.into())),
        }
    }
}
