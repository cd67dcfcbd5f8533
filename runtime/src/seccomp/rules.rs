//! A profile's rules, per ABI: what happens to each call number.
//!
//! Where several rules name one call (observed with libseccomp 2.5.4, which runc uses):
//! - rules whose action and errno equal the default are left out (runc does so before libseccomp);
//! - the first rule without conditions decides, whatever conditional rules there are;
//! - else the first conditional rule that matches decides. Here libseccomp orders overlapping rules by
//!   rules of its own; profile order is the documented difference;
//! - the same conditions with another action are an error, as in libseccomp (EEXIST).
//!
//! An argument index that a rule repeats turns each of its conditions into a rule of its own (runc).

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};

use super::Error;
use super::arch::Abi;
use super::names;

/// The value that a filter returns to the kernel: action bits and 16 bits of data (seccomp(2)).
pub(super) type Word = u32;

/// What libseccomp does for an architecture that is not listed: kill the thread.
pub(super) const BAD_ARCH: Word = libc::SECCOMP_RET_KILL_THREAD;

/// The answer for calls newer than the profile.
pub(super) const ENOSYS: Word = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The highest errno that the kernel returns (linux/err.h): it would turn higher ones into this one.
const MAX_ERRNO: u32 = 4095;

/// What a call number leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same answer whatever the arguments.
    Return(Word),
    /// An index into [`Decisions::chains`].
    Chain(usize),
}

/// Conditions that must all hold, and the answer then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub conditions: Vec<SeccompCondition>,
    pub word: Word,
    /// What the conditions are when they are just this.
    pub equal: Option<Equality>,
}

/// An argument is this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Equality {
    /// Of the argument.
    pub index: u32,
    /// Whether both halves count.
    pub wide: bool,
    pub value: u64,
}

/// The outcome of each call number that an ABI's rules name.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// Ascending numbers, each once.
    pub calls: Vec<(u32, Outcome)>,
    /// Leaves to try in order; the default action where none matches.
    pub chains: Vec<Vec<Leaf>>,
    /// The highest number that any rule of the profile names, redundant rules included.
    pub newest: Option<u32>,
}

/// A rule of the profile, independent of the ABI.
struct Rule<'a> {
    call: &'a LinuxSyscall,
    word: Word,
    /// Alternatives of conditions that must all hold; none at all for an unconditional rule.
    alternatives: Vec<Vec<&'a LinuxSeccompArg>>,
    /// Same answer as the default: it counts for [`Decisions::newest`] only.
    redundant: bool,
}

/// A profile's rules, checked and ready to be applied to ABIs.
pub(super) struct Rules<'a> {
    rules: Vec<Rule<'a>>,
    /// The answer for calls that no rule matches.
    pub default: Word,
}

impl<'a> Rules<'a> {
    /// Checks the profile.
    pub fn new(profile: &'a LinuxSeccomp) -> Result<Rules<'a>, Error> {
        let default = word(profile.default_action(), profile.default_errno_ret())?;
        let calls = profile.syscalls().as_deref().unwrap_or_default();
        let rules = calls.iter().map(|call| Rule::new(call, default)).collect::<Result<_, _>>()?;
        Ok(Rules { rules, default })
    }

    /// Logs the names that no ABI of this filter has.
    pub fn log_unknown(&self, abis: &[Abi]) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        for name in self.rules.iter().flat_map(|rule| rule.call.names()) {
            let known = |abi: &Abi| names::number(*abi, name).or(mux_nr(*abi, name)).is_some();
            if !abis.iter().any(known) {
                log::debug!("unknown seccomp syscall {name:?} ignored");
            }
        }
    }

    /// Resolves the rules for one ABI.
    pub fn decide(&self, abi: Abi) -> Result<Decisions, Error> {
        let mut decisions = Decisions::default();
        let mut uses = self.uses(abi, &mut decisions.newest);
        uses.sort_by_key(|used| used.nr);
        for same_nr in uses.chunk_by(|a, b| a.nr == b.nr) {
            let Some(first) = same_nr.first() else { continue };
            let outcome = match same_nr.iter().find(|used| used.unconditional()) {
                Some(used) => Outcome::Return(used.rule.word),
                None => {
                    let chain = chain(abi, same_nr)?;
                    let known = decisions.chains.iter().position(|other| *other == chain);
                    Outcome::Chain(known.unwrap_or_else(|| {
                        decisions.chains.push(chain);
                        decisions.chains.len().saturating_sub(1)
                    }))
                }
            };
            decisions.calls.push((first.nr, outcome));
        }
        Ok(decisions)
    }

    /// Every (number, rule) pair in the profile's order.
    fn uses(&self, abi: Abi, newest: &mut Option<u32>) -> Vec<Use<'_>> {
        let names: usize = self.rules.iter().map(|rule| rule.call.names().len()).sum();
        let mut uses = Vec::with_capacity(names);
        for rule in &self.rules {
            for name in rule.call.names() {
                let nr = names::number(abi, name);
                *newest = nr.max(*newest);
                if rule.redundant {
                    continue;
                }
                if let Some(mux) = names::multiplexed(abi, name) {
                    uses.push(Use { nr: mux.nr, rule, name, mux: Some(mux.call) });
                }
                if let Some(nr) = nr {
                    uses.push(Use { nr, rule, name, mux: None });
                }
            }
        }
        uses
    }
}

fn mux_nr(abi: Abi, name: &str) -> Option<u32> {
    names::multiplexed(abi, name).map(|mux| mux.nr)
}

/// A rule as applied to one call number.
struct Use<'a> {
    nr: u32,
    rule: &'a Rule<'a>,
    name: &'a str,
    /// The number is a multiplexer's, whose first argument must be this.
    mux: Option<u64>,
}

impl Use<'_> {
    fn unconditional(&self) -> bool {
        self.mux.is_none() && self.rule.alternatives.is_empty()
    }
}

impl<'a> Rule<'a> {
    fn new(call: &'a LinuxSyscall, default: Word) -> Result<Rule<'a>, Error> {
        let word = word(call.action(), call.errno_ret())?;
        if call.names().iter().any(String::is_empty) {
            return Err(Error::EmptyName);
        }
        let args = call.args().as_deref().unwrap_or_default();
        if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
            let syscall = call.names().first().cloned().unwrap_or_default();
            return Err(Error::ArgIndex { syscall, index: arg.index() });
        }
        // One of each index, in their order; where one is missing then, an index repeats.
        let sorted: Vec<&LinuxSeccompArg> =
            (0..6).filter_map(|index| args.iter().find(|arg| arg.index() == index)).collect();
        let alternatives = match (args.is_empty(), sorted.len() == args.len()) {
            (true, _) => Vec::new(),
            (false, true) => vec![sorted],
            (false, false) => args.iter().map(|arg| vec![arg]).collect(),
        };
        Ok(Rule { call, word, alternatives, redundant: word == default })
    }
}

/// The leaves of one call number.
fn chain(abi: Abi, uses: &[Use<'_>]) -> Result<Vec<Leaf>, Error> {
    let mut leaves: Vec<Leaf> = Vec::new();
    for used in uses {
        let no_args = [Vec::new()];
        let alternatives: &[Vec<&LinuxSeccompArg>] =
            if used.rule.alternatives.is_empty() { &no_args } else { &used.rule.alternatives };
        for args in alternatives {
            let (conditions, equal) = (conditions(abi, args, used.mux)?, equality(abi, args, used.mux));
            let leaf = Leaf { conditions, word: used.rule.word, equal };
            match leaves.iter().find(|other| other.conditions == leaf.conditions) {
                None => leaves.push(leaf),
                Some(other) if other.word == leaf.word => {}
                Some(_) => return Err(Error::Conflict { syscall: used.name.to_owned() }),
            }
        }
    }
    Ok(leaves)
}

/// The conditions on the arguments, ascending by index. Behind a multiplexer the first argument is the
/// call's code, and the rest keep their places: libseccomp does so, since a filter can't read the block
/// that the real arguments are in.
fn conditions(abi: Abi, args: &[&LinuxSeccompArg], mux: Option<u64>) -> Result<Vec<SeccompCondition>, Error> {
    let code = mux.map(|call| SeccompCondition::new(0, abi.arg_len(), SeccompCmpOp::Eq, call));
    let args = args.iter().filter(|arg| mux.is_none() || arg.index() != 0);
    let rest = args.map(|arg| {
        let (op, value) = comparison(abi.arg_len(), arg);
        SeccompCondition::new(u8::try_from(arg.index()).unwrap_or(u8::MAX), abi.arg_len(), op, value)
    });
    code.into_iter().chain(rest).collect::<Result<_, _>>().map_err(Error::Condition)
}

/// The same where one argument is compared for equality.
fn equality(abi: Abi, args: &[&LinuxSeccompArg], mux: Option<u64>) -> Option<Equality> {
    let wide = matches!(abi.arg_len(), SeccompCmpArgLen::Qword);
    match (mux, args) {
        (Some(value), args) if args.iter().all(|arg| arg.index() == 0) => {
            Some(Equality { index: 0, wide, value })
        }
        (None, [arg]) if arg.op() == LinuxSeccompOperator::ScmpCmpEq => {
            let (_, value) = comparison(abi.arg_len(), arg);
            Some(Equality { index: u32::try_from(arg.index()).ok()?, wide, value })
        }
        _ => None,
    }
}

/// Operator and operand. MASKED_EQ's mask is `value` and its operand `valueTwo` (runtime-spec), of which
/// only the masked bits count (libseccomp).
fn comparison(len: SeccompCmpArgLen, arg: &LinuxSeccompArg) -> (SeccompCmpOp, u64) {
    let width = match len {
        SeccompCmpArgLen::Dword => u64::from(u32::MAX),
        SeccompCmpArgLen::Qword => u64::MAX,
    };
    let value = arg.value() & width;
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, value),
        LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, value),
        LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, value),
        LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, value),
        LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, value),
        LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (SeccompCmpOp::MaskedEq(value), arg.value_two().unwrap_or(0) & value)
        }
    }
}

/// The word for an action (linux/seccomp.h). ERRNO and TRACE default to EPERM (runc).
fn word(action: LinuxSeccompAction, errno_ret: Option<u32>) -> Result<Word, Error> {
    let with_data = |base: Word, max: u32| {
        let data = errno_ret.unwrap_or(libc::EPERM as u32);
        if data > max { Err(Error::ErrnoRet { errno_ret: data, max }) } else { Ok(base | data) }
    };
    let word = match action {
        LinuxSeccompAction::ScmpActErrno => return with_data(libc::SECCOMP_RET_ERRNO, MAX_ERRNO),
        LinuxSeccompAction::ScmpActTrace => {
            return with_data(libc::SECCOMP_RET_TRACE, libc::SECCOMP_RET_DATA);
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
    };
    if errno_ret.is_some() {
        // The spec wants an error; runc accepts it, and profiles made from Docker's by changing the
        // default action to SCMP_ACT_LOG have it.
        log::warn!("seccomp: errnoRet means nothing with {action}, ignored");
    }
    Ok(word)
}
