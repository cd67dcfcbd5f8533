//! bpf(2) for cgroup device programs (kernel 4.15): load, attach, query.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// Bytes of a program's name with its NUL.
const NAME_SIZE: usize = 16;

/// One instruction, in the kernel's layout (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high half (little endian hosts).
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Immediate value.
    pub imm: i32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: each caller passes the part of union bpf_attr that the command reads and writes, with its size;
    // pointers inside point to live memory of the sizes given beside them.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: bpf(2) returned a fresh descriptor (close-on-exec) that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// BPF_PROG_LOAD of a cgroup device program. The name (at most 15 bytes are used) is shown by bpftool.
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN, or before kernel 5.11 above RLIMIT_MEMLOCK; EINVAL without
/// CONFIG_CGROUP_BPF or for a program that the verifier refuses; E2BIG for too many instructions.
pub fn load_device_program(program: &[Insn], name: &CStr) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; NAME_SIZE],
    }
    let mut prog_name = [0; NAME_SIZE];
    for (to, from) in prog_name.iter_mut().take(NAME_SIZE - 1).zip(name.to_bytes()) {
        *to = *from;
    }
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        // No GPL-only helper is called.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
    };
    bpf(BPF_PROG_LOAD, &mut attr).map(owned)
}

/// BPF_PROG_ATTACH to a cgroup beside others (BPF_F_ALLOW_MULTI): access needs every program's consent.
/// With `replace` the program takes that one's place in one step (BPF_F_REPLACE, kernel 5.6).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or under an exclusive program; EINVAL for `replace` before 5.6; ENOENT when
/// `replace` is not attached; EBADF when `cgroup` is not a v2 cgroup.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
    }
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: if replace.is_some() { BPF_F_ALLOW_MULTI | BPF_F_REPLACE } else { BPF_F_ALLOW_MULTI },
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// BPF_PROG_DETACH from a cgroup.
///
/// # Errors
/// ENOENT when it is not attached, EPERM without CAP_NET_ADMIN.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Detach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let mut attr = Detach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
    };
    bpf(BPF_PROG_DETACH, &mut attr).map(drop)
}

/// Ids of the device programs attached to the cgroup itself, in order (BPF_PROG_QUERY).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN, EBADF when `cgroup` is not a v2 cgroup.
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        reserved: u32,
    }
    // The kernel attaches at most 64 programs of a type to a cgroup (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        reserved: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(ids.get(..attr.prog_cnt as usize).unwrap_or_default().to_vec())
}

/// BPF_PROG_GET_FD_BY_ID (kernel 4.13).
///
/// # Errors
/// ENOENT when the program is gone, EPERM without CAP_SYS_ADMIN.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ById {
        prog_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    bpf(BPF_PROG_GET_FD_BY_ID, &mut ById { prog_id: id, next_id: 0, open_flags: 0 }).map(owned)
}

/// The name that a program was loaded with (BPF_OBJ_GET_INFO_BY_FD).
///
/// # Errors
/// EBADF, EINVAL for another object.
pub fn program_name(program: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    /// `struct bpf_prog_info` up to and including `name`.
    #[repr(C)]
    struct Info {
        before_name: [u64; 8],
        name: [u8; NAME_SIZE],
    }
    #[repr(C)]
    struct Get {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info { before_name: [0; 8], name: [0; NAME_SIZE] };
    let mut attr = Get {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.name.iter().copied().take_while(|b| *b != 0).collect())
}
