//! Random profiles against a plain reading of runtime-spec: no trees, no ranges, no fragments.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator};

use super::super::arch::{Abi, Machine, X32_BIT};
use super::super::interpreter::{Call, run};
use super::super::{Error, compile_for, names};
use super::golden::{boundaries, numbers};
use super::{ALLOW, ENOSYS, EPERM, KILL, Random, profile};

const NAMES: [&str; 24] = [
    "read",
    "write",
    "open",
    "close",
    "ioctl",
    "kill",
    "clone",
    "execve",
    "ptrace",
    "socket",
    "bind",
    "accept4",
    "shmat",
    "semop",
    "getuid",
    "personality",
    "newfstatat",
    "mount",
    "openat2",
    "clone3",
    "futex_waitv",
    "waitid",
    "cacheflush",
    "no_such_call",
];
const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
const ACTIONS: [(&str, u32); 4] = [
    ("\"SCMP_ACT_ALLOW\"", ALLOW),
    ("\"SCMP_ACT_ERRNO\"", EPERM),
    ("\"SCMP_ACT_KILL_PROCESS\"", libc::SECCOMP_RET_KILL_PROCESS),
    ("\"SCMP_ACT_ERRNO\", \"errnoRet\": 95", libc::SECCOMP_RET_ERRNO | 95),
];

fn random_profile(random: &mut Random, machine: Machine) -> (LinuxSeccomp, Vec<u32>) {
    let mut rules = Vec::new();
    let mut words = Vec::new();
    for _ in 0..random.below(12) {
        let chosen: Vec<String> =
            (0..=random.below(4)).map(|_| format!("{:?}", random.pick(&NAMES))).collect();
        let (action, word) = *random.pick(&ACTIONS);
        let args: Vec<String> = (0..random.below(4)).map(|_| random_arg(random)).collect();
        rules.push(format!(
            r#"{{"names": [{}], "action": {action}, "args": [{}]}}"#,
            chosen.join(","),
            args.join(",")
        ));
        words.push(word);
    }
    let default = random.pick(&["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"]);
    let arches = match machine {
        Machine::X86_64 => *random.pick(&["", "\"SCMP_ARCH_X86\"", "\"SCMP_ARCH_X32\", \"SCMP_ARCH_X86\""]),
        Machine::Aarch64 => *random.pick(&["", "\"SCMP_ARCH_ARM\", \"SCMP_ARCH_AARCH64\""]),
    };
    let json = format!(
        r#"{{"defaultAction": "{default}", "architectures": [{arches}], "syscalls": [{}]}}"#,
        rules.join(",")
    );
    (profile(&json), words)
}

fn random_arg(random: &mut Random) -> String {
    let any = random.next();
    let value = *random.pick(&[0, 1, 9, 40, u64::from(u32::MAX), 1 << 32, u64::MAX, any]);
    let two = *random.pick(&[0, 1, any & value, any]);
    let (index, op) = (random.below(6), random.pick(&OPERATORS));
    format!(r#"{{"index": {index}, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}"#)
}

fn listed(profile: &LinuxSeccomp, name: &str) -> bool {
    profile.architectures().iter().flatten().any(|arch| arch.to_string() == name)
}

/// The ABI of a call, if the profile has it.
fn abi(machine: Machine, profile: &LinuxSeccomp, call: &Call) -> Option<Abi> {
    let listed = |name: &str| listed(profile, name);
    let x32 = call.nr & X32_BIT != 0;
    match (machine, call.arch) {
        (Machine::X86_64, 0xc000_003e) if !x32 => Some(Abi::X86_64),
        (Machine::X86_64, 0xc000_003e) if listed("SCMP_ARCH_X32") => Some(Abi::X32),
        (Machine::X86_64, 0xc000_003e) if call.nr == u32::MAX => Some(Abi::X86_64),
        (Machine::X86_64, 0x4000_0003) if listed("SCMP_ARCH_X86") => Some(Abi::X86),
        (Machine::Aarch64, 0xc000_00b7) => Some(Abi::Aarch64),
        (Machine::Aarch64, 0x4000_0028) if listed("SCMP_ARCH_ARM") => Some(Abi::Arm),
        _ => None,
    }
}

fn matches(abi: Abi, arg: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let width = if matches!(abi, Abi::X86_64 | Abi::Aarch64) { u64::MAX } else { u64::from(u32::MAX) };
    let (actual, value) = (args[arg.index()] & width, arg.value() & width);
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => actual != value,
        LinuxSeccompOperator::ScmpCmpLt => actual < value,
        LinuxSeccompOperator::ScmpCmpLe => actual <= value,
        LinuxSeccompOperator::ScmpCmpEq => actual == value,
        LinuxSeccompOperator::ScmpCmpGe => actual >= value,
        LinuxSeccompOperator::ScmpCmpGt => actual > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap() & value,
    }
}

/// What the profile says about a call.
fn expected(machine: Machine, profile: &LinuxSeccomp, words: &[u32], call: &Call) -> u32 {
    let default = if profile.default_action().to_string() == "SCMP_ACT_ALLOW" { ALLOW } else { EPERM };
    let Some(abi) = abi(machine, profile, call) else { return KILL };
    let rules = || profile.syscalls().iter().flatten().zip(words.iter().copied());
    let newest = rules().flat_map(|(rule, _)| rule.names()).filter_map(|name| names::number(abi, name)).max();
    // The number -1 without x32 in the profile: the default.
    let skipped = abi == Abi::X86_64 && call.nr == u32::MAX;
    if default == EPERM && !skipped && newest.is_some_and(|newest| call.nr > newest) {
        return ENOSYS;
    }
    let x32_half = call.arch == Abi::X86_64.audit_arch() && call.nr >= X32_BIT;
    if x32_half && !skipped && !listed(profile, "SCMP_ARCH_X32") {
        return KILL;
    }
    let mut conditional = None;
    for (rule, word) in rules().filter(|(_, word)| *word != default) {
        let args = rule.args().as_deref().unwrap();
        for name in rule.names() {
            let direct = names::number(abi, name) == Some(call.nr);
            let mux = names::multiplexed(abi, name).filter(|mux| mux.nr == call.nr);
            if direct && args.is_empty() {
                return word;
            }
            let right_code = mux.is_some_and(|mux| call.args[0] & u64::from(u32::MAX) == mux.call);
            if !direct && !right_code {
                continue;
            }
            let holds =
                |arg: &LinuxSeccompArg| (right_code && arg.index() == 0) || matches(abi, arg, &call.args);
            let repeats = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
            let hit = if repeats { args.iter().any(holds) } else { args.iter().all(holds) };
            if hit {
                conditional = conditional.or(Some(word));
            }
        }
    }
    conditional.unwrap_or(default)
}

#[test]
fn random_profiles_mean_what_they_say() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let (mut compiled, mut conflicts) = (0, 0);
    for round in 0..400 {
        let machine = if round % 4 == 0 { Machine::Aarch64 } else { Machine::X86_64 };
        let (profile, words) = random_profile(&mut random, machine);
        let filter = match compile_for(machine, &profile) {
            Ok(filter) => filter,
            Err(Error::Conflict { .. }) => {
                conflicts += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        compiled += 1;
        let values = boundaries(&profile);
        let named: Vec<u32> = [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm]
            .into_iter()
            .flat_map(|abi| NAMES.iter().filter_map(move |name| names::number(abi, name)))
            .chain([102, 117])
            .collect();
        let edges: Vec<u32> = numbers().collect();
        for _ in 0..1500 {
            let nr = if random.below(3) == 0 { *random.pick(&edges) } else { *random.pick(&named) };
            let arch = *random.pick(&[0xc000_003e, 0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028]);
            let mut args: [u64; 6] = std::array::from_fn(|_| *random.pick(&values));
            if random.below(3) == 0 {
                args[0] = random.next() % 26;
            }
            let call = Call { nr, arch, args };
            let mine = run(&filter.program, &call).unwrap().word;
            let theirs = expected(machine, &profile, &words, &call);
            assert_eq!(mine, theirs, "{call:x?} {}", serde_json::to_string(&profile).unwrap());
        }
    }
    assert!(compiled > 300, "{compiled} compiled, {conflicts} with conflicts");
}
