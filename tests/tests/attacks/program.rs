//! A program that does nothing: its first instruction is a system call that waits for ever. What is open, mapped or
//! permitted then is what the runtime has left.

/// An ELF file of less than 200 bytes.
pub fn waits_for_ever() -> Vec<u8> {
    // pause(2), again and again.
    #[cfg(target_arch = "x86_64")]
    const CODE: &[u8] = &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u16 = 62;
    // ppoll(2) of nothing: execve has cleared the registers.
    #[cfg(target_arch = "aarch64")]
    const CODE: &[u8] = &[0x28, 0x09, 0x80, 0xd2, 0x01, 0, 0, 0xd4, 0xfe, 0xff, 0xff, 0x17];
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u16 = 183;
    const BASE: u64 = 0x40_0000;
    /// Sizes of the file header and of the one program header.
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2, MACHINE] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for address in [BASE + HEADERS, 64, 0] {
        file.extend(address.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable.
    file.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    file
}

/// Writes it to a file that can be executed.
pub fn install(path: &std::path::Path) {
    davit_tests::write_program(path, &waits_for_ever());
}

/// Waits until a process waits in this program. Its file is not enough to go by: execve(2) closes descriptors and changes
/// the ids after that has been exchanged.
#[track_caller]
pub fn wait_for(pid: i32) {
    #[cfg(target_arch = "x86_64")]
    const WAITS: &str = "34 ";
    #[cfg(target_arch = "aarch64")]
    const WAITS: &str = "73 ";
    davit_tests::wait_until("the program", || {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        let runs = exe
            .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pause")));
        runs && std::fs::read_to_string(format!("/proc/{pid}/syscall"))
            .is_ok_and(|now| now.starts_with(WAITS))
    });
}
