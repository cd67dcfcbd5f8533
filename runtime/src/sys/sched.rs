//! Scheduling: policy, I/O priority, CPU affinity, NUMA memory policy.

use std::io;

use super::check;

/// `struct sched_attr` as of kernel 5.3. Older kernels take it too when the last two fields are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Size of this struct; set by [`set_scheduler`].
    pub size: u32,
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// Nice value of SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Static priority of SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// SCHED_DEADLINE: nanoseconds of each period.
    pub runtime: u64,
    /// SCHED_DEADLINE: nanoseconds.
    pub deadline: u64,
    /// SCHED_DEADLINE: nanoseconds.
    pub period: u64,
    /// Lower bound of the utilisation hint.
    pub util_min: u32,
    /// Upper bound of the utilisation hint.
    pub util_max: u32,
}

/// sched_setattr(2) on the calling thread (kernel 3.14).
///
/// # Errors
/// EPERM, EINVAL for values that don't fit the policy, EBUSY when SCHED_DEADLINE has no bandwidth left.
pub fn set_scheduler(attr: &SchedAttr) -> io::Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: the kernel reads attr.size bytes, which is the size of the struct; the last 0 is no flags.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// ioprio_set(2) on the calling process: class and priority as IOPRIO_PRIO_VALUE packs them.
///
/// # Errors
/// EPERM for the realtime class without CAP_SYS_ADMIN or CAP_SYS_NICE, EINVAL.
pub fn set_io_priority(value: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// sched_setaffinity(2): bit n of the mask is CPU n; the kernel leaves out those that the process's cpuset
/// has not. Pid 0 is the calling thread.
///
/// # Errors
/// EINVAL when no CPU is left, EPERM, ESRCH.
pub fn set_affinity(pid: i32, mask: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, size_of_val(mask), mask.as_ptr()) })
        .map(drop)
}

/// sched_getaffinity(2) of the calling thread.
///
/// # Errors
/// EINVAL when the machine has more CPUs than the mask bits.
pub fn affinity(mask: &mut [u64]) -> io::Result<()> {
    // SAFETY: the kernel writes at most as many bytes as the slice has.
    check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(mask), mask.as_mut_ptr()) })
        .map(drop)
}

/// set_mempolicy(2) of the calling thread, kept through fork and execve: MPOL_* mode with MPOL_F_* flags, and
/// the nodes, bit n for node n.
///
/// # Errors
/// EINVAL for a mode that the kernel does not know, or nodes that do not exist; ENOSYS without CONFIG_NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit less than it is told (set_mempolicy(2), "Bugs" of get_mempolicy(2)).
    let (pointer, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        nodes => (nodes.as_ptr(), nodes.len().saturating_mul(64).saturating_add(1)),
    };
    // SAFETY: the kernel reads bits - 1 bits, which the slice has, or nothing.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}
