//! Call names to numbers: the `syscalls` crate's tables plus what they lack.
//!
//! Checked name by name against libseccomp 2.5.4 (testdata/numbers.json). The fix-ups:
//! - x32 has no table of its own: x86_64's numbers with bit 30, except for 36 calls with numbers 512 to
//!   547 and the calls that x32 does not have (arch/x86/entry/syscalls/syscall_64.tbl).
//! - The crate's aarch64 table calls `newfstatat` by another name and lists calls that only 32-bit
//!   machines have (403 to 423, `*_time64`).
//! - Arm's private calls (0x0f0000 + n, asm/unistd.h of arm).
//! - Calls of Linux 6.10 to 6.17: the crate's versions that know them need a newer Rust than 1.85.
//! - x86 reaches the socket and System V IPC calls through `socketcall` and `ipc` too.

use syscalls::{aarch64, x86, x86_64};

use super::arch::{Abi, X32_BIT};
use super::tables::{AARCH64, ARM, X86, X86_64};

/// The number of a call in an ABI, x32's with bit 30; None where the ABI has no such call.
#[must_use]
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    tabled(abi, name).or_else(|| newer(abi, name))
}

/// The name of a call number, x32's with bit 30.
#[must_use]
pub fn name(abi: Abi, nr: u32) -> Option<&'static str> {
    // Each table by its own reckoning: the inverse of `number`, fix-ups included.
    let plain = if abi == Abi::X32 { nr & !X32_BIT } else { nr };
    let same = |name: &'static str| (number(abi, name) == Some(nr)).then_some(name);
    let own = match abi {
        Abi::X86_64 | Abi::X32 => X86_64.name(plain),
        Abi::X86 => X86.name(plain),
        Abi::Aarch64 => AARCH64.name(plain),
        Abi::Arm => ARM.name(plain),
    };
    let renamed = match own {
        Some("fstatat") if abi == Abi::Aarch64 => Some("newfstatat"),
        other => other,
    };
    let moved = || X86_64.names().find_map(same);
    renamed
        .and_then(same)
        .or_else(|| NEWER.iter().copied().find_map(same))
        .or_else(|| if abi == Abi::X32 { moved() } else { None })
}

/// The names of [`newer`].
const NEWER: [&str; 10] = [
    "mseal",
    "setxattrat",
    "getxattrat",
    "listxattrat",
    "removexattrat",
    "open_tree_attr",
    "file_getattr",
    "file_setattr",
    "uretprobe",
    "uprobe",
];

fn tabled(abi: Abi, name: &str) -> Option<u32> {
    match abi {
        Abi::X86_64 => X86_64.number(name),
        Abi::X32 => x32(name).map(|nr| nr | X32_BIT),
        Abi::X86 => X86.number(name),
        Abi::Aarch64 => aarch64(name),
        Abi::Arm => ARM.number(name).or_else(|| arm_private(name)),
    }
}

/// How a 32-bit x86 program can make a call other than by its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Multiplexed {
    /// `socketcall` or `ipc`.
    pub nr: u32,
    /// Its first argument for this call (linux/net.h `SYS_*`, linux/ipc.h).
    pub call: u64,
}

/// The multiplexer of a call on x86.
pub(super) fn multiplexed(abi: Abi, name: &str) -> Option<Multiplexed> {
    const SOCKETCALL: u32 = x86::Sysno::socketcall as u32;
    const IPC: u32 = x86::Sysno::ipc as u32;
    if abi != Abi::X86 {
        return None;
    }
    let (nr, call) = match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    };
    Some(Multiplexed { nr, call })
}

/// Numbers that are the same on all machines (scripts/syscall.tbl and the tables of each machine), and two that
/// only 64-bit x86 has.
fn newer(abi: Abi, name: &str) -> Option<u32> {
    let nr = match (name, abi) {
        ("mseal", _) => 462,
        ("setxattrat", _) => 463,
        ("getxattrat", _) => 464,
        ("listxattrat", _) => 465,
        ("removexattrat", _) => 466,
        ("open_tree_attr", _) => 467,
        ("file_getattr", _) => 468,
        ("file_setattr", _) => 469,
        ("uretprobe", Abi::X86_64) => 335,
        ("uprobe", Abi::X86_64) => 336,
        _ => return None,
    };
    Some(if abi == Abi::X32 { nr | X32_BIT } else { nr })
}

fn aarch64(name: &str) -> Option<u32> {
    match name {
        "newfstatat" => return Some(aarch64::Sysno::fstatat as u32),
        "sync_file_range" => return Some(84),
        "sync_file_range2" => return None,
        _ => {}
    }
    let nr = AARCH64.number(name)?;
    if name == "fstatat" || (403..=423).contains(&nr) { None } else { Some(nr) }
}

fn arm_private(name: &str) -> Option<u32> {
    const BASE: u32 = 0x000f_0000;
    match name {
        "breakpoint" => Some(BASE + 1),
        "cacheflush" => Some(BASE + 2),
        "usr26" => Some(BASE + 3),
        "usr32" => Some(BASE + 4),
        "set_tls" => Some(BASE + 5),
        "get_tls" => Some(BASE + 6),
        _ => None,
    }
}

/// x32, without bit 30.
fn x32(name: &str) -> Option<u32> {
    use x86_64::Sysno as Nr;
    let nr = Nr::new(usize::try_from(X86_64.number(name)?).ok()?)?;
    Some(match nr {
        Nr::rt_sigaction => 512,
        Nr::rt_sigreturn => 513,
        Nr::ioctl => 514,
        Nr::readv => 515,
        Nr::writev => 516,
        Nr::recvfrom => 517,
        Nr::sendmsg => 518,
        Nr::recvmsg => 519,
        Nr::execve => 520,
        Nr::ptrace => 521,
        Nr::rt_sigpending => 522,
        Nr::rt_sigtimedwait => 523,
        Nr::rt_sigqueueinfo => 524,
        Nr::sigaltstack => 525,
        Nr::timer_create => 526,
        Nr::mq_notify => 527,
        Nr::kexec_load => 528,
        Nr::waitid => 529,
        Nr::set_robust_list => 530,
        Nr::get_robust_list => 531,
        Nr::vmsplice => 532,
        Nr::move_pages => 533,
        Nr::preadv => 534,
        Nr::pwritev => 535,
        Nr::rt_tgsigqueueinfo => 536,
        Nr::recvmmsg => 537,
        Nr::sendmmsg => 538,
        Nr::process_vm_readv => 539,
        Nr::process_vm_writev => 540,
        Nr::setsockopt => 541,
        Nr::getsockopt => 542,
        Nr::io_setup => 543,
        Nr::io_submit => 544,
        Nr::execveat => 545,
        Nr::preadv2 => 546,
        Nr::pwritev2 => 547,
        Nr::_sysctl
        | Nr::create_module
        | Nr::epoll_ctl_old
        | Nr::epoll_wait_old
        | Nr::get_kernel_syms
        | Nr::get_thread_area
        | Nr::map_shadow_stack
        | Nr::nfsservctl
        | Nr::query_module
        | Nr::set_thread_area
        | Nr::uselib
        | Nr::vserver => return None,
        other => other as u32,
    })
}
