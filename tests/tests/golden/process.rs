//! The process beside its identity: environment, directory, limits, terminal, scheduling, filter.

use serde_json::json;

use crate::setup::Case;

pub const CASES: &[Case] = &[
    ("environment with duplicates", |s| {
        s.set(
            "/process/env",
            json!(["PATH=/bin", "A=1", "B=2", "A=3", "EMPTY=", "B=4", "NL=a\nb", "EQ==x=y"]),
        );
    }),
    ("no environment", |s| {
        s.bundle.remove("/process/env");
    }),
    ("HOME is given", |s| {
        s.set("/process/env", json!(["HOME=/elsewhere", "PATH=/bin"]));
    }),
    ("HOME is empty", |s| {
        s.set("/process/env", json!(["PATH=/bin", "HOME="]));
    }),
    ("HOME of another user", |s| {
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        s.set("/process/env", json!(["PATH=/bin"]));
    }),
    ("no passwd file", |s| {
        std::fs::remove_file(s.bundle.rootfs("etc/passwd")).unwrap();
    }),
    ("malformed passwd file", |s| {
        let text = "nonsense\n:::\nroot:x:0\nuser:x:0:0:a:b:/sh:c:d\nroot:x:0:0:root:/second:/bin/sh";
        std::fs::write(s.bundle.rootfs("etc/passwd"), text).unwrap();
    }),
    ("working directory", |s| {
        s.set("/process/cwd", json!("/tmp"));
    }),
    ("working directory that is made", |s| {
        s.set("/process/cwd", json!("/made/by/runtime")).set("/root/readonly", json!(false));
    }),
    ("working directory of another user that is made", |s| {
        s.set("/process/cwd", json!("/made/by")).set("/root/readonly", json!(false));
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    }),
    ("working directory with dots", |s| {
        s.set("/process/cwd", json!("/tmp/../tmp/./"));
    }),
    ("working directory is a link", |s| {
        std::os::unix::fs::symlink("/tmp", s.bundle.rootfs("there")).unwrap();
        s.set("/process/cwd", json!("/there"));
    }),
    ("limits", |s| {
        s.set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 500, "hard": 1000},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NPROC", "soft": 100, "hard": 200},
                {"type": "RLIMIT_AS", "soft": 1_u64 << 40, "hard": 1_u64 << 40},
                {"type": "RLIMIT_CPU", "soft": 600, "hard": 1200},
                {"type": "RLIMIT_STACK", "soft": 4 << 20, "hard": 8 << 20},
                {"type": "RLIMIT_FSIZE", "soft": 1 << 30, "hard": 1 << 30}
            ]),
        );
    }),
    ("every other limit", |s| {
        s.set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_DATA", "soft": 1_u64 << 40, "hard": 1_u64 << 40},
                {"type": "RLIMIT_RSS", "soft": 1 << 30, "hard": 1 << 30},
                {"type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": 65536},
                {"type": "RLIMIT_LOCKS", "soft": 10, "hard": 20},
                {"type": "RLIMIT_SIGPENDING", "soft": 10, "hard": 20},
                {"type": "RLIMIT_MSGQUEUE", "soft": 1000, "hard": 2000},
                {"type": "RLIMIT_NICE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_RTPRIO", "soft": 0, "hard": 0},
                {"type": "RLIMIT_RTTIME", "soft": 1000, "hard": 2000}
            ]),
        );
    }),
    ("no limits", |s| {
        s.bundle.remove("/process/rlimits");
    }),
    ("oomScoreAdj", |s| {
        s.set("/process/oomScoreAdj", json!(321));
    }),
    ("terminal", |s| {
        s.set("/process/terminal", json!(true));
        s.look("tty; stty size; stty -a | grep -c speed; stat -c '%a %u %g' $(tty)");
    }),
    ("terminal with a size", |s| {
        s.set("/process/terminal", json!(true))
            .set("/process/consoleSize", json!({"height": 33, "width": 77}));
        s.look("stty size");
    }),
    ("terminal of another user", |s| {
        s.set("/process/terminal", json!(true));
        s.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        s.look("stat -c '%a %u %g' $(tty)");
    }),
    ("annotations", |s| {
        s.set("/annotations", json!({"b": "2", "a": "1", "with=sign": "x=y", "empty": ""}));
    }),
    ("personality", |s| {
        s.set("/linux/personality", json!({"domain": "LINUX32"}));
        s.look("uname -m");
    }),
    ("personality LINUX", |s| {
        s.set("/linux/personality", json!({"domain": "LINUX"}));
    }),
    ("seccomp", |s| {
        s.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                {"names": ["sync"], "action": "SCMP_ACT_ERRNO"}
            ]}),
        );
        s.look("mkdir /dev/shm/x; mkdir /dev/shm/y 2>&1");
    }),
    ("seccomp with new privileges", |s| {
        s.set("/process/noNewPrivileges", json!(false));
        s.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
            ]}),
        );
        s.look("chmod 700 /dev/shm 2>&1");
    }),
    ("seccomp that allows what is named", |s| {
        s.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}, {"names": ALL_BUT, "action": "SCMP_ACT_ALLOW"}]}));
        s.look("mkdir /dev/shm/x 2>&1; chmod 700 /dev/shm 2>&1");
    }),
    ("scheduler", |s| {
        s.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}));
    }),
    ("idle scheduler", |s| {
        s.set("/process/scheduler", json!({"policy": "SCHED_IDLE"}));
    }),
    ("ioPriority", |s| {
        s.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
    }),
    ("idle ioPriority", |s| {
        s.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    }),
    ("memory policy", |s| {
        s.set("/linux/memoryPolicy", json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}));
    }),
    ("no new keyring", |s| {
        s.flags.push("--no-new-keyring".to_owned());
        s.set("/linux/maskedPaths", json!([]));
    }),
    ("keyring that is seen", |s| {
        s.set("/linux/maskedPaths", json!([]));
    }),
    ("preserved descriptors", |s| {
        // Descriptor 3 is there in neither runtime's start: LISTEN_FDS has tests of its own.
        s.flags.extend(["--preserve-fds".to_owned(), "0".to_owned()]);
    }),
];

/// What the probe and the runtimes need under a filter that refuses all else.
const ALL_BUT: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_gettime",
    "clock_nanosleep",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "eventfd2",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchown",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getresgid",
    "getresuid",
    "getsid",
    "gettid",
    "getuid",
    "ioctl",
    "ioprio_get",
    "kill",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "seccomp",
    "select",
    "sendmsg",
    "recvmsg",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setpgid",
    "setresgid",
    "setresuid",
    "setuid",
    "sigaltstack",
    "stat",
    "statfs",
    "statx",
    "sysinfo",
    "tgkill",
    "umask",
    "uname",
    "unlink",
    "unlinkat",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "writev",
    "dup2",
    "pselect6",
    "ppoll",
];
