//! Seccomp: an OCI profile (runtime-spec config-linux.md, "Seccomp") becomes a classic BPF program.
//!
//! One program decides like libseccomp with runc's additions: all actions and operators, every
//! architecture that the machine can present, ENOSYS for calls newer than the profile, x32 calls refused
//! unless listed. Its parts:
//! - [`arch`]: what architectures there are;
//! - [`names`]: call names to numbers;
//! - `rules`: what a profile means for one architecture;
//! - `dispatch`: the program;
//! - [`interpreter`]: runs a program outside the kernel;
//! - [`describe`]: profiles and programs in words.
//!
//! Compiling does no I/O. The filter is compiled in the parent, sent to the container's process as bytes
//! and loaded there with [`crate::sys::seccomp::set_mode_filter`].

pub mod arch;
pub mod describe;
mod dispatch;
pub mod interpreter;
pub mod names;
mod rules;
mod tables;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use crate::sys::seccomp::Instruction;
use arch::{Abi, Machine, X32_BIT};
use dispatch::{Ranges, Section};
use rules::{BAD_ARCH, Decisions, ENOSYS, Outcome, Rules};

/// A profile that can't become a filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule with an empty call name.
    #[error("seccomp: empty string is not a valid syscall")]
    EmptyName,
    /// Calls have six arguments.
    #[error("seccomp: rule for syscall {syscall}: argument index {index} is not in 0..=5")]
    ArgIndex {
        /// The rule's first call.
        syscall: String,
        /// The index.
        index: usize,
    },
    /// Not an errno, or more than the 16 bits that the kernel has for a tracer's value.
    #[error("seccomp: errnoRet {errno_ret} is not in 0..={max}")]
    ErrnoRet {
        /// The value.
        errno_ret: u32,
        /// The highest one that the action takes.
        max: u32,
    },
    /// Two rules with the same conditions and different actions.
    #[error("seccomp: two rules for syscall {syscall} have the same conditions but different actions")]
    Conflict {
        /// The call of the second rule.
        syscall: String,
    },
    /// More instructions than the kernel takes.
    #[error("seccomp: the filter has {len} instructions, the kernel's limit is {}", dispatch::MAX_LEN)]
    TooLong {
        /// Instructions.
        len: usize,
    },
    /// The condition compiler refused a condition.
    #[error("seccomp: {0}")]
    Condition(seccompiler::BackendError),
}

/// A filter that is ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2): the profile's LOG, SPEC_ALLOW and WAIT_KILLABLE_RECV, and
    /// SPEC_ALLOW where the profile has no `flags` at all (runc); NEW_LISTENER with [`Filter::notify`].
    ///
    /// TSYNC adds nothing: the process that loads the filter has one thread. The kernel refuses TSYNC
    /// together with NEW_LISTENER, and WAIT_KILLABLE_RECV without it, so that is left out there.
    pub flags: u64,
    /// Some call is answered by a listener: loading returns its descriptor.
    pub notify: bool,
}

/// Compiles a profile for this machine.
///
/// Names that the machine's architectures do not have are skipped, with a debug line. NOTIFY is compiled
/// for every call and as the default; whether a listener can serve them is the caller's affair.
///
/// # Errors
/// See [`Error`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    compile_for(Machine::NATIVE, profile)
}

/// Whether a profile has calls answered by an agent, so that its filter has a listener.
#[must_use]
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    profile.default_action() == notify
        || profile.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}

/// Compiles a profile for `machine`.
///
/// # Errors
/// See [`Error`].
pub fn compile_for(machine: Machine, profile: &LinuxSeccomp) -> Result<Filter, Error> {
    let rules = Rules::new(profile)?;
    let abis = machine.abis(profile.architectures().as_deref().unwrap_or_default());
    rules.log_unknown(&abis);
    let newer = if permissive(profile.default_action()) { Newer::Default } else { Newer::Enosys };
    let mut sections: Vec<Section> = Vec::with_capacity(abis.len());
    for abi in abis.iter().filter(|abi| **abi != Abi::X32) {
        let native = rules.decide(*abi)?;
        let section = if *abi == Abi::X86_64 {
            let x32 = abis.contains(&Abi::X32).then(|| rules.decide(Abi::X32)).transpose()?;
            x86_64_section(native, x32, rules.default, newer)
        } else {
            let mut ranges = Ranges::default();
            cover(&mut ranges, 0, &native, 0, rules.default, newer);
            Section { audit_arch: abi.audit_arch(), ranges, chains: native.chains }
        };
        sections.push(section);
    }
    let notify = notifies(profile);
    let program = dispatch::assemble(&sections, rules.default, BAD_ARCH)?;
    Ok(Filter { program, flags: flags(profile, notify), notify })
}

/// Calls above the newest one that the profile names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newer {
    /// ENOSYS: the C library falls back to an older call, where the default's EPERM would be taken for a
    /// real answer (runc).
    Enosys,
    /// The default action: it lets calls through.
    Default,
}

/// Whether a default action lets calls through. runc counts TRACE in: a tracer handles new calls itself. So does an
/// agent, which runc has not for a default.
fn permissive(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction as Action;
    matches!(action, Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace | Action::ScmpActNotify)
}

/// The ranges of one ABI, from `start` up; its chains begin at `chain_base` of the section's.
fn cover(ranges: &mut Ranges, start: u32, abi: &Decisions, chain_base: usize, default: u32, newer: Newer) {
    ranges.set_from(start, Outcome::Return(default));
    for (nr, outcome) in &abi.calls {
        let outcome = match outcome {
            Outcome::Chain(chain) => Outcome::Chain(chain.saturating_add(chain_base)),
            fixed => *fixed,
        };
        ranges.set_from(*nr, outcome);
        ranges.set_from(nr.saturating_add(1), Outcome::Return(default));
    }
    if let (Some(newest), Newer::Enosys) = (abi.newest, newer) {
        ranges.set_from(newest.saturating_add(1), Outcome::Return(ENOSYS));
    }
}

/// x86_64 and x32 share an architecture word; bit 30 of the number tells them apart.
///
/// Without x32 in the profile its whole half is refused like an unlisted architecture: a filter that
/// looked at x86_64's numbers only would let x32's pass as unknown ones. The number -1, which tracers
/// set to skip a call, gets the default (libseccomp).
fn x86_64_section(native: Decisions, x32: Option<Decisions>, default: u32, newer: Newer) -> Section {
    const BIT_31: u32 = 0x8000_0000;
    let enosys = |abi: &Decisions| newer == Newer::Enosys && abi.newest.is_some();
    let mut ranges = Ranges::default();
    cover(&mut ranges, 0, &native, 0, default, newer);
    let other = match &x32 {
        Some(x32) => {
            cover(&mut ranges, X32_BIT, x32, native.chains.len(), default, newer);
            default
        }
        None => {
            ranges.set_from(X32_BIT, Outcome::Return(BAD_ARCH));
            BAD_ARCH
        }
    };
    // Numbers with bit 31 are nobody's; bit 30 still says whose "newer than the profile" they are.
    ranges.set_from(BIT_31, Outcome::Return(if enosys(&native) { ENOSYS } else { other }));
    let top = if x32.as_ref().is_some_and(enosys) { ENOSYS } else { other };
    ranges.set_from(BIT_31 | X32_BIT, Outcome::Return(top));
    if x32.is_none() {
        ranges.set_from(u32::MAX, Outcome::Return(default));
    }
    let mut chains = native.chains;
    chains.extend(x32.map(|x32| x32.chains).unwrap_or_default());
    Section { audit_arch: Abi::X86_64.audit_arch(), ranges, chains }
}

fn flags(profile: &LinuxSeccomp, notify: bool) -> u64 {
    let Some(wanted) = profile.flags() else {
        return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW | listener(notify);
    };
    wanted.iter().fold(listener(notify), |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notify => {
                    libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv
                | LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            }
    })
}

fn listener(notify: bool) -> u64 {
    if notify { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 }
}

/// Size of the header of [`Filter::to_bytes`]: flags and notify, eight bytes each.
const HEADER: usize = 16;

impl Filter {
    /// The filter as bytes, to send it to the container's process (same machine, same program).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.program.len().saturating_mul(8).saturating_add(HEADER));
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&u64::from(self.notify).to_ne_bytes());
        bytes.extend_from_slice(&self.program_bytes());
        bytes
    }

    /// The program as the kernel takes it: an array of `struct sock_filter`.
    #[must_use]
    pub fn program_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.program.len().saturating_mul(8));
        for instruction in &self.program {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// The filter that [`Filter::to_bytes`] wrote; None for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Filter> {
        let (flags, rest) = bytes.split_first_chunk::<8>()?;
        let (notify, mut rest) = rest.split_first_chunk::<8>()?;
        let notify = match u64::from_ne_bytes(*notify) {
            0 => false,
            1 => true,
            _ => return None,
        };
        let mut program = Vec::with_capacity(rest.len() / 8);
        while let Some(([c0, c1, jt, jf, k @ ..], tail)) = rest.split_first_chunk::<8>() {
            let (code, k) = (u16::from_ne_bytes([*c0, *c1]), u32::from_ne_bytes(*k));
            program.push(Instruction { code, jt: *jt, jf: *jf, k });
            rest = tail;
        }
        let whole = rest.is_empty() && (1..=dispatch::MAX_LEN).contains(&program.len());
        whole.then_some(Filter { program, flags: u64::from_ne_bytes(*flags), notify })
    }
}
