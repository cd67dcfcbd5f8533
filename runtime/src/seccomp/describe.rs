//! Filters in words: actions, programs, and what a profile means for each call.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator};

use super::arch::{Abi, Machine, X32_BIT};
use super::interpreter::{Call, run};
use super::{Filter, names};
use crate::sorted::list_of;
use crate::sys::seccomp::Instruction;

/// The value that a filter returned, in words: `allow`, `errno 38 (function not implemented)`.
#[must_use]
pub fn action(word: u32) -> String {
    let data = word & libc::SECCOMP_RET_DATA;
    match word & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_KILL_PROCESS => "kill the process".to_owned(),
        libc::SECCOMP_RET_KILL_THREAD => "kill the thread".to_owned(),
        libc::SECCOMP_RET_TRAP => "trap (SIGSYS)".to_owned(),
        libc::SECCOMP_RET_ERRNO => {
            format!("errno {data} ({})", nix::errno::Errno::from_raw(data as i32).desc().to_lowercase())
        }
        libc::SECCOMP_RET_USER_NOTIF => "notify the agent".to_owned(),
        libc::SECCOMP_RET_TRACE => format!("trace {data}"),
        libc::SECCOMP_RET_LOG => "log and allow".to_owned(),
        libc::SECCOMP_RET_ALLOW => "allow".to_owned(),
        _ => format!("{word:#x}"),
    }
}

/// One instruction at `at`, as bpf_asm(8) writes it, with the targets of jumps in place of offsets and what it means.
#[must_use]
pub fn instruction(at: usize, code: &Instruction) -> String {
    let Instruction { code: operation, jt, jf, k } = *code;
    let target = |offset: usize| at.saturating_add(1).saturating_add(offset);
    let jump = |name: &str| {
        let (yes, no) = (target(usize::from(jt)), target(usize::from(jf)));
        format!("{name} #{k:#x}, {yes}, {no}")
    };
    let (text, meaning) = match operation {
        0x20 => (format!("ld [{k}]"), field(k)),
        0x54 => (format!("and #{k:#x}"), String::new()),
        0x05 => (format!("ja {}", target(usize::try_from(k).unwrap_or(usize::MAX))), String::new()),
        0x15 => (jump("jeq"), String::new()),
        0x25 => (jump("jgt"), String::new()),
        0x35 => (jump("jge"), String::new()),
        0x45 => (jump("jset"), String::new()),
        0x06 => (format!("ret #{k:#x}"), action(k)),
        other => (format!(".inst {other:#x} {jt} {jf} {k:#x}"), String::new()),
    };
    if meaning.is_empty() { format!("{at:>4}: {text}") } else { format!("{at:>4}: {text:<28} ; {meaning}") }
}

/// A field of `struct seccomp_data` by its offset.
fn field(offset: u32) -> String {
    match offset {
        0 => "nr".to_owned(),
        4 => "arch".to_owned(),
        8 | 12 => "instruction pointer".to_owned(),
        _ => {
            let half = if offset % 8 == 0 { "low" } else { "high" };
            format!("args[{}], {half} half", offset.saturating_sub(16) / 8)
        }
    }
}

/// The flags of a filter by the kernel's names.
#[must_use]
pub fn flags(filter: &Filter) -> Vec<&'static str> {
    let all = [
        (libc::SECCOMP_FILTER_FLAG_LOG, "SECCOMP_FILTER_FLAG_LOG"),
        (libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        (libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, "SECCOMP_FILTER_FLAG_NEW_LISTENER"),
        (libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
    ];
    all.into_iter().filter(|(flag, _)| filter.flags & flag != 0).map(|(_, name)| name).collect()
}

/// What a filter does with the calls of one ABI.
#[derive(Debug)]
pub struct Summary {
    /// The ABI.
    pub abi: Abi,
    /// Calls whose answer is the same whatever the arguments, by that answer.
    pub fixed: BTreeMap<String, Vec<&'static str>>,
    /// Calls whose answer depends on arguments, each with the conditions of its rules.
    pub conditional: BTreeMap<&'static str, Vec<String>>,
    /// The answer for numbers that no kernel has yet.
    pub newer: String,
}

/// Highest number that is looked at: above what kernels have, below the private calls of arm.
const NUMBERS: u32 = 1024;

/// What a profile does on a machine, per ABI that the machine can present.
///
/// # Errors
/// As [`super::compile_for`].
pub fn summaries(machine: Machine, profile: &LinuxSeccomp) -> Result<Vec<Summary>, super::Error> {
    let filter = super::compile_for(machine, profile)?;
    Ok(machine.all().iter().map(|abi| summary(*abi, profile, &filter)).collect())
}

fn summary(abi: Abi, profile: &LinuxSeccomp, filter: &Filter) -> Summary {
    let first = if abi == Abi::X32 { X32_BIT } else { 0 };
    let verdict = |nr| run(&filter.program, &Call { nr, arch: abi.audit_arch(), args: [0; 6] });
    let answer = |nr| verdict(nr).map_or_else(String::new, |verdict| action(verdict.word));
    let mut all = Summary {
        abi,
        fixed: BTreeMap::new(),
        conditional: BTreeMap::new(),
        newer: answer(first.saturating_add(NUMBERS)),
    };
    for nr in first..first.saturating_add(NUMBERS) {
        let (Some(name), Some(verdict)) = (names::name(abi, nr), verdict(nr)) else { continue };
        if verdict.reads_arguments {
            all.conditional.insert(name, conditions(abi, profile, name));
        } else {
            all.fixed.entry(action(verdict.word)).or_default().push(name);
        }
    }
    all.fixed.values_mut().for_each(|names| *names = list_of(std::mem::take(names)));
    all
}

/// The conditions of a call's rules in the order in which they are tried.
fn conditions(abi: Abi, profile: &LinuxSeccomp, name: &str) -> Vec<String> {
    let rules = profile.syscalls().iter().flatten();
    let of_call = rules.filter(|rule| {
        let names = rule.names();
        // A multiplexer has the rules of what is behind it.
        names.iter().any(|other| {
            other == name || names::multiplexed(abi, other).map(|mux| mux.nr) == names::number(abi, name)
        })
    });
    let mut lines: Vec<String> = of_call
        .map(|rule| {
            let args: Vec<_> = rule.args().iter().flatten().map(condition).collect();
            let errno = rule.errno_ret().map(|errno| format!(" {errno}")).unwrap_or_default();
            let args = if args.is_empty() { String::new() } else { format!(" if {}", args.join(" and ")) };
            format!("{}{errno}{args}", rule.action())
        })
        .collect();
    lines.dedup();
    lines
}

fn condition(arg: &LinuxSeccompArg) -> String {
    let (index, value) = (arg.index(), arg.value());
    let sign = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => "!=",
        LinuxSeccompOperator::ScmpCmpLt => "<",
        LinuxSeccompOperator::ScmpCmpLe => "<=",
        LinuxSeccompOperator::ScmpCmpEq => "==",
        LinuxSeccompOperator::ScmpCmpGe => ">=",
        LinuxSeccompOperator::ScmpCmpGt => ">",
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            return format!("args[{index}] & {value:#x} == {:#x}", arg.value_two().unwrap_or(0));
        }
    };
    format!("args[{index}] {sign} {value:#x}")
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}:", self.abi.name())?;
        for (answer, names) in &self.fixed {
            writeln!(f, "  {answer}: {} calls", names.len())?;
            f.write_str(&wrapped(names))?;
        }
        if !self.conditional.is_empty() {
            writeln!(f, "  by arguments: {} calls", self.conditional.len())?;
        }
        for (name, rules) in &self.conditional {
            writeln!(f, "    {name}: {}", rules.join("; else "))?;
        }
        writeln!(f, "  numbers above those of today's kernels: {}", self.newer)
    }
}

/// Names in lines of at most 100 columns.
fn wrapped(names: &[&str]) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for name in names {
        if column == 0 || column + name.len() > 100 {
            let _ = write!(text, "{}    {name}", if column == 0 { "" } else { "\n" });
            column = 4 + name.len();
        } else {
            let _ = write!(text, " {name}");
            column += 1 + name.len();
        }
    }
    text + "\n"
}
