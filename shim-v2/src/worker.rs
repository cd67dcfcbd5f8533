//! Forked workers: everything that can block runs in one, and its pidfd tells when it is done.
//!
//! A worker is a subreaper while it lives, so whatever a runtime leaves behind (the container's init) comes to
//! the worker first and to the shim only when the worker has ended. The shim takes the worker's answer before it
//! reaps anything it does not know: a container's first process can't be reaped unseen.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use davit::sys::fs::{CloseRange, adopt, close_range, dup_onto};
use davit::sys::prctl::{die_with, set_child_subreaper, set_thp_disable};
use davit::sys::process::{Exit, Fork, WaitFor, WaitMode, exit_now, fork, wait};
use davit::sys::signal::{BrokenPipe, set_broken_pipe};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::unistd::{Pid, pipe2};

use crate::backend::{ERROR_LIMIT, Outcome};
use crate::io::ContainerSide;

/// Descriptor of the result pipe inside a worker.
const RESULT_FD: i32 = 3;
/// Descriptor of the console socket inside a worker.
const CONSOLE_FD: i32 = 4;
/// Descriptors are moved above this before they are put in their places.
const ABOVE: i32 = 10;

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    pidfd: OwnedFd,
    result: OwnedFd,
}

/// Forks a worker with `stdio` as its descriptors 0 to 2 that runs `job` and ends.
///
/// `job` gets the runtime's end of the console socket, if there is one, and answers with a pid (0 for none).
///
/// # Errors
/// EMFILE, EAGAIN.
pub fn spawn(
    stdio: ContainerSide,
    console: Option<OwnedFd>,
    job: impl FnOnce(Option<OwnedFd>) -> Outcome<i32>,
) -> io::Result<Worker> {
    let (result, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    let shim = std::process::id() as i32;
    match fork()? {
        Fork::Parent { pidfd, .. } => Ok(Worker { pidfd, result }),
        Fork::Child => {
            log::set_max_level(log::LevelFilter::Off);
            let code = match enter(shim, &stdio, console.as_ref(), &theirs) {
                Ok((console, mut result)) => {
                    // Unwinding out of here would run the shim's loop twice.
                    let outcome = catch_unwind(AssertUnwindSafe(|| job(console)))
                        .unwrap_or_else(|_| Err("the worker panicked".to_owned()));
                    report(&mut result, &outcome)
                }
                Err(_) => 1,
            };
            exit_now(code)
        }
    }
}

/// Makes the forked copy of the shim a plain process: default signals, and no descriptor but its own.
fn enter(
    shim: i32,
    stdio: &ContainerSide,
    console: Option<&OwnedFd>,
    result: &OwnedFd,
) -> io::Result<(Option<OwnedFd>, std::fs::File)> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // As in the davit program: a hook that does not read its state must not end the runtime. What a runtime
    // starts gets the default again.
    set_broken_pipe(BrokenPipe::Ignore)?;
    set_child_subreaper(true)?;
    // A worker of a killed shim must not go on behind the back of `delete`.
    die_with(shim)?;
    // The shim lives without huge pages; the setting is inherited, and containers are to have theirs.
    set_thp_disable(false)?;
    let standard = [(&stdio.stdin, 0), (&stdio.stdout, 1), (&stdio.stderr, 2)];
    let wanted = standard
        .iter()
        .filter_map(|(fd, place)| fd.as_ref().map(|fd| (fd, *place)))
        .chain(console.map(|fd| (fd, CONSOLE_FD)))
        .chain(std::iter::once((result, RESULT_FD)));
    // First out of the way: a source may be where another one goes. The copies are never dropped: the
    // numbers are closed below, all at once.
    let moved: Vec<(i32, i32)> = wanted
        .map(|(fd, place)| Ok((fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE))?, place)))
        .collect::<nix::Result<_>>()?;
    for (number, place) in moved {
        dup_onto(davit::sys::fs::borrow(number), place)?;
    }
    let first_unused = if console.is_some() { CONSOLE_FD + 1 } else { RESULT_FD + 1 };
    // ENOSYS before kernel 5.9: what stays open is close-on-exec.
    let _ = close_range(first_unused as u32, CloseRange::Close);
    for fd in RESULT_FD..first_unused {
        fcntl(davit::sys::fs::borrow(fd), FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    let console = if console.is_some() { Some(adopt(CONSOLE_FD)?) } else { None };
    Ok((console, adopt(RESULT_FD)?.into()))
}

/// First byte of an answer.
const OK: u8 = b'+';
const FAILED: u8 = b'-';

fn report(result: &mut std::fs::File, outcome: &Outcome<i32>) -> i32 {
    let mut message = Vec::with_capacity(16);
    match outcome {
        Ok(pid) => {
            message.push(OK);
            message.extend_from_slice(&pid.to_le_bytes());
        }
        Err(text) => {
            message.push(FAILED);
            // Within the pipe's 64 KiB, so that the write can't block.
            message.extend(text.bytes().take(ERROR_LIMIT));
        }
    }
    match result.write_all(&message) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

impl Worker {
    /// The answer of a worker that has ended, or `None` while it runs.
    pub fn finished(&mut self) -> Option<Outcome<i32>> {
        if let Ok(Some((pid, Exit::Signal(_)))) = wait(WaitFor::Pidfd(self.pidfd.as_fd()), WaitMode::Peek) {
            // A worker that leads a process group was not able to end what is in it; until it is reaped no other group
            // has its number. ESRCH: it leads none.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let exit = match wait(WaitFor::Pidfd(self.pidfd.as_fd()), WaitMode::Poll) {
            Ok(None) => return None,
            Ok(Some((_, exit))) => exit,
            Err(e) => return Some(Err(format!("wait for the worker: {e}"))),
        };
        Some(self.answer(exit))
    }

    fn answer(&self, exit: Exit) -> Outcome<i32> {
        let mut message = Vec::new();
        // The worker is gone and its copy of the pipe was close-on-exec; should a runtime have kept one open
        // all the same, O_NONBLOCK ends the read.
        let read = crate::io::set_nonblocking(&self.result)
            .and_then(|()| self.result.try_clone())
            .map(|fd| std::fs::File::from(fd).take(ERROR_LIMIT as u64 + 1).read_to_end(&mut message));
        match read {
            // Somebody has kept the pipe: what is there is the whole answer, since the worker has ended.
            Ok(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Err(e)) | Err(e) => return Err(format!("read the worker's answer: {e}")),
            Ok(Ok(_)) => {}
        }
        match message.split_first() {
            Some((&OK, pid)) => match pid.try_into() {
                Ok(bytes) => Ok(i32::from_le_bytes(bytes)),
                Err(_) => Err("the worker's answer is cut short".to_owned()),
            },
            Some((&FAILED, text)) => Err(String::from_utf8_lossy(text).into_owned()),
            _ => Err(match exit {
                Exit::Code(code) => format!("the worker ended with code {code} and no answer"),
                Exit::Signal(signal) => format!("the worker was killed by signal {signal}"),
            }),
        }
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: &str = "DAVIT_TEST_ALONE";

    /// Whether this process runs no other test than this one, of this name. The first call makes such a process and
    /// tells `false`: a worker that is forked beside other threads may find the allocator locked by one of them, and wait
    /// for ever. The shim has no other threads.
    fn alone(test: &str) -> bool {
        if std::env::var_os(ALONE).is_some() {
            // The harness's own thread: it holds nothing while it waits for the test's end.
            let main = format!("/proc/self/task/{}/stat", std::process::id());
            while !std::fs::read_to_string(&main).unwrap().contains(") S ") {
                std::thread::yield_now();
            }
            return true;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("worker::tests::{test}"), "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    fn run(stdio: ContainerSide, job: impl FnOnce(Option<OwnedFd>) -> Outcome<i32>) -> Outcome<i32> {
        let mut worker = spawn(stdio, None, job).unwrap();
        wait(WaitFor::Pidfd(worker.as_fd()), WaitMode::Peek).unwrap();
        loop {
            if let Some(outcome) = worker.finished() {
                return outcome;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn answers_cross_the_pipe() {
        if !alone("answers_cross_the_pipe") {
            return;
        }
        assert_eq!(run(ContainerSide::default(), |_| Ok(42)), Ok(42));
        assert_eq!(run(ContainerSide::default(), |_| Err("no".to_owned())), Err("no".to_owned()));
        let long = "x".repeat(100_000);
        assert_eq!(run(ContainerSide::default(), |_| Err(long)).unwrap_err().len(), ERROR_LIMIT);
    }

    #[test]
    fn a_killed_worker_is_an_error() {
        if !alone("a_killed_worker_is_an_error") {
            return;
        }
        let text = run(ContainerSide::default(), |_| {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            Ok(1)
        });
        assert_eq!(text, Err("the worker was killed by signal 9".to_owned()));
    }

    #[test]
    fn a_closed_pipe_is_an_error_and_no_end() {
        if !alone("a_closed_pipe_is_an_error_and_no_end") {
            return;
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        drop(read);
        let stdio = ContainerSide { stdout: Some(write), ..Default::default() };
        let written = run(stdio, |_| match nix::unistd::write(std::io::stdout(), b"x") {
            Err(nix::errno::Errno::EPIPE) => Ok(1),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(written, Ok(1));
    }

    #[test]
    fn only_its_own_descriptors_are_open() {
        if !alone("only_its_own_descriptors_are_open") {
            return;
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let stdio = ContainerSide { stdout: Some(write), ..Default::default() };
        let count = run(stdio, |_| {
            let open = std::fs::read_dir("/proc/self/fd").map_err(|e| e.to_string())?.count();
            nix::unistd::write(std::io::stdout(), b"hello").map_err(|e| e.to_string())?;
            Ok(open as i32)
        });
        // 0, 1, 2, the result pipe and the directory that is being read.
        assert_eq!(count, Ok(5));
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
