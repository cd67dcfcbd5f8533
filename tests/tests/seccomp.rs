//! Seccomp filters as programs feel them: profiles by what becomes of calls, in `run` and `exec`, and what davit itself
//! needs after a filter is loaded.

use davit::seccomp::arch::Abi;
use davit::seccomp::names;
use davit_tests::calls::{self, Bits};
use davit_tests::tty::ConsoleSocket;
use davit_tests::{Bundle, World, skip, write_program};
use serde_json::{Value, json};

const NATIVE: Abi = if cfg!(target_arch = "x86_64") { Abi::X86_64 } else { Abi::Aarch64 };

fn enter(test: &str) -> Option<World> {
    World::enter(&format!("seccomp::{test}"))
}

/// One profile and what it does.
struct Case {
    /// What is shown.
    name: &'static str,
    /// `linux.seccomp`. `BASE` stands for the names of calls that the program and davit need.
    profile: &'static str,
    /// Calls in words; a number or the name of a call first, with `x86:` or `x32:` for another entry.
    calls: &'static [&'static str],
    /// What they return, or 128 and the signal that ends the program.
    expected: &'static [i64],
    program: Bits,
}

const fn case(
    name: &'static str,
    profile: &'static str,
    calls: &'static [&'static str],
    expected: &'static [i64],
) -> Case {
    Case { name, profile, calls, expected, program: Bits::Native }
}

/// The same made by a 32-bit program.
const fn of_x86(
    name: &'static str,
    profile: &'static str,
    calls: &'static [&'static str],
    expected: &'static [i64],
) -> Case {
    Case { name, profile, calls, expected, program: Bits::X86 }
}

/// SIGSYS: what the kernel ends a program with.
const KILLED: i64 = 128 + libc::SIGSYS as i64;
/// -EPERM, -ENOSYS.
const EPERM: i64 = -1;
const ENOSYS: i64 = -38;

/// `ppoll` with nothing to wait for waits for ever.
const BASE: &str = r#""write", "exit_group", "ppoll", "execve""#;

/// What davit calls after a filter that is loaded before capabilities are dropped (docs/seccomp.md).
const EARLY: &[&str] = &[
    "umask",
    "chdir",
    "prctl",
    "setgroups",
    "setgroups32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "getcwd",
    "capset",
    "stat",
    "newfstatat",
    "access",
    "faccessat",
    "read",
];
/// The same of `create`, which waits for `start`.
const EARLY_CREATE: &[&str] = &["rt_sigaction", "write", "openat"];

const CASES: &[Case] = &[
    case(
        "an errno of a rule",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["getpgid 0", "getsid 99999999"],
        &[-77, -3],
    ),
    case(
        "EPERM where a rule has no errno",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["getpgid 0"],
        &[EPERM],
    ),
    case(
        "errno 0: the call does nothing and succeeds",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}]}"#,
        &["getpgid 99999999"],
        &[0],
    ),
    case(
        "an errno of the default",
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [{"names": [BASE, "zzz_unknown", "lsm_list_modules"], "action": "SCMP_ACT_ALLOW"}]}"#,
        &["getpgid 0"],
        &[-13],
    ),
    case(
        "EPERM of a default without errno",
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [BASE, "lsm_list_modules"], "action": "SCMP_ACT_ALLOW"}]}"#,
        &["getpgid 0"],
        &[EPERM],
    ),
    case(
        "ENOSYS above the newest call that the profile knows",
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [BASE, "openat2"], "action": "SCMP_ACT_ALLOW"}]}"#,
        &["close_range 0 0 0", "pidfd_getfd -1 0 0", "faccessat2 0 0 0", "700"],
        &[EPERM, ENOSYS, ENOSYS, ENOSYS],
    ),
    case(
        "no ENOSYS where the default allows",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["pidfd_open -1 0", "700"],
        &[-22, ENOSYS],
    ),
    case(
        "kill the process",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
    case(
        "kill the thread, the only one",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_KILL_THREAD"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
    case(
        "kill, the older word",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_KILL"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
    case(
        "kill by default",
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": [BASE, "lsm_list_modules"], "action": "SCMP_ACT_ALLOW"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
    case(
        "a trap without a handler",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_TRAP"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
    case(
        "a trace without a tracer",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_TRACE", "errnoRet": 5}]}"#,
        &["getpgid 0"],
        &[ENOSYS],
    ),
    case(
        "log lets through",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_LOG"}]}"#,
        &["getpgid 99999999"],
        &[-3],
    ),
    case(
        "log by default",
        r#"{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9}]}"#,
        &["getpgid 0", "getsid 99999999"],
        &[-9, -3],
    ),
    case(
        "equal",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["getpriority 8", "getpriority 9", "getpriority 0x100000008"],
        &[EPERM, -22, -22],
    ),
    case(
        "not equal",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_NE"}]}]}"#,
        &["getpriority 8", "getpriority 9", "getpriority 0x100000008"],
        &[-22, EPERM, EPERM],
    ),
    case(
        "less",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 4294967304, "op": "SCMP_CMP_LT"}]}]}"#,
        &["getpriority 9", "getpriority 0x100000007", "getpriority 0x100000008", "getpriority 0x200000005"],
        &[EPERM, EPERM, -22, -22],
    ),
    case(
        "less or equal",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 4294967304, "op": "SCMP_CMP_LE"}]}]}"#,
        &["getpriority 9", "getpriority 0x100000008", "getpriority 0x100000009", "getpriority -1"],
        &[EPERM, EPERM, -22, -22],
    ),
    case(
        "greater",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 4294967304, "op": "SCMP_CMP_GT"}]}]}"#,
        &["getpriority 9", "getpriority 0x100000008", "getpriority 0x100000009", "getpriority -1"],
        &[-22, -22, EPERM, EPERM],
    ),
    case(
        "greater or equal",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 4294967304, "op": "SCMP_CMP_GE"}]}]}"#,
        &["getpriority 9", "getpriority 0x100000007", "getpriority 0x100000008", "getpriority 0x200000000"],
        &[-22, -22, EPERM, EPERM],
    ),
    case(
        "masked, both halves",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 4294967312, "valueTwo": 4294967296, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
        &["getpriority 0x100000008", "getpriority 0x100000010", "getpriority 8", "getpriority 0x300000008"],
        &[EPERM, -22, -22, EPERM],
    ),
    case(
        "all conditions of a rule hold",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 3, "op": "SCMP_CMP_GE"}]}]}"#,
        &["getpriority 8 3", "getpriority 8 2", "getpriority 9 3"],
        &[EPERM, -22, -22],
    ),
    case(
        "the sixth argument",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 5, "value": 6, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["getpriority 8 0 0 0 0 6", "getpriority 8 0 0 0 6 0"],
        &[EPERM, -22],
    ),
    case(
        "a repeated index: any of the conditions",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["getpriority 8", "getpriority 9", "getpriority 10"],
        &[EPERM, EPERM, -22],
    ),
    case(
        "several rules for a call",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11, "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 12, "args": [{"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["getpriority 8", "getpriority 9", "getpriority 10"],
        &[-11, -12, -22],
    ),
    case(
        "a rule without conditions beats those with",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11, "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 12}]}"#,
        &["getpriority 8", "getpriority 9"],
        &[-12, -12],
    ),
    case(
        "an allowed argument of a denied call",
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [BASE, "lsm_list_modules"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["getpriority"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["getpriority 8", "getpriority 9"],
        &[-22, EPERM],
    ),
    case(
        "a rule like the default changes nothing",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["getpgid 8"],
        &[EPERM],
    ),
    case(
        "unknown names are left out",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["no_such_call", "getpgid", "another_one"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["getpgid 0"],
        &[EPERM],
    ),
    case(
        "the log flag",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["getpgid 0"],
        &[EPERM],
    ),
    case(
        "all flags",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["getpgid 0"],
        &[EPERM],
    ),
    case(
        "x86's entry is refused unless it is listed",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["x86:getpid"],
        &[KILLED],
    ),
    case(
        "x86's entry has its own numbers",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["getpgid 0", "x86:getpgid 0", "x86:getsid 99999999"],
        &[-77, -77, -3],
    ),
    case(
        "x86 compares 32 bits",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["x86:getpriority -1", "x86:getpriority 9", "getpriority -1"],
        &[EPERM, -22, -22],
    ),
    case(
        "socketcall of x86",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["x86:socket 1 1 0", "x86:socketcall 1 %", "x86:socketcall 2 %", "socket 1 1 0"],
        &[-77, -77, -88, -77],
    ),
    case(
        "ipc of x86",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["shmget"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["x86:shmget 0 0 0", "x86:ipc 23 0 0 0", "x86:ipc 22 0 0 0"],
        &[-77, -77, -22],
    ),
    case(
        "x32 does not get around a rule",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["x32:getpgid 0"],
        &[KILLED],
    ),
    case(
        "x32 that is listed has rules",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X32"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["x32:getpgid 0", "getpgid 0"],
        &[-77, -77],
    ),
    of_x86(
        "a 32-bit program that is not listed",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
    of_x86(
        "a 32-bit program with an errno",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["getpgid 0", "getsid 99999999"],
        &[-77, -3],
    ),
    of_x86(
        "a 32-bit program under a list of allowed calls",
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": [BASE, "lsm_list_modules"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["getpriority"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}"#,
        &["getpriority 8", "getpriority 9", "700"],
        &[-22, EPERM, ENOSYS],
    ),
    of_x86(
        "socketcall of a 32-bit program",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["bind"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#,
        &["bind 0 0 0", "socketcall 2 %", "socketcall 4 %"],
        &[-77, -77, -88],
    ),
    of_x86(
        "a 32-bit program that is killed",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        &["getpgid 0"],
        &[KILLED],
    ),
];

/// A call in words, for the program.
fn call(words: &str, program: Bits) -> Vec<String> {
    let mut words = words.split(' ').map(str::to_owned);
    let name = words.next().unwrap();
    let number = |abi, name: &str| {
        let known = names::number(abi, name);
        known.or_else(|| name.parse().ok()).unwrap_or_else(|| panic!("{name}: no such call")).to_string()
    };
    let first = match (name.split_once(':'), program) {
        (Some(("x86", name)), _) => format!("i{}", number(Abi::X86, name)),
        (Some(("x32", name)), _) => number(Abi::X32, name),
        (_, Bits::X86) => number(Abi::X86, &name),
        _ => number(NATIVE, &name),
    };
    [first].into_iter().chain(words).collect()
}

fn command(program: &str, calls: &[&str], bits: Bits) -> Vec<String> {
    let calls: Vec<Vec<String>> = calls.iter().map(|words| call(words, bits)).collect();
    [program.to_owned()].into_iter().chain(calls.join(&"--".to_owned())).collect()
}

impl Case {
    fn profile(&self) -> Value {
        let early: Vec<String> =
            [EARLY, EARLY_CREATE].concat().iter().map(|name| format!("{name:?}")).collect();
        let base = format!("{BASE}, {}", early.join(", "));
        serde_json::from_str(&self.profile.replace("BASE", &base))
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Whether it can be tried here.
    fn fits(&self) -> bool {
        let x86 = self.program == Bits::X86 || self.calls.iter().any(|call| call.starts_with('x'));
        cfg!(target_arch = "x86_64") || !x86
    }

    fn check(&self, how: &str, output: &davit_tests::Output) {
        let (code, printed) = match self.expected {
            [KILLED] => (KILLED, String::new()),
            results => (0, results.iter().map(|result| format!("{result}\n")).collect()),
        };
        let seen = (i64::from(output.code), output.stdout.as_str());
        assert_eq!(seen, (code, printed.as_str()), "{}, {how}: {}{}", self.name, output.stderr, output.log);
    }

    fn run(&self, world: &World, no_new_privileges: bool) -> Result<(), String> {
        let mut bundle = world.bundle();
        let program = calls::install(&bundle, self.program)?;
        let words = command(program, self.calls, self.program);
        bundle
            .set("/linux/seccomp", self.profile())
            .set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.set("/process/args", json!(words));
        let c = world.container(&bundle);
        self.check("run", &c.run(&[]));
        c.assert_nothing_left();
        // The container's own program waits, without any call that the profile may forbid.
        bundle.set("/process/args", json!(command(program, &["ppoll 0 0 0 0 0"], self.program)));
        let c = world.container(&bundle).started();
        if self.program == Bits::X86 && self.profile.contains("[\"SCMP_ARCH_X86_64\"]") {
            // It did not live long.
            c.wait_for("stopped");
        } else {
            self.check("exec", &c.exec(&[], &words.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        c.finish();
        Ok(())
    }
}

#[test]
fn profiles_have_their_effect() {
    let Some(world) = enter("profiles_have_their_effect") else { return };
    assert!(CASES.len() >= 40);
    for (at, case) in CASES.iter().enumerate() {
        if !case.fits() {
            continue;
        }
        if let Err(reason) = case.run(&world, at % 2 == 0) {
            skip::<()>(&format!("seccomp::profiles_have_their_effect ({})", case.name), &reason);
        }
    }
}

/// A bundle whose profile kills for all but these calls; its program is one that makes calls.
fn strict(world: &World, allowed: &[&[&str]], calls: &[&str]) -> Result<Bundle, String> {
    let mut bundle = world.bundle();
    let program = calls::install(&bundle, Bits::Native)?;
    let rule = json!({"names": allowed.concat(), "action": "SCMP_ACT_ALLOW"});
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [rule]}));
    bundle.set("/process/args", json!(command(program, calls, Bits::Native)));
    Ok(bundle)
}

/// What the program itself calls.
const PROGRAM: &[&str] = &["write", "exit_group", "ppoll"];

/// docs/seccomp.md, "After the filter is loaded". A call more, and the process is killed.
#[test]
fn what_davit_needs_of_a_profile() {
    let Some(world) = enter("what_davit_needs_of_a_profile") else { return };
    let sleeper: &[&str] = &["ppoll 0 0 0 0 0"];
    let terminal = ConsoleSocket::bind(&world.path("console.sock"));
    let console = ["--console-socket", terminal.path.to_str().unwrap()];
    for (no_new_privileges, own, of_create) in
        [(true, &["execve"][..], &[][..]), (false, &[EARLY, &["execve"]].concat()[..], EARLY_CREATE)]
    {
        let bundle = |allowed: &[&[&str]], calls: &[&str]| {
            let mut bundle = strict(&world, allowed, calls)?;
            bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
            Ok::<_, String>(bundle)
        };
        let run = match bundle(&[PROGRAM, own], &["1 1 % 0"]) {
            Ok(run) => run,
            Err(reason) => {
                return skip("seccomp::what_davit_needs_of_a_profile", &reason).unwrap_or_default();
            }
        };
        assert_eq!(world.container(&run).run(&[]).ok().stdout, "0\n", "run, {no_new_privileges}");

        let mut create = bundle(&[PROGRAM, own, of_create], sleeper).unwrap();
        let c = world.container(&create).started();
        assert_eq!(c.status(), "running");
        let program = command("/bin/call", &["1 1 % 0"], Bits::Native);
        let words: Vec<&str> = program.iter().map(String::as_str).collect();
        assert_eq!(c.exec(&[], &words).ok().stdout, "0\n", "exec, {no_new_privileges}");
        let waits = command("/bin/call", sleeper, Bits::Native);
        let waits: Vec<&str> = waits.iter().map(String::as_str).collect();
        c.exec(&[&["--tty", "--detach"], &console[..]].concat(), &waits).ok();
        let _terminal = terminal.receive();
        c.finish();

        create.set("/process/terminal", json!(true));
        let c = world.container(&create);
        c.create(&console).ok();
        let _terminal = terminal.receive();
        c.simple("start").ok();
        assert_eq!(c.status(), "running");
        c.finish();
    }
}

/// BPF_MAXINSNS of linux/bpf_common.h.
#[test]
fn a_profile_that_is_too_long_is_an_error() {
    let Some(world) = enter("a_profile_that_is_too_long_is_an_error") else { return };
    let rule = |value: u32| {
        let arg = json!({"index": 0, "value": value, "op": "SCMP_CMP_NE"});
        json!({"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "args": [arg]})
    };
    let mut bundle = world.bundle();
    let rules: Vec<Value> = (0..1000).map(rule).collect();
    bundle
        .args(&["true"])
        .set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "unable to compile seccomp profile: seccomp: the filter has ");
    c.assert_nothing_left();
    bundle.set("/linux/seccomp/syscalls", json!((0..400).map(rule).collect::<Vec<_>>()));
    world.container(&bundle).run(&[]).ok();
}

/// Where the profile allows write(2), a failure after the load has its reason.
#[test]
fn failures_behind_a_filter_are_told() {
    let Some(world) = enter("failures_behind_a_filter_are_told") else { return };
    let mut bundle = match strict(&world, &[&["execve", "write", "exit_group", "open", "openat"]], &[]) {
        Ok(bundle) => bundle,
        Err(reason) => {
            return skip("seccomp::failures_behind_a_filter_are_told", &reason).unwrap_or_default();
        }
    };
    write_program(&bundle.rootfs("/bin/nonsense"), "nonsense");
    bundle.args(&["/bin/nonsense"]);
    bundle.set("/linux/seccomp/defaultAction", json!("SCMP_ACT_ERRNO"));
    let c = world.container(&bundle);
    c.run(&[]).fails(1, "exec: \"/bin/nonsense\": exec format error");
    c.assert_nothing_left();
}
