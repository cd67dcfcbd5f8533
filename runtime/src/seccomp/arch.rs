//! Architectures: which ABIs a machine can present to a filter, and how seccomp data looks in each.
//!
//! The kernel gives a filter one of the `AUDIT_ARCH_*` words of linux/audit.h. x32 has none of its own:
//! its calls come as x86_64 with bit 30 of the number set (`__X32_SYSCALL_BIT` of asm/unistd.h).

use oci_spec::runtime::Arch;
use seccompiler::SeccompCmpArgLen;

/// Bit 30 of a call number: the x32 ABI of x86_64.
pub const X32_BIT: u32 = 0x4000_0000;

/// A set of call numbers and the width of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 64-bit x86 with 32-bit pointers, under the word of [`Abi::X86_64`].
    X32,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Abi {
    /// The word that the kernel puts into `seccomp_data.arch` (linux/audit.h).
    #[must_use]
    pub const fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Abi::X86_64 => "x86_64",
            Abi::X32 => "x32",
            Abi::X86 => "x86",
            Abi::Aarch64 => "aarch64",
            Abi::Arm => "arm",
        }
    }

    /// The ABI of a [`Abi::name`].
    #[must_use]
    pub fn by_name(name: &str) -> Option<Abi> {
        let mut all = [Machine::X86_64, Machine::Aarch64].into_iter().flat_map(|machine| machine.all());
        all.find(|abi| abi.name() == name).copied()
    }

    /// The machine that presents it.
    #[must_use]
    pub fn machine(self) -> Machine {
        match self {
            Abi::X86_64 | Abi::X32 | Abi::X86 => Machine::X86_64,
            Abi::Aarch64 | Abi::Arm => Machine::Aarch64,
        }
    }

    /// How much of an argument counts: 32-bit ABIs, x32 included, compare the low half only (as
    /// libseccomp: the high half is not part of the call there).
    pub(super) fn arg_len(self) -> SeccompCmpArgLen {
        match self {
            Abi::X86_64 | Abi::Aarch64 => SeccompCmpArgLen::Qword,
            Abi::X32 | Abi::X86 | Abi::Arm => SeccompCmpArgLen::Dword,
        }
    }
}

/// The machine that a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Runs x86_64, x32 and x86.
    X86_64,
    /// Runs aarch64 and arm.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Machine = Machine::X86_64;
    /// The machine that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Machine = Machine::Aarch64;

    /// All ABIs of its programs, its own first.
    #[must_use]
    pub fn all(self) -> &'static [Abi] {
        match self {
            Machine::X86_64 => &[Abi::X86_64, Abi::X32, Abi::X86],
            Machine::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        }
    }

    /// Its own ABI.
    #[must_use]
    pub fn native(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }

    /// The ABIs that get a section of the filter: the native one always (as libseccomp), the machine's
    /// others where the profile lists them, native first.
    ///
    /// An architecture that this machine never presents needs no code: were it presented after all, it
    /// would be refused like any other that is not listed.
    pub(super) fn abis(self, listed: &[Arch]) -> Vec<Abi> {
        let all: &[(Abi, Arch)] = match self {
            Machine::X86_64 => &[
                (Abi::X86_64, Arch::ScmpArchX86_64),
                (Abi::X32, Arch::ScmpArchX32),
                (Abi::X86, Arch::ScmpArchX86),
            ],
            Machine::Aarch64 => &[(Abi::Aarch64, Arch::ScmpArchAarch64), (Abi::Arm, Arch::ScmpArchArm)],
        };
        for arch in listed {
            if *arch != Arch::ScmpArchNative && !all.iter().any(|(_, known)| known == arch) {
                log::debug!("seccomp architecture {arch} does not occur on this machine, left out");
            }
        }
        let native = all.iter().take(1);
        let others = all.iter().skip(1).filter(|(_, arch)| listed.contains(arch));
        native.chain(others).map(|(abi, _)| *abi).collect()
    }
}
