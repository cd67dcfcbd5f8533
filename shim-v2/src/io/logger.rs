//! `binary://` logging: a program that reads the container's output from descriptors 3 and 4.
//!
//! It is started in the worker, before the runtime, so its readiness can be waited for; when the worker ends it
//! becomes the shim's child like everything else a worker leaves, and it ends by itself at the end of the output.
//! Source: `process/io.go:NewBinaryIO` and `runtime/v2/logging` of containerd.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use davit::sys::fs::{CloseRange, borrow, close_range, dup_onto};
use davit::sys::process::{Fork, exec, exit_now, fork};
use davit::sys::signal::{BrokenPipe, set_broken_pipe};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, read, write};

use super::Owner;

/// How long the program may take until it is ready.
const READY_MILLIS: u16 = 30_000;
/// Descriptors of the program: output, errors, readiness; and the one that closes when it is executed.
const PLACES: [i32; 4] = [3, 4, 5, STATUS];
const STATUS: i32 = 6;
/// Copies are made above the places.
const ABOVE: i32 = 10;

/// What "ready" is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    /// The program closes descriptor 5; its end does that too.
    End,
    /// It writes a byte first, so that a crash is not taken for it (containerd #12490).
    Byte,
}

/// Where the program's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// The container writes into the program's pipes.
    Container,
    /// The shim writes what the terminal says into a pipe whose read end is the worker's descriptor 1.
    Terminal,
}

/// A logging program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    path: PathBuf,
    args: Vec<String>,
    ready: Ready,
}

impl Logger {
    /// Reads a `binary://` or `binary-v2://` URI; `None` for another scheme.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Logger> {
        let (scheme, rest) = uri.split_once("://")?;
        let ready = match scheme {
            "binary" => Ready::End,
            "binary-v2" => Ready::Byte,
            _ => return None,
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unquote(key), unquote(value))
            })
            .collect();
        // Go goes through a map; sorted is one of its orders.
        pairs.sort_unstable();
        let words = pairs.into_iter().flat_map(|(key, value)| [key, value]);
        Some(Logger {
            path: PathBuf::from(unquote(path)),
            args: words.filter(|w| !w.is_empty()).collect(),
            ready,
        })
    }

    /// Starts the program and makes the calling worker's descriptors 1 and 2 its input; with a terminal they
    /// are /dev/null afterwards.
    ///
    /// # Errors
    /// Text that names the program.
    pub fn attach(&self, id: &str, namespace: &str, owner: Owner, feed: Feed) -> Result<(), String> {
        self.try_attach(id, namespace, owner, feed)
            .map_err(|e| format!("failed to start logging binary {}: {e}", self.path.display()))
    }

    fn try_attach(&self, id: &str, namespace: &str, owner: Owner, feed: Feed) -> io::Result<()> {
        let (out, out_write) = match feed {
            Feed::Container => super::pipe(owner)?,
            Feed::Terminal => {
                let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
                (borrow(1).try_clone_to_owned()?, null.into())
            }
        };
        let (err, err_write) = super::pipe(owner)?;
        let (ready, ready_write) = pipe2(OFlag::O_CLOEXEC)?;
        // Closes when the program is executed; else it takes the reason.
        let (status, status_write) = pipe2(OFlag::O_CLOEXEC)?;
        let word = |text: &str| CString::new(text).map_err(io::Error::from);
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let mut args = vec![path.clone()];
        for arg in &self.args {
            args.push(word(arg)?);
        }
        let env = [word(&format!("CONTAINER_ID={id}"))?, word(&format!("CONTAINER_NAMESPACE={namespace}"))?];
        match fork()? {
            Fork::Child => {
                let args: Vec<_> = args.iter().map(CString::as_c_str).collect();
                let env: Vec<_> = env.iter().map(CString::as_c_str).collect();
                let error = match place([&out, &err, &ready_write, &status_write])
                    .and_then(|()| set_broken_pipe(BrokenPipe::Default))
                {
                    Ok(()) => exec(&path, &args, &env),
                    Err(error) => error,
                };
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let _ = write(borrow(STATUS), &errno.to_ne_bytes());
                exit_now(127)
            }
            Fork::Parent { .. } => drop((ready_write, status_write)),
        }
        let mut errno = [0; 4];
        if read(&status, &mut errno)? == errno.len() {
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)));
        }
        self.wait_ready(&ready)?;
        dup_onto(out_write.as_fd(), 1)?;
        // Errors of a terminal go where its output goes: the second input of the program ends at once.
        let err_write = if feed == Feed::Terminal { &out_write } else { &err_write };
        dup_onto(err_write.as_fd(), 2)
    }

    fn wait_ready(&self, ready: &OwnedFd) -> io::Result<()> {
        let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(READY_MILLIS))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not become ready"));
        }
        match (read(ready, &mut [0])?, self.ready) {
            (0, Ready::Byte) => Err(io::Error::other("it ended before it was ready")),
            _ => Ok(()),
        }
    }
}

/// Puts the program's descriptors in their places and closes the others.
fn place(sources: [&OwnedFd; 4]) -> io::Result<()> {
    let mut moved = [0; 4];
    for (to, source) in moved.iter_mut().zip(sources) {
        *to = fcntl(borrow(source.as_raw_fd()), FcntlArg::F_DUPFD_CLOEXEC(ABOVE))?;
    }
    for (number, place) in moved.into_iter().zip(PLACES) {
        dup_onto(borrow(number), place)?;
    }
    fcntl(borrow(STATUS), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // ENOSYS before kernel 5.9: the others are close-on-exec.
    let _ = close_range(STATUS as u32 + 1, CloseRange::Close);
    Ok(())
}

/// Undoes `%41` and, as url.Query does, `+`.
fn unquote(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits = [ahead.next(), ahead.next()].map(|b| b.and_then(|b| char::from(b).to_digit(16)));
        match (byte, digits) {
            (b'%', [Some(high), Some(low)]) => {
                out.push((high * 16 + low) as u8);
                bytes = ahead;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let logger = Logger::parse("binary:///usr/bin/log%20er?b=2&a=x+y&flag").unwrap();
        assert_eq!(logger.path, PathBuf::from("/usr/bin/log er"));
        assert_eq!(logger.args, ["a", "x y", "b", "2", "flag"]);
        assert_eq!(logger.ready, Ready::End);
        assert_eq!(
            Logger::parse("binary-v2:///l").map(|l| (l.ready, l.args)),
            Some((Ready::Byte, Vec::new()))
        );
        assert_eq!(Logger::parse("file:///l"), None);
        assert_eq!(Logger::parse("/run/fifo"), None);
    }
}
