//! Runs a classic BPF program as the kernel's seccomp would, to see what it decides.

use crate::sys::seccomp::Instruction;

/// What a filter sees of a call (`struct seccomp_data`, linux/seccomp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Call number.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// The arguments.
    pub args: [u64; 6],
}

impl Call {
    /// The aligned word at `offset`. Both machines are little-endian: an argument's low half comes first.
    fn word(&self, offset: u32) -> Option<u32> {
        match offset {
            0 => Some(self.nr),
            4 => Some(self.arch),
            8 | 12 => Some(0),
            16..64 if offset % 4 == 0 => {
                let arg = self.args.get(usize::try_from((offset - 16) / 8).ok()?)?;
                Some(if offset % 8 == 0 { *arg as u32 } else { (*arg >> 32) as u32 })
            }
            _ => None,
        }
    }
}

/// What a program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `SECCOMP_RET_*` and its data.
    pub word: u32,
    /// Instructions executed.
    pub instructions: usize,
    /// Whether an argument was looked at on the way.
    pub reads_arguments: bool,
}

/// Runs a program; None where the kernel would have refused to load it.
#[must_use]
pub fn run(program: &[Instruction], call: &Call) -> Option<Verdict> {
    execute(program, call, |_| {})
}

/// As [`run`], with the indexes of the instructions that were executed.
#[must_use]
pub fn trace(program: &[Instruction], call: &Call) -> Option<(Verdict, Vec<usize>)> {
    let mut path = Vec::new();
    let verdict = execute(program, call, |at| path.push(at))?;
    Some((verdict, path))
}

fn execute(program: &[Instruction], call: &Call, mut seen: impl FnMut(usize)) -> Option<Verdict> {
    let (mut at, mut acc, mut reads_arguments) = (0usize, 0u32, false);
    for instructions in 1..=program.len() {
        let instruction = program.get(at)?;
        seen(at);
        let k = instruction.k;
        let mut jump = 0usize;
        let mut jump_if = |condition: bool| {
            jump = usize::from(if condition { instruction.jt } else { instruction.jf });
        };
        // linux/bpf_common.h.
        match instruction.code {
            0x20 => {
                acc = call.word(k)?;
                reads_arguments |= k >= 16;
            }
            0x54 => acc &= k,
            0x05 => jump = usize::try_from(k).ok()?,
            0x15 => jump_if(acc == k),
            0x25 => jump_if(acc > k),
            0x35 => jump_if(acc >= k),
            0x45 => jump_if(acc & k != 0),
            0x06 => return Some(Verdict { word: k, instructions, reads_arguments }),
            _ => return None,
        }
        at = at.checked_add(1)?.checked_add(jump)?;
    }
    None
}
