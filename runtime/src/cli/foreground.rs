//! Foreground `run` and `exec`: davit waits for the process, forwards signals to it, relays its terminal,
//! and ends with its exit code.
//!
//! One thread, one poll(2): a signalfd, the process's pidfd and, with a terminal, the three ends of
//! [`Relay`]. Signals are blocked before the process is started, so that none is lost in between; the
//! library resets the mask in the child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::anyhow;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::console::{self, Relay};
use super::errno_text;
use crate::container::{Console, NotifySocket, Started};
use crate::sys::prctl::set_child_subreaper;
use crate::sys::process::{Exit, WaitFor, WaitMode, pidfd_open, pidfd_send_signal, wait as wait_child};

/// How long output may pause, once the process has ended, before what still holds its terminal open is
/// left behind: a daemon that it started must not keep davit waiting. Output that is there already waits for its
/// reader without an end, but for this long only once a signal has asked davit to end.
const DRAIN_IDLE_MS: u16 = 100;

/// Whose exits davit reaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaping {
    /// Only those of its own children.
    OwnChildren,
    /// Of orphaned descendants too: davit becomes a subreaper, so that a container that shares the
    /// caller's pid namespace leaves no zombies.
    Orphans,
}

/// What is set up before the process is started.
#[derive(Debug)]
pub(super) struct Session {
    signals: SignalFd,
    console: Option<OwnedFd>,
}

impl Session {
    /// Blocks and collects signals.
    pub(super) fn new(reaping: Reaping) -> anyhow::Result<Self> {
        if reaping == Reaping::Orphans {
            set_child_subreaper(true).map_err(|e| anyhow!("become a subreaper: {}", errno_text(&e)))?;
        }
        let mut mask = SigSet::all();
        // These are faults of davit's own code: blocked, they would kill without a trace or loop.
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
            Signal::SIGABRT,
            Signal::SIGSYS,
        ] {
            mask.remove(fault);
        }
        mask.thread_block().map_err(|e| anyhow!("block signals: {}", e.desc()))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|e| anyhow!("signalfd: {}", e.desc()))?;
        Ok(Session { signals, console: None })
    }

    /// As [`Session::new`], with a socket over which the terminal's master comes back if there is one.
    pub(super) fn with_console(reaping: Reaping) -> anyhow::Result<(Self, Console)> {
        let mut session = Session::new(reaping)?;
        let (ours, theirs) = console::socket_pair()?;
        session.console = Some(ours);
        Ok((session, Console::Connected(theirs)))
    }
}

/// Waits until the process has ended and returns its exit code, or 128 plus the signal's number.
pub(super) fn wait(session: Session, started: &mut Started) -> anyhow::Result<i32> {
    let mut relay = match &session.console {
        Some(socket) => console::receive_master(socket.as_fd())?.map(Relay::new).transpose()?,
        None => None,
    };
    let exit = loop {
        let others = [Some(started.pidfd.as_fd()), started.notify.as_ref().and_then(NotifySocket::awaited)];
        let ready = poll_once(&session.signals, others, relay.as_mut(), PollTimeout::NONE)?;
        if ready.signals {
            handle_signals(&session.signals, started, relay.as_ref());
        }
        if let (true, Some(socket)) = (ready.notified || ready.exited, &mut started.notify) {
            // The manager watches this process, which ends with the container's exit code.
            notify(socket.serve(std::process::id()));
        }
        if ready.exited {
            break reap(started)?;
        }
    };
    if let Some(relay) = &mut relay {
        drain(&session.signals, started.pidfd.as_fd(), relay)?;
    }
    if let Some(socket) = &mut started.notify {
        socket.finish();
    }
    Ok(exit.shell_code())
}

/// Waits until a detached container has told its service manager that it is ready. Not being able to tell
/// is no reason to end it.
pub(super) fn wait_ready(socket: &mut NotifySocket, pid: i32) {
    let Ok(main_pid) = u32::try_from(pid) else { return };
    match pidfd_open(pid) {
        Ok(process) => notify(socket.wait(process.as_fd(), main_pid)),
        // ESRCH: it has ended already.
        Err(error) => log::debug!("no notification from process {pid}: {}", errno_text(&error)),
    }
}

fn notify(told: std::io::Result<()>) {
    if let Err(error) = told {
        log::warn!("notify the service manager: {}", errno_text(&error));
    }
}

/// What one poll found besides terminal data, which it has moved already.
struct Ready {
    signals: bool,
    exited: bool,
    notified: bool,
    relayed: bool,
}

fn poll_once(
    signals: &SignalFd,
    others: [Option<BorrowedFd<'_>>; 2],
    relay: Option<&mut Relay>,
    timeout: PollTimeout,
) -> anyhow::Result<Ready> {
    let mut fds = Vec::with_capacity(6);
    // A place that is not in use holds the signalfd once more, so that the others keep theirs.
    for fd in [Some(signals.as_fd())].into_iter().chain(others) {
        fds.push(PollFd::new(fd.unwrap_or(signals.as_fd()), PollFlags::POLLIN));
    }
    let ends = relay.as_ref().map(|relay| relay.ends()).unwrap_or_default();
    fds.extend(ends.iter().map(|end| PollFd::new(crate::sys::fs::borrow(end.fd), end.events)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(anyhow!("poll: {}", e.desc())),
    }
    let happened = |fd: Option<&PollFd<'_>>| fd.and_then(PollFd::any).unwrap_or(false);
    let mut ready = Ready {
        signals: happened(fds.first()),
        exited: others[0].is_some() && happened(fds.get(1)),
        notified: others[1].is_some() && happened(fds.get(2)),
        relayed: false,
    };
    if let Some(relay) = relay {
        for (end, fd) in ends.iter().zip(fds.iter().skip(3)) {
            if happened(Some(fd)) {
                ready.relayed = true;
                relay.serve(end.which);
            }
        }
    }
    Ok(ready)
}

/// After the exit: what the process wrote last may still be on its way through the terminal.
fn drain(signals: &SignalFd, pidfd: BorrowedFd<'_>, relay: &mut Relay) -> anyhow::Result<()> {
    relay.stop_input();
    let mut hurried = false;
    while relay.has_output() {
        // A reader that takes its time (a pager, a busy machine) gets everything, as while the process runs.
        let patience = match relay.waits_for_reader() && !hurried {
            true => PollTimeout::NONE,
            false => PollTimeout::from(DRAIN_IDLE_MS),
        };
        // The pidfd stays ready for ever: it is not polled any more.
        let ready = poll_once(signals, [None, None], Some(relay), patience)?;
        if ready.signals {
            hurried |= asked_to_end(signals);
        } else if !ready.relayed {
            log::debug!("terminal of the ended process {} is still open", pidfd.as_raw_fd());
            break;
        }
    }
    Ok(())
}

/// Takes all signals; whether one of them wants davit to end.
fn asked_to_end(signals: &SignalFd) -> bool {
    let mut asked = false;
    while let Ok(Some(info)) = signals.read_signal() {
        let signal = i32::try_from(info.ssi_signo);
        asked |= matches!(signal, Ok(libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM));
    }
    asked
}

fn handle_signals(signals: &SignalFd, started: &Started, relay: Option<&Relay>) {
    while let Ok(Some(info)) = signals.read_signal() {
        match i32::try_from(info.ssi_signo) {
            Ok(libc::SIGCHLD) => reap_others(started.pid),
            Ok(libc::SIGWINCH) => {
                if let Some(relay) = relay {
                    relay.resize();
                }
            }
            // Go's runtime sends SIGURG to its own threads; runc does not pass it on.
            Ok(libc::SIGURG) | Err(_) => {}
            Ok(signal) => {
                if let Err(e) = pidfd_send_signal(started.pidfd.as_fd(), signal) {
                    log::debug!("forward signal {signal}: {e}");
                }
            }
        }
    }
}

/// Reaps orphans that a subreaper has inherited, but not the process itself.
fn reap_others(pid: i32) {
    while let Ok(Some((ended, _))) = wait_child(WaitFor::Any, WaitMode::Peek) {
        if ended == pid || wait_child(WaitFor::Pid(ended), WaitMode::Poll).is_err() {
            break;
        }
    }
}

fn reap(started: &Started) -> anyhow::Result<Exit> {
    match wait_child(WaitFor::Pidfd(started.pidfd.as_fd()), WaitMode::Block) {
        Ok(Some((_, exit))) => Ok(exit),
        Ok(None) => Err(anyhow!("wait for process {}: no exit status", started.pid)),
        Err(e) => Err(anyhow!("wait for process {}: {}", started.pid, errno_text(&e))),
    }
}
