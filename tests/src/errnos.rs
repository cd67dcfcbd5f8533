//! Which errors a system call can plausibly give: its manual page's, those of a full machine, and ENOSYS or EINVAL of
//! an old kernel where davit has a newer and an older way.

use libc::{
    EACCES, EAGAIN, EBUSY, EEXIST, EINTR, EINVAL, EIO, ELOOP, EMFILE, ENODEV, ENOENT, ENOMEM, ENOSPC, ENOSYS,
    EPERM, EROFS, ESRCH,
};

/// Errors of a call. Empty for one that can't fail, or only by the program's own fault.
#[must_use]
pub fn of(call: i64) -> &'static [i32] {
    match call {
        libc::SYS_exit
        | libc::SYS_exit_group
        | libc::SYS_rt_sigreturn
        | libc::SYS_getpid
        | libc::SYS_gettid
        | libc::SYS_getppid
        | libc::SYS_getuid
        | libc::SYS_geteuid
        | libc::SYS_getgid
        | libc::SYS_getegid
        | libc::SYS_umask
        | libc::SYS_brk
        | libc::SYS_munmap
        | libc::SYS_set_tid_address
        | libc::SYS_arch_prctl
        | libc::SYS_rt_sigaction
        | libc::SYS_rt_sigprocmask
        | libc::SYS_sigaltstack
        | libc::SYS_sched_yield => &[],
        // It is closed all the same (close(2)).
        libc::SYS_close => &[EIO],
        // Never ENOENT: that something is not there is believed, and is no error where it need not be.
        libc::SYS_open | libc::SYS_openat => &[EACCES, EMFILE, ENOMEM],
        libc::SYS_openat2 => &[ENOSYS, EACCES, EMFILE, ELOOP, EAGAIN],
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv => &[EIO, EINTR, ENOMEM],
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => &[EIO, ENOSPC, EINTR, EBUSY, EACCES],
        libc::SYS_getdents64 => &[EIO],
        libc::SYS_mkdir | libc::SYS_mkdirat => &[EACCES, ENOSPC, EEXIST, EROFS],
        libc::SYS_rmdir | libc::SYS_unlink | libc::SYS_unlinkat => &[EBUSY, EACCES],
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => &[ENOSPC, EACCES],
        libc::SYS_mknod | libc::SYS_mknodat => &[EPERM, EEXIST, ENOSPC],
        libc::SYS_symlinkat | libc::SYS_symlink => &[EPERM, ENOSPC],
        libc::SYS_stat | libc::SYS_lstat | libc::SYS_newfstatat | libc::SYS_statx => &[EACCES, EIO],
        libc::SYS_fstat => &[EIO, ENOMEM],
        libc::SYS_readlink | libc::SYS_readlinkat => &[EACCES, EINVAL],
        libc::SYS_fstatfs | libc::SYS_statfs => &[EIO, ENOSYS],
        libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_madvise => &[ENOMEM],
        libc::SYS_clone | libc::SYS_fork | libc::SYS_vfork => &[EAGAIN, ENOMEM],
        libc::SYS_clone3 => &[EAGAIN, ENOMEM, EPERM, ENOSPC, EINVAL],
        libc::SYS_execve | libc::SYS_execveat => &[ENOENT, EACCES, ENOMEM, ENOSYS],
        libc::SYS_unshare | libc::SYS_setns => &[EPERM, ENOMEM, EINVAL],
        libc::SYS_mount => &[EPERM, EINVAL, ENOMEM, EBUSY],
        libc::SYS_umount2 => &[EPERM, EINVAL, EBUSY],
        libc::SYS_fsopen | libc::SYS_fsconfig | libc::SYS_fsmount => {
            &[ENOSYS, EPERM, EINVAL, ENOMEM, ENODEV, EBUSY]
        }
        libc::SYS_open_tree | libc::SYS_mount_setattr => &[ENOSYS, EPERM, EINVAL, ENOMEM],
        libc::SYS_move_mount => &[ENOSYS, EPERM, EINVAL, ENOMEM, ELOOP],
        libc::SYS_pivot_root => &[EPERM, EINVAL, EBUSY],
        libc::SYS_chdir | libc::SYS_fchdir | libc::SYS_chroot => &[EACCES, ENOENT, EPERM],
        libc::SYS_socket | libc::SYS_socketpair | libc::SYS_pipe2 => &[EMFILE, ENOMEM],
        libc::SYS_dup | libc::SYS_dup2 | libc::SYS_dup3 | libc::SYS_fcntl => &[EMFILE, EPERM],
        libc::SYS_sendmsg | libc::SYS_sendto => &[ENOMEM, EINTR, libc::ENOBUFS],
        libc::SYS_recvmsg | libc::SYS_recvfrom => &[ENOMEM, EINTR, libc::ECONNRESET],
        libc::SYS_wait4 | libc::SYS_waitid => &[EINTR, libc::ECHILD],
        libc::SYS_poll | libc::SYS_ppoll | libc::SYS_epoll_wait | libc::SYS_epoll_pwait => &[EINTR, ENOMEM],
        libc::SYS_prctl | libc::SYS_capset | libc::SYS_capget => &[EPERM, EINVAL],
        libc::SYS_setuid
        | libc::SYS_setgid
        | libc::SYS_setresuid
        | libc::SYS_setresgid
        | libc::SYS_setgroups => &[EPERM, EAGAIN, ENOMEM],
        libc::SYS_setrlimit | libc::SYS_prlimit64 | libc::SYS_getrlimit => &[EPERM, EINVAL],
        libc::SYS_keyctl => &[ENOSYS, EPERM, libc::EDQUOT],
        libc::SYS_kill | libc::SYS_pidfd_send_signal => &[EPERM, ESRCH],
        libc::SYS_pidfd_open => &[ENOSYS, ESRCH, EMFILE],
        libc::SYS_close_range => &[ENOSYS, ENOMEM],
        libc::SYS_getrandom => &[ENOSYS, EINTR],
        libc::SYS_bpf => &[ENOSYS, EPERM, ENOMEM, EINVAL],
        libc::SYS_ioctl => &[EPERM, EINVAL, EIO],
        libc::SYS_inotify_add_watch | libc::SYS_inotify_init1 => &[EMFILE, ENOSPC, ENOENT],
        libc::SYS_sethostname | libc::SYS_setsid => &[EPERM],
        _ => &[EPERM, ENOMEM, EINVAL],
    }
}

/// Errors for which davit has another way that shows inside, as runc has: by a word of the lines that differ.
#[must_use]
pub fn other_ways(call: i64, errno: i32) -> &'static [&'static str] {
    match (call, errno) {
        // Without the right to make devices the host's are bound, and without that to mount sysfs the host's.
        (libc::SYS_mknodat, EPERM) => &["devtmpfs"],
        (libc::SYS_fsopen | libc::SYS_fsconfig | libc::SYS_fsmount, EPERM) => &["/sys"],
        // An image's passwd that can't be read is as good as none.
        (libc::SYS_openat | libc::SYS_openat2 | libc::SYS_fstat | libc::SYS_read | libc::SYS_statx, _) => {
            &["HOME="]
        }
        _ => &[],
    }
}

/// Whether a call asks for memory: without it a program ends by SIGABRT, as Rust's do, and cleans nothing up.
#[must_use]
pub fn is_memory(call: i64) -> bool {
    matches!(call, libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_mremap | libc::SYS_madvise | libc::SYS_brk)
}

/// The name of a call and an errno, for reports.
#[must_use]
pub fn name(call: i64, errno: Option<i32>) -> String {
    let errno = errno.map(|errno| format!(" fails with {:?}", nix::errno::Errno::from_raw(errno)));
    format!("{}{}", call_name(call), errno.unwrap_or_else(|| ": killed".into()))
}

fn call_name(call: i64) -> String {
    let known = usize::try_from(call).ok().and_then(syscalls::x86_64::Sysno::new);
    known.map_or_else(|| format!("call {call}"), |known| known.name().to_owned())
}
