//! The program around the rules: from architecture and call number to the rules of that call.
//!
//! Each architecture's numbers 0 to 2^32-1 are cut into ranges with one outcome each; neighbours with
//! equal outcomes are merged, and a balanced tree of comparisons finds the range. Classic BPF jumps
//! forward only, and conditional jumps at most 255 instructions, so the program is made from its end:
//! what a jump leads to exists before the jump, and its distance is known.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompRule};

use super::Error;
use super::rules::{Equality, Leaf, Outcome, Word};
use crate::sys::seccomp::Instruction;

/// linux/bpf_common.h: load a word of `seccomp_data`, jumps, return a constant.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NR: u32 = 0;
const ARCH: u32 = 4;
/// The first argument, low half first.
const ARGS: u32 = 16;

/// The farthest that a conditional jump goes.
const FAR: usize = 255;

/// The kernel's limit (BPF_MAXINSNS of linux/bpf_common.h).
pub(super) const MAX_LEN: usize = 4096;

/// Numbers from `first` to the next range's, or to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u32,
    pub outcome: Outcome,
}

/// Ranges in ascending order that cover all numbers from 0.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    /// From `first` on, `outcome`. Called with ascending `first`s; the last call for a `first` counts.
    pub fn set_from(&mut self, first: u32, outcome: Outcome) {
        if self.0.last().is_some_and(|last| last.first == first) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|last| last.outcome != outcome) {
            self.0.push(Range { first, outcome });
        }
    }
}

/// The code for one architecture word.
#[derive(Debug)]
pub(super) struct Section {
    /// `seccomp_data.arch`.
    pub audit_arch: u32,
    /// What the call numbers lead to.
    pub ranges: Ranges,
    /// What [`Outcome::Chain`] points to.
    pub chains: Vec<Vec<Leaf>>,
}

/// Assembles the program: `sections` in the order in which their architectures are tested, `bad_arch` for
/// all others, `default` where no leaf of a chain matches.
pub(super) fn assemble(
    sections: &[Section],
    default: Word,
    bad_arch: Word,
) -> Result<Vec<Instruction>, Error> {
    let mut code = Backwards::default();
    let mut entry = Target::Return(bad_arch);
    // The first section comes last, next to the tests.
    let mut starts = Vec::with_capacity(sections.len());
    for section in sections.iter().rev() {
        starts.push((section.audit_arch, code.section(section, default)?));
    }
    for (audit_arch, start) in starts {
        entry = code.branch(JUMP_EQ, audit_arch, start, entry);
    }
    code.fall_to(entry);
    code.push(LOAD, 0, 0, ARCH);
    let mut program = code.reversed;
    if program.len() > MAX_LEN {
        return Err(Error::TooLong { len: program.len() });
    }
    program.reverse();
    Ok(program)
}

/// Where a jump leads.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The instruction at this index of the reversed program.
    At(usize),
    /// Any instruction that returns this word.
    Return(Word),
}

/// A program under construction, last instruction first.
#[derive(Default)]
struct Backwards {
    reversed: Vec<Instruction>,
    /// The most recent return of each word.
    returned: Vec<(Word, usize)>,
}

impl Backwards {
    /// Adds an instruction in front of the others; returns its index.
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len().saturating_sub(1)
    }

    /// How many instructions the next one would jump over to reach index `at`.
    fn distance(&self, at: usize) -> usize {
        self.reversed.len().saturating_sub(at).saturating_sub(1)
    }

    /// An index for `target` that the next instruction can reach even if `reserve` more are added first.
    fn reach(&mut self, target: Target, reserve: usize) -> usize {
        let known = match target {
            Target::At(at) => Some(at),
            Target::Return(word) => self.returned.iter().find(|(w, _)| *w == word).map(|(_, at)| *at),
        };
        if let Some(at) = known.filter(|at| self.distance(*at).saturating_add(reserve) <= FAR) {
            return at;
        }
        match target {
            Target::At(at) => {
                let distance = self.distance(at);
                self.push(JUMP, 0, 0, distance as u32)
            }
            Target::Return(word) => {
                let at = self.push(RETURN, 0, 0, word);
                match self.returned.iter_mut().find(|(w, _)| *w == word) {
                    Some((_, last)) => *last = at,
                    None => self.returned.push((word, at)),
                }
                at
            }
        }
    }

    /// A conditional jump.
    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        let yes = self.reach(yes, 1);
        let no = self.reach(no, 0);
        let jt = self.distance(yes) as u8;
        let jf = self.distance(no) as u8;
        Target::At(self.push(code, jt, jf, k))
    }

    /// Makes sure that execution of the next instruction continues at `target`.
    fn fall_to(&mut self, target: Target) {
        let at = match target {
            Target::At(at) => at,
            Target::Return(_) => self.reach(target, 0),
        };
        let distance = self.distance(at);
        if distance > 0 {
            self.push(JUMP, 0, 0, distance as u32);
        }
    }

    fn section(&mut self, section: &Section, default: Word) -> Result<Target, Error> {
        let mut chains = Vec::with_capacity(section.chains.len());
        for chain in &section.chains {
            chains.push(self.chain(chain, default)?);
        }
        let entry = self.tree(&section.ranges.0, &chains, default);
        self.fall_to(entry);
        Ok(Target::At(self.push(LOAD, 0, 0, NR)))
    }

    /// The tree that finds the outcome of the loaded number.
    fn tree(&mut self, ranges: &[Range], chains: &[Target], default: Word) -> Target {
        let leaf = |range: &Range| match range.outcome {
            Outcome::Return(word) => Target::Return(word),
            Outcome::Chain(chain) => chains.get(chain).copied().unwrap_or(Target::Return(default)),
        };
        match ranges {
            [] => Target::Return(default),
            [only] => leaf(only),
            // One number apart from its surroundings: one comparison instead of two.
            [below, one, above]
                if below.outcome == above.outcome && above.first == one.first.wrapping_add(1) =>
            {
                self.branch(JUMP_EQ, one.first, leaf(one), leaf(below))
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let first = high.first().map_or(0, |range| range.first);
                let high = self.tree(high, chains, default);
                let low = self.tree(low, chains, default);
                self.branch(JUMP_GE, first, high, low)
            }
        }
    }

    /// Leaves that all compare one argument with different values, like those of personality(2) or of x86's
    /// `socketcall`: the value is searched for, as a call's number is.
    fn switch(&mut self, leaves: &[Leaf], default: Word) -> Option<Target> {
        let Equality { index, wide, .. } = leaves.first()?.equal?;
        let mut halves: BTreeMap<u32, BTreeMap<u32, Word>> = BTreeMap::new();
        for leaf in leaves {
            let equal = leaf.equal.filter(|equal| (equal.index, equal.wide) == (index, wide))?;
            let (high, low) = ((equal.value >> 32) as u32, equal.value as u32);
            halves.entry(high).or_default().entry(low).or_insert(leaf.word);
        }
        if leaves.len() < 2 {
            return None;
        }
        let offset = ARGS.saturating_add(index.saturating_mul(8));
        let mut entry = Target::Return(default);
        let mut blocks = Vec::with_capacity(halves.len());
        for (high, lows) in halves {
            let mut ranges = Ranges::default();
            ranges.set_from(0, Outcome::Return(default));
            for (low, word) in lows {
                ranges.set_from(low, Outcome::Return(word));
                if let Some(next) = low.checked_add(1) {
                    ranges.set_from(next, Outcome::Return(default));
                }
            }
            let found = self.tree(&ranges.0, &[], default);
            self.fall_to(found);
            blocks.push((high, Target::At(self.push(LOAD, 0, 0, offset))));
        }
        if !wide {
            return blocks.pop().map(|(_, block)| block);
        }
        for (high, block) in blocks {
            entry = self.branch(JUMP_EQ, high, block, entry);
        }
        self.fall_to(entry);
        Some(Target::At(self.push(LOAD, 0, 0, offset.saturating_add(4))))
    }

    /// Leaves one after another. seccompiler's fragment for a rule falls through where the rule matches,
    /// and skips exactly one instruction, the return, where it does not.
    fn chain(&mut self, leaves: &[Leaf], default: Word) -> Result<Target, Error> {
        if let Some(entry) = self.switch(leaves, default) {
            return Ok(entry);
        }
        let mut entry = self.push(RETURN, 0, 0, default);
        for leaf in leaves.iter().rev() {
            self.push(RETURN, 0, 0, leaf.word);
            let rule = SeccompRule::new(leaf.conditions.clone()).map_err(Error::Condition)?;
            let fragment = BpfProgram::from(rule);
            for instruction in without_entry(&fragment).iter().rev() {
                entry = self.push(instruction.code, instruction.jt, instruction.jf, instruction.k);
            }
        }
        Ok(Target::At(entry))
    }
}

/// A fragment begins with a jump over a second jump that leads out of it, for callers that enter there;
/// nothing here does.
fn without_entry(fragment: &[seccompiler::sock_filter]) -> &[seccompiler::sock_filter] {
    match fragment {
        [first, second, rest @ ..] if first.code == JUMP && first.k == 1 && second.code == JUMP => rest,
        whole => whole,
    }
}
