//! Programs are run by the interpreter and compared: with libseccomp's (`golden`), with a plain reading
//! of the profile (`naive`), and case by case here.

mod golden;
mod naive;

use oci_spec::runtime::LinuxSeccomp;

use super::arch::{Abi, Machine, X32_BIT};
use super::interpreter::{Call, run};
use super::{Error, Filter, compile, compile_for, names};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn filter(json: &str) -> Filter {
    compile_for(Machine::X86_64, &profile(json)).unwrap()
}

fn decide(filter: &Filter, abi: Abi, name: &str, args: [u64; 6]) -> u32 {
    let nr = names::number(abi, name).unwrap();
    run(&filter.program, &Call { nr, arch: abi.audit_arch(), args }).unwrap().word
}

fn decide_nr(filter: &Filter, arch: u32, nr: u32) -> u32 {
    run(&filter.program, &Call { nr, arch, args: [0; 6] }).unwrap().word
}

/// A fixed sequence of numbers that look random (xorshift64).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const TWO_CALLS: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "statx"], "action": "SCMP_ACT_ALLOW"}]}"#;

#[test]
fn calls_newer_than_the_profile_get_enosys() {
    let filter = filter(TWO_CALLS);
    assert_eq!(decide(&filter, Abi::X86_64, "read", [0; 6]), ALLOW);
    assert_eq!(decide(&filter, Abi::X86_64, "write", [0; 6]), EPERM);
    assert_eq!(decide(&filter, Abi::X86_64, "statx", [0; 6]), ALLOW);
    assert_eq!(decide_nr(&filter, Abi::X86_64.audit_arch(), 333), ENOSYS);
    assert_eq!(decide(&filter, Abi::X86_64, "mount_setattr", [0; 6]), ENOSYS);
}

#[test]
fn a_permissive_default_stays_for_newer_calls() {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let filter = filter(&TWO_CALLS.replace("SCMP_ACT_ERRNO", action));
        let older = decide(&filter, Abi::X86_64, "write", [0; 6]);
        assert_ne!(older, ENOSYS);
        assert_eq!(decide(&filter, Abi::X86_64, "mount_setattr", [0; 6]), older);
    }
}

#[test]
fn redundant_rules_count_as_known_calls() {
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["mount_setattr"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filter = filter(json);
    assert_eq!(decide(&filter, Abi::X86_64, "mount_setattr", [0; 6]), EPERM);
    assert_eq!(decide_nr(&filter, Abi::X86_64.audit_arch(), 443), ENOSYS);
}

#[test]
fn x32_numbers_do_not_pass_a_deny_list() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getuid", "ioctl"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filter = filter(json);
    let arch = Abi::X86_64.audit_arch();
    assert_eq!(decide_nr(&filter, arch, 102), EPERM);
    for nr in [0, 102, 514, 0x3fff_ffff, 0x8000_0000, 0xbfff_fffe] {
        assert_eq!(decide_nr(&filter, arch, nr | X32_BIT), KILL, "{nr:#x}");
    }
}

#[test]
fn x32_rules_use_its_own_numbers() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X32"], "syscalls": [
        {"names": ["getuid", "ioctl"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filter = filter(json);
    let arch = Abi::X86_64.audit_arch();
    assert_eq!(decide_nr(&filter, arch, 102 | X32_BIT), EPERM);
    assert_eq!(decide_nr(&filter, arch, 514 | X32_BIT), EPERM);
    assert_eq!(decide_nr(&filter, arch, 16), EPERM);
    assert_eq!(decide_nr(&filter, arch, 16 | X32_BIT), ALLOW);
}

#[test]
fn an_architecture_that_is_not_listed_is_killed() {
    let native_only = filter(TWO_CALLS);
    for abi in [Abi::X86, Abi::Aarch64, Abi::Arm] {
        assert_eq!(decide(&native_only, abi, "read", [0; 6]), KILL, "{abi:?}");
    }
    let json = TWO_CALLS
        .replace("\"syscalls\"", r#""architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_MIPS"], "syscalls""#);
    let with_x86 = filter(&json);
    assert_eq!(decide(&with_x86, Abi::X86_64, "read", [0; 6]), ALLOW);
    assert_eq!(decide(&with_x86, Abi::X86, "read", [0; 6]), ALLOW);
    assert_eq!(decide(&with_x86, Abi::X86, "write", [0; 6]), EPERM);
    assert_eq!(decide_nr(&with_x86, 0, 0), KILL);
    let arm = compile_for(Machine::Aarch64, &profile(TWO_CALLS)).unwrap();
    assert_eq!(decide(&arm, Abi::Aarch64, "read", [0; 6]), ALLOW);
    assert_eq!(decide(&arm, Abi::Arm, "read", [0; 6]), KILL);
    assert_eq!(decide(&arm, Abi::X86_64, "read", [0; 6]), KILL);
}

#[test]
fn socket_calls_of_x86_are_covered_both_ways() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["bind", "shmat", "accept"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filter = filter(json);
    let code = |code| [code, 0, 0, 0, 0, 0];
    assert_eq!(decide(&filter, Abi::X86, "bind", [0; 6]), EPERM);
    assert_eq!(decide(&filter, Abi::X86, "socketcall", code(2)), EPERM);
    assert_eq!(decide(&filter, Abi::X86, "socketcall", code(5)), EPERM);
    assert_eq!(decide(&filter, Abi::X86, "socketcall", code(1)), ALLOW);
    assert_eq!(decide(&filter, Abi::X86, "shmat", [0; 6]), EPERM);
    assert_eq!(decide(&filter, Abi::X86, "ipc", code(21)), EPERM);
    assert_eq!(decide(&filter, Abi::X86, "ipc", code(22)), ALLOW);
}

#[test]
fn arguments_are_64_bit_on_64_bit_machines_only() {
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ALLOW",
                      "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
    let filter = filter(json);
    let low = [0, 9, 0, 0, 0, 0];
    let high = [0, 9 | 1 << 32, 0, 0, 0, 0];
    for (abi, with_high) in [(Abi::X86_64, EPERM), (Abi::X86, ALLOW), (Abi::X32, ALLOW)] {
        assert_eq!(decide(&filter, abi, "kill", low), ALLOW, "{abi:?}");
        assert_eq!(decide(&filter, abi, "kill", high), with_high, "{abi:?}");
    }
}

#[test]
fn a_repeated_argument_index_means_any_of_them() {
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["tkill"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
    let filter = filter(json);
    let kill = |a, b| decide(&filter, Abi::X86_64, "kill", [a, b, 0, 0, 0, 0]);
    assert_eq!([kill(1, 0), kill(5, 0), kill(0, 9), kill(0, 0)], [ALLOW, ALLOW, ALLOW, EPERM]);
    let tkill = |a, b| decide(&filter, Abi::X86_64, "tkill", [a, b, 0, 0, 0, 0]);
    assert_eq!([tkill(1, 0), tkill(0, 9), tkill(1, 9)], [EPERM, EPERM, ALLOW]);
}

#[test]
fn every_action_has_its_word() {
    let cases = [
        ("SCMP_ACT_KILL", None, libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(0), libc::SECCOMP_RET_ERRNO),
        ("SCMP_ACT_ERRNO", Some(4095), libc::SECCOMP_RET_ERRNO | 4095),
        ("SCMP_ACT_TRACE", None, libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_TRACE", Some(65535), libc::SECCOMP_RET_TRACE | 65535),
        ("SCMP_ACT_NOTIFY", None, libc::SECCOMP_RET_USER_NOTIF),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_ALLOW", Some(7), ALLOW),
    ];
    for (action, errno, word) in cases {
        let errno = errno.map(|e: u32| format!(r#", "errnoRet": {e}"#)).unwrap_or_default();
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77,
                "syscalls": [{{"names": ["kill"], "action": "{action}"{errno}}}]}}"#
        );
        let filter = filter(&json);
        assert_eq!(decide(&filter, Abi::X86_64, "kill", [0; 6]), word, "{action}");
        assert_eq!(filter.notify, action == "SCMP_ACT_NOTIFY");
    }
}

#[test]
fn flags_are_as_runc_sets_them() {
    let with = |flags: &str, action: &str| {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW" {flags}, "syscalls": [{{"names": ["kill"], "action": "{action}"}}]}}"#
        );
        filter(&json).flags
    };
    let flags = |list: &str| format!(r#", "flags": [{list}]"#);
    assert_eq!(with("", "SCMP_ACT_ERRNO"), libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    assert_eq!(with(&flags(""), "SCMP_ACT_ERRNO"), 0);
    assert_eq!(with(&flags(r#""SECCOMP_FILTER_FLAG_LOG""#), "SCMP_ACT_ERRNO"), 2);
    assert_eq!(
        with(&flags(r#""SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW""#), "SCMP_ACT_ERRNO"),
        6
    );
    assert_eq!(with(&flags(r#""SECCOMP_FILTER_FLAG_TSYNC""#), "SCMP_ACT_ERRNO"), 0);
    assert_eq!(with(&flags(r#""SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV""#), "SCMP_ACT_ERRNO"), 0);
    assert_eq!(with(&flags(r#""SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV""#), "SCMP_ACT_NOTIFY"), 8 | 32);
    assert_eq!(with("", "SCMP_ACT_NOTIFY"), 8 | 4);
}

#[test]
fn bad_profiles_are_refused() {
    let error = |rules: &str| {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rules}]}}"#);
        compile(&profile(&json)).unwrap_err()
    };
    let rule = |rest: &str| format!(r#"{{"names": ["kill"], {rest}}}"#);
    let eq =
        |index: u32, value: u32| format!(r#"[{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}]"#);
    let index = rule(&format!(r#""action": "SCMP_ACT_ALLOW", "args": {}"#, eq(6, 0)));
    assert!(matches!(error(&index), Error::ArgIndex { index: 6, syscall } if syscall == "kill"));
    let errno = error(&rule(r#""action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#));
    assert_eq!(errno.to_string(), "seccomp: errnoRet 4096 is not in 0..=4095");
    let trace = error(&rule(r#""action": "SCMP_ACT_TRACE", "errnoRet": 2147418112"#));
    assert!(matches!(trace, Error::ErrnoRet { max: 65535, .. }));
    let empty = error(r#"{"names": ["kill", ""], "action": "SCMP_ACT_ALLOW"}"#);
    assert!(matches!(empty, Error::EmptyName));
    let allow = rule(&format!(r#""action": "SCMP_ACT_ALLOW", "args": {}"#, eq(0, 1)));
    let kill = rule(&format!(r#""action": "SCMP_ACT_KILL", "args": {}"#, eq(0, 1)));
    assert!(matches!(error(&format!("{allow},{kill}")), Error::Conflict { .. }));
    // Values to be equal to would be searched for.
    let many: Vec<String> = (0..1000)
        .map(|i| rule(&format!(r#""action": "SCMP_ACT_ALLOW", "args": {}"#, eq(0, i).replace("_EQ", "_NE"))))
        .collect();
    assert!(matches!(error(&many.join(",")), Error::TooLong { len } if len > 4096));
}

#[test]
fn unknown_names_are_skipped() {
    let json = TWO_CALLS.replace("\"read\"", "\"read\", \"no_such_call\", \"arm_sync_file_range\"");
    assert_eq!(filter(&json), filter(TWO_CALLS));
}

#[test]
fn far_jumps_reach_their_targets() {
    // Each call of its own leads to a chain of its own: thousands of instructions, beyond a jump's 255.
    let calls: Vec<&str> = (0..300).filter_map(syscalls::x86_64::Sysno::new).map(|nr| nr.name()).collect();
    let rules: Vec<String> = calls
        .iter()
        .enumerate()
        .map(|(i, name)| {
            format!(
                r#"{{"names": ["{name}"], "action": "SCMP_ACT_TRACE", "errnoRet": {i},
                    "args": [{{"index": 3, "value": {i}, "op": "SCMP_CMP_NE"}}]}}"#
            )
        })
        .collect();
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(","));
    let filter = filter(&json);
    assert!(filter.program.len() > 1500);
    for (i, name) in calls.iter().enumerate() {
        let equal = decide(&filter, Abi::X86_64, name, [0, 0, 0, i as u64, 0, 0]);
        let other = decide(&filter, Abi::X86_64, name, [0, 0, 0, i as u64 | 1 << 40, 0, 0]);
        assert_eq!((equal, other), (EPERM, libc::SECCOMP_RET_TRACE | i as u32), "{name}");
    }
}

#[test]
fn values_of_one_argument_are_searched_for() {
    let values = [0, 1, 5, 6, 40, 1 << 31, u64::from(u32::MAX), 1 << 32, 5 | 1 << 32, 7 << 40, u64::MAX];
    let rules: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(at, value)| {
            format!(
                r#"{{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": {},
                    "args": [{{"index": 2, "value": {value}, "op": "SCMP_CMP_EQ"}}]}}"#,
                at + 10
            )
        })
        .collect();
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{}]}}"#, rules.join(","));
    let filter = filter(&json);
    let nr = names::number(Abi::X86_64, "kill").unwrap();
    let verdict = |value: u64| {
        let call = Call { nr, arch: Abi::X86_64.audit_arch(), args: [value ^ 1, 3, value, 0, 0, value] };
        run(&filter.program, &call).unwrap()
    };
    for (at, value) in values.iter().enumerate() {
        assert_eq!(verdict(*value).word, libc::SECCOMP_RET_ERRNO | (at as u32 + 10), "{value:#x}");
        for other in [value.wrapping_add(1), value.wrapping_sub(1), value ^ 1 << 33, value ^ 1 << 63] {
            if !values.contains(&other) {
                assert_eq!(verdict(other).word, libc::SECCOMP_RET_LOG, "{other:#x}");
            }
        }
        assert!(verdict(*value).instructions <= 18, "{value:#x}: {}", verdict(*value).instructions);
    }
}

#[test]
fn bytes_carry_a_filter() {
    let json = TWO_CALLS.replace("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY");
    let filter = filter(&json);
    let bytes = filter.to_bytes();
    assert_eq!(Filter::from_bytes(&bytes), Some(filter));
    for len in [0, 8, 16, bytes.len() - 1] {
        assert_eq!(Filter::from_bytes(&bytes[..len]), None, "{len}");
    }
    let mut bad = bytes;
    bad[8] = 2;
    assert_eq!(Filter::from_bytes(&bad), None);
}

/// A measurement, not a check: `cargo test --profile quick -p davit -- --ignored --nocapture compile_time`.
#[test]
#[ignore = "prints a measurement"]
fn compile_time() {
    for case in golden::cases().iter().take(3) {
        let mut best = std::time::Duration::MAX;
        for _ in 0..1000 {
            let start = std::time::Instant::now();
            let filter = compile_for(case.machine, &case.profile).unwrap();
            best = best.min(start.elapsed());
            std::hint::black_box(filter);
        }
        let filter = compile_for(case.machine, &case.profile).unwrap();
        let arch = filter.program.iter().find(|i| i.code == 0x15).unwrap().k;
        let steps = |nr| run(&filter.program, &Call { nr, arch, args: [0; 6] }).unwrap().instructions;
        let average = (0..462).map(steps).sum::<usize>() as f64 / 462.0;
        println!("{}: {best:?}, {} instructions, {average:.1} run per call", case.name, filter.program.len());
    }
}

/// A filter stays with the thread that loads it, so that a thread of its own is all a test needs.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().unwrap()
}

/// Loads a filter into this thread; None where that takes a privilege that the test lacks.
fn load(filter: &Filter) -> Option<()> {
    match crate::sys::seccomp::set_mode_filter(&filter.program, filter.flags) {
        Ok(_) => Some(()),
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            println!("skipped: loading a filter needs CAP_SYS_ADMIN");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_kernel_takes_the_programs() {
    for case in golden::cases().into_iter().take(2) {
        let filter = compile(&case.profile).unwrap();
        let opened =
            in_thread(move || load(&filter).map(|()| std::fs::metadata("/proc/self/status").is_ok()));
        assert_ne!(opened, Some(false), "{}", case.name);
    }
}

#[test]
fn the_kernel_decides_as_the_profile_says() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
         "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_GE"}]}]}"#;
    let filter = compile(&profile(json)).unwrap();
    let seen = in_thread(move || {
        use nix::errno::Errno;
        use nix::unistd::{Pid, getpgid};
        load(&filter)?;
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        assert!(getpgid(Some(Pid::from_raw(0))).is_ok());
        Some(getpgid(Some(Pid::from_raw(1))) == Err(Errno::from_raw(77)))
    });
    assert_ne!(seen, Some(false));
}
