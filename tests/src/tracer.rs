//! A command under ptrace(2): which system calls its processes make, and what happens when one of them fails or its
//! process is killed in it.
//!
//! Nothing in the program under test helps: a call is made to fail by giving the kernel the number of no call, and its
//! caller the error. From then on everybody runs untraced. Only for x86_64, whose registers it knows.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{DEADLINE, errnos, wait_until};

/// A system call of a run: the process in the order of their birth, 0 for the command itself, and the how-manieth call
/// of that process it is, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which process.
    pub process: usize,
    /// Which of its calls.
    pub number: usize,
}

/// What is done at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing: all calls are recorded.
    Record,
    /// The call is not made and fails with this errno.
    Fail(Place, i32),
    /// The process gets SIGKILL before the call is made.
    Kill(Place),
}

/// A call that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where.
    pub place: Place,
    /// Its number on this machine.
    pub call: i64,
}

/// How a traced command went.
#[derive(Debug, Default)]
pub struct Trace {
    /// The calls, with [`Act::Record`].
    pub calls: Vec<Made>,
    /// The call that was made to fail, or whose process was killed; `None` when no process got that far.
    pub hit: Option<i64>,
    /// How the command ended, when that was while it was traced: exit code, or 128 and the signal.
    pub code: Option<i32>,
    /// Whether it had to be killed after [`DEADLINE`].
    pub hung: bool,
}

/// Wrapper words for [`crate::Call::wrapper`]: the command waits until it is traced.
#[must_use]
pub fn wrapper(fifo: &Path) -> Vec<String> {
    ["sh", "-c", "read -r go <\"$0\"; exec \"$@\"", fifo.to_str().expect("UTF-8")].map(str::to_owned).to_vec()
}

/// PTRACE_EVENT_STOP of linux/ptrace.h.
const EVENT_STOP: i32 = 128;
/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;

/// Traces a command that waits in [`wrapper`].
///
/// # Panics
/// When it can't be traced.
pub fn command(pid: i32, fifo: &Path, act: Act) -> Trace {
    let pid = Pid::from_raw(pid);
    // The shell reads: it was executed, so the next execve is the command's.
    let mut opened = None;
    wait_until("the wrapper", || {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        opened = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(fifo).ok();
        opened.is_some()
    });
    let mut go = opened.expect("fifo");
    ptrace::seize(pid, options()).expect("seize");
    let mut tracer = Tracer::new(act);
    tracer.main = Some(pid);
    tracer.known.insert(pid, Process { index: 0, calls: 0, counts: false });
    go.write_all(b"\n").expect("go");
    drop(go);
    watched(pid, |hung| {
        tracer.run(|| false);
        tracer.trace.hung = hung();
    });
    tracer.trace
}

/// Traces the children that a running process makes between `begin` and `done`; its own calls don't count.
///
/// # Panics
/// When it can't be traced.
pub fn children(pid: i32, act: Act, begin: impl FnOnce(), done: impl Fn() -> bool) -> Trace {
    let pid = Pid::from_raw(pid);
    ptrace::seize(pid, options()).expect("seize");
    begin();
    let mut tracer = Tracer::new(act);
    tracer.parent = Some(pid);
    tracer.known.insert(pid, Process { index: 0, calls: 0, counts: false });
    tracer.run(done);
    tracer.trace
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
}

/// Runs with a watchdog that kills a command which takes too long.
fn watched(pid: Pid, run: impl FnOnce(&dyn Fn() -> bool)) {
    let hung = std::sync::atomic::AtomicBool::new(false);
    let (over, ended) = channel::<()>();
    std::thread::scope(|scope| {
        let hung = &hung;
        scope.spawn(move || {
            if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
                hung.store(true, std::sync::atomic::Ordering::Relaxed);
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        run(&|| hung.load(std::sync::atomic::Ordering::Relaxed));
        drop(over);
    });
}

#[derive(Clone, Copy, Debug)]
struct Process {
    index: usize,
    calls: usize,
    /// Whether its calls count: the command's do from its own execve on.
    counts: bool,
}

struct Tracer {
    act: Act,
    known: HashMap<Pid, Process>,
    /// Children seen before their parent's event.
    born: usize,
    main: Option<Pid>,
    /// A process whose children are traced and that is not itself.
    parent: Option<Pid>,
    /// A call that fails once it returns.
    failing: Option<(Pid, i32)>,
    /// From now on everybody is let go.
    over: bool,
    trace: Trace,
}

impl Tracer {
    fn new(act: Act) -> Self {
        Tracer {
            act,
            known: HashMap::new(),
            born: 0,
            main: None,
            parent: None,
            failing: None,
            over: false,
            trace: Trace::default(),
        }
    }

    fn run(&mut self, done: impl Fn() -> bool) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let mut idle = 0;
        let mut interrupted = None;
        while !self.known.is_empty() {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    idle += 1;
                    if self.main.is_none() && done() {
                        self.over = true;
                    }
                    // Those that sleep in a call stop only when asked.
                    if self.over
                        && interrupted.is_none_or(|at: Instant| at.elapsed() > Duration::from_millis(20))
                    {
                        self.known.keys().for_each(|pid| {
                            let _ = ptrace::interrupt(*pid);
                        });
                        interrupted = Some(Instant::now());
                    }
                    if idle > 200 {
                        std::thread::sleep(Duration::from_micros(100));
                    } else {
                        std::thread::yield_now();
                    }
                }
                Ok(status) => {
                    idle = 0;
                    self.stopped(status);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => break,
                Err(e) => panic!("waitpid: {e}"),
            }
        }
    }

    fn stopped(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => self.ended(pid, code),
            WaitStatus::Signaled(pid, signal, _) => self.ended(pid, 128 + signal as i32),
            WaitStatus::PtraceSyscall(pid) => {
                self.at_call(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                self.executed(pid);
                self.go_on(pid, None);
            }
            // The first stop of a child, or our interrupt. Nothing under test stops itself by a signal.
            WaitStatus::PtraceEvent(pid, _, EVENT_STOP) => {
                self.learn(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceEvent(pid, ..) => {
                if let Ok(child) = ptrace::getevent(pid) {
                    self.learn(Pid::from_raw(child as i32));
                }
                self.go_on(pid, None);
            }
            WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
            _ => {}
        }
    }

    fn learn(&mut self, pid: Pid) {
        if !self.known.contains_key(&pid) {
            self.born += 1;
            self.known.insert(pid, Process { index: self.born, calls: 0, counts: true });
        }
    }

    fn ended(&mut self, pid: Pid, code: i32) {
        self.known.remove(&pid);
        if self.main == Some(pid) {
            self.trace.code = Some(code);
            self.over = true;
        }
    }

    /// The command's first program counts; one that another process executes is the user's, and not traced.
    fn executed(&mut self, pid: Pid) {
        match self.known.get_mut(&pid) {
            Some(process) if process.index == 0 => process.counts = self.parent.is_none(),
            Some(process) => process.counts = false,
            None => {}
        }
    }

    fn go_on(&mut self, pid: Pid, signal: Option<Signal>) {
        let free =
            self.over || self.known.get(&pid).is_some_and(|process| process.index > 0 && !process.counts);
        if free && self.failing.is_none_or(|(failing, _)| failing != pid) {
            // ESRCH: it was killed. A tracee's end must be waited for, or its parent never hears of it.
            if ptrace::detach(pid, signal).is_ok() {
                self.known.remove(&pid);
            }
        } else if self.parent == Some(pid) {
            let _ = ptrace::cont(pid, signal);
        } else {
            // ESRCH: killed meanwhile, its end is the next that is heard.
            let _ = ptrace::syscall(pid, signal);
        }
    }

    fn at_call(&mut self, pid: Pid) {
        if let Some((_, errno)) = self.failing.filter(|(failing, _)| *failing == pid) {
            self.failing = None;
            set_result(pid, errno);
            return;
        }
        let Some(process) = self.known.get_mut(&pid).filter(|process| process.counts) else { return };
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        if info.op != ENTRY || self.over {
            return;
        }
        let Ok(registers) = ptrace::getregs(pid) else { return };
        let call = registers.orig_rax as i64;
        // Asked for each descriptor by builds with debug assertions only, and no error for one that is open.
        if call == libc::SYS_fcntl && registers.rsi == libc::F_GETFD as u64 {
            return;
        }
        let place = Place { process: process.index, number: process.calls };
        process.calls += 1;
        match self.act {
            Act::Record => self.trace.calls.push(Made { place, call }),
            // Another call than the one recorded may be here now and then (a read more or less): one that can't fail
            // so is left alone.
            Act::Fail(at, errno) if at == place && errnos::of(call).contains(&errno) => {
                self.trace.hit = Some(call);
                self.over = true;
                // A descriptor is closed whatever close(2) says.
                if call != libc::SYS_close {
                    skip_call(pid);
                }
                self.failing = Some((pid, errno));
            }
            Act::Kill(at) if at == place => {
                self.trace.hit = Some(call);
                self.over = true;
                kill(pid, Signal::SIGKILL).expect("kill");
            }
            _ => {}
        }
    }
}

/// Gives the kernel the number of no call.
fn skip_call(pid: Pid) {
    // ESRCH: killed meanwhile.
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    registers.orig_rax = u64::MAX;
    let _ = ptrace::setregs(pid, registers);
}

fn set_result(pid: Pid, errno: i32) {
    // ESRCH: killed in the call.
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    registers.rax = i64::from(-errno) as u64;
    let _ = ptrace::setregs(pid, registers);
}
