//! Targets of `crate::fuzz` among the device rules.

use oci_spec::runtime::LinuxDeviceCgroup;

use super::program;
use super::rules::Rules;

/// The text of devices.list.
pub(in crate::cgroup) fn device_rules(text: &str) {
    if let Some(rules) = Rules::parse_list(text) {
        check(&rules);
    }
}

/// linux.resources.devices.
pub(in crate::cgroup) fn device_list(list: &[LinuxDeviceCgroup]) {
    if let Ok(rules) = Rules::fold(list) {
        check(&rules);
    }
}

/// The program is one that the kernel takes: its jumps go forward and stay inside.
fn check(rules: &Rules) {
    /// `BPF_JMP | BPF_JNE` and `BPF_JMP | BPF_JEQ` with a constant (linux/bpf.h).
    const JUMPS: [u8; 2] = [0x55, 0x15];
    let program = program::build(rules);
    for (at, instruction) in program.iter().enumerate() {
        if JUMPS.contains(&instruction.code) {
            let jump = usize::try_from(instruction.offset);
            assert!(jump.is_ok_and(|jump| at + 1 + jump < program.len()), "a jump out of the program");
        }
    }
}
