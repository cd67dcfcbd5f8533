//! The eBPF program for a set of device rules.
//!
//! The context (`struct bpf_cgroup_dev_ctx`) is three u32: access type (kind in the low half, requested
//! access in the high half), major, minor. The program returns 1 to allow, 0 to deny with EPERM.
//!
//! It has as few branches as can be, since the kernel's verifier follows each of them: that was a twelfth of the
//! processor time of `davit run`.

use super::rules::{Access, Devices, Rules, Verdict};
use crate::sys::bpf::Insn;

/// Instruction codes (include/uapi/linux/bpf_common.h and bpf.h): class | size or operation | mode or source.
mod code {
    /// `dst = *(u32 *)(src + offset)`.
    pub(super) const LOAD_U32: u8 = 0x61;
    /// 64-bit `dst = imm`.
    pub(super) const MOV_IMM: u8 = 0xb7;
    /// 32-bit `dst = src`.
    pub(super) const MOV32_REG: u8 = 0xbc;
    /// 32-bit `dst |= src`.
    pub(super) const OR32_REG: u8 = 0x4c;
    /// 32-bit `dst &= imm`.
    pub(super) const AND32_IMM: u8 = 0x54;
    /// 32-bit `dst <<= imm`.
    pub(super) const SHL32_IMM: u8 = 0x64;
    /// 32-bit `dst >>= imm`.
    pub(super) const SHR32_IMM: u8 = 0x74;
    /// Skip `offset` instructions.
    pub(super) const JUMP: u8 = 0x05;
    /// `if dst == imm`: skip `offset` instructions.
    pub(super) const JEQ_IMM: u8 = 0x15;
    /// `if dst != imm`: skip `offset` instructions.
    pub(super) const JNE_IMM: u8 = 0x55;
    /// `if (u32)dst == (u32)imm`: skip `offset` instructions (kernel 5.1).
    pub(super) const JEQ32_IMM: u8 = 0x16;
    /// `if (u32)dst != (u32)imm`: skip `offset` instructions (kernel 5.1).
    pub(super) const JNE32_IMM: u8 = 0x56;
    /// Return r0.
    pub(super) const EXIT: u8 = 0x95;
}

/// Return value and scratch.
const R0: u8 = 0;
/// The context.
const R1: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Both numbers in one, as the kernel's dev_t has them.
const DEVICE: u8 = 6;

/// How many bits of a dev_t are the minor number; the major has the other twelve (include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// How many exceptions share a verdict behind them: jumps have 16 bits, and an exception takes up to 6 instructions.
const CHUNK: usize = 1024;

fn insn(code: u8, to: u8, from: u8, offset: i16, imm: i32) -> Insn {
    // The register halves swap on big endian hosts; davit supports x86_64 and aarch64.
    Insn { code, registers: to | (from << 4), offset, imm }
}

/// Builds it. Exceptions don't overlap in effect, so their order does not matter.
pub(super) fn build(rules: &Rules) -> Vec<Insn> {
    let mut program = vec![
        insn(code::LOAD_U32, KIND, R1, 0, 0),
        insn(code::MOV32_REG, ACCESS, KIND, 0, 0),
        insn(code::SHR32_IMM, ACCESS, 0, 0, 16),
        insn(code::AND32_IMM, KIND, 0, 0, 0xffff),
        insn(code::LOAD_U32, MAJOR, R1, 4, 0),
        insn(code::LOAD_U32, MINOR, R1, 8, 0),
    ];
    let exceptions: Vec<(Devices, Access)> = rules.exceptions.iter().map(|(d, a)| (*d, *a)).collect();
    if exceptions.iter().any(|(devices, _)| number(*devices).is_some()) {
        program.extend([
            insn(code::MOV32_REG, DEVICE, MAJOR, 0, 0),
            insn(code::SHL32_IMM, DEVICE, 0, 0, MINOR_BITS as i32),
            insn(code::OR32_REG, DEVICE, MINOR, 0, 0),
        ]);
    }
    for of_kind in exceptions.chunk_by(|(a, _), (b, _)| a.kind == b.kind) {
        for chunk in of_kind.chunks(CHUNK) {
            program.extend(exceptions_of(chunk, rules.default));
        }
    }
    program.extend(verdict(rules.default));
    program
}

fn verdict(verdict: Verdict) -> [Insn; 2] {
    let value = i32::from(verdict == Verdict::Allow);
    [insn(code::MOV_IMM, R0, 0, 0, value), insn(code::EXIT, 0, 0, 0, 0)]
}

/// The number of a single device.
fn number(devices: Devices) -> Option<i32> {
    let (major, minor) = (devices.major?, devices.minor?);
    // Larger ones are no device's: each of the two is tested for itself then, and one of them matches nothing.
    let fit = major < 1 << (u32::BITS - MINOR_BITS) && minor < 1 << MINOR_BITS;
    fit.then_some(((major << MINOR_BITS) | minor) as i32)
}

/// Exceptions of one kind: the tests of each jump to the verdict opposite to the default, behind all of them, if they
/// hold.
fn exceptions_of(exceptions: &[(Devices, Access)], default: Verdict) -> Vec<Insn> {
    let opposite = verdict(if default == Verdict::Allow { Verdict::Deny } else { Verdict::Allow });
    let mut block = Vec::with_capacity(exceptions.len() + 8);
    block.extend(exceptions.first().map(|(devices, _)| insn(code::JNE_IMM, KIND, 0, 0, devices.kind as i32)));
    // Where a jump to the verdict is.
    let mut matches = Vec::with_capacity(exceptions.len());
    // One that nothing is tested for says all about its kind; the kernel refuses code that can't be reached.
    if !exceptions.iter().any(|(devices, access)| exception(default, *devices, *access).is_empty()) {
        for (devices, access) in exceptions {
            block.extend(exception(default, *devices, *access));
            matches.push(block.len() - 1);
        }
        block.push(insn(code::JUMP, 0, 0, opposite.len() as i16, 0));
    }
    let at_verdict = block.len();
    block.extend(opposite);
    let end = block.len();
    let mut jump = |from: usize, to: usize| {
        if let Some(jump) = block.get_mut(from) {
            jump.offset = i16::try_from(to - from - 1).unwrap_or(i16::MAX);
        }
    };
    jump(0, end);
    matches.into_iter().for_each(|from| jump(from, at_verdict));
    block
}

/// Tests that skip to the next exception if they fail, but the last, whose jump is to be taken if it holds.
fn exception(default: Verdict, devices: Devices, access: Access) -> Vec<Insn> {
    let mut tests = Vec::with_capacity(6);
    match (number(devices), devices.major, devices.minor) {
        (Some(number), ..) => tests.push(insn(code::JNE32_IMM, DEVICE, 0, 0, number)),
        (None, major, minor) => {
            // A number above i32::MAX is sign-extended by the kernel and matches nothing, as it should.
            tests.extend(major.map(|major| insn(code::JNE_IMM, MAJOR, 0, 0, major as i32)));
            tests.extend(minor.map(|minor| insn(code::JNE_IMM, MINOR, 0, 0, minor as i32)));
        }
    }
    if access != Access::ALL {
        tests.push(insn(code::MOV32_REG, R0, ACCESS, 0, 0));
        let (bits, skip) = match default {
            // All that is requested must be in the exception.
            Verdict::Deny => (!access.0 & Access::ALL.0, code::JNE_IMM),
            // Anything that is requested and in the exception is denied.
            Verdict::Allow => (access.0, code::JEQ_IMM),
        };
        tests.push(insn(code::AND32_IMM, R0, 0, 0, i32::from(bits)));
        tests.push(insn(skip, R0, 0, 0, 0));
    }
    if let Some(last) = tests.last_mut() {
        last.code = inverted(last.code);
    }
    let length = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, code::JNE_IMM | code::JEQ_IMM | code::JNE32_IMM) {
            test.offset = (length - at - 1) as i16;
        }
    }
    tests
}

/// The jump on the opposite condition.
fn inverted(jump: u8) -> u8 {
    match jump {
        code::JNE_IMM => code::JEQ_IMM,
        code::JEQ_IMM => code::JNE_IMM,
        code::JNE32_IMM => code::JEQ32_IMM,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Kind;
    use super::super::rules::tests::fold;
    use super::*;

    /// Runs a program as the kernel would, on the instructions that the builder uses.
    fn run(program: &[Insn], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let Insn { code, registers: both, offset, imm } = program[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            let signed = i64::from(imm) as u64;
            match code {
                code::LOAD_U32 => {
                    assert_eq!(from, usize::from(R1), "only the context is read");
                    registers[to] = u64::from(context[usize::try_from(offset / 4).unwrap()]);
                }
                code::MOV_IMM => registers[to] = signed,
                code::MOV32_REG => registers[to] = registers[from] & 0xffff_ffff,
                code::AND32_IMM => registers[to] = u64::from(registers[to] as u32 & imm as u32),
                code::SHR32_IMM => registers[to] = u64::from(registers[to] as u32 >> imm),
                code::OR32_REG => registers[to] = u64::from(registers[to] as u32 | registers[from] as u32),
                code::SHL32_IMM => registers[to] = u64::from((registers[to] as u32) << imm),
                code::JUMP => at += usize::try_from(offset).unwrap(),
                code::JEQ32_IMM if registers[to] as u32 == imm as u32 => {
                    at += usize::try_from(offset).unwrap();
                }
                code::JNE32_IMM if registers[to] as u32 != imm as u32 => {
                    at += usize::try_from(offset).unwrap();
                }
                code::JEQ_IMM if registers[to] == signed => at += usize::try_from(offset).unwrap(),
                code::JNE_IMM if registers[to] != signed => at += usize::try_from(offset).unwrap(),
                code::JEQ_IMM | code::JNE_IMM | code::JEQ32_IMM | code::JNE32_IMM => {}
                code::EXIT => return registers[0],
                other => panic!("unknown code {other:#x}"),
            }
        }
    }

    /// As the kernel's check_cfg() wants it, of the flow alone.
    fn assert_every_instruction_can_be_reached(program: &[Insn]) {
        let mut reached = vec![false; program.len()];
        let mut next = vec![0];
        while let Some(at) = next.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let jump = at + 1 + usize::try_from(program[at].offset).unwrap();
            match program[at].code {
                code::EXIT => {}
                code::JUMP => next.push(jump),
                code::JEQ_IMM | code::JNE_IMM | code::JEQ32_IMM | code::JNE32_IMM => {
                    next.extend([at + 1, jump])
                }
                _ => next.push(at + 1),
            }
        }
        assert!(reached.into_iter().all(|reached| reached), "{program:?}");
    }

    const LISTS: [&str; 13] = [
        "[]",
        r#"[{"allow":true,"access":"rwm"}]"#,
        r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#,
        r#"[{"allow":true,"type":"b","major":8,"access":"r"},{"allow":true,"type":"b","access":"w"}]"#,
        r#"[{"allow":true,"type":"c","minor":5,"access":"r"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"rw"}]"#,
        r#"[{"allow":true,"type":"c","major":4294967295,"access":"rw"}]"#,
        // The highest device, and numbers that are no device's, two of which would be 1:3 if bits were lost.
        r#"[{"allow":true,"type":"c","major":4095,"minor":1048575,"access":"rwm"}]"#,
        r#"[{"allow":true,"type":"c","major":4097,"minor":3,"access":"rwm"}]"#,
        r#"[{"allow":true,"type":"c","major":0,"minor":1048579,"access":"rwm"}]"#,
        r#"[{"allow":true,"type":"c","access":"rwm"},{"allow":true,"type":"b","major":8,"access":"rwm"}]"#,
        // The default rules of every engine.
        r#"[{"allow":true,"type":"c","access":"m"},{"allow":true,"type":"b","access":"m"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"},
            {"allow":true,"type":"c","major":5,"minor":0,"access":"rwm"},
            {"allow":true,"type":"c","major":5,"minor":2,"access":"rwm"},
            {"allow":true,"type":"c","major":136,"access":"rwm"}]"#,
    ];

    #[test]
    fn gives_the_verdicts_of_the_v1_controller() {
        for json in LISTS {
            let rules = fold(json).unwrap();
            let program = build(&rules);
            assert_every_instruction_can_be_reached(&program);
            for kind in [Kind::Block, Kind::Char] {
                for major in [0, 1, 5, 8, 10, 136, 4095] {
                    for minor in [0, 2, 3, 5, 200, 229, 1_048_575] {
                        for access in 1..=Access::ALL.0 {
                            let context = [(u32::from(access) << 16) | kind as u32, major, minor];
                            let expected = rules.allows(kind, major, minor, Access(access));
                            let got = run(&program, context);
                            assert_eq!(got, u64::from(expected), "{json}: {kind:?} {major}:{minor} {access}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn jumps_reach_over_any_number_of_rules() {
        let rule =
            |n: usize| format!(r#"{{"allow":true,"type":"b","major":{},"minor":{n},"access":"r"}}"#, n % 9);
        let list: Vec<String> = (0..5 * CHUNK).map(rule).collect();
        let rules = fold(&format!("[{}]", list.join(","))).unwrap();
        let program = build(&rules);
        let context =
            |minor: u32, access: Access| [(u32::from(access.0) << 16) | Kind::Block as u32, minor % 9, minor];
        for minor in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK - 1] {
            assert_eq!(run(&program, context(minor as u32, Access::READ)), 1, "{minor}");
            assert_eq!(run(&program, context(minor as u32, Access::WRITE)), 0, "{minor}");
        }
        assert_eq!(run(&program, context(5 * CHUNK as u32, Access::READ)), 0);
    }

    #[test]
    fn smallest_program() {
        let rules = fold(r#"[{"allow":true,"access":"rwm"}]"#).unwrap();
        let program = build(&rules);
        assert_eq!(program.len(), 8);
        assert_eq!(program.last(), Some(&insn(code::EXIT, 0, 0, 0, 0)));
    }
}
