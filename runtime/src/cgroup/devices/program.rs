//! The eBPF program for a set of device rules.
//!
//! The context (`struct bpf_cgroup_dev_ctx`) is three u32: access type (kind in the low half, requested
//! access in the high half), major, minor. The program returns 1 to allow, 0 to deny with EPERM.

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
    /// 32-bit `dst &= imm`.
    pub(super) const AND32_IMM: u8 = 0x54;
    /// 32-bit `dst >>= imm`.
    pub(super) const SHR32_IMM: u8 = 0x74;
    /// `if dst == imm`: skip `offset` instructions.
    pub(super) const JEQ_IMM: u8 = 0x15;
    /// `if dst != imm`: skip `offset` instructions.
    pub(super) const JNE_IMM: u8 = 0x55;
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
    for (devices, access) in &rules.exceptions {
        exception(&mut program, rules.default, *devices, *access);
    }
    program.extend(verdict(rules.default));
    program
}

fn verdict(verdict: Verdict) -> [Insn; 2] {
    let value = i32::from(verdict == Verdict::Allow);
    [insn(code::MOV_IMM, R0, 0, 0, value), insn(code::EXIT, 0, 0, 0, 0)]
}

/// Tests that skip to the next exception, then the verdict opposite to the default.
fn exception(program: &mut Vec<Insn>, default: Verdict, devices: Devices, access: Access) {
    let mut block = Vec::with_capacity(8);
    block.push(insn(code::JNE_IMM, KIND, 0, 0, devices.kind as i32));
    // A number above i32::MAX is sign-extended by the kernel and matches nothing, as it should: device
    // numbers have at most 20 bits.
    if let Some(major) = devices.major {
        block.push(insn(code::JNE_IMM, MAJOR, 0, 0, major as i32));
    }
    if let Some(minor) = devices.minor {
        block.push(insn(code::JNE_IMM, MINOR, 0, 0, minor as i32));
    }
    if access != Access::ALL {
        block.push(insn(code::MOV32_REG, R0, ACCESS, 0, 0));
        match default {
            // All that is requested must be in the exception.
            Verdict::Deny => {
                block.push(insn(code::AND32_IMM, R0, 0, 0, i32::from(!access.0 & Access::ALL.0)));
                block.push(insn(code::JNE_IMM, R0, 0, 0, 0));
            }
            // Anything that is requested and in the exception is denied.
            Verdict::Allow => {
                block.push(insn(code::AND32_IMM, R0, 0, 0, i32::from(access.0)));
                block.push(insn(code::JEQ_IMM, R0, 0, 0, 0));
            }
        }
    }
    block.extend(verdict(if default == Verdict::Allow { Verdict::Deny } else { Verdict::Allow }));
    // The tests jump behind the block.
    let length = block.len();
    for (at, test) in block.iter_mut().enumerate() {
        if matches!(test.code, code::JNE_IMM | code::JEQ_IMM) {
            test.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
    }
    program.append(&mut block);
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
                code::JEQ_IMM if registers[to] == signed => at += usize::try_from(offset).unwrap(),
                code::JNE_IMM if registers[to] != signed => at += usize::try_from(offset).unwrap(),
                code::JEQ_IMM | code::JNE_IMM => {}
                code::EXIT => return registers[0],
                other => panic!("unknown code {other:#x}"),
            }
        }
    }

    const LISTS: [&str; 8] = [
        "[]",
        r#"[{"allow":true,"access":"rwm"}]"#,
        r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#,
        r#"[{"allow":true,"type":"b","major":8,"access":"r"},{"allow":true,"type":"b","access":"w"}]"#,
        r#"[{"allow":true,"type":"c","minor":5,"access":"r"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":229,"access":"w"}]"#,
        r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"rw"}]"#,
        r#"[{"allow":true,"type":"c","major":4294967295,"access":"rw"}]"#,
    ];

    #[test]
    fn gives_the_verdicts_of_the_v1_controller() {
        for json in LISTS {
            let rules = fold(json).unwrap();
            let program = build(&rules);
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
    fn smallest_program() {
        let rules = fold(r#"[{"allow":true,"access":"rwm"}]"#).unwrap();
        let program = build(&rules);
        assert_eq!(program.len(), 8);
        assert_eq!(program.last(), Some(&insn(code::EXIT, 0, 0, 0, 0)));
    }
}
