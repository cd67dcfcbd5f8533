//! Whether the kernel, and the filter that this process may run under, have a system call.

use std::io;

/// A call that davit uses and that is newer than its oldest kernel, or often filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Kernel 5.3.
    Clone3,
    /// Kernel 5.6.
    Openat2,
    /// Kernel 5.2.
    OpenTree,
    /// Kernel 5.2.
    Fsopen,
    /// Kernel 5.12.
    MountSetattr,
    /// Kernel 5.3.
    PidfdOpen,
    /// Kernel 5.6.
    PidfdGetfd,
    /// Kernel 5.9.
    CloseRange,
    /// Kernel 3.17.
    MemfdCreate,
    /// CONFIG_KEYS.
    Keyctl,
    /// CONFIG_NUMA.
    SetMempolicy,
}

/// Asks by arguments that each of these calls refuses before it does anything: a size, a flags word or a
/// command of all ones.
#[must_use]
pub fn exists(call: Call) -> bool {
    let number = match call {
        Call::Clone3 => libc::SYS_clone3,
        Call::Openat2 => libc::SYS_openat2,
        Call::OpenTree => libc::SYS_open_tree,
        Call::Fsopen => libc::SYS_fsopen,
        Call::MountSetattr => libc::SYS_mount_setattr,
        Call::PidfdOpen => libc::SYS_pidfd_open,
        Call::PidfdGetfd => libc::SYS_pidfd_getfd,
        Call::CloseRange => libc::SYS_close_range,
        Call::MemfdCreate => libc::SYS_memfd_create,
        Call::Keyctl => libc::SYS_keyctl,
        Call::SetMempolicy => libc::SYS_set_mempolicy,
    };
    let ones = libc::c_long::from(-1i32);
    // SAFETY: all ones is an invalid size, flags word or command for each call above, and no valid pointer:
    // the kernel returns an error without reading or changing anything of this process.
    let ret = unsafe { libc::syscall(number, ones, ones, ones, ones, ones) };
    ret >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Whether the kernel knows a flag of SECCOMP_SET_MODE_FILTER: it looks at the flags before it reads the
/// program, which is not there.
#[must_use]
pub fn seccomp_flag(flag: u64) -> bool {
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: with a null program the call loads nothing: EFAULT for a known flag, EINVAL for another.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, none) };
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_the_tests_need() {
        for call in [Call::Clone3, Call::Openat2, Call::OpenTree, Call::MountSetattr, Call::PidfdOpen] {
            assert!(exists(call), "{call:?}");
        }
        assert!(seccomp_flag(u64::from(libc::SECCOMP_FILTER_FLAG_LOG as u32)));
        assert!(!seccomp_flag(1 << 30));
    }
}
