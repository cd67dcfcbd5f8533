//! `process` of a config, or of `exec --process` → steps and the program.

use std::ffi::CString;

use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain, PosixRlimitType, Process, Spec};

use super::scheduling::{io_priority, memory_policy, scheduler};
use super::{Identity, KeptGroups, Program, Step};
use crate::security::capabilities::Sets;
use crate::security::landlock::{ANNOTATION, Rules};
use crate::spec::{Error, list};
use crate::sys::fs::WinSize;
use crate::sys::process::{RLimit, Resource};

/// What create and exec do alike to turn init into the user's process.
pub(super) fn process_steps(spec: &Spec, process: &Process, steps: &mut Vec<Step>) -> Result<(), Error> {
    if !list(process.rlimits()).is_empty() {
        steps.push(Step::Rlimits(rlimits(process)));
    }
    if let Some(personality) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) {
        steps.push(Step::Personality(personality_bits(personality)?));
    }
    if let Some(policy) = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref()) {
        steps.push(memory_policy(policy)?);
    }
    // What the process of an exec does not say is as the container's, as in runc.
    let container = spec.process().as_ref();
    let own = process.scheduler().as_ref();
    steps.extend(own.or_else(|| container.and_then(|c| c.scheduler().as_ref())).map(scheduler));
    let own = process.io_priority().as_ref();
    steps.extend(own.or_else(|| container.and_then(|c| c.io_priority().as_ref())).map(io_priority));
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    steps.extend(set(process.apparmor_profile()).map(Step::AppArmor));
    steps.extend(set(process.selinux_label()).map(Step::SelinuxLabel));
    let user = process.user();
    steps.push(Step::UserFiles { uid: user.uid(), cwd: process.cwd().clone() });
    if no_new_privileges(process) {
        steps.push(Step::NoNewPrivileges);
    } else if has_seccomp(spec) {
        // Without no_new_privs the load needs CAP_SYS_ADMIN, which Identity may drop (seccomp(2)).
        steps.push(Step::Seccomp);
    }
    steps.push(Step::Identity(Identity {
        uid: user.uid(),
        gid: user.gid(),
        groups: match kept_groups(spec) {
            KeptGroups::None => Some(list(user.additional_gids()).to_vec()),
            KeptGroups::All => None,
        },
        capabilities: process.capabilities().as_ref().map(Sets::from_spec).unwrap_or_default(),
        cwd: process.cwd().clone(),
        umask: user.umask().unwrap_or(0o022),
    }));
    Ok(())
}

/// Domain and flags as personality(2) takes them.
///
/// The spec has no flags yet, runc warns of them; crun's users have these, by the kernel's names.
fn personality_bits(personality: &LinuxPersonality) -> Result<u32, Error> {
    /// `linux/personality.h`.
    const PER_LINUX32: u32 = 0x0008;
    const FLAGS: [(&str, u32); 11] = [
        ("UNAME26", 0x002_0000),
        ("ADDR_NO_RANDOMIZE", 0x004_0000),
        ("FDPIC_FUNCPTRS", 0x008_0000),
        ("MMAP_PAGE_ZERO", 0x010_0000),
        ("ADDR_COMPAT_LAYOUT", 0x020_0000),
        ("READ_IMPLIES_EXEC", 0x040_0000),
        ("ADDR_LIMIT_32BIT", 0x080_0000),
        ("SHORT_INODE", 0x100_0000),
        ("WHOLE_SECONDS", 0x200_0000),
        ("STICKY_TIMEOUTS", 0x400_0000),
        ("ADDR_LIMIT_3GB", 0x800_0000),
    ];
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    list(personality.flags()).iter().try_fold(domain, |bits, name| {
        let flag = FLAGS.iter().find(|(known, _)| known == name);
        flag.map(|(_, bit)| bits | bit)
            .ok_or_else(|| Error::Invalid(format!("linux.personality.flags: unknown flag {name:?}")))
    })
}

/// What the annotations say about the runtime's own groups.
pub(super) fn kept_groups(spec: &Spec) -> KeptGroups {
    let annotation = spec.annotations().as_ref().and_then(|all| all.get("run.oci.keep_original_groups"));
    if annotation.is_some_and(|value| value == "1") { KeptGroups::All } else { KeptGroups::None }
}

pub(super) fn late_seccomp(spec: &Spec, process: &Process, steps: &mut Vec<Step>) {
    if no_new_privileges(process) && has_seccomp(spec) {
        steps.push(Step::Seccomp);
    }
}

fn no_new_privileges(process: &Process) -> bool {
    process.no_new_privileges() == Some(true)
}

/// The last restrictions: they would be in the way of davit's own steps. Landlock comes before a filter that may
/// forbid it.
pub(super) fn landlock(spec: &Spec, process: &Process, steps: &mut Vec<Step>) -> Result<(), Error> {
    let annotation = spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION));
    let Some(text) = annotation else { return Ok(()) };
    let rules = Rules::parse(text).map_err(|why| Error::Invalid(format!("{ANNOTATION}: {why}")))?;
    if !no_new_privileges(process) {
        // landlock(7): it needs that or CAP_SYS_ADMIN, which is gone where it can't be in the way any more.
        return Err(Error::Invalid(format!("{ANNOTATION} needs process.noNewPrivileges")));
    }
    steps.push(Step::Landlock(rules));
    Ok(())
}

/// Whether calls of the program are answered by an agent.
pub(super) fn has_listener(spec: &Spec) -> bool {
    spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()).is_some_and(crate::seccomp::notifies)
}

fn has_seccomp(spec: &Spec) -> bool {
    spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some())
}

pub(super) fn rlimits(process: &Process) -> Vec<(Resource, RLimit)> {
    let number = |kind| match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    list(process.rlimits())
        .iter()
        .map(|limit| (number(limit.typ()), RLimit { soft: limit.soft(), hard: limit.hard() }))
        .collect()
}

pub(super) fn program(process: &Process) -> Result<Program, Error> {
    let cstring = |text: &String, field: &str| {
        CString::new(text.as_str()).map_err(|_| Error::Invalid(format!("{field}: NUL byte in {text:?}")))
    };
    let args =
        list(process.args()).iter().map(|arg| cstring(arg, "process.args")).collect::<Result<_, _>>()?;
    let entries = list(process.env());
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    // Of duplicate names the last wins, as in a shell's environment (runc #4325).
    let last: std::collections::HashMap<String, usize> =
        entries.iter().enumerate().map(|(at, entry)| (name(entry), at)).collect();
    let mut env = Vec::with_capacity(entries.len() + 1);
    let mut set_home = true;
    for (at, entry) in entries.iter().enumerate() {
        if last.get(&name(entry)) != Some(&at) {
            continue;
        }
        match entry.strip_prefix("HOME=") {
            // An empty HOME counts as none, as in runc.
            Some("") => continue,
            Some(_) => set_home = false,
            None => {}
        }
        env.push(cstring(entry, "process.env")?);
    }
    Ok(Program { args, env, set_home, terminal: process.terminal() == Some(true) })
}

pub(super) fn window_size(process: &Process) -> Option<WinSize> {
    let size = process.console_size()?;
    // TIOCSWINSZ takes 16 bits; a larger value is cut by every runtime.
    Some(WinSize { rows: size.height() as u16, cols: size.width() as u16 })
}
