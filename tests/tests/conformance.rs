//! What the OCI runtime-tools suite demands and no other test here covers, in our own words
//! (`hack/oci-conformance` runs the suite itself).

use davit_tests::{Bundle, World};
use serde_json::json;

/// System calls that programs of a static busybox need, and runc after its filter is loaded; newer ones that
/// davit itself likes (openat2, close_range, faccessat2) are not among them.
const OLD_CALLS: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capset",
    "chdir",
    "close",
    "dup",
    "dup2",
    "dup3",
    "execve",
    "exit",
    "exit_group",
    "faccessat",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
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
    "prctl",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sendfile",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
    "stat",
    "sigaltstack",
    "umask",
    "uname",
    "wait4",
    "write",
    "writev",
    "fork",
    "vfork",
    "clone",
    "clock_nanosleep",
    "pipe",
    "pipe2",
    "poll",
    "fchown",
    "fchdir",
    "tgkill",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "recvfrom",
    "sendto",
    "sched_getaffinity",
    "sched_yield",
];

/// A bundle whose profile denies everything that is not in [`OLD_CALLS`].
fn strict(world: &World, script: &str) -> Bundle {
    let mut bundle = world.bundle();
    bundle.script(script);
    let rule = json!({"names": OLD_CALLS, "action": "SCMP_ACT_ALLOW"});
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}));
    bundle
}

/// Without no_new_privs the filter is loaded before the gate, so that the runtime's own last steps run under a
/// profile that was written for programs.
#[test]
fn a_profile_that_knows_no_new_system_calls() {
    let Some(world) = World::enter("a_profile_that_knows_no_new_system_calls") else { return };
    for no_new_privileges in [false, true] {
        let mut bundle = strict(&world, "grep Seccomp: /proc/self/status; pwd; echo $HOME; exec sleep 1000");
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.set("/root/readonly", json!(false));
        // A working directory that is to be made, and a HOME to be looked up.
        bundle.set("/process/cwd", json!("/made/here"));
        bundle.set("/process/user", json!({"uid": 0, "gid": 0}));
        let c = world.container(&bundle);
        c.create(&[]).ok();
        assert_eq!(c.status(), "created");
        c.simple("start").ok();
        assert_eq!(c.status(), "running");
        assert_eq!(c.exec(&[], &["grep", "Seccomp:", "/proc/self/status"]).ok().stdout, "Seccomp:\t2\n");
        let refused = c.exec(&[], &["mkdir", "/dev/shm/x"]);
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains("Operation not permitted"), "{}", refused.stderr);
        c.stop();
        c.finish();
        let mut bundle = strict(&world, "pwd; echo $HOME");
        bundle.set("/process/cwd", json!("/made/here"));
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).set("/root/readonly", json!(false));
        let c = world.container(&bundle);
        assert_eq!(c.run(&[]).ok().stdout, "/made/here\n/root\n");
        c.assert_nothing_left();
    }
}
