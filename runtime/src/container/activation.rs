//! What a service manager hands to a container: listening sockets (sd_listen_fds(3)) and a way to say that it
//! is ready (sd_notify(3)).
//!
//! The container never gets the manager's own socket: it has one in a directory of its own, and the runtime
//! passes on that it is ready, with the pid that the manager shall watch.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{Mount, Spec};

use super::dir::Dir;
use super::{Activation, Error, Result, short_path};

/// Directory in a container's state directory that is bound to [`IN_CONTAINER`].
const DIRECTORY: &str = "notify";
/// Name of the socket in it.
const SOCKET: &str = "notify.sock";
/// Where the container has that directory: runc's place.
const IN_CONTAINER: &str = "/run/notify";

/// How long the manager may take to confirm that it has read everything: what sd_notify_barrier(3) users and
/// runc allow.
const BARRIER_MS: u16 = 30_000;

impl Activation {
    /// Adds to a config what it takes: variables of the process, and the mount of the socket's directory.
    pub(super) fn apply(&self, spec: &mut Spec, dir: &Dir) {
        let mut variables = Vec::new();
        if self.listen_fds > 0 {
            variables.push(format!("LISTEN_FDS={}", self.listen_fds));
            // The program is number 1 of the container, as for runc.
            variables.push("LISTEN_PID=1".to_owned());
            variables.extend(self.listen_names.iter().map(|names| format!("LISTEN_FDNAMES={names}")));
        }
        if self.notify.is_some() {
            variables.push(format!("NOTIFY_SOCKET={IN_CONTAINER}/{SOCKET}"));
            let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
            let mut mount = Mount::default();
            mount.set_destination(IN_CONTAINER.into());
            mount.set_typ(Some("bind".to_owned()));
            mount.set_source(Some(directory(dir)));
            mount.set_options(Some(options.to_vec()));
            spec.mounts_mut().get_or_insert_default().push(mount);
        }
        if let (false, Some(process)) = (variables.is_empty(), spec.process_mut()) {
            process.env_mut().get_or_insert_default().extend(variables);
        }
    }

    /// Makes the socket's directory.
    pub(super) fn make_directory(&self, dir: &Dir) -> Result<()> {
        if self.notify.is_none() {
            return Ok(());
        }
        let path = directory(dir);
        let made = std::fs::create_dir(&path)
            // Any user of the container may go through it, whatever the caller's umask is.
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
        made.map_err(|e| Error::io("create", &path, e))
    }
}

fn directory(dir: &Dir) -> PathBuf {
    dir.path().join(DIRECTORY)
}

/// The container's `NOTIFY_SOCKET`, and the service manager's, to which its readiness is passed on.
#[derive(Debug)]
pub struct NotifySocket {
    container: UnixDatagram,
    manager: UnixDatagram,
    stage: Stage,
}

/// How far the notification is.
#[derive(Debug)]
enum Stage {
    /// The container has not said that it is ready.
    Waiting,
    /// It was passed on; the manager closes the other end of this pipe when it has read it.
    Confirming(OwnedFd),
    /// Nothing is left to do.
    Done,
}

impl NotifySocket {
    /// Makes the socket in a container's directory and connects to the manager's. `None` when the container was
    /// created without one (its `create` had no `NOTIFY_SOCKET`).
    pub(super) fn bind(dir: &Dir, manager: &OsStr) -> Result<Option<Self>> {
        let directory = directory(dir);
        if !directory.is_dir() {
            return Ok(None);
        }
        let path = directory.join(SOCKET);
        let failed = |e| Error::io("make", &path, e);
        let container = short_path(&path, |short| UnixDatagram::bind(short)).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
        container.set_nonblocking(true).map_err(failed)?;
        let manager = connect(manager).map_err(|e| Error::io("connect to", Path::new(manager), e))?;
        Ok(Some(NotifySocket { container, manager, stage: Stage::Waiting }))
    }

    /// What to poll for: the container's next message, while one is awaited.
    #[must_use]
    pub fn awaited(&self) -> Option<BorrowedFd<'_>> {
        matches!(self.stage, Stage::Waiting).then(|| self.container.as_fd())
    }

    /// Reads the messages that are there. The first with `READY=` is passed on, followed by `MAINPID=` and a
    /// barrier.
    ///
    /// # Errors
    /// When the manager can't be told.
    pub fn serve(&mut self, main_pid: u32) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        while matches!(self.stage, Stage::Waiting) {
            let length = match self.container.recv(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let message = buffer.get(..length).unwrap_or_default();
            let ready = message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="));
            if let Some(line) = ready {
                // Told once, whatever comes of it.
                self.stage = Stage::Done;
                self.manager.send(&[line, b"\n"].concat())?;
                self.manager.send(format!("MAINPID={main_pid}\n").as_bytes())?;
                self.stage = Stage::Confirming(self.barrier()?);
            }
        }
        Ok(())
    }

    /// sd_notify_barrier(3): the manager closes the descriptor that it is sent.
    fn barrier(&self) -> io::Result<OwnedFd> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let fds = [writer.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let text = [IoSlice::new(b"BARRIER=1")];
        sendmsg::<()>(self.manager.as_raw_fd(), &text, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(reader)
    }

    /// Waits until a container that runs detached has said that it is ready, or has ended.
    ///
    /// # Errors
    /// Those of [`NotifySocket::serve`].
    pub fn wait(&mut self, process: BorrowedFd<'_>, main_pid: u32) -> io::Result<()> {
        while let Some(awaited) = self.awaited() {
            let mut fds = [PollFd::new(awaited, PollFlags::POLLIN), PollFd::new(process, PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ended = fds.get(1).and_then(PollFd::any).unwrap_or(false);
            self.serve(main_pid)?;
            if ended {
                break;
            }
        }
        self.finish();
        Ok(())
    }

    /// Waits until the manager has read what it was told: it asks the kernel who the sender is, which must not
    /// be gone then.
    pub fn finish(&mut self) {
        if let Stage::Confirming(pipe) = std::mem::replace(&mut self.stage, Stage::Done) {
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(BARRIER_MS)) == Ok(0) {
                log::warn!("the service manager did not confirm the notification within 30 s");
            }
        }
    }
}

/// Connects to the manager's socket: a path, or `@` and an abstract name.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().split_first() {
        Some((b'@', name)) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        _ => short_path(Path::new(address), |short| socket.connect(short))?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Runtime;

    #[test]
    fn readiness_is_passed_on_once_with_pid_and_barrier() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = crate::container::CgroupManager::Cgroupfs;
        let runtime = Runtime { root: root.path().to_owned(), cgroups, rootless: false };
        let dir = Dir::of(&runtime, "c").unwrap();
        dir.create().unwrap();
        let manager_path = root.path().join("manager");
        let manager = UnixDatagram::bind(&manager_path).unwrap();
        let activation = Activation { notify: Some(manager_path.clone().into()), ..Activation::default() };
        assert!(NotifySocket::bind(&dir, manager_path.as_os_str()).unwrap().is_none(), "no directory");
        activation.make_directory(&dir).unwrap();
        let mut socket = NotifySocket::bind(&dir, manager_path.as_os_str()).unwrap().unwrap();
        let container = UnixDatagram::unbound().unwrap();
        container.connect(directory(&dir).join(SOCKET)).unwrap();
        container.send(b"STATUS=soon").unwrap();
        socket.serve(7).unwrap();
        assert!(socket.awaited().is_some(), "other messages change nothing");
        container.send(b"STATUS=now\nREADY=1").unwrap();
        socket.serve(7).unwrap();
        assert!(socket.awaited().is_none());
        let read = || {
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!([read(), read(), read()], ["READY=1\n", "MAINPID=7\n", "BARRIER=1"]);
        // Reading the barrier without taking its descriptor has closed it.
        socket.finish();
    }
}
