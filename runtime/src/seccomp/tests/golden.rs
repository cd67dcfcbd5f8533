//! Against libseccomp 2.5.4: testdata/golden.json and numbers.json, written by testdata/generate.py.

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};
use serde::Deserialize;

use super::super::arch::{Abi, Machine, X32_BIT};
use super::super::interpreter::{Call, run};
use super::super::{compile_for, names};
use super::{ENOSYS, Random};
use crate::sys::seccomp::Instruction;

const ABIS: [(&str, Abi); 5] = [
    ("x86_64", Abi::X86_64),
    ("x32", Abi::X32),
    ("x86", Abi::X86),
    ("aarch64", Abi::Aarch64),
    ("arm", Abi::Arm),
];

pub(super) struct Case {
    pub name: String,
    pub machine: Machine,
    pub profile: LinuxSeccomp,
    program: Vec<Instruction>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    machine: String,
    profile: LinuxSeccomp,
    program: String,
}

impl From<Entry> for Case {
    fn from(entry: Entry) -> Case {
        Case {
            name: entry.name,
            machine: if entry.machine == "x86_64" { Machine::X86_64 } else { Machine::Aarch64 },
            profile: entry.profile,
            program: parse(&entry.program),
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let entries: Vec<Entry> = serde_json::from_str(include_str!("../testdata/golden.json")).unwrap();
    entries.into_iter().map(Case::from).collect()
}

/// `struct sock_filter`s in hexadecimal, little-endian.
fn parse(hex: &str) -> Vec<Instruction> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len() / 16)
        .map(|i| {
            let b: Vec<u8> = (0..8).map(|n| byte(i * 16 + n * 2)).collect();
            Instruction {
                code: u16::from_le_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            }
        })
        .collect()
}

#[test]
fn names_have_libseccomps_numbers() {
    #[derive(Deserialize)]
    struct Numbers {
        names: Vec<String>,
        numbers: BTreeMap<String, BTreeMap<String, u32>>,
    }
    let known: Numbers = serde_json::from_str(include_str!("../testdata/numbers.json")).unwrap();
    assert!(known.names.len() > 400);
    for (arch, abi) in ABIS {
        for name in &known.names {
            let theirs = known.numbers[arch].get(name).copied();
            // libseccomp gives a multiplexed call its multiplexer's number.
            match names::multiplexed(abi, name) {
                Some(mux) => assert_eq!(Some(mux.nr), theirs, "{arch} {name}"),
                None => assert_eq!(names::number(abi, name), theirs, "{arch} {name}"),
            }
        }
    }
}

#[test]
fn numbers_have_their_names() {
    for (_, abi) in ABIS {
        let known: Vec<u32> = numbers().filter(|nr| names::name(abi, *nr).is_some()).collect();
        assert!(known.len() > 300, "{abi:?}: {}", known.len());
        for nr in known {
            let name = names::name(abi, nr).unwrap();
            assert_eq!(names::number(abi, name), Some(nr), "{abi:?} {name}");
        }
    }
    // Both x32's own numbers and those that it shares.
    assert_eq!(names::name(Abi::X32, X32_BIT | 514), Some("ioctl"));
    assert_eq!(names::name(Abi::X32, X32_BIT | 39), Some("getpid"));
    assert_eq!(names::name(Abi::X32, X32_BIT | 16), None);
    assert_eq!(names::name(Abi::X86, 17), Some("break"));
    assert_eq!(names::name(Abi::Aarch64, 79), Some("newfstatat"));
}

/// What runc puts before libseccomp's program: ENOSYS above the newest call of the profile.
struct Stub {
    newest: Vec<(Abi, u32)>,
}

impl Stub {
    fn new(case: &Case) -> Stub {
        use LinuxSeccompAction as Action;
        if matches!(
            case.profile.default_action(),
            Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
        ) {
            return Stub { newest: Vec::new() };
        }
        let listed = case.profile.architectures().clone().unwrap_or_default();
        let (native, others) = match case.machine {
            Machine::X86_64 => {
                (Abi::X86_64, vec![(Arch::ScmpArchX86, Abi::X86), (Arch::ScmpArchX32, Abi::X32)])
            }
            Machine::Aarch64 => (Abi::Aarch64, vec![(Arch::ScmpArchArm, Abi::Arm)]),
        };
        let mut abis = vec![native];
        abis.extend(others.iter().filter(|(arch, _)| listed.contains(arch)).map(|(_, abi)| *abi));
        let calls = case.profile.syscalls().as_deref().unwrap_or_default();
        let newest = |abi: Abi| {
            calls.iter().flat_map(|call| call.names()).filter_map(|name| names::number(abi, name)).max()
        };
        Stub { newest: abis.into_iter().filter_map(|abi| Some((abi, newest(abi)?))).collect() }
    }

    fn decides(&self, call: &Call) -> bool {
        let x32 = call.arch == Abi::X86_64.audit_arch() && call.nr & X32_BIT != 0;
        self.newest.iter().any(|(abi, newest)| {
            abi.audit_arch() == call.arch && (*abi == Abi::X32) == x32 && call.nr > *newest
        })
    }
}

/// Argument values at which some condition of the profile changes its mind.
pub(super) fn boundaries(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values = vec![0, 1, 1 << 32, u64::MAX];
    for arg in profile.syscalls().iter().flatten().filter_map(|call| call.args().as_ref()).flatten() {
        for value in [arg.value(), arg.value_two().unwrap_or(0), arg.value() & arg.value_two().unwrap_or(0)] {
            values.extend([value, value.wrapping_sub(1), value.wrapping_add(1), value ^ 1 << 32]);
            values.extend([value & 0xffff_ffff, value | 0xffff_ffff_0000_0000, value ^ 1 << 63]);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Numbers worth trying: all that exist, and the edges.
pub(super) fn numbers() -> impl Iterator<Item = u32> {
    let edges = [0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xbfff_ffff, 0xc000_0000, u32::MAX - 1, u32::MAX];
    (0..600).chain(X32_BIT..X32_BIT + 600).chain(0xf_0000..0xf_0008).chain(edges)
}

/// The numbers that the profile's rules are about, their neighbours, and the edges.
fn named(profile: &LinuxSeccomp) -> Vec<u32> {
    let calls = profile.syscalls().iter().flatten().flat_map(|call| call.names());
    let of_abis = calls.flat_map(|name| ABIS.map(|(_, abi)| names::number(abi, name)).into_iter().flatten());
    // socketcall and ipc of x86.
    let mut all: Vec<u32> =
        of_abis.chain([102, 117]).flat_map(|nr| [nr.saturating_sub(1), nr, nr + 1]).collect();
    all.extend(
        numbers().filter(|nr| *nr % 100 == 0 || *nr > X32_BIT + 600 || (0x3fff_ffff..=X32_BIT).contains(nr)),
    );
    all.sort_unstable();
    all.dedup();
    all
}

/// Compares the two programs' decisions; returns how many.
fn compare(case: &Case, numbers: &[u32], random: &mut Random) -> usize {
    let ours = compile_for(case.machine, &case.profile).unwrap();
    let stub = Stub::new(case);
    let values = boundaries(&case.profile);
    let archs = [Abi::X86_64, Abi::X86, Abi::Aarch64, Abi::Arm].map(Abi::audit_arch);
    let mut compared = 0;
    for arch in archs.into_iter().chain([0, 0x8000_0016]) {
        for nr in numbers {
            let mut call = Call { nr: *nr, arch, args: [0; 6] };
            let plain = run(&case.program, &call).unwrap();
            // Paths without argument checks need one look.
            let rounds = if plain.instructions > 3 && values.len() > 4 { 12 } else { 1 };
            for _ in 0..rounds {
                let theirs =
                    if stub.decides(&call) { ENOSYS } else { run(&case.program, &call).unwrap().word };
                let mine = run(&ours.program, &call).unwrap().word;
                assert_eq!(mine, theirs, "{}: {call:x?}", case.name);
                compared += 1;
                call.args = std::array::from_fn(|_| *random.pick(&values));
                if random.below(2) == 0 {
                    // socketcall's and ipc's codes.
                    call.args[0] = random.next() % 26;
                }
            }
        }
    }
    compared
}

#[test]
fn programs_decide_as_libseccomps_do() {
    let mut random = Random(0x5eed_1234_5678_9abc);
    let all: Vec<u32> = numbers().collect();
    let compared: usize = cases().iter().map(|case| compare(case, &all, &mut random)).sum();
    println!("{compared} decisions compared");
    assert!(compared > 500_000);
}

/// Default profiles as the daemons write them into config.json (testdata/defaults/README.md).
pub(super) const DEFAULTS: [(&str, &str); 3] = [
    ("docker.json", include_str!("../testdata/defaults/docker.json")),
    ("containerd.json", include_str!("../testdata/defaults/containerd.json")),
    ("podman.json", include_str!("../testdata/defaults/podman.json")),
];

/// The default profiles, and random ones: SECCOMP_PROFILES of them from SECCOMP_SEED on (500, 1), made by the
/// libseccomp of this machine.
#[test]
fn programs_decide_as_this_machines_libseccomp() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/testdata");
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let output = std::process::Command::new("/usr/bin/python3")
        .arg(format!("{dir}/generate.py"))
        .args(["stream", &setting("SECCOMP_PROFILES", "500"), &setting("SECCOMP_SEED", "1")])
        .args(DEFAULTS.map(|(name, _)| format!("{dir}/defaults/{name}")))
        .output();
    let failed = |why: &str| {
        println!(
            "SKIPPED seccomp::programs_decide_as_this_machines_libseccomp: {why} (apt-get install python3-seccomp)"
        );
    };
    let output = match output {
        Ok(output) => output,
        Err(error) => return failed(&format!("python3: {error}")),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("No module named 'seccomp'") {
        return failed("no libseccomp for Python");
    }
    assert!(output.status.success(), "{errors}");
    let mut random = Random(0x5eed_1234_5678_9abc);
    let all: Vec<u32> = numbers().collect();
    let (mut compared, mut profiles) = (0, 0);
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let case = Case::from(serde_json::from_str::<Entry>(line).unwrap());
        let numbers = if profiles < DEFAULTS.len() { all.clone() } else { named(&case.profile) };
        compared += compare(&case, &numbers, &mut random);
        profiles += 1;
    }
    println!("{compared} decisions compared of {profiles} profiles");
    assert!(profiles > DEFAULTS.len() && compared > profiles * 100);
}
