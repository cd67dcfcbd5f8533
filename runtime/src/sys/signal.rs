//! Signal dispositions and core scheduling, which nix offers only as unsafe functions or not at all.

use std::io;

use super::check;

/// What SIGPIPE does to this process; a disposition of `Ignore` is inherited through fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenPipe {
    /// write(2) returns EPIPE.
    Ignore,
    /// The process ends, as programs expect at their start.
    Default,
}

/// Sets the disposition of SIGPIPE.
///
/// # Errors
/// None in practice.
pub fn set_broken_pipe(what: BrokenPipe) -> io::Result<()> {
    let handler = match what {
        BrokenPipe::Ignore => libc::SIG_IGN,
        BrokenPipe::Default => libc::SIG_DFL,
    };
    // SAFETY: SIG_IGN and SIG_DFL install no function.
    if unsafe { libc::signal(libc::SIGPIPE, handler) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// PR_SCHED_CORE_CREATE for the caller's process group: its tasks share a core only with each other
/// (kernel 5.14, CONFIG_SCHED_CORE).
///
/// # Errors
/// EINVAL or ENODEV where the kernel or the processor lacks it.
pub fn create_core_schedule() -> io::Result<()> {
    const PR_SCHED_CORE: libc::c_int = 62;
    const CREATE: libc::c_ulong = 1;
    const SCOPE_PROCESS_GROUP: libc::c_ulong = 2;
    // SAFETY: integers only.
    check(unsafe {
        libc::syscall(libc::SYS_prctl, PR_SCHED_CORE, CREATE, 0 as libc::c_ulong, SCOPE_PROCESS_GROUP, 0)
    })
    .map(drop)
}

/// Lets each signal end the process at once with status 128 + its number. execve(2) undoes it.
///
/// # Errors
/// EINVAL for SIGKILL and SIGSTOP.
pub fn exit_on(signals: &[libc::c_int]) -> io::Result<()> {
    extern "C" fn exit(signal: libc::c_int) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(128 + signal) }
    }
    for signal in signals {
        // SAFETY: the handler only calls _exit.
        if unsafe { libc::signal(*signal, exit as extern "C" fn(libc::c_int) as libc::sighandler_t) }
            == libc::SIG_ERR
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
