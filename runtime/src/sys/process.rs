//! Processes: clone3, pidfds, fork, exec.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// clone3 flag: put the child into the cgroup whose directory is given (kernel 5.7).
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// clone3 flag: new time namespace (kernel 5.6).
pub const CLONE_NEWTIME: u64 = 0x80;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// A pidfd for the child.
        pidfd: OwnedFd,
    },
}

/// clone3(2) without CLONE_VM: fork with namespaces, a pidfd, and optionally into a cgroup (kernel 5.3,
/// CLONE_INTO_CGROUP 5.7).
///
/// `flags` are namespace flags and CLONE_PARENT; CLONE_PIDFD is added. The child must go on in a
/// single-threaded program: davit starts no threads.
///
/// # Errors
/// ENOSYS before 5.3 or under a filter, E2BIG for CLONE_INTO_CGROUP before 5.7, EBUSY/EOPNOTSUPP for a
/// cgroup that can't hold processes, EPERM, ENOSPC for namespace limits.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    /// `struct clone_args` up to and including `cgroup`.
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    /// Size of the struct of kernel 5.3, before set_tid and cgroup.
    const CLONE_ARGS_SIZE_VER0: usize = 64;

    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        // With CLONE_PARENT the child takes the parent's signal; the kernel refuses another one.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    let mut size = CLONE_ARGS_SIZE_VER0;
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
        size = size_of::<CloneArgs>();
    }
    // SAFETY: args has the kernel's layout for `size` bytes; without CLONE_VM the child has its own copy
    // of memory, and the process has one thread, so no lock can be held by another.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: CLONE_PIDFD stored a fresh descriptor, close-on-exec, that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent { pid: pid as i32, pidfd })
}

/// fork with a pidfd: [`clone3`] without namespaces.
///
/// # Errors
/// EAGAIN, ENOMEM, ENOSYS before 5.3.
pub fn fork() -> io::Result<Fork> {
    clone3(0, None)
}

/// pidfd_open(2) (kernel 5.3).
///
/// # Errors
/// ESRCH when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a fresh descriptor, close-on-exec, that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_send_signal(2) (kernel 5.1).
///
/// # Errors
/// ESRCH when the process is gone, EINVAL for a bad signal, EPERM.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means as kill(2).
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// pidfd_getfd(2) (kernel 5.6): a copy of another process's descriptor.
///
/// # Errors
/// EPERM without ptrace access, EBADF, ESRCH.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: a fresh descriptor, close-on-exec, that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// execveat(2) of an open file (AT_EMPTY_PATH, kernel 3.19). Returns only on an error.
pub fn exec_fd(file: BorrowedFd<'_>, args: &[&CStr], env: &[&CStr]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays are NULL-terminated arrays of C strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// execve(2). Returns only on an error.
pub fn exec(path: &CStr, args: &[&CStr], env: &[&CStr]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays are NULL-terminated arrays of C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

/// _exit(2): ends the process at once, no destructors. For forked children.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; skips atexit handlers, which belong to the parent's copy of the program.
    unsafe { libc::_exit(code) }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(2) with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The shell's form: the code, or 128 and the signal number.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// Which child [`wait`] waits for.
#[derive(Clone, Copy, Debug)]
pub enum WaitFor<'fd> {
    /// The child behind a pidfd (P_PIDFD, kernel 5.4).
    Pidfd(BorrowedFd<'fd>),
    /// The child of this pid.
    Pid(i32),
    /// Any child.
    Any,
}

/// Whether [`wait`] blocks and reaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// Block until the child has ended, reap it.
    Block,
    /// Return `None` when none has ended, else reap it.
    Poll,
    /// Return `None` when none has ended, leave it a zombie.
    Peek,
}

/// waitid(2) for an ended child: its pid and how it ended. EINTR is retried.
///
/// # Errors
/// ECHILD when there is no such child.
pub fn wait(target: WaitFor<'_>, mode: WaitMode) -> io::Result<Option<(i32, Exit)>> {
    let (kind, id) = match target {
        WaitFor::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t),
        WaitFor::Pid(pid) => (libc::P_PID, pid as libc::id_t),
        WaitFor::Any => (libc::P_ALL, 0),
    };
    let flags = libc::WEXITED
        | match mode {
            WaitMode::Block => 0,
            WaitMode::Poll => libc::WNOHANG,
            WaitMode::Peek => libc::WNOHANG | libc::WNOWAIT,
        };
    loop {
        // SAFETY: siginfo_t is plain data for which all-zero is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one siginfo_t through the pointer.
        match check(libc::c_long::from(unsafe { libc::waitid(kind, id, &raw mut info, flags) })) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => {
                // SAFETY: waitid filled the SIGCHLD fields, or left them zero when nothing has ended.
                let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
                if pid == 0 {
                    return Ok(None);
                }
                let exit =
                    if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
                return Ok(Some((pid, exit)));
            }
        }
    }
}

/// setns(2) with a namespace descriptor, or with a pidfd and several flags (kernel 5.8).
///
/// # Errors
/// EPERM, EINVAL for a descriptor of another kind, ESRCH for an ended process.
pub fn setns(fd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: integers only.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), flags) })).map(drop)
}

/// NS_GET_NSTYPE (kernel 4.11): the CLONE_NEW* flag of a namespace file.
///
/// # Errors
/// ENOTTY when the file is not a namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    /// `_IO(0xb7, 3)` of `linux/nsfs.h`.
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: the request takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) }))
        .map(|kind| kind as libc::c_int)
}

/// unshare(2); takes CLONE_NEWTIME, which nix's flags lack.
///
/// # Errors
/// EPERM, ENOSPC, EINVAL.
pub fn unshare(flags: u64) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// setgroups(2) by the raw system call: libc's wrapper signals all threads, of which there is one.
///
/// # Errors
/// EPERM without CAP_SETGID or with `deny` in /proc/self/setgroups.
pub fn setgroups(gids: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads gids.len() group ids.
    check(unsafe { libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) }).map(drop)
}

/// setresgid(2) of all three ids by the raw system call.
///
/// # Errors
/// EPERM, EINVAL for an unmapped id.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2) of all three ids by the raw system call.
///
/// # Errors
/// EPERM, EINVAL for an unmapped id.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// An RLIMIT_* number, of the type that the C library gives those constants.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
/// An RLIMIT_* number, of the type that the C library gives those constants.
#[cfg(not(target_env = "gnu"))]
pub type Resource = libc::c_int;

/// A resource limit: soft and hard value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RLimit {
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// prlimit(2): sets a limit of another process (kernel 2.6.36); pid 0 is the caller.
///
/// # Errors
/// EPERM when raising a hard limit without CAP_SYS_RESOURCE, EINVAL when soft > hard.
pub fn prlimit(pid: i32, resource: Resource, limit: RLimit) -> io::Result<()> {
    let new = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    let old = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel reads one rlimit64; the old value is not asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const new, old) }).map(drop)
}

/// prlimit(2): a limit of the calling process.
///
/// # Errors
/// EINVAL for an unknown resource.
pub fn limit(resource: Resource) -> io::Result<RLimit> {
    let new = std::ptr::null::<libc::rlimit64>();
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit64; no new value is given.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut old) })?;
    Ok(RLimit { soft: old.rlim_cur, hard: old.rlim_max })
}

/// setdomainname(2).
///
/// # Errors
/// EPERM, EINVAL for a name over 64 bytes.
pub fn set_domainname(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads name.len() bytes.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.len()) }).map(drop)
}

/// Lets a command's program begin as if it were started by hand: with no descriptor but stdio, and no signal
/// blocked (the foreground commands block them all).
pub fn only_stdio(command: &mut std::process::Command) {
    only_stdio_and(command, Vec::new());
}

/// As [`only_stdio`], and with these descriptors, under the same numbers.
pub fn only_stdio_and(command: &mut std::process::Command, kept: Vec<RawFd>) {
    use std::os::unix::process::CommandExt;
    let settle = move || {
        super::fs::close_on_exec_from(3, || {
            let flags =
                nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
            Ok(nix::fcntl::open("/proc/self/fd", flags, nix::sys::stat::Mode::empty())?)
        })?;
        for fd in &kept {
            // SAFETY: changes a flag of a descriptor, if it is open.
            check(libc::c_long::from(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) }))?;
        }
        // SAFETY: sigset_t is plain data for which all-zero is valid.
        let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: both calls only read and write the set on this stack.
        let code = unsafe {
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
        };
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
    };
    // SAFETY: in the forked child: a few system calls, no allocation, no lock. Before kernel 5.11 a directory is read,
    // which allocates: our programs have one thread, so that nobody can have held the allocator's lock at the fork.
    unsafe { command.pre_exec(settle) };
}

/// Gives a command's program a mount namespace of its own; mounts of the caller's still arrive there. With `bind` the
/// first path with all its mounts is bound onto the second there.
pub fn with_private_mounts(command: &mut std::process::Command, bind: Option<(CString, CString)>) {
    use std::os::unix::process::CommandExt;
    let enter = move || {
        let mount = |from: &CStr, onto: &CStr, flags: libc::c_ulong| {
            let none = std::ptr::null();
            // SAFETY: both strings outlive the call; there is no type and no data.
            let done = unsafe { libc::mount(from.as_ptr(), onto.as_ptr(), none, flags, none.cast()) };
            check(libc::c_long::from(done)).map(drop)
        };
        // SAFETY: changes only the namespace of this process, which has one thread.
        check(libc::c_long::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
        mount(c"none", c"/", libc::MS_REC | libc::MS_SLAVE)?;
        bind.as_ref().map_or(Ok(()), |(from, onto)| mount(from, onto, libc::MS_BIND | libc::MS_REC))
    };
    // SAFETY: in the forked child: three system calls, no allocation, no lock.
    unsafe { command.pre_exec(enter) };
}

/// Ends a command's program when the calling process ends: nobody would take its result.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id() as i32;
    // SAFETY: in the forked child: two system calls, no allocation, no lock.
    unsafe { command.pre_exec(move || super::prctl::die_with(parent)) };
}

/// Whether this program was executed by a descriptor (execveat(2) with AT_EMPTY_PATH), as its auxiliary
/// vector says: the kernel names it `/dev/fd/<n>` then.
#[must_use]
pub fn executed_by_descriptor() -> bool {
    // SAFETY: AT_EXECFN is a pointer to a C string that lives as long as the process, or 0.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if name.is_null() {
        return false;
    }
    // SAFETY: not null, so the C string that the kernel put above the stack.
    unsafe { CStr::from_ptr(name) }.to_bytes().starts_with(b"/dev/fd/")
}
