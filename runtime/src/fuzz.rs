//! What `hack/fuzz` calls: a function for each reader of bytes that somebody else wrote. Only built with the feature
//! `fuzz`, which no program has.
//!
//! A target takes the bytes and a scratch directory on a memory filesystem. It must not panic, and asserts what holds
//! for any input; refusing the input is fine.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use crate::init::{Failure, Received};
use crate::net::netlink;
use crate::plan::{self, Facts, Request, SwitchRoot};
use crate::seccomp::{self, Filter, arch::Machine, interpreter};
use crate::spec;

/// A target: the hostile bytes, and where it may write.
pub type Run = fn(&[u8], &Path);

/// Targets by name.
pub const TARGETS: &[(&str, Run)] = &[
    ("config", config),
    ("process", process),
    ("resources", crate::cgroup::fuzz::resources),
    ("seccomp", seccomp_profile),
    ("passwd", passwd),
    ("state", crate::container::fuzz::state),
    ("id-maps", crate::container::fuzz::id_maps),
    ("mount-options", mount_options),
    ("annotations", crate::cgroup::fuzz::annotations),
    ("cgroup-files", crate::cgroup::fuzz::files),
    ("proc-files", crate::cgroup::fuzz::proc_files),
    ("netlink", netlink_reply),
    ("dbus", crate::cgroup::fuzz::dbus),
    ("ps", ps),
    ("hook-output", hook_output),
    ("channel", channel),
    ("criu", crate::criu::fuzz),
];

/// Messages for people are one line, whatever is quoted in them.
pub(crate) fn sentence(error: &dyn std::fmt::Display) {
    assert!(!error.to_string().is_empty());
}

/// config.json: parsing, rules, plan, its description, and what state.json keeps of it.
fn config(data: &[u8], scratch: &Path) {
    let spec: Spec = match spec::parse(data) {
        Ok(spec) => spec,
        Err(error) => return sentence(&error),
    };
    let user = spec.process().as_ref().map(|process| process.user().uid());
    if spec::lacks_user_namespace(&spec) {
        let mut rootless = spec.clone();
        spec::ensure_user_namespace(&mut rootless);
    }
    if let Err(error) = spec::validate(&spec) {
        return sentence(&error);
    }
    assert_ne!(user, Some(u32::MAX), "setresuid would leave the uid as it is");
    let request = Request {
        id: "fuzz",
        bundle: Path::new("/bundle"),
        switch_root: SwitchRoot::Pivot,
        new_keyring: true,
    };
    let v2 = Facts {
        cgroup_v1: Vec::new(),
        cgroup_v2: Some("/sys/fs/cgroup/fuzz".into()),
        cgroup_v2_mount: Some("/sys/fs/cgroup".into()),
    };
    match plan::plan(&spec, &request, &v2) {
        Ok(plan) => {
            let described = plan.describe_entry().len() + plan.describe_steps().len();
            assert!(described >= plan.steps.len());
            crate::container::fuzz::state_of(&spec, &plan.rootfs);
        }
        Err(error) => sentence(&error),
    }
    if let Some(process) = spec.process() {
        drop(plan::exec_plan(&spec, process, "fuzz", true).map(|plan| plan.describe_steps()));
    }
    if let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        compiled(profile, 0);
    }
    crate::cgroup::fuzz::place(&spec, scratch);
}

/// process.json of `exec --process`, and the flags that change it.
fn process(data: &[u8], _: &Path) {
    if let Some(text) = std::str::from_utf8(data).ok().filter(|text| text.len() < 64) {
        if let Ok((uid, gid)) = crate::cli::process::parse_user(text) {
            assert!(uid != u32::MAX && gid != Some(u32::MAX));
        }
        let _ = crate::cli::update::size(text).inspect(|size| assert!(*size >= 0));
    }
    let process: Process = match spec::parse(data) {
        Ok(process) => process,
        Err(error) => return sentence(&error),
    };
    if let Err(error) = spec::check_process(&process) {
        return sentence(&error);
    }
    match plan::exec_plan(&Spec::default(), &process, "fuzz", false) {
        Ok(plan) => drop(plan.describe_steps()),
        Err(error) => sentence(&error),
    }
}

/// A seccomp profile, and a few calls by which to run what it was compiled to.
fn seccomp_profile(data: &[u8], _: &Path) {
    let Ok(profile) = spec::parse::<LinuxSeccomp>(data) else { return };
    let seed = data.iter().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    compiled(&profile, seed);
}

fn compiled(profile: &LinuxSeccomp, seed: u64) {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let filter = match seccomp::compile_for(machine, profile) {
            Ok(filter) => filter,
            Err(error) => {
                sentence(&error);
                continue;
            }
        };
        assert_eq!(Filter::from_bytes(&filter.to_bytes()).as_ref(), Some(&filter));
        is_valid(&filter);
        let mut random = seed | 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        // AUDIT_ARCH_*: x86_64, i386, aarch64, arm, and one that nothing is.
        for arch in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 7] {
            for nr in [0, 59, 221, 0x4000_0001, u32::MAX, (next() % 512) as u32, next() as u32] {
                let args = std::array::from_fn(|_| next() >> (next() % 64));
                let verdict = interpreter::run(&filter.program, &interpreter::Call { nr, arch, args });
                assert!(verdict.is_some(), "the kernel would not load this, or it does not end");
            }
        }
    }
}

/// The kernel's own checks of a classic program (`bpf_check_classic`): jumps forward and inside, the end a return.
fn is_valid(filter: &Filter) {
    let length = filter.program.len();
    assert!((1..=4096).contains(&length));
    for (at, instruction) in filter.program.iter().enumerate() {
        let jumps = match instruction.code {
            0x05 => [usize::try_from(instruction.k).unwrap_or(usize::MAX), 0],
            0x15 | 0x25 | 0x35 | 0x45 => [usize::from(instruction.jt), usize::from(instruction.jf)],
            _ => continue,
        };
        assert!(jumps.iter().all(|jump| jump.saturating_add(at + 1) < length), "a jump out of the program");
    }
    assert_eq!(filter.program.last().map(|last| last.code), Some(0x06), "the last instruction returns");
}

/// The container's passwd, with the uid that is looked for in front.
fn passwd(data: &[u8], _: &Path) {
    let Some((uid, text)) = data.split_first_chunk::<4>() else { return };
    if let Some(home) = crate::init::program::passwd_home(text, u32::from_le_bytes(*uid)) {
        assert!(!home.is_empty() && !home.contains([':', '\n']), "not one field: {home:?}");
    }
}

/// A mount's options, one a line; and those of a mount as `davit mounts` takes it.
fn mount_options(data: &[u8], _: &Path) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let words: Vec<&str> = text.split('\n').collect();
    match plan::Options::parse(&words) {
        Ok(options) => {
            let (_, _, _) = (options.mount_attrs(), options.flag_words(), options.has_long_data());
            assert!(!options.clone().writable().readonly());
        }
        Err(error) => sentence(&error),
    }
}

/// Datagrams of rtnetlink, each with its length in front.
fn netlink_reply(mut data: &[u8], _: &Path) {
    let mut replies = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let cut = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (datagram, after) = rest.split_at(cut);
        if !matches!(netlink::read(datagram, 1, &mut replies), Ok(false)) {
            break;
        }
        data = after;
    }
    for reply in &replies {
        let total: usize = reply.attributes(16).map(|(_, value)| value.len()).sum();
        assert!(total <= reply.body.len(), "attributes do not overlap");
        let _ = reply.number(4);
    }
}

/// What a container's processes call themselves.
fn ps(data: &[u8], _: &Path) {
    crate::cli::ps::fuzz(data);
}

/// What a hook writes, read as from its pipe; and a failure that came from another process.
fn hook_output(data: &[u8], scratch: &Path) {
    let failure = Failure::decode(data);
    let again = Failure::decode(&failure.encode());
    assert_eq!(failure, again);
    sentence(&failure);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(scratch.join("hook"));
    let Ok(mut file) = file else { return };
    if file.write_all(data).is_err() || file.rewind().is_err() {
        return;
    }
    let tail = crate::init::hooks::tail_of(file);
    // ", output: " and 4 KiB, each byte of which may have become a replacement character.
    assert!(tail.len() <= 16 + 3 * 4096);
}

/// What init and the runtime say to each other: init is the container's for a moment.
fn channel(data: &[u8], _: &Path) {
    if let Some(filter) = Filter::from_bytes(data) {
        assert_eq!(filter.to_bytes(), data);
    }
    if let Ok(Received::Message(kind, payload)) = Received::parse(data.to_vec()) {
        let mut text = String::new();
        let _ = write!(text, "{kind:?} {}", Failure::decode(&payload));
    }
}
